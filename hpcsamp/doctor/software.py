"""Checks of the installed software: Python, packages, torch. Each rank runs them alone."""

from __future__ import annotations

import importlib.util
import platform
import sys
from importlib import metadata
from pathlib import Path

from hpcsamp.doctor.check import Check

SET_UP = "source envs/local.sh (or install hpcsamp again in this environment)"
#: Flags in /proc/cpuinfo of processors with bfloat16 instructions (x86, Arm).
BF16_FLAGS = {"amx_bf16", "avx512_bf16", "avx_ne_convert", "bf16", "svebf16"}


def python() -> Check:
    """Report the versions of hpcsamp and Python."""
    where = Path(sys.prefix).name
    found = (
        f"hpcsamp {metadata.version('hpcsamp')}, Python {platform.python_version()} in {where}, "
        f"{platform.system()} {platform.machine()}"
    )
    return Check("Python", "ok", found)


def versions() -> dict[str, str | None]:
    """Return the installed versions of hpcsamp's dependencies and Horovod; ``None`` if missing."""
    from packaging.requirements import Requirement

    names = [Requirement(line).name for line in _required()]
    return {name: _version(name) for name in [*names, "horovod"]}


def packages() -> Check:
    """Check that all dependencies are installed in the required versions."""
    from packaging.requirements import Requirement

    wrong = []
    required = [Requirement(line) for line in _required()]
    for requirement in required:
        version = _version(requirement.name)
        if version is None:
            wrong.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} is {version}, but must be {requirement.specifier}")
    if wrong:
        return Check("packages", "problem", "; ".join(wrong), SET_UP)
    return Check("packages", "ok", f"all {len(required)} dependencies in the required versions")


def torch() -> Check:
    """Check that torch can be imported and multiplies correctly."""
    import torch

    kind = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    if torch.version.hip:
        kind = f"ROCm {torch.version.hip}"
    x = torch.arange(4.0).reshape(2, 2)
    if (x @ x).tolist() != [[2, 3], [6, 11]]:
        return Check(
            "torch", "problem", f"{torch.__version__} computes wrong matrix products", SET_UP
        )
    level = torch.backends.cpu.get_cpu_capability()
    return Check("torch", "ok", f"{torch.__version__}, {kind}, {level} kernels")


def bfloat16() -> Check:
    """Check whether ``training.precision = "bfloat16"`` is faster on this machine."""
    import torch

    name = "bfloat16"
    if torch.cuda.is_available():
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Check(name, "ok", "the GPU supports bfloat16")
    elif native := sorted(BF16_FLAGS & cpu_flags()):
        return Check(name, "ok", f"the processor supports bfloat16 ({', '.join(native)})")
    return Check(
        name,
        "warning",
        "only emulated on this machine, slower than float32",
        'keep training.precision = "float32" on this machine',
    )


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> set[str]:
    """Return the feature flags of the first processor on Linux; empty on other systems."""
    if not cpuinfo.is_file():
        return set()
    for line in cpuinfo.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return set(value.split())
    return set()


def torch_blue() -> Check:
    """Check that torch_blue's layers and distributions can be imported."""
    from torch_blue.vi import VILinear
    from torch_blue.vi.distributions import MeanFieldNormal

    layers = f"{VILinear.__name__}, {MeanFieldNormal.__name__} and others can be imported"
    return Check("torch_blue", "ok", f"{metadata.version('torch_blue')}, {layers}")


def torchvision() -> Check:
    """Check that torchvision matches torch; its compiled operators may not fit this build."""
    import torch

    name, version = "torchvision", _version("torchvision")
    spec = importlib.util.find_spec("torchvision")
    if version is None or spec is None or spec.origin is None:
        return Check(name, "problem", "not installed", SET_UP)
    pinned = [r for r in metadata.requires("torchvision") or [] if r.startswith("torch==")]
    installed = torch.__version__.split("+")[0]
    if pinned and pinned[0].removeprefix("torch==").split(";")[0].strip() != installed:
        return Check(
            name,
            "warning",
            f"{version} was built for {pinned[0]}, but torch is {torch.__version__}",
            "install the torchvision version for this torch (0.28 for 2.13)",
        )
    try:
        for library in Path(spec.origin).parent.glob("_C*.so"):
            torch.ops.load_library(str(library))
    except OSError:
        fine = "transforms, datasets and models work without them"
        return Check(name, "ok", f"{version}; its compiled operators do not fit this torch: {fine}")
    return Check(name, "ok", f"{version}, with compiled operators")


def _required() -> list[str]:
    """Return the requirements of hpcsamp without its extras."""
    return [line for line in metadata.requires("hpcsamp") or [] if "extra ==" not in line]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
