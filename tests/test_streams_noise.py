"""Noise of weights is named by its place: who draws which part of it makes no difference."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from hpcsamp.errors import UsageError
from hpcsamp.streams import Purpose, key
from hpcsamp.streams.noise import BLOCK, STRIDE, fill, name_of
from hpcsamp.streams.places import place_bits, place_keys

SIZES = [1, 15, 17, 751, BLOCK // 2 + 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7]
KINDS = [torch.float32, torch.float64]


@pytest.fixture(params=["native", "portable"])
def form(request, monkeypatch):
    monkeypatch.setenv("HPCSAMP_NOISE", request.param)
    return request.param


def drawn(samples, n, first=0, last=None, kind=torch.float32, step=3, purpose=Purpose.WEIGHTS):
    out = torch.full((len(samples), (n if last is None else last) - first), torch.nan, dtype=kind)
    return fill(out, 1, purpose, step, samples, n, first)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", SIZES)
def test_any_owner_of_a_part_draws_its_numbers(form, n, kind):
    count = 5 if n > BLOCK else 2 * BLOCK // n % 90 + 3
    whole = drawn(range(count), n, kind=kind)
    assert whole.isfinite().all()
    choose = np.random.default_rng(n)
    for _ in range(6):
        first, last = sorted(choose.integers(0, n + 1, 2))
        lo, hi = sorted(choose.integers(0, count + 1, 2))
        part = drawn(range(lo, hi), n, first, last, kind)
        assert torch.equal(part, whole[lo:hi, first:last])
    some = choose.integers(0, count, 7).tolist()  # in any order, some of them twice
    assert torch.equal(drawn(some, n, kind=kind), whole[some])
    one_by_one = [drawn([s], n, kind=kind) for s in range(count)]
    assert torch.equal(torch.cat(one_by_one), whole)
    wide = torch.full((count, n + 2), 7.0, dtype=kind)  # rows that are not one after the other
    fill(wide[:, 1:-1], 1, Purpose.WEIGHTS, 3, range(count), n)
    assert torch.equal(wide[:, 1:-1], whole)
    assert (wide[:, :: n + 1] == 7).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [751, 3 * BLOCK + 7])
def test_native_noise_is_that_of_a_generator_for_each_block(n, kind):
    per_block, blocks = max(1, BLOCK // n), -(-n // BLOCK)
    found = drawn(range(50, 52), n, kind=kind)
    for row, sample in zip(found, (50, 51), strict=True):
        parts = []
        for block in range(blocks):
            index = sample // per_block * blocks + block
            seed = (name_of(1, Purpose.WEIGHTS, 3) + index * STRIDE) % 2**32
            generator = torch.Generator().manual_seed(seed)
            parts.append(torch.empty(BLOCK, dtype=kind).normal_(generator=generator))
        start = sample % per_block * n
        assert torch.equal(torch.cat(parts)[start : start + n], row)


def test_portable_noise_is_that_of_splitmix_and_box_and_muller(monkeypatch):
    monkeypatch.setenv("HPCSAMP_NOISE", "portable")
    n, samples = 7, np.arange(2, 5, dtype=np.uint64)
    with np.errstate(over="ignore"):
        counter = samples[:, None] * np.uint64(4) + np.arange(4, dtype=np.uint64)
        name = np.uint64(name_of(1, Purpose.WEIGHTS, 3))
        z = name + (counter + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    low, high = (z & np.uint64(2**32 - 1)).astype(float), (z >> np.uint64(32)).astype(float)
    radius, angle = np.sqrt(-2 * np.log((low + 0.5) / 2**32)), 2 * np.pi * high / 2**32
    expected = np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1).reshape(3, 8)[:, :7]
    found = drawn(range(2, 5), n, kind=torch.float64)
    assert np.allclose(found.numpy(), expected, rtol=1e-13, atol=1e-13)
    assert np.allclose(drawn(range(2, 5), n).numpy(), expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("form", ["native", "portable"])
@pytest.mark.parametrize("samples", [range(2, 5), [0, 0, 2, 2]])
def test_a_step_may_be_a_number_on_the_device(monkeypatch, form, samples):
    monkeypatch.setenv("HPCSAMP_NOISE", form)
    for step in (0, 3, 2**40):
        own, other = torch.empty(2, len(samples), 7).unbind()
        fill(own, 1, Purpose.WEIGHTS, step, samples, 9, 1)
        counter = torch.tensor(step)
        fill(other, 1, Purpose.WEIGHTS, counter, samples, 9, 1)
        assert torch.equal(own, other)
        assert counter == step
        found = name_of(1, Purpose.WEIGHTS, counter)
        assert int(found) % 2**64 == name_of(1, Purpose.WEIGHTS, step)


def test_names_of_steps_are_places_of_a_stream():
    keys, steps = place_keys([key(5, Purpose.CHAIN)], "cpu"), torch.arange(1000)
    found = [name_of(5, Purpose.CHAIN, step) for step in range(1000)]
    assert [int(bits) % 2**64 for bits in place_bits(keys, steps, 1).flatten()] == found
    # a change of this number changes every result: it would need a new version of checkpoints
    assert name_of(1, Purpose.WEIGHTS, 3) == 11179800942822491288


@pytest.mark.parametrize("n", [100, 2 * BLOCK + 100])
def test_noise_is_normal_and_its_names_are_apart(form, n):
    count = 400 if n < BLOCK else 4
    z = drawn(range(count), n, kind=torch.float64)
    others = [
        drawn(range(count), n, kind=torch.float64, step=4),
        drawn(range(count), n, kind=torch.float64, purpose=Purpose.PREDICT_WEIGHTS),
        z.roll(1, 0),
        z.roll(1, 1),
        z.roll(BLOCK, 1) if n > BLOCK else z.roll(50, 1),
    ]
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(z.pow(power).mean() - moment) < 4.5 * (variance / z.numel()) ** 0.5
    for other in others:
        assert abs((z * other).mean()) < 4.5 / z.numel() ** 0.5
        assert abs((z.square() * other.square()).mean() - 1) < 4.5 * (8 / z.numel()) ** 0.5
    assert z.unique().numel() == z.numel()


def test_blocks_of_a_step_have_seeds_of_their_own():
    numbers = {float(drawn([s], 200 * BLOCK, b * BLOCK, b * BLOCK + 1)) for s in range(40)
               for b in range(200)}  # fmt: skip
    assert len(numbers) > 7990  # float32 has some numbers twice


def test_numbers_do_not_depend_on_the_kind_but_for_rounding(form):
    whole = drawn(range(3), 751)
    assert torch.equal(drawn(range(3), 751, kind=torch.bfloat16), whole.bfloat16())
    assert drawn(range(2), 0).shape == (2, 0)
    assert fill(torch.empty(2, 5, device="meta"), 1, Purpose.WEIGHTS, 0, range(2), 5).is_meta


def test_neither_global_generators_nor_other_threads_matter(form):
    before, wanted = torch.random.get_rng_state(), drawn(range(8), 751)
    assert torch.equal(before, torch.random.get_rng_state())
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: drawn(range(i % 8, i % 8 + 1), 751), range(64)))
    for i, rows in enumerate(found):
        assert torch.equal(rows[0], wanted[i % 8])


def test_what_cannot_be_is_refused(monkeypatch):
    with pytest.raises(UsageError, match=r"4294967297 samples of 5 weights need 4294967297 blocks"):
        drawn([2**32], 5)
    with pytest.raises(UsageError, match=r"4294967298 blocks of noise, .* at most 4294967296"):
        drawn([2**31], 2 * BLOCK, 0, 1)
    with pytest.raises(ValueError, match="weights 3 to 9 of 8"):
        drawn(range(2), 8, 3, 9)
    monkeypatch.setenv("HPCSAMP_NOISE", "fast")
    with pytest.raises(UsageError, match="HPCSAMP_NOISE = 'fast': choose one of native, portable"):
        drawn(range(2), 8)
