"""Choose the device of a rank from the GPUs that this process can use.

:func:`observe` collects the facts; :func:`choose` and :func:`alike` are pure functions of them.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hpcsamp.errors import UsageError, one_line

if TYPE_CHECKING:
    import numpy as np
    import torch

Vendor = Literal["", "nvidia", "amd"]

#: Environment variables that select the GPUs visible to a process, by vendor of the GPU.
SELECTS: dict[Vendor, tuple[str, ...]] = {
    "nvidia": ("CUDA_VISIBLE_DEVICES",),
    "amd": ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"),
}
CPU = 'set parallel.device = "cpu" (device="cpu" in Python)'


@dataclass(frozen=True)
class Seen:
    """GPUs that a process can use, and the reason if there are none.

    Attributes
    ----------
    visible
        Number of GPUs that torch sees.
    built
        Vendor whose GPUs this torch was built for; empty for a CPU build.
    files
        Device files of GPUs that this process can open, by vendor.
    selects
        Environment variables of :data:`SELECTS` that are set, with their values.
    reason
        Why torch sees no GPU, as reported by torch or the driver; empty if it sees some.
    """

    visible: int = 0
    built: Vendor = ""
    files: Mapping[Vendor, Sequence[str]] = field(default_factory=dict)
    selects: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""

    @property
    def hidden(self) -> bool:
        """Whether the environment hides all GPUs, as an empty value, -1 or NoDevFiles do."""
        values = [self.selects[v] for v in SELECTS[self.built or "nvidia"] if v in self.selects]
        return any(not re.match(r"\s*(\d|GPU-|MIG-)", value) for value in values)


def observe(devices: Path = Path("/dev"), kfd: Path = Path("/sys/class/kfd/kfd")) -> Seen:
    """Return the GPUs that this process can use.

    Parameters
    ----------
    devices, kfd
        Folder of device files, and the folder in which AMD's driver describes its GPUs.
    """
    import torch

    built: Vendor = "amd" if torch.version.hip else "nvidia" if torch.version.cuda else ""
    names = {name for of_vendor in SELECTS.values() for name in of_vendor}
    selects = {name: os.environ[name] for name in sorted(names) if name in os.environ}
    reason = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a driver that is too old; the reason says so
        visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if built and not visible:
            try:
                torch.cuda.init()
            except Exception as e:  # torch raises several types
                reason = one_line(str(e))
    files = {} if visible else _files(devices, kfd)
    return Seen(visible, built, files, selects, reason)


def driver(proc: Path = Path("/proc"), modules: Path = Path("/sys/module")) -> str:
    """Return the version of the GPU driver of this machine, or an empty string.

    Parameters
    ----------
    proc, modules
        Folders in which the drivers of NVIDIA and AMD state their versions.
    """
    with suppress(OSError):
        text = (proc / "driver" / "nvidia" / "version").read_text()
        if found := re.search(r"\s(\d+(\.\d+)+)\s", text):
            return found[1]
    with suppress(OSError):
        return (modules / "amdgpu" / "version").read_text().strip()
    return ""


def _files(devices: Path, kfd: Path) -> dict[Vendor, list[str]]:
    """Return the device files of GPUs by vendor, without those that a batch system hides."""
    found: dict[Vendor, list[str]] = {}
    nvidia = [str(path) for path in sorted(devices.glob("nvidia[0-9]*")) if _opens(path)]
    if nvidia:
        found["nvidia"] = nvidia
    # a node of the topology with compute units is a GPU, one without is a processor
    gpus = [p for p in kfd.glob("topology/nodes/*/gpu_id") if _number(p)]
    if gpus and _opens(devices / "kfd"):
        found["amd"] = [str(devices / "kfd")]
    return found


def _opens(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def choose(device: str, local_rank: int, seen: Seen) -> tuple[str, str]:
    """Choose a device.

    Parameters
    ----------
    device
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
    local_rank
        Number of this rank on its node. Some sites show one GPU to each task, others all GPUs of
        the node: if one is visible, the rank uses ``cuda:0``, if several are, ``cuda:local_rank``.
    seen
        Observations of this process.

    Returns
    -------
    tuple
        The device, and a warning for the user or an empty string.

    Raises
    ------
    UsageError
        If the requested GPU is not visible, or if torch was built for a GPU of this machine but
        cannot use it and the CPU was not requested.
    """
    if device == "auto":
        if not seen.visible:
            return "cpu", _unused(seen)
        device = "cuda"
    if device == "cuda" and seen.visible:
        device = f"cuda:{0 if seen.visible == 1 else local_rank % seen.visible}"
    kind, _, index = device.partition(":")
    if kind == "cuda" and int(index or 0) >= seen.visible:
        why = f": {seen.reason}" if seen.reason else ""
        if not seen.built:
            why = ": this torch is a CPU build"
        raise UsageError(
            f"{device} was requested, but this process sees {seen.visible} GPUs{_set(seen)}{why}"
        )
    return device, ""


def _unused(seen: Seen) -> str:
    """Refuse a GPU that torch cannot use; return a warning if torch was not built for it."""
    if seen.hidden or not seen.files:
        return ""
    if seen.built in seen.files:
        there = ", ".join(seen.files[seen.built])
        raise UsageError(
            f"there is a GPU ({there}) that torch cannot use{_set(seen)}: "
            f"{seen.reason or 'torch sees none'}; to use the CPU, {CPU}"
        )
    vendor, there = next((v, ", ".join(files)) for v, files in seen.files.items())
    build = f"one for GPUs of {seen.built}" if seen.built else "a CPU build"
    return (
        f"there is a GPU of {vendor} ({there}), but this torch is {build}: computing on the CPU; "
        f"to silence this warning, {CPU}"
    )


def _set(seen: Seen) -> str:
    """Return the environment variables that select GPUs, with their values."""
    values = [f"{name}={value}" for name, value in seen.selects.items()]
    return f" (with {', '.join(values)})" if values else ""


@dataclass(frozen=True)
class Used:
    """Device that a rank uses.

    Attributes
    ----------
    kind
        ``"cpu"`` or ``"cuda"``.
    host
        Name of the rank's computer.
    gpu
        Unique name of its GPU; empty for the CPU.
    """

    kind: str
    host: str
    gpu: str = ""


def alike(used: Sequence[Used]) -> None:
    """Check that all ranks use the same device type, because random generators depend on it.

    Parameters
    ----------
    used
        Devices of all ranks, in rank order.

    Raises
    ------
    UsageError
        If two ranks use different device types; the message names both ranks.
    """
    first = used[0]
    for rank, one in enumerate(used):
        if one.kind != first.kind:
            (gpu, a), (cpu, b) = sorted(((0, first), (rank, one)), key=lambda r: r[1].kind == "cpu")
            raise UsageError(
                f"rank {gpu} on {a.host} has a GPU, but rank {cpu} on {b.host} has none: request a "
                f'GPU for each task (srun --gpus-per-task=1), or set parallel.device = "cpu"'
            )


def sharing(used: Sequence[Used]) -> str:
    """Describe two ranks that use the same GPU; empty if each rank has its own."""
    first: dict[str, int] = {}
    for rank, one in enumerate(used):
        if one.gpu and first.setdefault(one.gpu, rank) != rank:
            return f"ranks {first[one.gpu]} and {rank} on {one.host} share a GPU"
    return ""


def used(device: torch.device) -> Used:
    """Return a description of this rank's device, to be compared with those of other ranks."""
    import torch

    gpu = ""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        host = os.uname().nodename
        gpu = str(getattr(properties, "uuid", f"{host}/{device.index or 0}"))
    return Used(device.type, os.uname().nodename, gpu)


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has finished all queued work, before a clock is read."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def try_out(device: torch.device) -> None:
    """Check that a device computes a small operation correctly.

    Raises
    ------
    UsageError
        If the driver or torch cannot compute there, e.g. without kernels for this card.
    """
    import torch

    try:
        found = float(torch.ones(2, device=device).add_(1).sum())
    except RuntimeError as e:
        raise UsageError(
            f"{device} cannot be used: {one_line(str(e))}; to use the CPU, {CPU}"
        ) from e
    if found != 4:
        raise UsageError(
            f"{device} cannot be used: it computed 2 + 2 = {found:g}; to use the CPU, {CPU}"
        )


def on_device(
    array: np.ndarray, device: torch.device, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Return a small array as a tensor on a device, without waiting for earlier work of a GPU.

    A copy from ordinary memory would wait; this one goes through page-locked memory, which torch
    keeps until the copy is complete. On a CPU the tensor may share memory with the array.
    """
    import torch

    if device.type != "cuda":
        return torch.as_tensor(array, dtype=dtype, device=device)
    return torch.as_tensor(array, dtype=dtype).pin_memory().to(device, non_blocking=True)
