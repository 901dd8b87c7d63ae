"""Stochastic gradient Langevin dynamics and Hamiltonian Monte Carlo, as torch optimisers.

Both sample from ``exp(-U / temperature)`` with ``U = N * loss``, the negative log posterior, where
the loss is a mean over items and includes ``-log prior / N``. The learning rate is that of SGD on
this loss: ``lr = N eps / 2`` for Welling and Teh's step size ``eps``, ``lr = N eta`` for Chen et
al.'s ``eta``. With xi standard normal:

    SGLD     w <- w - lr * grad + sqrt(2 lr temperature / N) xi                   (their equation 4)
    SGHMC    v <- (1 - friction) v - lr * grad + sqrt(2 friction lr temperature / N) xi
             w <- w + v                                                          (their equation 15)

(Welling and Teh 2011; Chen, Fox and Guestrin 2014, with their estimate of the gradient's own noise
set to 0.) ``1 - friction`` is the momentum of SGD; with friction 1, SGHMC is SGLD.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from hpcsamp.errors import UsageError


class SGHMC(torch.optim.Optimizer):
    """Stochastic gradient Hamiltonian Monte Carlo.

    Parameters
    ----------
    parameters
        Weights of the chains.
    lr
        Step size, see above; the largest step size if there is a ``phase``.
    items
        ``N``, the number of training items.
    noise
        Returns standard normal noise for a parameter at the current step, in its shape.
    temperature
        With 1 the posterior (of Bayes' rule) is sampled; 0 is gradient descent.
    friction
        Above 0, at most 1.
    phase
        Returns for the current step the factor of ``lr`` (None: ``lr`` is unchanged), and whether
        noise is added (default: always).

    Raises
    ------
    UsageError
        If the temperature is below 0 or the friction is out of range.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        *,
        items: int,
        noise: Callable[[Tensor], Tensor],
        temperature: float = 1.0,
        friction: float = 0.1,
        phase: Callable[[], tuple[float | None, bool]] | None = None,
    ) -> None:
        if temperature < 0:
            raise UsageError(f"optimizer.temperature = {temperature} must be at least 0")
        if not 0 < friction <= 1:
            raise UsageError(f"optimizer.friction = {friction} must be above 0 and at most 1")
        self.items = items
        self.noise = noise
        self.phase = phase
        #: Why a schedule of the learning rate is not allowed, for its error message.
        self.own_schedule: str | None = None
        usual = {"lr": lr, "largest_lr": lr, "temperature": temperature, "friction": friction}
        super().__init__(parameters, usual)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step of all chains with gradients in ``.grad``; return the closure's value."""
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        factor, noisy = (None, True) if self.phase is None else self.phase()
        for group in self.param_groups:
            if factor is not None:
                group["lr"] = group["largest_lr"] * factor
            lr, friction = group["lr"], group["friction"]
            std = math.sqrt(2 * friction * lr * group["temperature"] / self.items) * noisy
            for p in group["params"]:
                if p.grad is None:
                    continue
                velocity = self._velocity(p, friction)
                velocity.sub_(p.grad, alpha=lr)
                if std > 0:
                    velocity.add_(self.noise(p), alpha=std)
                p.add_(velocity)
        return value

    def _velocity(self, p: Tensor, friction: float) -> Tensor:
        """Velocity after friction, from the last step."""
        state = self.state[p]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(p)
        velocity: Tensor = state["velocity"]
        return velocity.mul_(1 - friction)


class SGLD(SGHMC):
    """Stochastic gradient Langevin dynamics; parameters as in :class:`SGHMC`, without friction."""

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        *,
        items: int,
        noise: Callable[[Tensor], Tensor],
        temperature: float = 1.0,
        phase: Callable[[], tuple[float | None, bool]] | None = None,
    ) -> None:
        super().__init__(
            parameters,
            lr,
            items=items,
            noise=noise,
            temperature=temperature,
            friction=1.0,
            phase=phase,
        )

    def _velocity(self, p: Tensor, friction: float) -> Tensor:
        return torch.zeros_like(p)  # no velocity remains
