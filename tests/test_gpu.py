"""On a GPU: what a CPU computes, several ranks, and runs that move between devices.

bash tests/run.sh -m gpu runs these alone. Where torch sees no GPU they are skipped.
"""

from __future__ import annotations

import json

import pytest
from test_training import losses

pytestmark = pytest.mark.gpu

#: Noise of the kind that CPUs and GPUs both draw, up to rounding.
PORTABLE = "portable"
SHORT = ("--set=training.epochs=1",)
CUDA, CPU = "--set=parallel.device=cuda", "--set=parallel.device=cpu"
BY_MPI = "--set=parallel.collectives=mpi"


@pytest.fixture(scope="module", autouse=True)
def portable():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HPCSAMP_NOISE", PORTABLE)
        yield


@pytest.fixture(scope="module")
def runs(commands, small, tmp_path_factory):
    """A run on the CPU, one on the GPU, and one that began on the CPU and ended on the GPU."""
    folder = tmp_path_factory.mktemp("devices")
    start = ("--set=training.steps=9", "--set=training.checkpoint_every=9")
    done = commands(
        1,
        ["train", small, "--output", folder / "cpu", *SHORT, CPU],
        ["train", small, "--output", folder / "gpu", *SHORT, CUDA],
        ["train", small, "--output", folder / "moved", *SHORT, CPU, *start],
        ["train", small, "--output", folder / "moved", *SHORT, CUDA, "--resume"],
        ["evaluate", folder / "gpu", CPU],
        ["evaluate", folder / "cpu", CUDA],
        timeout=240,
    )
    assert done.code == 0, done.err
    return folder


def test_a_gpu_computes_what_a_cpu_does(runs):
    assert losses(runs / "gpu") == pytest.approx(losses(runs / "cpu"), rel=1e-5)
    found, wanted = (
        json.loads((runs / name / "summary.json").read_text())["metrics"] for name in ("gpu", "cpu")
    )
    assert found["nll"] == pytest.approx(wanted["nll"], rel=1e-4)


def test_a_run_moves_from_a_cpu_to_a_gpu(runs):
    assert losses(runs / "moved") == pytest.approx(losses(runs / "cpu"), rel=1e-5)


@pytest.mark.parametrize("grid", ["world", "none"])
def test_ranks_that_share_a_gpu_compute_what_one_does(hpcsamp, runs, small, tmp_path, grid):
    settings = (*SHORT, CUDA, BY_MPI, f"--set=parallel.samples={grid}")
    done = hpcsamp(2, "train", small, "--output", tmp_path / "two", *settings, timeout=120)
    assert done.code == 0, done.err
    assert losses(tmp_path / "two") == pytest.approx(losses(runs / "gpu"), rel=1e-9)


def test_sums_of_gpu_tensors_by_mpi(script):
    done = script(
        2,
        """
import torch, hpcsamp as hs
from hpcsamp.collectives.staging import Staging

topology = hs.init(device="cuda")
c = hs.choose(topology, "mpi")
for gpu_aware in {False, c.gpu_aware}:
    c.gpu_aware, c._staging = gpu_aware, Staging(piece=4096)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = (torch.arange(5001, device="cuda") % 64).to(dtype) * (topology.rank + 1)
        for times in range(20):  # a copy that came too late would be found in some of them
            y = x.clone()
            c.sum_(y, "world")
            assert torch.equal(y, (torch.arange(5001, device="cuda") % 64).to(dtype) * 3)
        assert c.gather(x[:2], [2, 2], "world").device == x.device
        number = x[1].clone()
        c.copy_first_(number, "world")
        assert float(number) == 1
""",
        timeout=120,
    )
    assert done.code == 0, done.err


