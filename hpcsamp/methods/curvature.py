"""Curvatures of a layer's loss, and the normal distributions that they define.

The curvature H of a layer is kept as a whole matrix, as a Kronecker product G (x) A, or as its
diagonal. With a prior precision tau the posterior covariance is ``(H + tau I)^-1``. Draws use its
symmetric square root, which does not depend on how eigenvectors of equal eigenvalues are chosen, so
that curvatures that agree to rounding give draws that agree to rounding (design law 1).

The weights of a layer are a matrix ``(o, i)``: outputs by inputs, the bias as the last column.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor


class Curvature(ABC):
    """Curvature of the negative log likelihood of a layer with an ``(o, i)`` matrix of weights."""

    #: Names of its tensors, by which it is stored.
    parts: ClassVar[tuple[str, ...]] = ()

    def tensors(self) -> dict[str, Tensor]:
        """Float64 tensors that define it."""
        return {name: getattr(self, name) for name in self.parts}

    @abstractmethod
    def eigenvalues(self) -> Tensor:
        """Return its ``o * i`` eigenvalues, at least 0."""

    @abstractmethod
    def draw(self, noise: Tensor, precision: float) -> Tensor:
        """Return deviations with covariance ``(H + precision I)^-1`` from standard normal noise.

        Both are ``(k, o, i)`` float64.
        """

    @abstractmethod
    def variances(self, precision: float) -> Tensor:
        """Return the ``(o, i)`` diagonal of the covariance."""


class Full(Curvature):
    """The whole matrix ``(o i, o i)``."""

    parts = ("matrix", "shape")

    def __init__(self, matrix: Tensor, shape: Tensor) -> None:
        self.matrix, self.shape = matrix, shape
        self._values, self._vectors = _eigen(matrix)

    def eigenvalues(self) -> Tensor:
        """See :meth:`Curvature.eigenvalues`."""
        return self._values

    def draw(self, noise: Tensor, precision: float) -> Tensor:
        """See :meth:`Curvature.draw`."""
        vectors = self._vectors.to(noise.device)
        root = (self._values.to(noise.device) + precision).rsqrt()
        return ((noise.flatten(1) @ vectors) * root @ vectors.T).view_as(noise)

    def variances(self, precision: float) -> Tensor:
        """See :meth:`Curvature.variances`."""
        o, i = (int(n) for n in self.shape)
        return (self._vectors.square() @ (self._values + precision).reciprocal()).view(o, i)


class Kronecker(Curvature):
    """The product ``G (x) A``: ``outputs`` G ``(o, o)`` and ``inputs`` A ``(i, i)``."""

    parts = ("outputs", "inputs")

    def __init__(self, outputs: Tensor, inputs: Tensor) -> None:
        self.outputs, self.inputs = outputs, inputs
        self._of_outputs, self._g = _eigen(outputs)
        self._of_inputs, self._a = _eigen(inputs)

    def _values(self) -> Tensor:
        return self._of_outputs[:, None] * self._of_inputs

    def eigenvalues(self) -> Tensor:
        """See :meth:`Curvature.eigenvalues`."""
        return self._values().flatten()

    def draw(self, noise: Tensor, precision: float) -> Tensor:
        """See :meth:`Curvature.draw`."""
        g, a = self._g.to(noise.device), self._a.to(noise.device)
        root = (self._values().to(noise.device) + precision).rsqrt()
        return g @ (root * (g.T @ noise @ a)) @ a.T

    def variances(self, precision: float) -> Tensor:
        """See :meth:`Curvature.variances`."""
        inverse = (self._values() + precision).reciprocal()
        return self._g.square() @ inverse @ self._a.square().T


class Diagonal(Curvature):
    """The diagonal ``(o, i)``."""

    parts = ("diagonal",)

    def __init__(self, diagonal: Tensor) -> None:
        self.diagonal = diagonal

    def eigenvalues(self) -> Tensor:
        """See :meth:`Curvature.eigenvalues`."""
        return self.diagonal.flatten()

    def draw(self, noise: Tensor, precision: float) -> Tensor:
        """See :meth:`Curvature.draw`."""
        return noise * (self.diagonal.to(noise.device) + precision).rsqrt()

    def variances(self, precision: float) -> Tensor:
        """See :meth:`Curvature.variances`."""
        return (self.diagonal + precision).reciprocal()


FORMS: Mapping[str, type[Curvature]] = {"full": Full, "kronecker": Kronecker, "diagonal": Diagonal}
"""Forms of a curvature by the names under which they are stored."""


def _eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return values.clamp_min(0), vectors


def effective(values: Tensor, precision: float) -> float:
    """Effective number of parameters, ``sum l / (l + precision)`` (MacKay 1992)."""
    return float((values / (values + precision)).sum())


def log_evidence(likelihood: float, values: Tensor, square: float, precision: float) -> float:
    """Log marginal likelihood of Laplace's approximation, in nats.

    ``log p(D | w) - tau |w|^2 / 2 + n log(tau) / 2 - sum log(l + tau) / 2``

    Parameters
    ----------
    likelihood
        ``log p(D | w)`` at the trained weights.
    values
        The ``n`` eigenvalues ``l`` of the curvature.
    square
        ``|w|^2``.
    precision
        tau.
    """
    tau = torch.tensor(precision, dtype=torch.float64)
    spread = values.numel() * tau.log() - (values + tau).log().sum()
    return float(likelihood - precision * square / 2 + spread / 2)


def best_precision(values: Tensor, square: float) -> float:
    """Prior precision of the largest :func:`log_evidence`, between 1e-8 and 1e8.

    Its derivative vanishes where the effective number of parameters, which falls with the
    precision, equals ``precision * |w|^2``, which rises: there is one solution.
    """
    low, high = -8.0, 8.0
    for _ in range(100):
        middle = (low + high) / 2
        if effective(values, 10**middle) > 10**middle * square:
            low = middle
        else:
            high = middle
    return float(10 ** ((low + high) / 2))
