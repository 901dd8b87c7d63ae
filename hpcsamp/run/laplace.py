"""Store Laplace posteriors in the run folder, and use them in place of a restored method.

``laplace.json`` contains a posterior for each step of a checkpoint to which one was fitted, with
the hash of its parameters. The method of the run and its checkpoints stay unchanged.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from hpcsamp.errors import DataError, UsageError
from hpcsamp.grid import Topology, together
from hpcsamp.methods import Method
from hpcsamp.methods.curvature import FORMS, Curvature
from hpcsamp.methods.laplace import Laplace
from hpcsamp.run.assemble import Run, network
from hpcsamp.run.digest import parameters_sha256
from hpcsamp.run.folder import RunFolder

NAME = "laplace.json"
SCHEMA = 1
"""Format version of an entry."""


@dataclass(frozen=True)
class Entry:
    """Laplace posterior of one checkpoint.

    Attributes
    ----------
    parameters
        Hash of the trained parameters, see :mod:`hpcsamp.run.digest`.
    kind
        Kind of the curvature.
    precision
        Prior precision.
    curvatures
        Curvature of each layer by its name.
    """

    parameters: str
    kind: str
    precision: float
    curvatures: Mapping[str, Curvature]

    def table(self) -> dict[str, Any]:
        """Content for a JSON file."""
        names = {of: name for name, of in FORMS.items()}
        layers = {
            name: {"form": names[type(of)], **{k: _text(t) for k, t in of.tensors().items()}}
            for name, of in self.curvatures.items()
        }
        return {
            "schema": SCHEMA,
            "parameters_sha256": self.parameters,
            "kind": self.kind,
            "prior_precision": self.precision,
            "layers": layers,
        }

    @classmethod
    def read(cls, table: dict[str, Any]) -> Self:
        """Read the content of a JSON file."""
        if table["schema"] != SCHEMA:
            raise ValueError(f"schema {table['schema']}")
        layers = {
            name: FORMS[of["form"]](*(_tensor(of[part]) for part in FORMS[of["form"]].parts))
            for name, of in table["layers"].items()
        }
        precision = float(table["prior_precision"])
        return cls(str(table["parameters_sha256"]), str(table["kind"]), precision, layers)


def _text(x: Tensor) -> dict[str, Any]:
    data = base64.b64encode(x.double().numpy().astype("<f8").tobytes()).decode()
    return {"shape": list(x.shape), "float64": data}


def _tensor(table: dict[str, Any]) -> Tensor:
    values = np.frombuffer(base64.b64decode(table["float64"]), "<f8").astype(np.float64)
    return torch.from_numpy(values.reshape(table["shape"]))


def read(folder: RunFolder, step: int) -> Entry | None:
    """Read the Laplace posterior of a step, if there is one.

    Raises
    ------
    DataError
        If the file was changed after it was written, or has another form.
    """
    if not (folder.path / NAME).is_file():
        return None
    found = folder.read_json(NAME).get(str(step))
    if found is None:
        return None
    try:
        return Entry.read(found)
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise DataError(
            f"{folder.path / NAME} cannot be used ({type(e).__name__}: {e}); run hpcsamp laplace "
            f"again"
        ) from e


def keep(folder: RunFolder, step: int, entry: Entry | None) -> None:
    """Write the Laplace posterior of a step; None removes it."""
    there = folder.read_json(NAME) if (folder.path / NAME).is_file() else {}
    others = {key: value for key, value in there.items() if key != str(step)}
    own = {} if entry is None else {str(step): entry.table()}
    folder.write_json(NAME, {**others, **own})


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
            seed=run.config.seed,
            autocast=getattr(run.method, "autocast", None),
        )
        made.batch_norm = run.method.batch_norm
        if run.config.evaluation.samples_per_pass is not None:
            made.predict_per_pass(run.config.evaluation.samples_per_pass)
        made.to(device=topology.device, dtype=run.dtype)
    return made