def test_nccl_is_refused_to_ranks_that_share_a_gpu(script):
    done = script(
        2,
        """
import torch, hpcsamp as hs
from hpcsamp.errors import UsageError

torch.cuda.device_count = lambda: 1  # both take the first
topology = hs.init(device="cuda")
try:
    hs.choose(topology, "torch")
except UsageError as e:
    assert "ranks 0 and 1 on" in str(e) and "share a GPU" in str(e), e
else:
    raise AssertionError("two ranks on a GPU were given NCCL")
assert hs.choose(topology, "mpi").name == "mpi"
""",
        timeout=60,
    )
    assert done.code == 0, done.err


GRAPHS = "--set=training.graphs=true"
LINEAR = (*SHORT, CUDA, "--set=loss.name=expected_nll")


@pytest.mark.parametrize("method", ["mean_field", "mc_dropout"])
def test_graphs_compute_what_a_run_without_them_does(commands, small, tmp_path, method):
    settings = (*LINEAR, f"--set=method.name={method}", "--set=training.checkpoint_every=5")
    done = commands(
        1,
        ["train", small, "--output", tmp_path / "eager", *settings],
        ["train", small, "--output", tmp_path / "graphs", *settings, GRAPHS],
        ["train", small, "--output", tmp_path / "moved", *settings, "--set=training.steps=5"],
        ["train", small, "--output", tmp_path / "moved", *settings, GRAPHS, "--resume"],
        timeout=240,
    )
    assert done.code == 0, done.err
    wanted = losses(tmp_path / "eager")
    assert wanted[-1] != wanted[0]
    for name in ("graphs", "moved"):
        assert losses(tmp_path / name) == pytest.approx(wanted, rel=1e-6)


def test_graphs_on_ranks_that_share_a_gpu(commands, hpcsamp, small, tmp_path):
    done = commands(1, ["train", small, "--output", tmp_path / "one", *LINEAR], timeout=120)
    assert done.code == 0, done.err
    done = hpcsamp(
        2, "train", small, "--output", tmp_path / "two", *LINEAR, GRAPHS, BY_MPI, timeout=120
    )
    assert done.code == 0, done.err
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-6)


@pytest.mark.parametrize("method", ["mean_field", "mc_dropout"])
def test_buckets_on_ranks_that_share_a_gpu(hpcsamp, small, tmp_path, method):
    settings = (*LINEAR, BY_MPI, f"--set=method.name={method}")
    for count in (1, 3):
        done = hpcsamp(
            2, "train", small, "--output", tmp_path / str(count), *settings,
            f"--set=parallel.buckets={count}", timeout=120,
        )  # fmt: skip
        assert done.code == 0, done.err
    assert losses(tmp_path / "3") == pytest.approx(losses(tmp_path / "1"), rel=1e-6)


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_precisions(hpcsamp, small, tmp_path, precision):
    done = hpcsamp(
        1, "train", small, "--output", tmp_path / "run", *SHORT, CUDA,
        f"--set=training.precision={precision}", "--set=method.samples_per_pass=3", timeout=60,
    )  # fmt: skip
    assert done.code == 0, done.err
    found = losses(tmp_path / "run")
    assert found[-1] < found[0]


def test_each_rank_with_a_gpu_of_its_own_exchanges_by_nccl(hpcsamp, small, tmp_path):
    import torch

    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU: NCCL needs one for each rank")
    for name, ranks in (("one", 1), ("two", 2)):
        settings = (*SHORT, CUDA, "--set=parallel.collectives=torch")
        done = hpcsamp(ranks, "train", small, "--output", tmp_path / name, *settings, timeout=120)
        assert done.code == 0, done.err
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert summary["collectives"] == {"name": "torch", "backend": "nccl"}
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-9)


def test_bench_gpu(hpcsamp, tmp_path):
    done = hpcsamp(
        1, "bench", "gpu", "--workload", "vit-digits", "--samples=4", "--batch=16", "--rounds=1",
        "--steps=2", "--out", tmp_path, timeout=240,
    )  # fmt: skip
    assert done.code == 0, done.err
    labels = [json.loads(line).get("label") for line in (tmp_path / "gpu.jsonl").open()]
    assert "one sample at a time" in labels
