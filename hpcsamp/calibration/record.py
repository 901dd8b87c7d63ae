"""The fitted recalibration of one target, and its format in a JSON file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from hpcsamp.calibration.scaling import SCALINGS, Scaling


@dataclass(frozen=True)
class Adaptive:
    """Settings of :mod:`~hpcsamp.calibration.adaptive`.

    Attributes
    ----------
    rate
        Step size of a correction.
    lag
        ``(V,)``: lag of each value in items, for sets that do not have the times of their items.
    past
        ``(n, V)``: last scores of the calibration items in time order.
    """

    rate: float
    lag: np.ndarray
    past: np.ndarray


@dataclass(frozen=True)
class Conformal:
    """Fitted conformal intervals or sets.

    Attributes
    ----------
    score
        Name of the score, see :mod:`~hpcsamp.calibration.intervals` and
        :mod:`~hpcsamp.calibration.sets`.
    level
        Requested coverage.
    items
        Number of calibration items; the smallest one, if it differs between values of an item.
    coverage
        Coverage of a new item: ``ceil((n + 1) level) / (n + 1)``.
    threshold
        Thresholds of the values of an item, with their shape; ``()`` for classes.
    penalty, free
        Parameters of ``raps``.
    adaptive
        None for fixed thresholds.
    """

    score: str
    level: float
    items: int
    coverage: float
    threshold: np.ndarray
    penalty: float = 0.0
    free: int = 0
    adaptive: Adaptive | None = None

    def table(self) -> dict[str, Any]:
        """Return the content for a JSON file."""
        made: dict[str, Any] = {
            "score": self.score,
            "level": self.level,
            "items": self.items,
            "coverage": self.coverage,
            "threshold": self.threshold.tolist(),
        }
        if self.score == "raps":
            made |= {"penalty": self.penalty, "free": self.free}
        if self.adaptive is not None:
            of = self.adaptive
            past = [[None if np.isnan(v) else v for v in row] for row in of.past.tolist()]
            made["adaptive"] = {"rate": of.rate, "lag": of.lag.tolist(), "past": past}
        return made

    @classmethod
    def read(cls, table: dict[str, Any]) -> Self:
        """Read the content of a JSON file."""
        of = table.get("adaptive")
        adaptive = of and Adaptive(
            float(of["rate"]), np.asarray(of["lag"], np.int64), np.asarray(of["past"], float)
        )
        return cls(
            str(table["score"]),
            float(table["level"]),
            int(table["items"]),
            float(table["coverage"]),
            np.asarray(table["threshold"], float),
            float(table.get("penalty", 0.0)),
            int(table.get("free", 0)),
            adaptive,
        )


@dataclass(frozen=True)
class Recalibration:
    """The scaling and conformal prediction fitted to the calibration items of one target.

    Attributes
    ----------
    scaling
        Map of class probabilities, or None.
    conformal
        Intervals or sets, or None.
    """

    scaling: Scaling | None = None
    conformal: Conformal | None = None

    def table(self) -> dict[str, Any]:
        """Return the content for a JSON file."""
        scaling, conformal = self.scaling, self.conformal
        return {
            "scaling": scaling and {"kind": scaling.kind, **scaling.numbers()},
            "conformal": conformal and conformal.table(),
        }

    @classmethod
    def read(cls, table: dict[str, Any]) -> Self:
        """Read the content of a JSON file.

        Raises
        ------
        KeyError, TypeError, ValueError
            If the content does not have this format.
        """
        scaling = None
        if table["scaling"]:
            own = dict(table["scaling"])
            scaling = SCALINGS[own.pop("kind")](**own)
        conformal = Conformal.read(table["conformal"]) if table["conformal"] else None
        return cls(scaling, conformal)

    def facts(self) -> dict[str, Any]:
        """Return the facts to report with results: scaling, score and guaranteed coverage."""
        made: dict[str, Any] = {}
        if self.scaling is not None:
            made["scaling"] = self.scaling.kind
            if "temperature" in (numbers := self.scaling.numbers()):
                made["softmax_temperature"] = numbers["temperature"]
        of = self.conformal
        if of is not None:
            made |= {"score": of.score, "level": of.level, "items": of.items}
            made["coverage"] = of.coverage
            if of.adaptive is not None:
                made["adaptive_rate"] = of.adaptive.rate
        return made
