"""The model against measured steps: constants from some of the points, the error of the others.

For points of one machine the model is linear in its constants but for one, the factor ``c`` that
compute takes longer by where several ranks of a node work:

    T = c (o + a s + d s b) / M + (e s + f s b) [M > 1] + lg p alpha + 2 (p-1)/p m beta

with ``o, a, d`` of each model, ``e, f`` of each model in M parts (exchanges of its passes, and what
is not divided), ``alpha, beta`` common, ``s = ceil(S/P)`` samples and ``b = B/D`` items of a rank,
``m`` bytes of the gradient of a rank's part, which ``p = P D`` ranks exchange. Constants are not
negative. The fit minimises the relative error with Huber's weights (1964), so that a disturbed
point does little harm.
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
"""Relative error from which a point counts less."""


@dataclass(frozen=True)
class Point:
    """A measured step.

    Attributes
    ----------
    model
        Name; points of one model share constants.
    samples, batch
        ``S``, items over all data groups.
    sample_size, data_size
        ``P``, ``D``.
    seconds
        Of a step, median.
    trained
        Numbers in the gradient of a rank.
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
        """Ranks that exchange a gradient, ``P * D``."""
        return self.sample_size * self.data_size

    @property
    def ranks(self) -> int:
        """``P * D * M``."""
        return self.replicas * self.model_size

    @property
    def own(self) -> tuple[int, float]:
        """``s`` and ``b`` of the fullest rank."""
        return -(-self.samples // self.sample_size), self.batch / self.data_size


NAMES: dict[str, tuple[str, ...]] = {
    "model": ("model", "workload"),
    "sample_size": ("sample_group_size", "sample_size"),
    "data_size": ("data_group_size", "data_size"),
    "model_size": ("model_group_size", "model_size"),
    "ranks": ("world_size", "ranks"),
    "seconds": ("seconds_per_step", "step_seconds"),
}
"""How records call what a point has: as ``summary.json`` does, or as scaling experiments do."""

NEEDED = ("model", "sample_size", "data_size", "ranks", "seconds")


def read(path: Path) -> list[Point]:
    """Measured steps: JSON lines, or a JSON list, with the names of ``summary.json``.

    Raises
    ------
    UsageError
        If the file has none, or is not what was written.
    """
    if not path.is_file():
        raise UsageError(f"--check {path}: No such file")
    records = _records(path)
    found = [p for p in (point(r) for r in records if isinstance(r, dict)) if p is not None]
    if not found:
        raise UsageError(
            f"--check {path}: none of {len(records)} records has samples, batch, "
            f"{', '.join(NAMES[n][0] for n in NEEDED)}; write some by "
            f"hpcsamp bench calibrate --check --records"
        )
    return found


def _records(path: Path) -> list[Any]:
    """Read the records of a file: a list, one JSON object, or lines of them."""
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


def point(record: dict[str, Any]) -> Point | None:
    """A record as a point; None if it lacks something."""

    def get(name: str) -> Any:
        return next(record[n] for n in NAMES[name] if n in record)

    try:
        sample_size = int(get("sample_size"))
        several = any(n in record for n in NAMES["data_size"])
        in_parts = any(n in record for n in NAMES["model_size"])
        model_size = int(get("model_size") if in_parts else 1)
        return Point(
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


def hold_back(points: Sequence[Point]) -> tuple[list[Point], list[Point]]:
    """Points to fit and points to check: of each model and grid every second one is held back.

    In the order of samples and batch; first and last of each are fitted.
    """
    kinds: dict[tuple[str, int, int, int], list[Point]] = {}
    for point in sorted(points, key=lambda p: (p.samples, p.batch)):
        kind = (point.model, point.sample_size, point.data_size, point.model_size)
        kinds.setdefault(kind, []).append(point)
    fitted: list[Point] = []
    held: list[Point] = []
    for several in kinds.values():
        for i, point in enumerate(several):
            (held if i % 2 and i < len(several) - 1 else fitted).append(point)
    return fitted, held


@dataclass(frozen=True)
class Fitted:
    """The constants of a machine, in seconds.

    Attributes
    ----------
    models
        ``(o, a, d)`` of each model.
    parts
        ``(e, f)`` of each model on M model ranks, by ``(model, M)``.
    alpha, beta
        Of the link, seconds and seconds per byte.
    crowd
        ``c``.
    """

    models: dict[str, tuple[float, float, float]]
    parts: dict[tuple[str, int], tuple[float, float]]
    alpha: float
    beta: float
    crowd: float

    def as_dict(self) -> dict[str, Any]:
        """Return the constants by name; those of parts by ``"model, M = 2"``."""
        return vars(self) | {"parts": {f"{n}, M = {m}": v for (n, m), v in self.parts.items()}}

    def predict(self, point: Point) -> float:
        """Seconds of a step.

        Raises
        ------
        UsageError
            For a model, or a number of model ranks, that was not fitted.
        """
        if point.model not in self.models:
            raise UsageError(
                f"model {point.model} has no points to fit; there is {', '.join(self.models)}"
            )
        if point.model_size > 1 and (point.model, point.model_size) not in self.parts:
            raise UsageError(
                f"model {point.model} has no points to fit on {point.model_size} parts"
            )
        constants = (*self.models.values(), *self.parts.values(), (self.alpha, self.beta))
        row = _row(point, list(self.models), list(self.parts), self.crowd)
        return float(row @ np.concatenate(constants))


def fit(points: Sequence[Point]) -> Fitted:
    """Constants of a machine.

    Raises
    ------
    UsageError
        If there are fewer points than a model has constants.
    """
    names = sorted({p.model for p in points})
    for name in names:
        number = sum(p.model == name for p in points)
        if number < 3:
            raise UsageError(f"model {name} has 3 constants and {number} points to fit them to")
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
    """Constants that are not negative with ``rows @ constants`` near ``seconds``.

    Parameters
    ----------
    rows
        ``(points, constants)``.
    seconds
        ``(points,)``, positive.

    Returns
    -------
    tuple
        ``(constants,)``, and the sum of Huber's function of the relative errors.
    """
    rows = rows / seconds[:, None]
    weights = np.ones(len(rows))
    scale = np.maximum(np.abs(rows).max(axis=0), 1e-300)  # constants differ by many decades
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
    """``alpha`` and ``beta`` (s, s/byte) of a link from times of an allreduce over ``ranks``.

    Latency counts as in recursive doubling, volume as in a ring: what a good library reaches at
    either end of the sizes.
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


def _row(point: Point, names: list[str], parts: list[tuple[str, int]], crowd: float) -> np.ndarray:
    """What the constants are multiplied by, in the order of :class:`Fitted`."""
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


def errors(predicted: Sequence[float], points: Sequence[Point]) -> dict[str, float]:
    """Relative errors: ``median``, ``max`` and number of points.

    Raises
    ------
    UsageError
        If there are no points.
    """
    if not points:
        raise UsageError("no points are left to check; give more measured steps")
    values = [abs(a / p.seconds - 1) for a, p in zip(predicted, points, strict=True)]
    finite = [v for v in values if math.isfinite(v)]
    return {"median": statistics.median(finite), "max": max(finite), "points": len(finite)}
