"""Stochastic gradient MCMC: one chain per sample, with cyclical step sizes.

(Welling and Teh 2011; Chen et al. 2014; Zhang et al. 2020.) Chains start from their own initial
weights and are independent. The predictive distribution is the mean over all chains and over the
snapshots that each has kept so far.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hpcsamp.errors import UsageError
from hpcsamp.methods.cycles import Cycles, check
from hpcsamp.methods.eager import eager
from hpcsamp.methods.members import Members
from hpcsamp.methods.samplers import SGHMC, SGLD
from hpcsamp.streams import Purpose


class Chains(Members):
    """S Markov chains over the weights, moved by SGLD or SGHMC.

    The gradient must be that of a loss that is linear in the samples (``expected_nll``). The loss's
    temperature is that of the prior only; the sampler has its own.

    Parameters
    ----------
    network, samples, own, others
        See :class:`~hpcsamp.methods.members.Members`.
    prior_std
        Standard deviation of the normal prior of every weight.
    cycles, exploration, burn_in, snapshots, thinning
        See :class:`~hpcsamp.methods.cycles.Cycles`. With 0 cycles the step size is constant, or
        follows ``[schedule]``.

    Attributes
    ----------
    bank
        ``(s, K, n)`` snapshots of this rank's chains, K over the whole run.
    taken
        Number of snapshots taken so far.

    Raises
    ------
    UsageError
        If a value is out of range; from :meth:`begin`, if the snapshots do not fit into the run.
    """

    bank: Tensor
    taken: Tensor

    def __init__(
        self,
        network: Callable[[int], nn.Module] | nn.Module,
        samples: int,
        own: range | None = None,
        *,
        prior_std: float = 1.0,
        cycles: int = 4,
        exploration: float = 0.5,
        burn_in: float = 0.0,
        snapshots: int = 4,
        thinning: int | None = None,
        **others: Any,
    ) -> None:
        super().__init__(network, samples, own, prior_std=prior_std, **others)
        check(cycles, exploration, burn_in, snapshots, thinning)
        self._plan_arguments = (cycles, exploration, burn_in, snapshots, thinning)
        self.plan: Cycles | None = None
        self.items = 0
        self.kept = max(cycles, 1) * snapshots  # K
        rows, size = self.weights.shape
        self.register_buffer("bank", self.weights.detach().new_zeros(rows, self.kept, size))
        self.register_buffer("taken", torch.zeros((), dtype=torch.int64))

    def begin(self, items: int, steps: int, steps_per_epoch: int) -> None:
        """See :meth:`Method.begin`.

        Raises
        ------
        UsageError
            If the snapshots do not fit into the run.
        """
        self.plan = Cycles(steps, *self._plan_arguments)
        self.items = items

    @property
    def optimizers(self) -> Mapping[str, Callable[..., torch.optim.Optimizer]]:
        """``SGLD`` and ``SGHMC``, with this method's noise and step sizes."""
        return {"SGLD": self._sgld, "SGHMC": self._sghmc}

    def optimizer_numbers(self, name: str) -> int | None:
        """See :meth:`Method.optimizer_numbers`: the velocities of SGHMC."""
        return {"SGLD": 0, "SGHMC": self.numbers}.get(name)

    def _sgld(self, parameters: Any, lr: float, temperature: float = 1.0) -> torch.optim.Optimizer:
        return self._made(eager(SGLD)(parameters, lr, temperature=temperature, **self._dynamics()))

    def _sghmc(
        self, parameters: Any, lr: float, temperature: float = 1.0, friction: float = 0.1
    ) -> torch.optim.Optimizer:
        own = self._dynamics()
        made = eager(SGHMC)(parameters, lr, temperature=temperature, friction=friction, **own)
        return self._made(made)

    def _dynamics(self) -> dict[str, Any]:
        if self.plan is None:
            raise UsageError(
                "call method.begin(items, steps, steps_per_epoch) before the optimiser is made"
            )
        return {"items": self.items, "noise": self.noise, "phase": self._phase}

    def _made(self, sampler: SGHMC) -> SGHMC:
        if self.plan is not None and self.plan.cosine:
            sampler.own_schedule = (
                f"the step size follows the cycles of the chains (method.cycles = "
                f"{self._plan_arguments[0]}; set it to 0 to use a schedule)"
            )
        return sampler

    def _phase(self) -> tuple[float | None, bool]:
        assert self.plan is not None
        factor = self.plan.factor(self.step) if self.plan.cosine else None
        return factor, not self.plan.explores(self.step)

    def noise(self, like: Tensor) -> Tensor:
        """Return ``(s, n)`` standard normal noise of this rank's chains at the current step.

        It is 0 for weights without uncertainty, which follow the gradient only.
        """
        rows = torch.empty_like(like)
        self.layout.draw(rows, self.seed, Purpose.CHAIN, self.step, self.members)
        return self.without_deterministic(rows)

    def after_step(self) -> None:
        """Keep a snapshot, if one is due."""
        slot = self.plan.slot(self.step) if self.plan is not None else None
        if slot is not None:
            self.bank[:, slot].copy_(self.weights.detach())
            self.taken.fill_(slot + 1)

    def check_loss(self, name: str, linear: bool) -> None:
        """See :meth:`Method.check_loss`: a chain's posterior must not depend on other chains."""
        if not linear:
            raise UsageError(
                f"loss.name = {name!r} combines all S samples, so that chains have no posterior to "
                f"sample from; chains need a loss that is linear in the samples, e.g. "
                f"'expected_nll'"
            )

    # Prediction --------------------------------------------------------------------------------

    @property
    def chains(self) -> int:  # type: ignore[override]
        """Number of chains: one per sample of the training."""
        return self.samples

    def prediction_samples(self, asked: int | None) -> int:
        """Return the requested number, limited to the number of snapshots taken so far.

        Before the first snapshot, the states of the chains are used.

        Raises
        ------
        UsageError
            If fewer samples than chains are requested, or more than a whole run provides.
        """
        most = self.samples * self.kept
        if asked is not None and not self.samples <= asked <= most:
            raise UsageError(
                f"evaluation.samples = {asked}, but {self.samples} chains of {self.kept} snapshots "
                f"allow {self.samples} to {most} prediction samples"
            )
        so_far = self.samples * max(int(self.taken), 1)
        return so_far if asked is None else min(asked, so_far)

    def prediction_rows(self, samples: range) -> Tensor:
        """Return ``(k, n)`` snapshots, spread evenly over the bank if it holds more."""
        taken = int(self.taken)
        rows = []
        for sample in samples:
            row, place, of = self.place(sample)
            if taken == 0:
                rows.append(self.weights.detach()[row])
            else:
                rows.append(self.bank[row, (place + 1) * taken // of - 1])
        return torch.stack(rows)
