"""Check, before a network is created, that its parameters fit into memory."""

from __future__ import annotations

from hpcsamp.config import RunConfig
from hpcsamp.data import Dataset
from hpcsamp.errors import HpcsampError, UsageError
from hpcsamp.explain import more
from hpcsamp.grid import Topology
from hpcsamp.planning import parted
from hpcsamp.planning.node_memory import available
from hpcsamp.run.shapes import DataShapes


def check(config: RunConfig, dataset: Dataset, topology: Topology) -> None:
    """Refuse a network whose parameters alone need more memory than is available.

    The memory of a step is checked later (:mod:`.memory`), when the method exists.

    Raises
    ------
    UsageError
        If the network is too large; the message gives the needed and the available memory.
    """
    if config.training.memory_check == "off":
        return
    try:
        network, _ = parted.network(config, DataShapes.of(dataset), topology.model_size)
    except HpcsampError:
        raise
    except Exception:  # a user's network that cannot be created without values
        return
    needed = (8 if config.training.precision == "float64" else 4) * sum(
        p.numel() for p in network.parameters()
    )
    there = available(topology.device)
    if needed > there:
        raise UsageError(
            f"the parameters of model.name = {config.model.name!r} alone need {needed / 1e9:.4g} "
            f"GB of {there / 1e9:.1f} GB available: make its layers smaller{more('memory')}"
        )
