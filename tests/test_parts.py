"""Parts of tensors: together they are the whole, and their runs are where numpy says."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
import torch

from hpcsamp.grid.parts import Flattened, Merged, Part, bounds, within


def random_cut(rng):
    """A shape, and the boxes that ranks of a grid over its axes hold."""
    shape = tuple(rng.randint(1, 7) for _ in range(rng.randint(1, 4)))
    cuts = [bounds(n, rng.randint(1, 3)) for n in shape]
    return shape, [Part(shape, box) for box in itertools.product(*cuts)]


@pytest.mark.parametrize("seed", range(60))
def test_parts_cover_the_whole_once_and_runs_are_their_places(seed):
    shape, parts = random_cut(random.Random(seed))
    whole = torch.arange(math.prod(shape)).view(shape)
    places = np.arange(whole.numel()).reshape(shape)
    seen = np.zeros(whole.numel(), int)
    back = torch.full(shape, -1)
    for part in parts:
        runs = part.runs()
        own = np.concatenate([np.arange(a, b) for a, b in runs] or [np.empty(0, int)])
        assert own.tolist() == places[part.slices].flatten().tolist()
        assert all(a < b for a, b in runs)
        assert all(x[1] < y[0] for x, y in itertools.pairwise(runs))  # longest possible
        assert part.size == len(own)
        assert part.cut(whole).flatten().tolist() == own.tolist()
        assert part.local == tuple(part.cut(whole).shape)
        seen[own] += 1
        part.put(back, part.cut(whole))
    assert (seen == 1).all()
    assert torch.equal(back, whole)


def test_few_runs():
    assert Part((8, 5), ((2, 4), (0, 5))).runs() == [(10, 20)]
    assert Part.whole((4, 3, 2)).runs() == [(0, 24)]
    assert Part.whole(()).runs() == [(0, 1)]
    assert Part((3, 4), ((1, 1), (0, 4))).runs() == []
    assert Part((2, 3, 4), ((0, 2), (1, 2), (0, 4))).runs() == [(4, 8), (16, 20)]


def test_leading_axes_are_carried():
    part, whole = Part((4, 6), ((1, 3), (2, 5))), torch.randn(7, 4, 6)
    assert torch.equal(part.cut(whole), whole[:, 1:3, 2:5])
    other = torch.zeros(7, 4, 6)
    part.put(other, part.cut(whole))
    assert torch.equal(other[:, 1:3, 2:5], whole[:, 1:3, 2:5])
    assert other.count_nonzero() == 7 * 6


def test_intervals():
    assert bounds(7, 3) == [(0, 2), (2, 4), (4, 7)]
    assert bounds(12, 3, unit=4) == [(0, 4), (4, 8), (8, 12)]
    assert bounds(20, 3, unit=4) == [(0, 4), (4, 12), (12, 20)]
    assert [within((4, 9), 2, i) for i in range(2)] == [(4, 6), (6, 9)]
    with pytest.raises(ValueError, match="10 cannot be divided into units of 4"):
        bounds(10, 2, unit=4)


@pytest.mark.parametrize("box", [((0, 3),), ((0, 5), (0, 3)), ((2, 1), (0, 3)), ((-1, 2), (0, 3))])
def test_boxes_outside_are_refused(box):
    with pytest.raises(ValueError, match=r"\(4, 3\)"):
        Part((4, 3), box)


def test_tensors_of_other_shapes_are_refused():
    part = Part((4, 3), ((0, 2), (0, 3)))
    with pytest.raises(ValueError, match=r"whole.*4, 3.*3, 4"):
        part.cut(torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"part.*2, 3.*2, 2"):
        part.put(torch.zeros(4, 3), torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"\(3,\)"):
        part.cut(torch.zeros(3))


@pytest.mark.parametrize("seed", range(20))
def test_flattened_parts_are_the_same_numbers_in_one_axis(seed):
    shape, parts = random_cut(random.Random(seed))
    size = math.prod(shape)
    whole = torch.arange(3 * size).view(3, size)  # with rows before it
    back = torch.full_like(whole, -1)
    for part in parts:
        flat = Flattened(part.shape, part.box)
        own = flat.cut(whole)
        assert torch.equal(own, part.cut(whole.view(3, *shape)).flatten(1))
        assert (flat.local, flat.size, flat.runs()) == ((part.size,), part.size, part.runs())
        assert flat.is_whole == part.is_whole
        assert flat.whole_of(own.shape) == whole.shape
        assert flat.local_of(whole.shape) == own.shape
        flat.put(back, own)
    assert torch.equal(back, whole)
    with pytest.raises(ValueError, match="whole"):
        flat.cut(torch.zeros(size + 1))
    with pytest.raises(ValueError, match="part"):
        flat.put(torch.zeros(size), torch.zeros(flat.size + 1))


@pytest.mark.parametrize("seed", range(20))
def test_merged_parts_are_the_same_numbers_with_fewer_axes(seed):
    shape, parts = random_cut(random.Random(seed))
    shape, parts = (2, *shape), [Part((2, *p.shape), ((0, 2), *p.box)) for p in parts]
    held = (2 * shape[1], *shape[2:])
    whole = torch.arange(3 * math.prod(shape)).view(3, *held)  # with rows before it
    back = torch.full_like(whole, -1)
    for part in parts:
        merged = Merged(part.shape, part.box)
        own = merged.cut(whole)
        assert torch.equal(own, part.cut(whole.view(3, *shape)).flatten(1, 2))
        assert (merged.size, merged.runs()) == (part.size, part.runs())
        assert merged.local == own.shape[1:]
        assert merged.is_whole == part.is_whole
        assert merged.whole_of(own.shape) == whole.shape
        assert merged.local_of(whole.shape) == own.shape
        merged.put(back, own)
    assert torch.equal(back, whole)
    with pytest.raises(ValueError, match="whole"):
        merged.cut(torch.zeros(3, *shape))
    with pytest.raises(ValueError, match="part"):
        merged.put(whole, torch.zeros(3, *own.shape[1:], 1))
