"""Measurements of a machine (``hpcsamp bench calibrate``), and rates derived from them."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from hpcsamp.errors import DataError, UsageError
from hpcsamp.files import write_whole
from hpcsamp.planning.machine import Machine, NetworkLinks, SiteTable, Wire
from hpcsamp.planning.rates import Rates, estimated
from hpcsamp.planning.workload import Workload
from hpcsamp.sealing import text

VERSION = 1


class Measured(SiteTable):
    """Measured constants of a model, in seconds of a rank that runs alone on its node.

    A step of ``s`` samples of ``n`` random weights over ``b`` items takes
    ``overhead + n penalty + m update + s (n draw + base + per_item b)`` with ``m`` trained
    parameters.
    """

    key: str = Field(description="key that identifies the run, see Workload.key")
    name: str
    base: float = Field(
        ge=0,
        description="constant seconds of a pass, without the draw",
    )
    per_item: float = Field(ge=0)
    overhead: float = Field(ge=0, description="constant seconds of a step")
    crowd: float = Field(
        1.0, ge=1, description="slowdown of computation if all ranks of the node compute"
    )
    flops: float = Field(ge=0, description="floating-point operations of a pass per item")
    operations: int = Field(ge=0)
    error: float = Field(0.0, ge=0, description="median relative error of the affine fit")


class Calibration(SiteTable):
    """Content of a calibration file: measured constants, and the machine they were measured on."""

    version: int = VERSION
    created: str = ""
    machine: dict[str, Any] = Field(description="properties of the machine, see fingerprint")
    ranks: int = Field(1, ge=1, description="number of ranks measured together on a node")
    models: list[Measured] = Field(min_length=1)
    draw: float = Field(ge=0, description="seconds per random weight and sample")
    penalty: float = Field(ge=0, description="seconds per random weight and step")
    update: float = Field(ge=0, description="seconds per trainable parameter")
    augment: float = Field(ge=0, description="seconds per byte of a view")
    read: float = Field(ge=0, description="seconds per byte that a rank reads from a file")
    copy_: float = Field(ge=0, alias="copy", description="seconds per byte taken from the ring")
    agreement: float = Field(ge=0, description="seconds of the smallest allreduce over all ranks")
    link: Wire | None = Field(None, description="link between ranks of the node")
    cycles: float = Field(
        1.0, ge=0, description="number of Horovod cycles for which a gradient waits"
    )
    disturbed: float = Field(0.0, ge=0, description="fraction of time lost to other processes")
    jitter: float = Field(0.0, ge=0, description="relative standard deviation of a step's time")

    def machine_of(self, site: Machine) -> Machine:
        """Return the site with measured values instead of published ones."""
        network: dict[str, Any] = {"cycles": self.cycles}
        if self.link is not None:
            network["within"] = self.link
        return site.model_copy(
            update={
                "network": NetworkLinks.model_validate(
                    site.network.model_dump() | {k: _plain(v) for k, v in network.items()}
                ),
                "jitter": self.jitter,
            }
        )

    def rates(self, site: Machine, work: Workload) -> Rates:
        """Rates of a run: from its own measured passes, or scaled from those of another model.

        The model with the nearest number of floating-point operations per item is used; time per
        item is scaled with this number, time of an empty pass with the number of operations.
        """
        machine = self.machine_of(site)
        own = next((m for m in self.models if m.key == work.key), None)
        if own is not None:
            passes = own.base, own.per_item
            origin, nearest = "measured", own
        else:
            flops = work.counts.flops[1]
            nearest = min(self.models, key=lambda m: _ratio(m.flops, flops))
            larger = work.counts.operations / max(nearest.operations, 1)
            passes = nearest.base * larger, nearest.per_item * flops / max(nearest.flops, 1)
            origin = f"scaled from measured {nearest.name}"
        return Rates(
            machine,
            work,
            origin,
            draw=self.draw,
            penalty=self.penalty,
            update=self.update,
            overhead=nearest.overhead,
            augment=self.augment,
            read=self.read,
            copy=self.copy_,
            stage=estimated(machine, work).stage,
            crowd=nearest.crowd,
            shares_core=machine.device.kind == "cpu",
            passes=passes,
        )


def fingerprint(device: str = "cpu") -> dict[str, Any]:
    """Properties that identify a machine: processor, cores, GPU, versions."""
    import torch

    cpu = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(v.split(":", 1)[1].strip() for v in lines if v.startswith("model name"))
    except (OSError, StopIteration):
        pass
    gpu = torch.cuda.get_device_name() if device == "cuda" else ""
    return {
        "cpu": cpu,
        "cores": os.cpu_count() or 1,
        "gpu": gpu,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def save(path: Path, found: Calibration) -> None:
    """Write a calibration to a file.

    Raises
    ------
    UsageError
        If it cannot be written.
    """
    try:
        write_whole(path, text.to_json(found.model_dump(mode="json", by_alias=True)))
    except OSError as e:
        raise UsageError(f"cannot write {path}: {e.strerror}") from e


def load(path: Path) -> Calibration:
    """Read a calibration from a file.

    Raises
    ------
    UsageError
        If the file does not exist, is not a calibration, or was changed after it was written.
    """
    if not path.is_file():
        raise UsageError(f"--calibration {path}: No such file; make one by hpcsamp bench calibrate")
    try:
        return Calibration.model_validate(text.read_json(path))
    except DataError as e:
        raise UsageError(f"--calibration {e}") from None
    except ValidationError as e:
        fault = e.errors()[0]
        key = ".".join(map(str, fault["loc"]))
        raise UsageError(f"--calibration {path}: {key}: {fault['msg'].lower()}") from None


def differences(found: Calibration, here: dict[str, Any]) -> str:
    """Describe how the calibrated machine differs from this one; "" if it does not differ."""
    return ", ".join(
        f"{key} {found.machine.get(key)!r}, here {value!r}"
        for key, value in here.items()
        if key != "threads" and found.machine.get(key) != value
    )


def _ratio(a: float, b: float) -> float:
    return max(a, b) / max(min(a, b), 1.0)


def _plain(value: Any) -> Any:
    return value.model_dump() if isinstance(value, Wire) else value
