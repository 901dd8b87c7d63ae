"""Which device a rank takes, by what it observes: refusals, warnings and the comparison of ranks.

Observed facts are given as values; no GPU is pretended.
"""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch

from hpcsamp import devices
from hpcsamp.devices import Seen, Used
from hpcsamp.errors import UsageError
from hpcsamp.runtime import bind_device, mpi

OLD = "The NVIDIA driver on your system is too old (found version 11040)"
THERE = {"nvidia": ["/dev/nvidia0"]}


@pytest.mark.parametrize(
    ("device", "local_rank", "seen", "expected"),
    [
        ("auto", 3, Seen(), "cpu"),
        ("auto", 3, Seen(visible=1, built="nvidia"), "cuda:0"),
        ("auto", 3, Seen(visible=4, built="nvidia"), "cuda:3"),
        ("auto", 5, Seen(visible=4, built="amd"), "cuda:1"),
        ("cuda", 2, Seen(visible=4, built="nvidia"), "cuda:2"),
        ("cuda:1", 2, Seen(visible=4, built="nvidia"), "cuda:1"),
        ("cpu", 2, Seen(visible=4, built="nvidia"), "cpu"),
        ("cpu", 0, Seen(built="nvidia", files=THERE, reason=OLD), "cpu"),
        # hidden on purpose
        ("auto", 0, Seen(0, "nvidia", THERE, {"CUDA_VISIBLE_DEVICES": ""}, OLD), "cpu"),
        ("auto", 0, Seen(0, "nvidia", THERE, {"CUDA_VISIBLE_DEVICES": "-1"}, OLD), "cpu"),
        ("auto", 0, Seen(0, "nvidia", THERE, {"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, OLD), "cpu"),
    ],
)
def test_a_device_is_chosen(device, local_rank, seen, expected):
    assert devices.choose(device, local_rank, seen) == (expected, "")


@pytest.mark.parametrize(
    ("device", "seen", "words"),
    [
        ("auto", Seen(built="nvidia", files=THERE, reason=OLD), ["/dev/nvidia0", OLD, '"cpu"']),
        # LUMI-like: ROCm applies the second selection to what the first one left
        (
            "auto",
            Seen(0, "amd", {"amd": ["/dev/kfd"]},
                 {"ROCR_VISIBLE_DEVICES": "1", "CUDA_VISIBLE_DEVICES": "1"}, "No HIP GPUs"),
            ["ROCR_VISIBLE_DEVICES=1", "CUDA_VISIBLE_DEVICES=1", "No HIP GPUs"],
        ),
        ("auto", Seen(0, "nvidia", THERE, {"CUDA_VISIBLE_DEVICES": "7"}), ["DEVICES=7"]),
        ("auto", Seen(0, "nvidia", THERE, {"CUDA_VISIBLE_DEVICES": "GPU-8f"}), ["=GPU-8f"]),
        ("cuda", Seen(), ["sees 0 GPUs", "CPU build"]),
        ("cuda", Seen(built="nvidia", reason=OLD), ["sees 0 GPUs", OLD]),
        ("cuda:4", Seen(visible=4, built="nvidia"), ["cuda:4", "sees 4 GPUs"]),
    ],
)  # fmt: skip
def test_a_gpu_that_cannot_be_used_is_refused_in_one_line(device, seen, words):
    with pytest.raises(UsageError) as error:
        devices.choose(device, 0, seen)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("seen", "build"),
    [
        (Seen(built="", files=THERE), "a CPU build"),
        (Seen(built="nvidia", files={"amd": ["/dev/kfd"]}), "one for GPUs of nvidia"),
    ],
)
def test_a_gpu_that_torch_was_not_built_for_is_named(seen, build):
    device, warning = devices.choose("auto", 0, seen)
    assert device == "cpu"
    assert build in warning
    assert 'parallel.device = "cpu"' in warning


def test_observations_of_this_machine(tmp_path, monkeypatch):
    """Device files that can be opened count, those of other jobs do not."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    found = devices.observe(tmp_path, tmp_path)
    assert found.visible == (torch.cuda.device_count() if torch.cuda.is_available() else 0)
    assert found.selects["CUDA_VISIBLE_DEVICES"] == "0,1"
    if found.visible:
        pytest.skip("files are only looked at where torch sees no GPU")
    assert found.files == {}
    for name in ("nvidiactl", "nvidia-uvm", "nvidia0", "kfd"):
        (tmp_path / name).touch()
    (tmp_path / "nvidia1").mkdir()  # cannot be opened for writing
    nodes = tmp_path / "topology" / "nodes"
    for node, number in (("0", "0"), ("1", "5161")):  # a processor and a GPU
        (nodes / node).mkdir(parents=True)
        (nodes / node / "gpu_id").write_text(number + "\n")
    expected = {"nvidia": [f"{tmp_path}/nvidia0"], "amd": [f"{tmp_path}/kfd"]}
    assert devices.observe(tmp_path, tmp_path).files == expected
    (nodes / "1" / "gpu_id").write_text("0\n")
    assert set(devices.observe(tmp_path, tmp_path).files) == {"nvidia"}


def test_ranks_on_devices_of_two_kinds_are_refused():
    cpu, gpu = Used("cpu", "n2"), Used("cuda", "n1", "a")
    devices.alike([cpu, cpu])
    devices.alike([gpu, Used("cuda", "n1", "b")])
    for ranks, words in (
        ([gpu, cpu], "rank 0 on n1 has a GPU, but rank 1 on n2 has none"),
        ([cpu, cpu, gpu], "rank 2 on n1 has a GPU, but rank 0 on n2 has none"),
    ):
        with pytest.raises(UsageError, match=words):
            devices.alike(ranks)


def test_ranks_that_share_a_gpu_are_named():
    a, b = Used("cuda", "n1", "a"), Used("cuda", "n1", "b")
    assert devices.sharing([a, b]) == ""
    assert devices.sharing([Used("cpu", "n1"), Used("cpu", "n1")]) == ""
    assert devices.sharing([a, b, a]) == "ranks 0 and 2 on n1 share a GPU"


def test_ranks_that_share_a_gpu_get_no_nccl(monkeypatch):
    from hpcsamp.collectives.torch import TorchCollectives

    one = Used("cuda", "n1", "card 7")
    monkeypatch.setattr("torch.distributed.is_nccl_available", lambda: True)
    monkeypatch.setattr(devices, "used", lambda _: one)
    world = mpi().COMM_SELF
    topology = SimpleNamespace(device=torch.device("cuda"), world=Twice(world))
    with pytest.raises(UsageError, match="NCCL, because ranks 0 and 1 on n1 share a GPU") as error:
        TorchCollectives(topology)
    assert "\n" not in str(error.value)


class Twice:
    """A communicator on which a second rank has the same."""

    def __init__(self, comm):
        self.comm = comm

    def allgather(self, thing):
        return 2 * self.comm.allgather(thing)

    def __getattr__(self, name):
        return getattr(self.comm, name)


def test_a_device_is_tried_out():
    devices.try_out(torch.device("cpu"))
    with pytest.raises(UsageError, match=r"meta cannot be used: .*meta"):
        devices.try_out(torch.device("meta"))


def test_names_of_devices():
    assert bind_device("cpu", 0) == torch.device("cpu")
    with pytest.raises(UsageError, match="'gpu' is not a device: choose auto, cpu or cuda"):
        bind_device("gpu", 0)
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match=re.escape("cuda was requested, but this process")):
            bind_device("cuda", 0)


@pytest.mark.mpi(ranks=2, timeout=60, unit="s")
def test_a_rank_without_a_gpu_among_others_ends_the_job(comm, monkeypatch):
    """The comparison is one of all ranks; what one of them observes is given as a value."""
    from hpcsamp.grid import init

    if comm.rank == 1:
        monkeypatch.setattr(devices, "used", lambda device: Used("cuda", "n1", "a"))
    with pytest.raises(UsageError, match="rank 1 on n1 has a GPU, but rank 0 on"):
        init()


def test_the_driver_is_read(tmp_path):
    assert devices.driver(tmp_path, tmp_path) == ""
    (tmp_path / "amdgpu").mkdir()
    (tmp_path / "amdgpu" / "version").write_text("6.10.5\n")
    assert devices.driver(tmp_path, tmp_path) == "6.10.5"
    (tmp_path / "driver" / "nvidia").mkdir(parents=True)
    (tmp_path / "driver" / "nvidia" / "version").write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n"
        "GCC version:  gcc version 12.2.0\n"
    )
    assert devices.driver(tmp_path, tmp_path) == "550.54.15"


@pytest.mark.parametrize(("code", "pinned"), [(0, True), (712, False)])
def test_memory_of_batches_is_pinned_until_it_is_freed(monkeypatch, caplog, code, pinned):
    import numpy as np
    import torch

    from hpcsamp.data import feed

    class Runtime:
        def __init__(self):
            self.registered = set()

        def cudaHostRegister(self, address, size, flags):  # noqa: N802
            assert (size, flags) == (64, 0)
            self.registered.add(address)
            return code

        def cudaHostUnregister(self, address):  # noqa: N802
            self.registered.remove(address)

    launched = []

    def ones(count, device):
        launched.append(device)
        raise RuntimeError(f"CUDA error {code}")  # of the call before

    runtime, memory = Runtime(), np.zeros(64, np.uint8)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    monkeypatch.setattr(torch, "ones", ones)
    assert feed._pin(memory) is pinned
    assert runtime.registered == {memory.ctypes.data}
    assert ("could not be pinned (CUDA error 712)" in caplog.text) is not pinned
    assert launched == ([] if pinned else ["cuda"])  # the error does not meet a later kernel
    feed._unpin(memory)
    assert not runtime.registered
