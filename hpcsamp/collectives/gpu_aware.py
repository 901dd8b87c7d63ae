"""Find out whether the MPI library can read and write GPU memory."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping

#: If set to 0, GPU tensors are copied through host memory, no matter what the MPI library declares.
SWITCH = "HPCSAMP_GPU_AWARE_MPI"
#: Functions of MPI libraries that report whether they can, by vendor of the GPU.
QUERIES = {
    "nvidia": ("MPIX_Query_cuda_support",),  # Open MPI, MPICH
    "amd": ("MPIX_Query_rocm_support", "MPIX_Query_hip_support"),  # Open MPI, MPICH
}


def gpu_aware(
    library: str, vendor: str, environment: Mapping[str, str], ask: Callable[[str], int | None]
) -> tuple[bool, str]:
    """Decide whether GPU tensors can be passed to MPI, and explain why.

    Parameters
    ----------
    library
        Version string of the MPI library.
    vendor
        Vendor of the GPUs that torch was built for: ``"nvidia"``, ``"amd"`` or empty.
    environment
        Environment variables.
    ask
        Function that calls a function of the MPI library by name and returns its result; None if
        the library has no such function.
    """
    if environment.get(SWITCH) == "0":
        return False, f"{SWITCH}=0"
    if not vendor:
        return False, "this torch is a CPU build"
    if "CRAY" in library.upper():
        variable = "MPICH_GPU_SUPPORT_ENABLED"  # Cray's library accepts GPU memory only with it
        value = environment.get(variable, "0")
        return value == "1", f"{variable}={value}"
    answers = {name: ask(name) for name in QUERIES[vendor]}
    known = {name: answer for name, answer in answers.items() if answer is not None}
    if not known:
        return False, f"the MPI library has no {' or '.join(answers)}"
    name, answer = max(known.items(), key=lambda item: item[1])
    return answer > 0, f"{name}() is {answer}"


def observed() -> tuple[bool, str]:
    """Return :func:`gpu_aware` of the MPI library and the torch of this process."""
    import torch

    from hpcsamp.runtime import mpi

    vendor = "amd" if torch.version.hip else "nvidia" if torch.version.cuda else ""
    return gpu_aware(mpi().Get_library_version(), vendor, os.environ, ask_library)


def ask_library(name: str) -> int | None:
    """Call a function without arguments of the MPI library that this process has loaded."""
    try:
        with open("/proc/self/maps") as maps:
            files = {line.split(maxsplit=5)[5].strip() for line in maps if "/libmpi" in line}
    except OSError:
        return None
    for file in sorted(files):
        try:
            return int(getattr(ctypes.CDLL(file), name)())
        except (OSError, AttributeError):
            continue
    return None
