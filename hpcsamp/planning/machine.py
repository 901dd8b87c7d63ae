"""What a place has: devices, links, fabric, storage. Published numbers, or those measured there.

Scheduler facts of the same places (ranks of a node, launchers) are in ``campaign/sites``; files
here have the same names and say what is theirs alone.
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


class Table(BaseModel):
    """A table of a site's file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Device(Table):
    """``[device]``: what one rank computes on."""

    name: str
    kind: Literal["cpu", "gpu"] = "gpu"
    float32: float = Field(gt=0, description="peak, FLOP/s")
    float64: float = Field(gt=0, description="peak, FLOP/s")
    bfloat16: float = Field(gt=0, description="peak of dense matrix products, FLOP/s")
    bandwidth: float = Field(gt=0, description="of its memory, bytes/s")
    memory: float = Field(gt=0, description="bytes of one rank")
    efficiency: float = Field(0.5, gt=0, le=1, description="part of a peak that networks reach")
    launch: float = Field(1e-5, ge=0, description="seconds that an operation takes at least")


class Wire(Table):
    """A link: seconds of an empty message, bytes/s."""

    alpha: float = Field(ge=0)
    bandwidth: float = Field(gt=0)


class Fabric(Table):
    """``[network.fabric]``: how nodes hang together."""

    kind: Literal["flat", "fat-tree", "dragonfly"] = "fat-tree"
    group: int = Field(1, ge=1, description="nodes below a leaf switch, or in a dragonfly's group")
    taper: float = Field(1.0, ge=1, description="bandwidth into such a group over that out of it")
    hop: float = Field(1.5e-7, ge=0, description="seconds of one more switch")


class Network(Table):
    """``[network]``: links within and between nodes."""

    within: Wire
    between: Wire = Field(description="of one adapter")
    adapters: int = Field(1, ge=1, description="of a node")
    gamma: float = Field(0.0, ge=0, description="seconds a byte to add")
    cycles: float = Field(1.0, ge=0, description="cycles of Horovod that a gradient waits")
    cycle: float = Field(
        0.0, ge=0, description="seconds of a cycle where HOROVOD_CYCLE_TIME sets it"
    )
    fabric: Fabric = Fabric(kind="flat")


class Storage(Table):
    """``[storage]``: what reads bring."""

    node: float = Field(gt=0, description="bytes/s into a node")
    total: float = Field(gt=0, description="bytes/s out of the file system for a job")


class Machine(Table):
    """A place."""

    name: str = ""
    source: str = Field("", description="where the numbers are from")
    device: Device
    network: Network
    storage: Storage
    jitter: float = Field(0.02, ge=0, description="standard deviation of a step over its mean")
    per_node: int = Field(1, ge=1, description="ranks of a node")


def names() -> list[str]:
    """Sites that come with the package."""
    folder = resources.files("hpcsamp.planning") / "sites"
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")
    )


def load(name: str) -> Machine:
    """A site by name, or a TOML file of one's own.

    Raises
    ------
    UsageError
        If there is no such site, or a key or value of it is wrong.
    """
    own = Path(name)
    if name in names():
        path = resources.files("hpcsamp.planning") / "sites" / f"{name}.toml"
        table = parse_toml(path.read_text("utf-8"), f"site {name}")
    elif name.endswith(".toml") and exists(own):
        table = read_toml(own, "the site")
    else:
        raise UsageError(
            f"--site {name}: no such site{suggest(name, names())}; there are "
            f"{', '.join(names())}, or name a TOML file of yours"
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
