"""Scaling experiments: plans, measures, timers, turns; a measured step is a training step."""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path

import pytest

from hpcsamp.bench import gpu, scaling, versus
from hpcsamp.bench.turns import Turns, VariantJob
from hpcsamp.bench.workloads import ScalingPoint, Size, points
from hpcsamp.errors import HpcsampError, UsageError
from hpcsamp.planning import fit
from hpcsamp.training.phases import Phases

SIZE = Size(samples=16, per_rank=2, batch=32, proportional_batch=8, steps=1)


def test_points_of_fixed_work_keep_s_and_batch():
    found, notes = points(SIZE, "fixed", [1, 2, 4], ["sampling", "data", "hybrid"])
    assert found == [
        ScalingPoint(1, "alone", 1, 16, 32),
        ScalingPoint(2, "sampling", 2, 16, 32),
        ScalingPoint(2, "data", 1, 16, 32),
        ScalingPoint(4, "sampling", 4, 16, 32),
        ScalingPoint(4, "data", 1, 16, 32),
        ScalingPoint(4, "hybrid", 2, 16, 32),
    ]
    assert len(notes) == 1
    assert notes[0].startswith("2 ranks, hybrid")


def test_points_grow_with_the_ranks():
    found, _ = points(SIZE, "fixed-growing-batch", [4], ["data"])
    assert found == [ScalingPoint(1, "alone", 1, 16, 32), ScalingPoint(4, "data", 1, 16, 128)]
    found, _ = points(SIZE, "proportional", [4], ["sampling"])
    assert found == [ScalingPoint(1, "alone", 1, 2, 8), ScalingPoint(4, "sampling", 4, 8, 8)]


def test_points_that_cannot_be_split_are_left_out_with_the_numbers():
    found, notes = points(SIZE, "fixed", [3, 32], ["sampling", "data"])
    assert [(p.ranks, p.grid) for p in found] == [(1, "alone"), (3, "sampling"), (32, "data")]
    assert notes == [
        "3 ranks, data: a batch of 32 cannot be split evenly over 3 data groups",
        "32 ranks, sampling: S = 16 samples cannot be split over 32 ranks",
    ]


def test_points_of_model_ranks_have_the_grids_of_their_groups():
    found, notes = points(SIZE, "proportional", [2, 3, 4], ["sampling", "data"], [1, 2])
    assert [p for p in found if p.model_size == 2] == [
        ScalingPoint(2, "model", 1, 4, 8, 2),
        ScalingPoint(4, "sampling", 2, 8, 8, 2),
        ScalingPoint(4, "data", 1, 8, 8, 2),
    ]
    assert found[-2].label == "4 ranks, sampling, M = 2"
    assert "parallel.model=2" in found[-1].settings()
    assert "3 ranks, M = 2: 2 model ranks do not divide 3" in notes


