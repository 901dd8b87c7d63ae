"""Store recalibrations in the run folder.

``recalibration.json`` contains a recalibration for each step of a checkpoint to which one was
fitted, with the hashes of its parameters and of the calibration set. They are used only for
predictions with the same parameters and the same number of samples, because the guaranteed coverage
holds for this predictive distribution only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from hpcsamp.calibration.record import Recalibration
from hpcsamp.errors import DataError
from hpcsamp.run.folder import RunFolder

NAME = "recalibration.json"
SCHEMA = 1
"""Format version of an entry."""


@dataclass(frozen=True)
class Entry:
    """Recalibration of one checkpoint.

    Attributes
    ----------
    parameters
        Hash of the parameters, see :mod:`hpcsamp.run.digest`.
    samples
        Number of weight samples of the predictive distribution.
    dataset
        Calibration set: ``path``, ``uid``, ``split``, ``items``, and ``sha256`` of its shards.
    targets
        Recalibration of each target by its name; ``y`` if there is only one target.
    """

    parameters: str
    samples: int
    dataset: Mapping[str, Any]
    targets: Mapping[str, Recalibration]

    def table(self) -> dict[str, Any]:
        """Content for a JSON file."""
        return {
            "schema": SCHEMA,
            "parameters_sha256": self.parameters,
            "samples": self.samples,
            "dataset": dict(self.dataset),
            "targets": {name: of.table() for name, of in self.targets.items()},
        }

    @classmethod
    def read(cls, table: dict[str, Any]) -> Self:
        """Read the content of a JSON file."""
        if table["schema"] != SCHEMA:
            raise ValueError(f"schema {table['schema']}")
        return cls(
            str(table["parameters_sha256"]),
            int(table["samples"]),
            dict(table["dataset"]),
            {name: Recalibration.read(of) for name, of in table["targets"].items()},
        )

    def unused(self, parameters: str, samples: int) -> str | None:
        """Reason not to use the recalibration with these parameters and samples.

        Returns
        -------
        str or None
            One line; None if the recalibration can be used.
        """
        why = None
        if parameters != self.parameters:
            why = "it was fitted to other parameters at the same step"
        elif samples != self.samples:
            why = f"it was fitted with {self.samples} samples, but these predictions have {samples}"
        return why and f"the recalibration of this run is not used: {why}; run hpcsamp recalibrate"


def read(folder: RunFolder, step: int) -> Entry | None:
    """Read the recalibration of a step, if there is one.

    Raises
    ------
    DataError
        If the file was changed after it was written, or has another format.
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
            f"{folder.path / NAME} cannot be used ({type(e).__name__}: {e}); run hpcsamp "
            f"recalibrate again"
        ) from e


def keep(folder: RunFolder, step: int, entry: Entry | None) -> None:
    """Write the recalibration of a step; None removes it."""
    there = folder.read_json(NAME) if (folder.path / NAME).is_file() else {}
    others = {key: value for key, value in there.items() if key != str(step)}
    own = {} if entry is None else {str(step): entry.table()}
    folder.write_json(NAME, {**others, **own})
