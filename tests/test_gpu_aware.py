"""MPI and GPU memory: what the library declares, tensors given to MPI, and staging in pieces."""

from __future__ import annotations

import shutil
import subprocess

import pytest
import torch

from hpcsamp.collectives.gpu_aware import QUERIES, SWITCH, ask_library, gpu_aware, observed
from hpcsamp.collectives.staging import Staging

OPEN, MPICH, CRAY = "Open MPI v5.0.6", "MPICH Version: 4.2.1", "MPI VERSION: CRAY MPICH 8.1.30"


@pytest.mark.parametrize(
    ("library", "vendor", "environment", "answers", "aware", "why"),
    [
        (OPEN, "nvidia", {}, {"MPIX_Query_cuda_support": 1}, True, "is 1"),
        (OPEN, "nvidia", {}, {"MPIX_Query_cuda_support": 0}, False, "is 0"),
        (OPEN, "amd", {}, {"MPIX_Query_cuda_support": 1}, False, "no MPIX_Query_rocm_support"),
        (OPEN, "amd", {}, {"MPIX_Query_rocm_support": 1}, True, "rocm_support() is 1"),
        (MPICH, "amd", {}, {"MPIX_Query_hip_support": 1}, True, "hip_support() is 1"),
        (MPICH, "nvidia", {}, {}, False, "no MPIX_Query_cuda_support"),
        (CRAY, "nvidia", {}, {"MPIX_Query_cuda_support": 1}, False, "ENABLED=0"),
        (CRAY, "amd", {"MPICH_GPU_SUPPORT_ENABLED": "1"}, {}, True, "ENABLED=1"),
        (OPEN, "", {}, {"MPIX_Query_cuda_support": 1}, False, "CPU build"),
        (OPEN, "nvidia", {SWITCH: "0"}, {"MPIX_Query_cuda_support": 1}, False, f"{SWITCH}=0"),
        (CRAY, "amd", {"MPICH_GPU_SUPPORT_ENABLED": "1", SWITCH: "0"}, {}, False, SWITCH),
    ],
)
def test_what_is_concluded(library, vendor, environment, answers, aware, why):
    found, said = gpu_aware(library, vendor, environment, answers.get)
    assert found is aware
    assert why in said


def test_the_library_of_this_process_is_asked():
    pytest.importorskip("mpi4py")
    aware, why = observed()  # loads the library
    if torch.version.cuda is None and torch.version.hip is None:
        assert (aware, why) == (False, "this torch is a CPU build")
    assert ask_library("MPIX_Query_no_such_support") is None
    if (ompi_info := shutil.which("ompi_info")) is None:
        pytest.skip("ompi_info is not there to compare with")
    told = subprocess.run(
        [ompi_info, "--parsable", "--all"], capture_output=True, text=True, check=True
    ).stdout
    (line,) = (x for x in told.splitlines() if "mpi_built_with_cuda_support:value" in x)
    (name,) = QUERIES["nvidia"]
    assert ask_library(name) == line.endswith("true")


class Requests:
    """An MPI that adds 1, when it is waited for."""

    def __init__(self):
        self.open = self.most = 0
        self.sizes = []

    def begin(self, array):
        self.open += 1
        self.most = max(self.most, self.open)
        self.sizes.append(len(array))
        self.array = array
        return self

    def Wait(self):  # noqa: N802
        self.array += 1
        self.open -= 1


@pytest.mark.parametrize("size", [0, 1, 4, 5, 8, 11])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64])
def test_pieces_cover_a_tensor(size, dtype):
    mpi, x = Requests(), torch.arange(size).to(dtype)
    for times in (1, 2):
        Staging(piece=16).reduce_(x, mpi.begin)
        assert x.tolist() == [n + times for n in range(size)]
    item = 4 if dtype == torch.bfloat16 else dtype.itemsize
    assert mpi.most == 1
    assert max(mpi.sizes) <= 16 // item


@pytest.mark.mpi(ranks=[2, 3], timeout=60, unit="s")
def test_direct_and_staged_exchanges_are_those_of_mpi(mpi_ranks, comm):
    from hpcsamp.collectives import MpiCollectives
    from hpcsamp.grid import init

    class Direct(MpiCollectives):
        """Gives MPI tensors instead of NumPy arrays, as it does with those of a GPU."""

        given = 0

        def _direct(self, x):
            return x.dtype not in (torch.bfloat16, torch.float16)

        def _buffer(self, x):
            found = super()._buffer(x)
            self.given += isinstance(found, torch.Tensor)
            return found

    class NoReduceScatter:
        """A communicator as Open MPI 4 has for GPU memory."""

        def __init__(self, comm):
            self.comm = comm

        def __getattr__(self, name):
            return getattr(self.comm, name)

        def Reduce_scatter(self, send, *others):  # noqa: N802
            assert not isinstance(send, torch.Tensor)
            self.comm.Reduce_scatter(send, *others)

    class Staged(MpiCollectives):
        def __init__(self, topology):
            super().__init__(topology)
            self._staging = Staging(piece=40)

        def _usable(self, x):
            return False

    topology = init("world")
    plain, direct, staged = (kind(topology) for kind in (MpiCollectives, Direct, Staged))
    direct._comms = {over: NoReduceScatter(comm) for over, comm in direct._comms.items()}
    assert plain.gpu_aware is False
    assert plain.settings() == {"name": "mpi", "gpu_aware": False}
    rank, counts = topology.rank, [r + 1 for r in range(mpi_ranks)]
    total = sum(counts)
    for dtype in (torch.float32, torch.float64, torch.int64, torch.complex128, torch.bfloat16):
        results = []
        for c in (plain, direct, staged):
            generator = torch.Generator().manual_seed(rank)
            x = torch.randint(-9, 9, (23,), generator=generator).to(dtype)
            if dtype.is_floating_point or dtype.is_complex:
                x /= 8
            found = [x.clone()]
            c.sum_(found[0], "world")
            if not dtype.is_complex:
                found.append(x.clone().view(1, 23))
                c.max_(found[-1], "sample")
            number = x[0].clone()
            c.copy_first_(number, "world")
            c.sum_(number, "world")
            mine = x[: counts[rank]].clone()
            whole = x[:total].clone()
            c.gather_(whole, counts, "world")
            found += [
                number, c.gather(mine, counts, "world"), c.begin_gather(mine, counts, "world")(),
                c.scatter_sum(x[:total].clone(), counts, "world"), whole,
            ]  # fmt: skip
            results.append(found)
        for other in results[1:]:
            for a, b in zip(results[0], other, strict=True):
                assert (a.dtype, a.shape) == (b.dtype, b.shape)
                assert torch.equal(a, b)  # eighths are summed without rounding
    assert direct.given == 4 * 8 - 1  # a maximum of complex numbers is not asked for