def _record(ranks, mode, batch, rounds):
    return {
        "world_size": ranks, "mode": mode, "batch": batch, "rounds": rounds,
        "seconds_per_step": sorted(rounds)[len(rounds) // 2],
    }  # fmt: skip


def test_speed_up_is_of_rounds_that_took_turns():
    # the machine slows down by half in the second round, for both
    rows = scaling.compared(
        [_record(1, "fixed", 8, [4.0, 8.0, 4.0]), _record(2, "fixed", 8, [2.0, 4.0, 2.5])]
    )
    assert rows[1]["measure"] == 2.0
    assert rows[1]["spread"] == (1.6, 2.0)
    assert rows[1]["ideal"] == 2


def test_speed_up_of_a_growing_batch_is_that_of_an_epoch():
    rows = scaling.compared(
        [_record(1, "fixed-growing-batch", 8, [1.0]), _record(4, "fixed-growing-batch", 32, [1.0])]
    )
    assert rows[1]["measure"] == 4.0


def test_efficiency_compares_steps():
    rows = scaling.compared(
        [_record(1, "proportional", 8, [0.9]), _record(2, "proportional", 8, [1.0])]
    )
    assert rows[1]["measure"] == pytest.approx(0.9)
    assert rows[1]["ideal"] == 1


def test_a_phase_does_not_count_what_another_counts_within_it(monkeypatch):
    import torch

    clock = itertools.count()  # a second passes with every look
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    phases = Phases(torch.device("cpu"))
    with phases.timed("outer"):  # 0
        with phases.timed("inner"):  # 1 to 2
            pass
        with phases.timed("inner"), phases.timed("deep"):  # 3 to 6, 4 to 5
            pass
    assert dict(phases.seconds) == {"inner": 3.0, "deep": 1.0, "outer": 3.0}  # 7 in all


STEPS = """
import sys
from contextlib import ExitStack
from hpcsamp import config as configuration
from hpcsamp.bench.stepper import Stepper
from hpcsamp.training.phases import NAMES
from hpcsamp.grid import init
from hpcsamp.run import digest
from hpcsamp.training.loop import train
topology = init("world", device="cpu")
config = configuration.load(sys.argv[1], ["training.steps=7", "parallel.samples='world'"])
summary = train(config, topology, sys.argv[2])
with ExitStack() as stack:
    stepper = Stepper(config, topology, stack)
    seconds = stepper.take(2)
    phases = stepper.take_watched(4)
    stepper.take(1)
    found = digest.parameters_sha256(stepper.trainer.method, topology)
assert found == summary["parameters_sha256"], (found, summary)
assert list(phases) == list(NAMES), phases
for name in ("feed", "forward", "backward", "draw", "penalty", "optimiser", "agreement"):
    assert phases[name] > 0, (name, phases)
assert (phases["exchange"] > 0) == (topology.size > 1), phases
"""


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_measured_step_is_a_training_step(script, small, tmp_path, ranks):
    code = tmp_path / "steps.py"
    code.write_text(STEPS)
    from conftest import launch

    done = launch(ranks, "-m", "mpi4py", code, small, tmp_path / "run", timeout=120)
    assert done.code == 0, done.err


SLEEPER = """
import sys
from mpi4py import MPI
from hpcsamp.bench.worker import serve
class Runner:
    rounds = 0
    def about(self): return {"rounds": self.rounds}
    def round(self):
        self.rounds += 1
        if sys.argv[1] == "fails" and self.rounds == 2:
            sys.stderr.write("hpcsamp: error: the second round is too much\\n")
            MPI.COMM_WORLD.Abort(3)
        return {"seconds": float(self.rounds)}
    def watch(self): return {"watched": MPI.COMM_WORLD.size}
serve(MPI.COMM_WORLD, Runner(), {"hello": sys.argv[1]})
"""


def _become(pids: list[int], states: str, seconds: float = 10) -> bool:
    """Whether processes come into one of these states: T stopped, Z or gone (X) ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if all(_state(pid) in states for pid in pids):
            return True
        time.sleep(0.02)
    return False


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def test_jobs_take_turns_and_sleep_in_between():
    jobs = [
        VariantJob(name, ranks, ["-c", SLEEPER, name], {}, 60)
        for name, ranks in (("a", 1), ("b", 2))
    ]
    with Turns(iter(jobs)) as turns:
        assert turns.told == [{"hello": "a"}, {"hello": "b"}]
        pids = [pid for job in jobs for pid in job.pids]
        assert len(pids) == 3
        assert _become(pids, "T")
        found = turns.rounds("round", 2, warm=1)
        assert found == [[{"seconds": 2.0}, {"seconds": 3.0}]] * 2
        assert _become(pids, "T")
        assert turns.rounds("watch", 1) == [[{"watched": 1}], [{"watched": 2}]]
        ends = turns.end()
    assert [len(e["peak_rss_mb"]) for e in ends] == [1, 2]
    assert [e["rounds"] for e in ends] == [3, 3]
    assert _become(pids, "ZX")


def test_a_job_that_ends_is_named_with_its_reason():
    jobs = [
        VariantJob("the " + name, 1, ["-c", SLEEPER, name], {}, 60) for name in ("sleeps", "fails")
    ]
    with Turns(jobs) as turns, pytest.raises(HpcsampError, match="the second round is too much"):
        turns.rounds("round", 3)
    assert _become([pid for job in jobs for pid in job.pids], "ZX")


def test_a_job_that_does_not_answer_is_given_up():
    code = "import time; time.sleep(60)"
    with pytest.raises(HpcsampError, match=r"mute did not answer within 1 s"):
        Turns([VariantJob("mute", 1, ["-c", code], {}, timeout=1)])


TINY = (
    "--set", "model.width=12", "--set", "model.layers=1", "--set", "model.hidden=12",
    "--set", 'data.synthetic={like="digits",items=200}', "--set", "evaluation.samples=2",
)  # fmt: skip


def test_bench_scaling_prints_a_table_and_writes_records(hpcsamp, tmp_path):
    done = hpcsamp(
        1, "bench", "scaling", "--workload=vit-digits", "--small", "--samples=4", "--batch=8",
        "--rounds=2", "--steps=1", "--grids=sampling,data", *TINY, "--out", tmp_path,
        timeout=240, cwd=tmp_path,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "2 ranks, sampling" in done.out
    path = tmp_path / "scaling-vit-digits-fixed.jsonl"
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [r["grid"] for r in found] == ["alone", "sampling", "data"]
    for r in found:
        assert len(r["rounds"]) == 2
        assert len(r["peak_rss_mb"]) == r["world_size"]
        assert r["phases"]["backward"] > 0
        assert r["seconds_per_epoch"] == pytest.approx(r["seconds_per_step"] * r["items"] / 8)
        assert r["machine"]["cpu"]
        assert r["versions"]["torch"]
    assert found[1]["collectives"]["name"] in ("horovod", "mpi")
    assert [p.ranks for p in fit.read(path)] == [1, 2, 2]  # hpcsamp plan --check takes them


def test_bench_scaling_inside_measures_the_job_it_is_in(hpcsamp, small, tmp_path):
    done = hpcsamp(
        2, "bench", "scaling", "--inside", "--config", small, "--set", "parallel.samples='none'",
        "--rounds=2", "--steps=2", "--out", tmp_path, timeout=120,
    )  # fmt: skip
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "scaling.json").read_text())
    assert (found["grid"], found["world_size"], found["data_group_size"]) == ("data", 2, 2)
    assert (found["samples"], found["batch"], found["round_steps"]) == (6, 64, 2)
    assert done.out.count("s per epoch") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--workload=vit"], "--workload vit: choose from vit-cifar10"),
        (["--grids=sample"], "did you mean 'sampling'"),
        (["--ranks=1,x"], "--ranks '1,x'"),
    ],
)
def test_bench_scaling_refuses_in_one_line(hpcsamp, arguments, said):
    done = hpcsamp(1, "bench", "scaling", *arguments)
    assert done.code == 2
    assert said in done.err
    assert len(done.errors) == 1


def test_a_comparison_divides_theirs_by_ours():
    def record(label, variant, ranks, rounds, peak):
        return {
            "label": label, "variant": variant, "world_size": ranks, "rounds": rounds,
            "samples": 8 if label != versus.SHARE else 4, "peak_rss_mb": [peak] * ranks,
        }  # fmt: skip

    rows = versus.table(
        [
            record(versus.ONE, "hpcsamp", 1, [4.0, 4.0, 8.0], 500.0),
            record(versus.ALL, "hpcsamp", 2, [2.0, 2.5, 4.0], 400.0),
            record(versus.SHARE, "hpcsamp", 1, [1.9, 2.0, 4.0], 450.0),
            record("plain", "plain", 1, [4.0, 3.2, 8.0], 300.0),
            record("torch_blue", "torch_blue", 1, [8.0, 8.0, 12.0], 2000.0),
            record("ddp_sampling", "ddp_sampling", 2, [3.0, 3.0, 8.0], 1000.0),
        ]
    )
    by = {row["what"]: row for row in rows}
    assert by["speed-up of 2 ranks over 1"]["ratio"] == 2.0
    assert by["efficiency, S growing from 4 on 1 rank to 8 on 2"]["ratio"] == 0.95
    assert by["1 rank / 8 plain passes (time)"]["ratio"] == 1.0
    assert by["over torch_blue, 1 rank"]["ratio"] == 2.0
    assert by["over torch_blue, 1 rank"]["memory"] == 0.25
    assert by["over ddp_sampling, 2 ranks"]["ratio"] == 1.5
    assert by["over ddp_sampling, 2 ranks"]["memory"] == 0.4


def test_bench_gpu_says_that_there_is_none(hpcsamp, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    done = hpcsamp(1, "bench", "gpu")
    assert done.code == 2
    assert "needs a GPU" in done.err
    assert len(done.errors) == 1


def test_bench_gpu_needs_no_mpi_for_one_rank(monkeypatch, tmp_path):
    labels, experiment = [], gpu.experiment("13-50-1", tmp_path, 2)
    for found in ("/usr/bin/mpirun", None):
        monkeypatch.setattr("shutil.which", lambda _, found=found: found)
        made = gpu.variants(experiment, 4, 8, 2, "cpu")
        labels.append([variant.label for variant in made])
    assert set(labels[0]) - set(labels[1]) == {"2 ranks on the device, by MPI"}
    assert VariantJob("one", 1, [], {})._program() == [sys.executable]
    with pytest.raises(UsageError, match="mpirun was not found"):
        VariantJob("two", 2, [], {})._program()


def test_bench_gpu_runs_on_a_cpu(hpcsamp, tmp_path):
    done = hpcsamp(
        1, "bench", "gpu", "--workload=13-50-1", "--device=cpu", "--small", "--rounds=1",
        "--steps=1", "--out", tmp_path, timeout=240,
    )  # fmt: skip
    assert done.code == 0, done.err
    found = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    assert [r["label"] for r in found] == [
        "chunks chosen by measurement", "one sample at a time", "4 samples at once", "in bfloat16",
        "2 ranks on the device, by MPI", "S = 1", "S plain passes", "plain pass of S-fold work",
        "torch_blue",
    ]  # fmt: skip
    by = {r["label"]: r for r in found}
    assert [r["world_size"] for r in found] == [1, 1, 1, 1, 2, 1, 1, 1, 1]
    assert (by["in bfloat16"]["precision"], found[0]["precision"]) == ("bfloat16", "float32")
    assert {r["device"] for r in found} == {"cpu"}
    plain = by["S plain passes"]
    assert set(plain["ways"]) == {"in turn", "folded", "vmapped"}
    assert plain["way"] == min(plain["ways"], key=plain["ways"].get)
    assert by["plain pass of S-fold work"]["captured"] is False
    (row,) = (line for line in done.out.splitlines() if line.startswith("step / one plain pass"))
    assert "<= 2" in row
    assert "needs a GPU" in row
    assert found[0]["date"][:10] in done.out.splitlines()[-1]


def test_bounds_of_a_gpu():
    from hpcsamp.bench import gpu

    def record(label, *rounds, memory=1.0):
        return {"label": label, "rounds": rounds, "device": "cuda", "peak_gpu_mb": [memory]}

    found = [
        record(gpu.CHOSEN, 1.0, 1.0, 1.2), record(gpu.LOOP, 9.0, 9.0, 9.0, memory=3.0),
        record(gpu.SINGLE, 1.0, 1.0, 1.0, memory=2.0), record(gpu.PLAIN, 1.0, 0.8, 1.0),
        record(gpu.CAPTURED, 0.4, 0.4, 0.4), record(gpu.BLUE, 3.5, 3.0, 3.6),
    ]  # fmt: skip
    vit = gpu.bounds("vit-cifar10", found)
    assert [row["ratio"] for row in vit] == pytest.approx([3.0, 1.2, 1.5])
    assert [(row["goal"], row["met"]) for row in vit] == [
        (">= 3", True), ("<= 1.15", False), ("<= 1.2", False),
    ]  # fmt: skip
    (small, memory) = gpu.bounds("13-50-1", found)
    assert (small["ratio"], small["goal"], small["met"]) == (2.5, "<= 2", False)
    assert [row["what"] for row in gpu.bounds("vit-digits", found)] == [memory["what"]]


def test_what_is_said_of_a_card():
    from hpcsamp.bench import gpu

    record = {
        "device": "cuda", "machine": {"cpu": "c", "gpu": "card", "driver": "5.1"},
        "versions": {"torch": "2.13"}, "date": "2026-11-26T00:00", "peak_gpu_mb": [2.0, 3.0],
        "peak_rss_mb": [9.0, 9.0], "precision": "bfloat16",
    }  # fmt: skip
    assert gpu.where(record) == "bfloat16, card, driver 5.1, torch 2.13, 2026-11-26"
    assert gpu.peak_mb(record) == 5
    assert gpu.where({**record, "device": "cpu"}) == "bfloat16, c, torch 2.13, 2026-11-26"
    assert gpu.peak_mb({**record, "device": "cpu"}) == 18


def test_variants_on_a_gpu_differ_in_one_thing_each(tmp_path):
    from hpcsamp.bench import gpu

    made = gpu.variants(gpu.experiment("vit-cifar10", tmp_path, 1), samples=8, batch=32, ranks=2)
    assert all('parallel.device="cuda"' in v.settings for v in made)
    assert [v.ranks for v in made] == [1, 1, 1, 1, 2, 1, 1, 1, 1]
    assert [v.settings[-2] for v in made if v.label in (gpu.LOOP, gpu.SINGLE)] == [
        "method.samples_per_pass=1"
    ] * 2
    assert {v.label for v in made if 'training.precision="bfloat16"' not in v.settings} == set()
    assert made[3].settings[-2] == 'training.precision="float32"'
    assert 'parallel.collectives="mpi"' in made[4].settings
    # no mean field, no torch_blue
    dropout = gpu.variants(gpu.experiment("mlp-entsoe", tmp_path, 1), samples=8, batch=4, ranks=1)
    assert [v.name for v in dropout][-2:] == ["plain_held", "plain_captured"]


def test_captured_and_plain_passes_have_the_gradient_of_s_passes(tmp_path):
    import torch

    from hpcsamp import config as configuration
    from hpcsamp.bench import gpu
    from hpcsamp.bench.baselines import held
    from hpcsamp.bench.baselines.network import network

    made = gpu.experiment("13-50-1", tmp_path, 1)
    config = configuration.load(made.workload.config, ["method.samples=3", "data.batch=4"])
    device = torch.device("cpu")
    found = []
    for way in (held._in_turn, held._folded):
        net = network(config, device)
        run = way(config, net, device)
        for _ in range(2):  # gradients of passes do not add up
            run()
        found.append([p.grad for p in net.parameters()])
    torch.testing.assert_close(*found)


def test_clocks_wait_for_the_gpu(monkeypatch):
    """A baseline's round ends when the device has finished, not when the last kernel is queued."""
    import torch

    from hpcsamp.bench import variants
    from hpcsamp.bench.baselines.network import Training
    from hpcsamp.serial import COMM_WORLD

    calls = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: calls.append("wait"))
    topology = type("Grid", (), {"world": COMM_WORLD, "device": torch.device("cuda", 0)})()
    training = Training(torch.nn.Linear(1, 1), lambda: calls.append("step"), facts={"way": "a"})
    theirs = variants.Theirs(training, topology, 2)
    assert theirs.round()["seconds"] > 0
    assert calls == ["wait", "step", "step", "wait"]
    assert theirs.about()["way"] == "a"
