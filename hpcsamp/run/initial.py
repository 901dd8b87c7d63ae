"""Initial weights of a run from a file, or from the means of another run.

The configuration records their checksum. The file is only needed at the first start: a resumed run
loads its weights from a checkpoint and compares the checksum.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from hpcsamp import models
from hpcsamp.config import RunConfig, check
from hpcsamp.errors import UsageError
from hpcsamp.grid import Topology, one_process, together
from hpcsamp.models import Wrapping, pretrained
from hpcsamp.names import MODELS
from hpcsamp.run import checkpoint
from hpcsamp.run.folder import RunFolder
from hpcsamp.run.restore import restore


class WeightSource(NamedTuple):
    """The source of initial weights.

    Attributes
    ----------
    path
        File with tensors, or checkpoint.
    run
        Folder of the run to which the checkpoint belongs; None for a file.
    """

    path: Path
    run: Path | None = None


def identified(
    config: RunConfig, topology: Topology, folder: RunFolder, resume: bool
) -> tuple[RunConfig, WeightSource | None]:
    """Add the checksum of the initial weights to the configuration. Collective over the world.

    Parameters
    ----------
    folder, resume
        Folder of the run, and whether to resume it from a checkpoint.

    Returns
    -------
    RunConfig
        With ``model.weights_sha256`` if ``model.weights`` is set.
    WeightSource
        None if no weights have to be read.

    Raises
    ------
    UsageError
        If they cannot be read, or their checksum differs from that in the configuration; the same
        on every rank.
    """
    weights = models.options_of(config.model, MODELS.find(config.model.name))[0].weights
    if weights is None:
        return config, None
    with together(topology.world):
        found: tuple[WeightSource | None, str] = (None, "")
        if topology.is_root:
            found = _found(config, weights, folder, resume)
    source, checksum = topology.world.bcast(found)
    table = config.model_dump(exclude_none=True)
    table["model"]["weights_sha256"] = checksum
    return check(table), source


def _found(
    config: RunConfig, weights: str, folder: RunFolder, resume: bool
) -> tuple[WeightSource | None, str]:
    goes_on = resume and checkpoint.latest(folder.checkpoints) is not None
    if goes_on and not Path(weights).exists():
        return None, str(folder.config().model.weights_sha256)
    source = _source(weights)
    checksum, expected = pretrained.digest(source.path), config.model.weights_sha256
    if expected not in (None, checksum):
        raise UsageError(
            f"model.weights = {weights!r} has the SHA-256 {checksum[:12]}..., but "
            f"model.weights_sha256 is {expected[:12]}...: it is another file, or was changed"
        )
    return None if goes_on else source, checksum


def _source(weights: str) -> WeightSource:
    path = Path(weights)
    if not path.exists():
        raise UsageError(f"model.weights = {weights!r}: there is no such file or run folder")
    if not path.is_dir():
        return WeightSource(path)
    newest = checkpoint.latest(RunFolder(path).checkpoints)
    if newest is None:
        raise UsageError(f"model.weights = {weights!r} is a folder, but contains no checkpoints")
    return WeightSource(newest, path)


def read(source: WeightSource) -> dict[str, Tensor]:
    """Read initial weights, with the names that they have in a network.

    Raises
    ------
    HpcsampError
        If they cannot be read, or a run has more than one network.
    """
    if source.run is None:
        return pretrained.read(source.path)
    folder = RunFolder(source.run)
    method = restore(folder, folder.config(), one_process("cpu"), which=str(source.path)).run.method
    networks = method.networks
    if len(networks) != 1:
        raise UsageError(
            f"model.weights = {str(source.run)!r}: this run has {len(networks)} networks and no "
            f"mean of them; name a run of another method, or a file with the weights of one network"
        )
    network: nn.Module = networks[0]
    network = network.network if isinstance(network, Wrapping) else network
    return {name: v.detach().clone() for name, v in network.state_dict().items()}
