"""Scaling of class probabilities, fitted on items that were not used for training.

The probabilities are those of the predictive distribution, averaged over all weight samples:
scaling each sample before averaging leaves the average underconfident (Rahaman & Thiery 2021). With
``l = log p``::

    temperature   p' ~ exp(l / T)                (Guo et al. 2017, section 4.2)
    vector        p' ~ exp(w * l + b)            (same section; w, b of length C)
    isotonic      p'_c ~ f_c(p_c), f_c monotone  (Zadrozny & Elkan 2002, one against the rest)

Temperature and vector scaling have a weak normal prior around no change, ``(log T)^2 / (2 n)`` and
``(|w - 1|^2 + |b|^2) / (2 n)`` in nats per item. Without it there is no optimum if all n items are
predicted correctly, and the offsets are not unique.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

FLOOR = -700.0
"""Smallest log probability, because 0 times minus infinity is undefined."""
BOUNDS = (1e-3, 1e3)
"""Range of temperatures."""
DIGITS = 12
"""Number of decimals to which probabilities are rounded for isotonic regression."""


class Scaling(ABC):
    """A map of class probabilities.

    Attributes
    ----------
    kind
        Name of the map.
    """

    kind: ClassVar[str]

    @classmethod
    @abstractmethod
    def fit(cls, log_p: np.ndarray, labels: np.ndarray) -> Self:
        """Fit to log probabilities ``(n, C)`` and labels ``(n,)``."""

    @abstractmethod
    def __call__(self, log_p: Tensor) -> Tensor:
        """Map log probabilities ``(B, C)`` to log probabilities of the same shape and type."""

    @abstractmethod
    def numbers(self) -> dict[str, Any]:
        """Return the parameters of the map as arguments of its constructor that JSON can hold."""


@dataclass(frozen=True)
class Temperature(Scaling):
    """Divide the logarithms of the probabilities by one temperature."""

    kind: ClassVar[str] = "temperature"
    temperature: float

    @classmethod
    def fit(cls, log_p: np.ndarray, labels: np.ndarray) -> Self:
        """See :class:`Scaling`; within :data:`BOUNDS`."""
        from scipy import optimize, special

        z = np.maximum(log_p, FLOOR)
        true = np.take_along_axis(z, labels[:, None], 1)[:, 0]

        def slope(log_t: float) -> float:
            """Derivative of the objective in the logarithm of the temperature."""
            beta = np.exp(-log_t)
            p = special.softmax(z * beta, axis=1)
            return float(-beta * ((p * z).sum(1) - true).mean() + log_t / len(z))

        low, high = np.log(BOUNDS)
        if slope(low) >= 0:
            return cls(BOUNDS[0])
        if slope(high) <= 0:
            return cls(BOUNDS[1])
        return cls(float(np.exp(optimize.brentq(slope, low, high, xtol=1e-14, rtol=1e-14))))

    def __call__(self, log_p: Tensor) -> Tensor:
        """See :class:`Scaling`."""
        return (log_p.double() / self.temperature).log_softmax(-1).to(log_p.dtype)

    def numbers(self) -> dict[str, Any]:
        """See :class:`Scaling`."""
        return {"temperature": self.temperature}


@dataclass(frozen=True)
class Vector(Scaling):
    """Multiply the logarithm of each probability by a factor of its class, and add an offset."""

    kind: ClassVar[str] = "vector"
    factor: list[float]
    offset: list[float]

    @classmethod
    def fit(cls, log_p: np.ndarray, labels: np.ndarray) -> Self:
        """See :class:`Scaling`; by Newton's method, as the objective is convex."""
        from scipy import special

        n, classes = log_p.shape
        z, one_hot = np.maximum(log_p, FLOOR), np.eye(classes)[labels]
        centre = np.concatenate([np.ones(classes), np.zeros(classes)])
        at = centre.copy()

        def value(of: np.ndarray) -> float:
            y = z * of[:classes] + of[classes:]
            fit = special.logsumexp(y, axis=1) - (y * one_hot).sum(1)
            return float(fit.mean() + 0.5 * np.square(of - centre).sum() / n)

        for _ in range(200):
            p = special.softmax(z * at[:classes] + at[classes:], axis=1)
            both = np.concatenate([(p - one_hot) * z, p - one_hot], axis=1)
            gradient = both.mean(0) + (at - centre) / n
            q = np.concatenate([p * z, p], axis=1)
            hessian = -q.T @ q
            kinds = slice(0, classes), slice(classes, None)
            for rows, a in zip(kinds, (z, np.ones_like(z)), strict=True):
                for columns, b in zip(kinds, (z, np.ones_like(z)), strict=True):
                    hessian[rows, columns] += np.diag((p * a * b).sum(0))
            hessian = (hessian + np.eye(2 * classes)) / n
            step = np.linalg.solve(hessian, gradient)
            size, now = 1.0, value(at)
            while value(at - size * step) > now + 1e-12 * abs(now) and size > 1e-8:
                size *= 0.5
            at = at - size * step
            if np.abs(step).max() <= 1e-13 * max(1.0, np.abs(at).max()):
                break
        return cls(at[:classes].tolist(), at[classes:].tolist())

    def __call__(self, log_p: Tensor) -> Tensor:
        """See :class:`Scaling`."""
        z = log_p.double().clamp_min(FLOOR)
        return (z * z.new_tensor(self.factor) + z.new_tensor(self.offset)).log_softmax(-1).to(
            log_p.dtype
        )  # fmt: skip

    def numbers(self) -> dict[str, Any]:
        """See :class:`Scaling`."""
        return {"factor": self.factor, "offset": self.offset}


@dataclass(frozen=True)
class Isotonic(Scaling):
    """Map the probability of each class by a monotone function, and normalise.

    Between its knots a function is linear. No probability is below ``1 / (2 n)``: with 0, one wrong
    item would make the NLL infinite.

    Attributes
    ----------
    knots, values
        For each class, probabilities in ascending order and the values they are mapped to.
    """

    kind: ClassVar[str] = "isotonic"
    knots: list[list[float]]
    values: list[list[float]]

    @classmethod
    def fit(cls, log_p: np.ndarray, labels: np.ndarray) -> Self:
        """See :class:`Scaling`; by least squares, as in scikit-learn."""
        from sklearn.isotonic import IsotonicRegression

        n, classes = log_p.shape
        p, least = np.exp(log_p).round(DIGITS), 0.5 / n
        knots, values = [], []
        for c in range(classes):
            found = IsotonicRegression(y_min=least, y_max=1 - least)
            found.fit(p[:, c], (labels == c).astype(float))
            knots.append(found.X_thresholds_.tolist())
            values.append(found.y_thresholds_.tolist())
        return cls(knots, values)

    def __call__(self, log_p: Tensor) -> Tensor:
        """See :class:`Scaling`."""
        p = log_p.double().exp().cpu().numpy().round(DIGITS)
        pairs = zip(self.knots, self.values, strict=True)
        mapped = [np.interp(p[:, c], x, y) for c, (x, y) in enumerate(pairs)]
        found = torch.from_numpy(np.stack(mapped, 1)).log()
        return (found - found.logsumexp(1, keepdim=True)).to(log_p.device, log_p.dtype)

    def numbers(self) -> dict[str, Any]:
        """See :class:`Scaling`."""
        return {"knots": self.knots, "values": self.values}


SCALINGS: dict[str, type[Scaling]] = {of.kind: of for of in (Temperature, Vector, Isotonic)}
"""Maps by name."""
