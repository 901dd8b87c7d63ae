"""Fit the performance model to some of the measured steps; the others determine its error.

For points of one machine the model is linear in all constants but the factor ``c`` by which compute
takes longer if several ranks of a node compute:

    T = c (o + a s + d s b) / M + (e s + f s b) [M > 1] + lg p alpha + 2 (p-1)/p m beta

with ``o, a, d`` for each model, ``e, f`` for each model on M model ranks (exchanges in its passes,
and work that is not divided), ``alpha, beta`` for all models, ``s = ceil(S/P)`` samples and
``b = B/D`` items per rank, ``m`` bytes of the gradient of a rank's part, which ``p = P D`` ranks
exchange. Constants are not negative. The fit minimises the relative error with Huber's weights
(1964), so that disturbed points have little influence.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from hpcsamp.errors import DataError, UsageError
from hpcsamp.planning.network import Link, doubling_allreduce, ring_allreduce
from hpcsamp.sealing import text

ROUNDS = 8
HUBER = 0.05
"""Relative error above which a point has less weight."""


@dataclass(frozen=True)
class MeasuredStep:
    """A measured training step.

    Attributes
    ----------
    model
        Name of the model; points of one model share constants.
    samples, batch
        ``S``, and the number of items over all data groups.
    sample_size, data_size
        ``P``, ``D``.
    seconds
        Median time of a step.
    trained
        Number of values in the gradient of a rank.
    model_size
        ``M``.
    """

    model: str
    samples: int
    batch: int
    sample_size: int
    data_size: int
    seconds: float
    trained: int = 0
    model_size: int = 1

    @property
    def replicas(self) -> int:
        """Number of ranks that exchange a gradient, ``P * D``."""
        return self.sample_size * self.data_size

    @property
    def ranks(self) -> int:
        """Number of ranks, ``P * D * M``."""
        return self.replicas * self.model_size

    @property
    def own(self) -> tuple[int, float]:
        """Number of samples ``s`` and of items ``b`` of the rank with the most samples."""
        return -(-self.samples // self.sample_size), self.batch / self.data_size


NAMES: dict[str, tuple[str, ...]] = {
    "model": ("model", "workload"),
    "sample_size": ("sample_group_size", "sample_size"),
    "data_size": ("data_group_size", "data_size"),
    "model_size": ("model_group_size", "model_size"),
    "ranks": ("world_size", "ranks"),
    "seconds": ("seconds_per_step", "step_seconds"),
}
"""Names of a point's attributes in records: in ``summary.json``, or in scaling experiments."""

NEEDED = ("model", "sample_size", "data_size", "ranks", "seconds")


def read(path: Path) -> list[MeasuredStep]:
    """Read measured steps from JSON lines or a JSON list, with the names of ``summary.json``.

    Parameters
    ----------
    path
        A file, or a folder whose ``*.jsonl`` files are all read.

    Raises
    ------
    UsageError
        If there are no measured steps, or a file was changed after it was written.
    """
    files = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
    if not path.exists():
        raise UsageError(f"--check {path}: No such file")
    records = [record for file in files for record in _records(file)]
    found = [p for p in (point(r) for r in records if isinstance(r, dict)) if p is not None]
    if not found:
        raise UsageError(
            f"--check {path}: none of {len(records)} records has samples, batch, "
            f"{', '.join(NAMES[n][0] for n in NEEDED)}; write some by "
            f"hpcsamp bench calibrate --check --records"
        )
    return found


def _records(path: Path) -> list[Any]:
    """Read the records of a file: a list, one JSON object, or JSON lines."""
    try:
        whole = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        whole = None
    if isinstance(whole, list):
        return whole
    try:
        if whole is None:
            return list(text.read_lines(path)[0])
        table = text.read_json(path)
    except DataError as e:
        raise UsageError(f"--check {e}") from None
    points = table.get("points", [table])
    return points if isinstance(points, list) else [points]


