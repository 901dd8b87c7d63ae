"""Checkpoints of several files: each rank writes its own numbers, and any grid reads them."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import launch

from hpcsamp.errors import CheckpointError
from hpcsamp.grid import share
from hpcsamp.grid.parts import Part
from hpcsamp.grid.runs import Runs, cover
from hpcsamp.run import checkpoint, retention
from hpcsamp.run.saved import Saved

SCRIPT = Path(__file__).parent / "checkpoint_cases.py"


# Places -------------------------------------------------------------------------------------------


def places(runs: Runs) -> list[int]:
    return [i for a, b in runs.bounds.tolist() for i in range(a, b)]


def boxes(shape: tuple[int, ...], cuts: list[list[int]]) -> list[Part]:
    sides = [list(itertools.pairwise([0, *c, n])) for c, n in zip(cuts, shape, strict=True)]
    return [Part(shape, box) for box in itertools.product(*sides)]


CUT = [
    ((6,), [[2, 2]]),
    ((4, 5), [[1], [3]]),
    ((4, 5), [[], [2, 4]]),
    ((2, 3, 4), [[1], [], [1, 3]]),
    ((3, 0), [[1], []]),
]


@pytest.mark.parametrize(("shape", "cuts"), CUT)
def test_runs_are_the_places_of_boxes_in_each_row(shape, cuts):
    whole = (2, *shape)  # two rows
    numbers = torch.arange(int(np.prod(whole))).view(whole)
    parts = boxes(shape, cuts)
    found = [Runs.repeated(whole, part.runs(), int(np.prod(shape))) for part in parts]
    for part, runs in zip(parts, found, strict=True):
        assert places(runs) == part.cut(numbers).flatten().tolist()
        for ranks in (1, 2, 3):
            own = [share(runs.size, ranks, r) for r in range(ranks)]
            cut = [runs.within(r.start, r.stop) for r in own]
            assert [i for one in cut for i in places(one)] == places(runs)
            assert all(len(one.bounds) <= len(runs.bounds) for one in cut)
    assert cover(found)
    if len(found) > 1 and found[0].size:
        assert not cover(found[1:])
        assert not cover([*found, found[0]])


@pytest.mark.parametrize(("shape", "cuts"), CUT)
def test_what_two_cuts_have_in_common(shape, cuts):
    whole = Runs.whole(shape)
    for ranks in (1, 3, 4):
        others = [share(whole.size, ranks, r) for r in range(ranks)]
        for part in boxes(shape, cuts):
            own, got = Runs.of(shape, part.runs()), {}
            for r in others:
                other = whole.within(r.start, r.stop)
                for i, j, n in own.meeting(other):
                    for k in range(n):
                        assert places(own)[i + k] == places(other)[j + k]
                        got[i + k] = got.get(i + k, 0) + 1
            assert got == dict.fromkeys(range(own.size), 1)


# Runs on two ranks --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(small, tmp_path_factory) -> Path:
    root: Path = tmp_path_factory.mktemp("checkpoints")
    done = launch(2, str(SCRIPT), str(small), str(root), timeout=120)
    assert done.code == 0, done.out[-3000:] + done.err[-3000:]
    return root


def tensors(table, name=""):
    if isinstance(table, dict):
        for key, value in table.items():
            yield from tensors(value, f"{name}.{key}")
    elif isinstance(table, torch.Tensor):
        yield name, table


def states(path: Path) -> dict[str, torch.Tensor]:
    found = checkpoint.read(path)
    return dict(tensors({k: found[k] for k in ("method", "optimizer", "average") if k in found}))


@pytest.mark.parametrize("name", ["shares", "rows", "same"])
def test_numbers_are_those_of_the_step(name, folder):
    """Also where weights change while they are written."""
    both = name, f"{name}-waiting"
    own, truth = (sorted((folder / n / "checkpoints").glob("*.pt")) for n in both)
    assert [p.name for p in own] == [p.name for p in truth]
    assert len(own) >= 3
    for mine, other in zip(own, truth, strict=True):
        found, expected = states(mine), states(other)
        assert found.keys() == expected.keys()
        assert len(found) >= 4
        for key, value in expected.items():
            assert torch.equal(found[key], value), (mine, key)
    ends = [json.loads((folder / n / "summary.json").read_text()) for n in both]
    assert ends[0]["parameters_sha256"] == ends[1]["parameters_sha256"]


@pytest.mark.parametrize("name", ["shares", "rows", "same"])
def test_ranks_have_a_file_each_and_old_ones_go(name, folder):
    kept = folder / name / "checkpoints"
    first = sorted(kept.glob("*.pt"))
    beside = [p for p in kept.iterdir() if p not in first]
    assert len(beside) == len(first)  # two ranks
    sizes = [sum(p.stat().st_size for p in of) for of in (first, beside)]
    assert sizes[1] > sizes[0] / 3  # half of the numbers; the first also have what is small
    assert all(retention.BESIDE.fullmatch(p.name)["rank"] == "1" for p in beside)


def flipped(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def test_a_damaged_piece_is_named(folder, tmp_path):
    run = shutil.copytree(folder / "shares", tmp_path / "run")
    path = checkpoint.latest(run / "checkpoints")
    (beside,) = path.parent.glob(f"{path.name}.*")
    whole = beside.read_bytes()
    place = whole.index(np.ascontiguousarray(half(path)).tobytes())
    flipped(beside, place + 11)
    named = f"{beside.name}.*damaged"
    with pytest.raises(CheckpointError, match=f"{named}.*checksum of record .* differs"):
        checkpoint.read(path)
    with pytest.raises(CheckpointError, match=f"{named} .method.mean: the checksum of record"):
        Saved(path).state("method")
    found, damaged = retention.newest_whole(path.parent)
    assert found < path
    assert beside.name in damaged[path]
    beside.unlink()
    with pytest.raises(CheckpointError, match=f"its file {beside.name} is missing"):
        checkpoint.read(path)
    other = next(p for p in path.parent.iterdir() if p.name.startswith(found.name + "."))
    shutil.copy(other, beside)
    with pytest.raises(CheckpointError, match="it does not belong to this checkpoint"):
        checkpoint.read(path)


def half(path: Path) -> np.ndarray:
    mean = checkpoint.read(path)["method"]["mean"]
    own = share(mean.numel(), 2, 1)
    return mean[own.start : own.stop].numpy()


def test_a_full_disk_of_one_rank_leaves_the_checkpoints_before(folder):
    told = (folder / "full.txt").read_text()
    assert "cannot write checkpoint" in told
    assert "step-00000006.pt" in told
    assert "File too large" in told
    assert told.endswith("(rank 1)")
    kept = folder / "full" / "checkpoints"
    path, damaged = retention.newest_whole(kept)
    assert (path.name, damaged) == ("step-00000003.pt", {})
    assert {p.name.split(".pt")[0].lstrip(".") for p in kept.iterdir()} == {"step-00000003"}
    truth = states(folder / "shares" / "checkpoints" / path.name)
    assert all(torch.equal(value, truth[key]) for key, value in states(path).items())


def test_a_rank_that_is_killed_leaves_the_checkpoints_before(hpcsamp, small, folder, tmp_path):
    done = launch(2, str(SCRIPT), str(small), str(tmp_path), "killed", timeout=60)
    assert done.code != 0
    run = tmp_path / "killed"
    kept = run / "checkpoints"
    path, damaged = retention.newest_whole(kept)
    assert (path.name, damaged) == ("step-00000003.pt", {})
    left = [p for p in kept.iterdir() if "step-00000006" in p.name]
    assert left
    asked = ["training.steps=8", "training.checkpoint_every=3", "optimizer.sharded=false"]
    sets = [f"--set={a}" for a in asked]
    done = hpcsamp(1, "train", small, "--output", run, "--resume", *sets)
    assert done.code == 0, done.err
    assert not any(p.exists() for p in left)
    assert {p.name for p in kept.iterdir()} == {"step-00000006.pt", "step-00000008.pt"}
    mine, truth = (states(checkpoint.latest(f / "checkpoints")) for f in (run, folder / "shares"))
    assert mine.keys() == truth.keys()
    for key, value in truth.items():
        torch.testing.assert_close(mine[key], value, rtol=1e-10, atol=1e-12)
