"""Store Laplace posteriors in the run folder, and use them in place of a restored method.

``laplace/step-00000100.pt`` contains the posterior of the checkpoint of this step, with the hash of
its parameters; it is sealed, and read without pickled code. The method of the run and its
checkpoints stay unchanged.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from hpcsamp.errors import DataError, UsageError
from hpcsamp.files import whole
from hpcsamp.grid import Topology, together
from hpcsamp.methods import Method
from hpcsamp.methods.curvature import FORMS, Curvature
from hpcsamp.methods.laplace import Laplace
from hpcsamp.run import checkpoint
from hpcsamp.run.assemble import Run, network
from hpcsamp.run.digest import parameters_sha256
from hpcsamp.run.folder import RunFolder
from hpcsamp.sealing import archive

NAME = "laplace"
"""Name of the folder."""
SCHEMA = 1
"""Format version of a file."""


@dataclass(frozen=True)
class Entry:
    """Laplace posterior of one checkpoint.

    Attributes
    ----------
    parameters
        Hash of the trained parameters, see :mod:`hpcsamp.run.digest`.
    kind
        Kind of the curvature.
    predictive
        One of :data:`hpcsamp.methods.laplace.PREDICTIVES`.
    precision
        Prior precision.
    curvatures
        Curvature of each layer by its name.
    """

    parameters: str
    kind: str
    predictive: str
    precision: float
    curvatures: Mapping[str, Curvature]

    def table(self) -> dict[str, Any]:
        """Content for a file."""
        names = {of: name for name, of in FORMS.items()}
        layers = {
            name: {"form": names[type(of)], **of.tensors()} for name, of in self.curvatures.items()
        }
        return {
            "schema": SCHEMA,
            "parameters_sha256": self.parameters,
            "kind": self.kind,
            "predictive": self.predictive,
            "prior_precision": self.precision,
            "layers": layers,
        }

    @classmethod
    def read(cls, table: dict[str, Any]) -> Self:
        """Read the content of a file."""
        if table["schema"] != SCHEMA:
            raise ValueError(f"schema {table['schema']}")
        layers = {
            name: FORMS[of["form"]](*(of[part] for part in FORMS[of["form"]].parts))
            for name, of in table["layers"].items()
        }
        return cls(
            parameters=str(table["parameters_sha256"]),
            kind=str(table["kind"]),
            predictive=str(table["predictive"]),
            precision=float(table["prior_precision"]),
            curvatures=layers,
        )


def path_of(folder: RunFolder, step: int) -> Path:
    """Path of the Laplace posterior of a step."""
    return checkpoint.step_path(folder.path / NAME, step)


def read(folder: RunFolder, step: int) -> Entry | None:
    """Read the Laplace posterior of a step, if there is one.

    Raises
    ------
    DataError
        If the file is damaged, belongs to another run, or has another form.
    """
    path = path_of(folder, step)
    if not path.is_file():
        return None
    try:
        if not archive.check(path):
            raise ValueError("its seal is missing")
        table = torch.load(path, map_location="cpu", weights_only=True)
        if table["run"] != folder.run or table["step"] != step:
            raise ValueError("it belongs to another run or step")
        return Entry.read(table)
    except Exception as e:  # torch raises many kinds of errors for damage
        raise DataError(
            f"{path} cannot be used ({type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"
            f"); run hpcsamp laplace again, or hpcsamp laplace --remove"
        ) from e


def keep(folder: RunFolder, step: int, entry: Entry) -> None:
    """Write the Laplace posterior of a step; the file is whole or absent.

    Raises
    ------
    UsageError
        If it cannot be written.
    """
    path = path_of(folder, step)
    try:
        path.parent.mkdir(exist_ok=True)
        with whole(path) as part, part.open("w+b") as f:
            checkpoint.write(f, {"run": folder.run, "step": step, **entry.table()})
    except (OSError, RuntimeError) as e:  # torch.save raises RuntimeError on a full disk
        raise UsageError(f"cannot write {path}: {e}") from e


def remove(folder: RunFolder) -> int:
    """Remove the Laplace posteriors of all checkpoints of a run; return their number.

    Raises
    ------
    UsageError
        If the run has none, or they cannot be removed.
    """
    found = sorted((folder.path / NAME).glob("step-*.pt"))
    if not found:
        raise UsageError(f"{folder.path} has no Laplace posterior")
    try:
        for path in found:
            path.unlink()
        (folder.path / NAME).rmdir()
    except OSError as e:
        raise UsageError(f"cannot remove {folder.path / NAME}: {e.strerror or e}") from e
    return len(found)


def point_network(run: Run, topology: Topology) -> nn.Module:
    """Return a separate network with the trained (or mean) weights, in evaluation mode.

    Raises
    ------
    UsageError
        If the method has no single set of weights, or they are split over model ranks.
    """
    method, name = run.method, run.config.method.name
    if topology.model_size > 1:
        raise UsageError("Laplace needs the whole network on a rank; set parallel.model = 1")
    members = getattr(method, "samples", 1)
    if method.placement.axis is not None and members != 1:
        raise UsageError(
            f"Laplace needs one set of trained weights, but {name} has {members}; train with "
            f"method.samples = 1"
        )
    made = network(run.config, run.shapes).to(device=topology.device, dtype=run.dtype).eval()
    source = method.networks[0].state_dict() if method.networks else {}
    own = made.state_dict()
    if source.keys() != own.keys():
        raise UsageError(f"Laplace needs a plain network, but {name} has weights of other names")
    made.load_state_dict(source)
    return made


def apply(run: Run, topology: Topology, folder: RunFolder, step: int, *, own: bool) -> Method:
    """Return the method for predictions: that of the run, or its Laplace posterior.

    Collective over the world.

    Parameters
    ----------
    own
        Whether the checkpoint is one of the run folder.
    """
    found = None
    with together(topology.world):
        if topology.is_root and own:
            found = read(folder, step)
    found = topology.world.bcast(found)
    if found is None:
        return run.method
    same = parameters_sha256(run.method, topology) == found.parameters
    if not same:
        if topology.is_root:
            sys.stderr.write(
                f"hpcsamp: the Laplace posterior of {folder.path} is not used: it was fitted to "
                f"other parameters of this step; hpcsamp laplace\n"
            )
        return run.method
    with together(topology.world):
        made = Laplace(
            point_network(run, topology),
            found.curvatures,
            found.precision,
            linear=not found.kind.startswith("last"),
            probit=found.predictive == "probit",
            seed=run.config.seed,
            autocast=getattr(run.method, "autocast", None),
        )
        made.kind = found.kind
        made.batch_norm = run.method.batch_norm
        if run.config.evaluation.samples_per_pass is not None:
            made.predict_per_pass(run.config.evaluation.samples_per_pass)
        made.to(device=topology.device, dtype=run.dtype)
    return made