def point(record: dict[str, Any]) -> MeasuredStep | None:
    """Convert a record to a point; None if an entry is missing."""

    def get(name: str) -> Any:
        return next(record[n] for n in NAMES[name] if n in record)

    try:
        sample_size = int(get("sample_size"))
        several = any(n in record for n in NAMES["data_size"])
        in_parts = any(n in record for n in NAMES["model_size"])
        model_size = int(get("model_size") if in_parts else 1)
        return MeasuredStep(
            str(get("model")),
            int(record["samples"]),
            int(record["batch"]),
            sample_size,
            int(get("data_size") if several else get("ranks") // (sample_size * model_size)),
            float(get("seconds")),
            int(record.get("trained", 0)),
            model_size,
        )
    except (KeyError, TypeError, ValueError, StopIteration, ZeroDivisionError, OverflowError):
        return None


def hold_back(points: Sequence[MeasuredStep]) -> tuple[list[MeasuredStep], list[MeasuredStep]]:
    """Split points into fitted and checked ones, alternating within each model and grid.

    Points are ordered by samples and batch; the first and the last of each are fitted.
    """
    kinds: dict[tuple[str, int, int, int], list[MeasuredStep]] = {}
    for point in sorted(points, key=lambda p: (p.samples, p.batch)):
        kind = (point.model, point.sample_size, point.data_size, point.model_size)
        kinds.setdefault(kind, []).append(point)
    fitted: list[MeasuredStep] = []
    held: list[MeasuredStep] = []
    for several in kinds.values():
        for i, point in enumerate(several):
            (held if i % 2 and i < len(several) - 1 else fitted).append(point)
    return fitted, held


@dataclass(frozen=True)
class Fitted:
    """The fitted constants of a machine, in seconds.

    Attributes
    ----------
    models
        ``(o, a, d)`` for each model.
    parts
        ``(e, f)`` for each model on M model ranks, by ``(model, M)``.
    alpha, beta
        Constants of the link, seconds and seconds per byte.
    crowd
        Factor ``c``.
    """

    models: dict[str, tuple[float, float, float]]
    parts: dict[tuple[str, int], tuple[float, float]]
    alpha: float
    beta: float
    crowd: float

    def as_dict(self) -> dict[str, Any]:
        """Return the constants by name; those of M model ranks by ``"model, M = 2"``."""
        return vars(self) | {"parts": {f"{n}, M = {m}": v for (n, m), v in self.parts.items()}}

    def predict(self, point: MeasuredStep) -> float:
        """Predict the seconds of a step.

        Raises
        ------
        UsageError
            If the model, or its number of model ranks, was not fitted.
        """
        if point.model not in self.models:
            raise UsageError(
                f"model {point.model} was not fitted; choose from {', '.join(self.models)}"
            )
        if point.model_size > 1 and (point.model, point.model_size) not in self.parts:
            raise UsageError(
                f"model {point.model} was not fitted on {point.model_size} model ranks"
            )
        constants = (*self.models.values(), *self.parts.values(), (self.alpha, self.beta))
        row = _row(point, list(self.models), list(self.parts), self.crowd)
        return float(row @ np.concatenate(constants))


def fit(points: Sequence[MeasuredStep]) -> Fitted:
    """Fit the constants of a machine.

    Raises
    ------
    UsageError
        If a model has fewer points than constants.
    """
    names = sorted({p.model for p in points})
    for name in names:
        number = sum(p.model == name for p in points)
        if number < 3:
            raise UsageError(f"model {name} has 3 constants to fit, but only {number} points")
    parts = sorted({(p.model, p.model_size) for p in points if p.model_size > 1})
    many = any(p.ranks > 1 for p in points)
    trials = []
    for crowd in np.linspace(1.0, 2.0, 41) if many else [1.0]:
        rows = np.array([_row(p, names, parts, float(crowd)) for p in points])
        found, error = robust(rows, np.array([p.seconds for p in points]))
        trials.append((error, float(crowd), found))
    _, crowd, found = min(trials, key=lambda t: t[:2])
    of_models, rest = np.split(found, [3 * len(names)])
    of_parts, (alpha, beta) = rest[:-2].reshape(-1, 2), rest[-2:]
    return Fitted(
        {
            n: (o, a, d)
            for n, (o, a, d) in zip(names, of_models.reshape(-1, 3).tolist(), strict=True)
        },
        {k: (e, f) for k, (e, f) in zip(parts, of_parts.tolist(), strict=True)},
        float(alpha),
        float(beta),
        crowd,
    )


def robust(rows: np.ndarray, seconds: np.ndarray) -> tuple[np.ndarray, float]:
    """Find non-negative constants with ``rows @ constants`` near ``seconds``.

    Parameters
    ----------
    rows
        ``(points, constants)``.
    seconds
        ``(points,)``, positive.

    Returns
    -------
    tuple
        Constants, ``(constants,)``, and the sum of Huber's function of the relative errors.
    """
    rows = rows / seconds[:, None]
    weights = np.ones(len(rows))
    scale = np.maximum(np.abs(rows).max(axis=0), 1e-300)  # constants differ by orders of magnitude
    error = np.zeros(len(rows))
    found = np.zeros(rows.shape[1])
    for _ in range(ROUNDS):
        root = np.sqrt(weights)
        found, _ = nnls(rows / scale * root[:, None], root)
        error = np.abs(rows / scale @ found - 1)
        weights = np.minimum(1.0, HUBER / np.maximum(error, 1e-12))
    huber = np.where(error < HUBER, error**2 / 2, HUBER * (error - HUBER / 2))
    return found / scale, float(huber.sum())


def link(ranks: int, sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Fit ``alpha`` and ``beta`` (s, s/byte) of a link to times of an allreduce over ``ranks``.

    Latency is counted as in recursive doubling, and volume as in a ring; good libraries reach these
    for small and large messages, respectively.
    """
    rows = np.array(
        [
            [
                doubling_allreduce(ranks, 0, Link(1, 0)).latency,
                ring_allreduce(ranks, size, Link(0, 1)).volume,
            ]
            for size in sizes
        ]
    )
    found, _ = robust(rows, np.array(seconds))
    return float(found[0]), float(found[1])


def _row(
    point: MeasuredStep, names: list[str], parts: list[tuple[str, int]], crowd: float
) -> np.ndarray:
    """Return the factors of the constants, in the order of :class:`Fitted`."""
    (samples, items), m = point.own, point.model_size
    factor = (crowd if point.ranks > 1 else 1.0) / m
    row = np.zeros(3 * len(names) + 2 * len(parts) + 2)
    first = 3 * names.index(point.model)
    row[first : first + 3] = factor, factor * samples, factor * samples * items
    if m > 1:
        first = 3 * len(names) + 2 * parts.index((point.model, m))
        row[first : first + 2] = samples, samples * items
    row[-2] = doubling_allreduce(point.replicas, 0, Link(1, 0)).latency
    row[-1] = ring_allreduce(point.replicas, 4.0 * point.trained, Link(0, 1)).volume
    return row


def errors(predicted: Sequence[float], points: Sequence[MeasuredStep]) -> dict[str, float]:
    """Return the ``median`` and ``max`` of the relative errors, and the number of points.

    Raises
    ------
    UsageError
        If there are no points.
    """
    if not points:
        raise UsageError("no points are left to check; provide more measured steps")
    values = [abs(a / p.seconds - 1) for a, p in zip(predicted, points, strict=True)]
    finite = [v for v in values if math.isfinite(v)]
    return {"median": statistics.median(finite), "max": max(finite), "points": len(finite)}
