"""Read the files of a run folder for a report.

The configuration is read as plain TOML and not checked against the schema, so that a report of an
old run does not fail because a key has since been renamed.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hpcsamp.errors import HpcsampError, UsageError
from hpcsamp.sealing import text


class MissingMaterialError(HpcsampError):
    """Raised if a figure cannot be drawn because data are missing; the message names them."""


class DoesNotApplyError(MissingMaterialError):
    """Raised if a figure does not apply to this kind of run; it is left out without a note."""


@dataclass(frozen=True)
class EvaluationRecord:
    """The evaluation of one split.

    Attributes
    ----------
    split, samples, metrics, reliability
        As in ``evaluation/SPLIT.json``; :data:`hpcsamp.metrics.DESCRIPTIONS` explains the
        metrics.
    items
        Path of ``evaluation/SPLIT.h5``, which holds the predictions of single items, or ``None``.
    step
        Step of the checkpoint; None in files that do not state it.
    units, definitions, rows, ood, recalibration, laplace, series
        As in the JSON file; empty if the evaluation has none.
    owner
        Name of the run.
    target
        Name of the target, if this is the evaluation of one of several; otherwise empty.
    """

    split: str
    samples: int
    metrics: dict[str, float]
    reliability: dict[str, list[float]]
    items: Path | None
    units: dict[str, str] = field(default_factory=dict)
    definitions: dict[str, str] = field(default_factory=dict)
    rows: dict[str, Any] = field(default_factory=dict)
    ood: dict[str, Any] = field(default_factory=dict)
    recalibration: dict[str, Any] = field(default_factory=dict)
    laplace: dict[str, Any] = field(default_factory=dict)
    series: dict[str, Any] = field(default_factory=dict)
    step: int | None = None
    owner: str = ""
    target: str = ""

    def of_target(self, target: str) -> EvaluationRecord:
        """Return the evaluation of one of several targets, with metrics ``NAME/metric``."""

        def own(table: dict[str, Any]) -> dict[str, Any]:
            start = f"{target}/"
            return {k.removeprefix(start): v for k, v in table.items() if k.startswith(start)}

        scores = own(self.ood.get("scores", {}))
        return replace(
            self,
            metrics=own(self.metrics),
            reliability=own(self.reliability),
            units=own(self.units),
            definitions=own(self.definitions),
            rows=own(self.rows),
            ood={**self.ood, "scores": scores} if scores else {},
            target=target,
        )

    @contextmanager
    def open(self) -> Iterator[Any]:
        """Open the HDF5 file of the items, after checking its seal.

        For the evaluation of one of several targets, its arrays are accessed without the name of
        the target.

        Raises
        ------
        DataError
            If the file is damaged, or was written for another run.
        MissingMaterialError
            If there is no such file.
        """
        from hpcsamp.sealing import hdf5

        if self.items is None:
            raise MissingMaterialError(f"evaluation/{self.split}.h5 does not exist")
        with hdf5.opened(self.items, self.owner) as f:
            yield OfTarget(f, self.target) if self.target else f

    def bins(self, *names: str) -> list[np.ndarray]:
        """Return arrays of the reliability table; null becomes NaN.

        Raises
        ------
        MissingMaterialError
            If the evaluation does not have all of them.
        """
        if missing := set(names) - set(self.reliability):
            raise MissingMaterialError(
                f"evaluation/{self.split}.json contains no reliability bins "
                f"({', '.join(sorted(missing))})"
            )
        return [np.asarray(self.reliability[name], float) for name in names]


class OfTarget(Mapping[str, Any]):
    """View of a prediction file with the arrays of one target and those common to all targets.

    Parameters
    ----------
    file
        The open file.
    target
        Name of the target.
    """

    def __init__(self, file: Mapping[str, Any], target: str) -> None:
        start = f"{target}_"
        self._file = file
        own = {name.removeprefix(start): name for name in file if name.startswith(start)}
        self._names = {name: name for name in file if name not in own} | own
        self.attrs = file.attrs  # type: ignore[attr-defined]

    def __getitem__(self, name: str) -> Any:
        return self._file[self._names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True)
class RunRecord:
    """The content of a run folder.

    Attributes
    ----------
    path
        The folder.
    config
        ``config.toml`` as a table.
    events
        The lines of ``metrics.jsonl``, in the order in which they were written.
    summary
        ``summary.json``; empty until the run has finished.
    owner
        Name of the run, which is part of the seal of its files.
    """

    path: Path
    config: dict[str, Any]
    events: list[dict[str, Any]]
    summary: dict[str, Any]
    owner: str = ""

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.resolve().name

    def setting(self, *keys: str, default: Any = None) -> Any:
        """Return a value of the configuration, e.g. ``setting("loss", "temperature")``."""
        value: Any = self.config
        for key in keys:
            if not isinstance(value, dict) or key not in value:
                return default
            value = value[key]
        return value

    @property
    def kind(self) -> str:
        """The kind of task, which is a string in older configurations and a table in newer ones."""
        task = self.setting("task", default="classification")
        return str(task["kind"] if isinstance(task, dict) else task)

    @property
    def kinds(self) -> dict[str, str]:
        """The kind of task of each target by name; the name of a single target is empty."""
        if self.kind != "several":
            return {"": self.kind}
        return {name: of["kind"] for name, of in self.setting("task", "outputs").items()}

    @property
    def temperature(self) -> float:
        """Factor of the KL term; 1 is the Bayesian posterior."""
        return float(self.setting("loss", "temperature", default=1.0))

    @cached_property
    def caveats(self) -> list[str]:
        """Caveats that are reported with every result of this run; often none."""
        caveats = []
        if self.temperature != 1:
            caveats.append(f"temperature {self.temperature:g}")
        if self.setting("loss", "exact", default=True) is False:
            caveats.append("approximate loss (exact = false)")
        return caveats

    @property
    def title(self) -> str:
        """Title of figures: the name of the run, its model and dataset, and the caveats."""
        model = self.setting("model", "name", default="model")
        data = Path(self.setting("data", "path", default="data")).name
        parts = [f"{model} on {data}"]
        samples = self.setting("method", "samples")
        if samples:
            parts.append(f"trained with S = {samples}")
        return f"{self.name}: {', '.join(parts + self.caveats)}"

    def series(self, event: str, key: str, axis: str = "step") -> tuple[np.ndarray, np.ndarray]:
        """Return a logged value over steps or epochs.

        If a resumed run has written a step twice, the last line is used.

        Parameters
        ----------
        event
            Kind of the lines: ``"train"``, ``"valid"``, ...
        key
            Name of the value, e.g. ``"loss"``. Lines without it are skipped; null is read as NaN.
        axis
            ``"step"``, or ``"epoch"`` for the number of finished epochs.

        Returns
        -------
        tuple of ndarray
            Positions in ascending order and values, both ``(n,)`` float64.
        """
        last: dict[float, float] = {}
        for line in self.events:
            if line.get("event") == event and key in line and axis in line:
                value = line[key]
                at = line[axis] + (1 if axis == "epoch" else 0)
                last[at] = math.nan if value is None else float(value)
        positions = sorted(last)
        return np.array(positions, float), np.array([last[p] for p in positions], float)

    def evaluation(self, split: str) -> EvaluationRecord | None:
        """Read the evaluation of a split; ``None`` if it has not been evaluated yet.

        Raises
        ------
        DataError, UsageError
            If its file is damaged or incomplete.
        """
        file = self.path / "evaluation" / f"{split}.json"
        if not file.exists():
            return None
        table = text.read_json(file, self.owner, unsealed=not self.owner)
        try:
            return EvaluationRecord(
                split=table["split"],
                samples=int(table["samples"]),
                metrics=table["metrics"],
                reliability=table.get("reliability") or {},
                items=h5 if (h5 := file.with_suffix(".h5")).is_file() else None,
                units=table.get("units") or {},
                definitions=table.get("definitions") or {},
                rows=table.get("rows") or {},
                ood=table.get("ood") or {},
                recalibration=table.get("recalibration") or {},
                laplace=table.get("laplace") or {},
                series=table.get("series") or {},
                step=table.get("step"),
                owner=self.owner,
            )
        except (KeyError, TypeError, ValueError) as e:
            raise UsageError(f"{file} lacks {e}; run hpcsamp evaluate again") from None

    def outdated(self, evaluation: EvaluationRecord) -> str | None:
        """Line on an evaluation without the run's present Laplace posterior, or with a former one.

        ``None`` if the evaluation has the posterior with which the run predicts.
        """
        step = evaluation.step
        if step is None:
            return None
        now = (self.path / "laplace" / f"step-{step:08d}.pt").is_file()
        if now == bool(evaluation.laplace):
            return None
        what = "before" if now else "with the Laplace posterior removed by"
        how = "hpcsamp laplace" + ("" if now else " --remove")
        return (
            f"evaluation/{evaluation.split}.json is an evaluation {what} {how}; run hpcsamp "
            f"evaluate {self.path} --split {evaluation.split} again"
        )


def read_run(path: str | Path) -> RunRecord:
    """Read a run folder; the run may still be in progress.

    Raises
    ------
    DataError, UsageError
        If the folder does not exist, has no configuration or no metrics yet, or a file is damaged.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UsageError(f"there is no run folder {folder}")
    if not (folder / "config.toml").is_file():
        raise UsageError(f"{folder} is not a run folder: it has no config.toml")
    config = text.read_toml(folder / "config.toml", None)
    owner = str(config.pop("run", ""))
    summary = folder / "summary.json"
    return RunRecord(
        path=folder,
        config=config,
        events=_events(folder / "metrics.jsonl", owner),
        summary=text.read_json(summary, owner, unsealed=not owner) if summary.exists() else {},
        owner=owner,
    )


def _events(file: Path, owner: str) -> list[dict[str, Any]]:
    """Read the lines of ``metrics.jsonl``, except a last line left incomplete by a kill."""
    events, torn = text.read_lines(file, owner, unsealed=not owner)
    if torn:
        sys.stderr.write(f"hpcsamp: the last line of {file} is incomplete and was skipped\n")
    if not events:
        raise UsageError(f"{file.parent} has nothing to report yet: {file.name} has no lines")
    return events
