"""Benchmarks are commands; here only that they run and say what they measured."""

from __future__ import annotations

import json

import pytest
from conftest import launch as on_ranks

from hpcsamp import processes
from hpcsamp.bench import launch


def test_bench_step_starts_its_ranks_and_prints_ratios(hpcsamp, tmp_path):
    done = hpcsamp(
        1, "bench", "step", "--model=mlp", "--samples=3", "--batch=4", "--repeat=2",
        "--json", tmp_path / "t.json", timeout=120,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "speed-up of 2 ranks over 1" in done.out
    found = json.loads((tmp_path / "t.json").read_text())
    assert found["ranks"] == 2
    assert {len(v) for v in found["rounds"].values()} == {2}
    names = {"plain", "plain Adam", "one rank", "torch_blue", "plain on all ranks", "all ranks"}
    assert set(found["seconds"]) == names
    assert set(found["peak_rss_mb"]) == {"1", "3"}


def test_bench_step_refuses_what_it_cannot_split(hpcsamp):
    done = hpcsamp(1, "bench", "step", "--samples=2", "--ranks=3")
    assert done.code == 2
    assert "--samples 2" in done.err
    assert "--ranks 3" in done.err
    done = hpcsamp(1, "bench", "step", "--method=ivo")
    assert done.code == 2
    assert "did you mean 'ivon'" in done.err


def test_bench_dropout_says_what_masks_cost(hpcsamp, tmp_path):
    done = hpcsamp(
        1, "bench", "dropout", "--samples=3", "--batch=4", "--batch=6", "--ranks=1,2",
        "--repeat=2", "--collectives=mpi", "--json", tmp_path / "t.json", timeout=120,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "masks per sample" in done.out
    rows = json.loads((tmp_path / "t.json").read_text())["rows"]
    assert [(r["ranks"], r["batch"]) for r in rows] == [(1, 4), (1, 6), (2, 4), (2, 6)]
    for row in rows:
        assert row["step / pass"]["min"] <= row["step / pass"]["median"]
        assert min(row["seconds"].values()) > 0


def test_bench_dropout_refuses_what_it_cannot_split(hpcsamp):
    done = hpcsamp(1, "bench", "dropout", "--samples=2")
    assert done.code == 2
    assert "--samples 2" in done.err
    assert "--ranks 4" in done.err


def test_peak_memory_is_that_of_the_process_itself():
    """Linux lets ``ru_maxrss`` of a new process begin at the resident size of its parent."""
    held = bytearray(400 * 2**20)
    held[::4096] = b"1" * len(held[::4096])
    small = launch.peak_rss_mb_of("pass", {})
    large = launch.peak_rss_mb_of("x = b'1' * (200 * 2**20)", {})
    assert small < 300
    assert 190 < large - small < 230
    assert processes.peak_rss_mb() > 400


def test_memory_of_steps_is_measured_beside_its_prediction(tmp_path):
    file = tmp_path / "found.json"
    done = on_ranks(
        2, "-m", "hpcsamp", "bench", "memory", "mixer-era5", "--preset", "tiny", "--steps=1",
        "--set=parallel.model=2", "--json", str(file), timeout=120,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "measured / predicted" in done.out
    found = json.loads(file.read_text())
    assert found["grid"] == [1, 1, 2]
    assert found["predicted_keeping"] == pytest.approx(sum(found["parts"].values()) / 2**20)
    (slots,) = (size for name, size in found["parts"].items() if "in shared memory" in name)
    assert 0 < slots < 2**20
    # of a network this small nearly all is what Python and its libraries take
    for measured in ("stepping", "keeping"):
        assert len(found[measured]) == len(found["process"]) == 2
        assert all(0.5 < size / found["predicted"] < 1.2 for size in found[measured])
    # pages that both have are half of each of them
    pairs = zip(found["stepping"], found["resident"], strict=True)
    assert all(divided < touched for divided, touched in pairs)


def test_bench_model_axis_counts_what_a_step_exchanges(hpcsamp, tmp_path):
    sizes = ("data.synthetic.grid=[8, 16]", "model.width=16", "model.blocks=1", "data.batch=3")
    done = hpcsamp(
        1, "bench", "model-axis", "--repeat=1", *(f"--set={s}" for s in sizes),
        "--json", tmp_path / "axis.json", timeout=120,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "step / floor, CPU seconds" in done.out
    assert "through shared memory" in done.out
    found = json.loads((tmp_path / "axis.json").read_text())
    assert found["exchanges"] == found["expected_exchanges"] == [2 * (15 + 8)] * 2
    assert found["bytes"] == found["expected_bytes"]
    assert found["ratio"]["min"] > 0
    assert found["products"] > 0


def test_bench_model_axis_refuses_samples_that_the_floor_cannot_share(hpcsamp):
    done = hpcsamp(2, "bench", "model-axis", "--samples=3")
    assert done.code == 2
    assert "--samples 3" in done.err
    assert "multiple of 2" in done.err
