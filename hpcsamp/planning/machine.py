"""Hardware of a site: devices, links, fabric and storage, with published or measured speeds.

Scheduler settings of the same sites (ranks per node, launchers) are in ``campaign/sites``; the
files here have the same names and contain only the hardware.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hpcsamp.campaign import site as campaign_site
from hpcsamp.config import exists, parse_toml, read_toml
from hpcsamp.errors import UsageError
from hpcsamp.spelling import suggest


class SiteTable(BaseModel):
    """A table of a site's file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Device(SiteTable):
    """``[device]``: the device on which one rank computes."""

    name: str
    kind: Literal["cpu", "gpu"] = "gpu"
    float32: float = Field(gt=0, description="peak, FLOP/s")
    float64: float = Field(gt=0, description="peak, FLOP/s")
    bfloat16: float = Field(gt=0, description="peak of dense matrix products, FLOP/s")
    bandwidth: float = Field(gt=0, description="memory bandwidth, bytes/s")
    memory: float = Field(gt=0, description="bytes of memory available to one rank")
    efficiency: float = Field(
        0.5, gt=0, le=1, description="fraction of the peak that networks reach"
    )
    launch: float = Field(1e-5, ge=0, description="shortest time of an operation in seconds")


class Wire(SiteTable):
    """A link: latency of a message in seconds, and bandwidth in bytes/s."""

    alpha: float = Field(ge=0)
    bandwidth: float = Field(gt=0)


class Fabric(SiteTable):
    """``[network.fabric]``: how nodes are connected."""

    kind: Literal["flat", "fat-tree", "dragonfly"] = "fat-tree"
    group: int = Field(1, ge=1, description="nodes per leaf switch, or per dragonfly group")
    taper: float = Field(
        1.0, ge=1, description="oversubscription: bandwidth into a group / bandwidth out of it"
    )
    hop: float = Field(1.5e-7, ge=0, description="seconds per additional switch")


class NetworkLinks(SiteTable):
    """``[network]``: links within and between nodes."""

    within: Wire
    between: Wire = Field(description="link between nodes through one adapter")
    adapters: int = Field(1, ge=1, description="number of adapters per node")
    gamma: float = Field(0.0, ge=0, description="seconds per byte to add received data")
    cycles: float = Field(
        1.0, ge=0, description="number of Horovod cycles for which a gradient waits"
    )
    cycle: float = Field(
        0.0, ge=0, description="seconds of a Horovod cycle; HOROVOD_CYCLE_TIME sets it"
    )
    fabric: Fabric = Fabric(kind="flat")


class Storage(SiteTable):
    """``[storage]``: bandwidth of reading from the file system."""

    node: float = Field(gt=0, description="bytes/s that one node can read")
    total: float = Field(gt=0, description="bytes/s that all nodes of a job can read")


class Machine(SiteTable):
    """The hardware of a site."""

    name: str = ""
    source: str = Field("", description="source of the values")
    device: Device
    network: NetworkLinks
    storage: Storage
    jitter: float = Field(0.02, ge=0, description="relative standard deviation of a step's time")
    per_node: int = Field(1, ge=1, description="ranks per node")


def names() -> list[str]:
    """Names of the sites in the package."""
    folder = resources.files("hpcsamp.planning") / "sites"
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")
    )


def load(name: str) -> Machine:
    """Load a site by name, or from a TOML file.

    Raises
    ------
    UsageError
        If there is no such site, or one of its keys or values is invalid.
    """
    own = Path(name)
    if name in names():
        path = resources.files("hpcsamp.planning") / "sites" / f"{name}.toml"
        table = parse_toml(path.read_text("utf-8"), f"site {name}")
    elif name.endswith(".toml") and exists(own):
        table = read_toml(own, "the site")
    else:
        raise UsageError(
            f"--site {name}: no such site{suggest(name, names())}; choose from "
            f"{', '.join(names())}, or name your own TOML file"
        )
    try:
        table.setdefault("name", own.stem)
        if "per_node" not in table and name in campaign_site.names():
            known = campaign_site.load({"name": name}, Path()).resources
            table["per_node"] = known.get("ranks_per_node", 1)
        return Machine.model_validate(table)
    except ValidationError as e:
        fault = e.errors()[0]
        key = ".".join(map(str, fault["loc"]))
        raise UsageError(f"site {name}: {key}: {fault['msg'].lower()}") from None
