"""Autoregressive trajectories: every member applies its own weight sample to its own states."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hpcsamp.errors import DataError, UsageError
from hpcsamp.prediction.posterior import Posterior
from hpcsamp.run.rollout.channels import Channels, Scale, channels_of
from hpcsamp.run.rollout.clock import Clock
from hpcsamp.streams import Purpose, key
from hpcsamp.streams.places import place_keys, place_normals
from hpcsamp.tasks import View

DRAWS = 1 << 29
"""Bytes of weight samples that a rank keeps over the lead times; more are drawn again at each."""

#: Returns the standardised inputs ``(B, C, H, W)`` of items of the dataset.
ReadInputs = Callable[[np.ndarray], Tensor]


@dataclass
class March:
    """Advance the members of this rank step by step, with only one state in memory.

    Parameters
    ----------
    posterior
        Posterior with as many samples as the ensemble has members.
    view
        Units of the outputs.
    clock
        Times of the items.
    read
        Function that reads forcings; not needed if there are none.
    perturb
        Standard deviation of normal noise that each member but the first adds to its initial
        state, in standard deviations of each variable.

    Raises
    ------
    UsageError
        If the run cannot be rolled out.
    """

    posterior: Posterior
    view: View
    clock: Clock
    read: ReadInputs | None = None
    perturb: float = 0.0

    def __post_init__(self) -> None:
        p = self.posterior
        if p.method.spread is not None:
            raise UsageError(
                f"--rollout needs whole fields on each rank, but the network is split over "
                f"{p.topology.model_size} model ranks: --set parallel.model=1"
            )
        self.channels: Channels = channels_of(p.trained)
        self.scale = Scale.of(p.trained, p.topology.device)

    @property
    def mine(self) -> range:
        """The members of this rank."""
        c = self.posterior.collectives
        return self.posterior.method.prediction_share(
            self.posterior.samples, c.sample_size, c.sample_rank
        )

    def check(self, items: np.ndarray, steps: int) -> None:
        """Check that the inputs of the first ``steps`` steps can be computed for these items.

        Raises
        ------
        DataError
            If forcings are missing.
        """
        own, clock = self.channels, self.clock
        name = own.names[(own.clock if len(own.clock) else own.forcings)[0]] if (
            len(own.clock) or len(own.forcings)
        ) else ""  # fmt: skip
        if name and steps > 1 and (clock.times is None or clock.step is None):
            lacks = "times of its items" if clock.times is None else "the length of a step"
            raise DataError(
                f"--rollout {steps}: the input {name!r} can be advanced for 1 lead time only, "
                f"because the dataset does not state {lacks}"
            )
        if not len(own.forcings):
            return
        for lead in range(1, steps):
            lost = items[clock.item_at(lead)[items] < 0]
            if len(lost) or self.read is None:
                raise DataError(
                    f"--rollout {steps}: the forcing {own.names[own.forcings[0]]!r} of item "
                    f"{int(lost[0]) if len(lost) else 0} is known for {lead} lead times only; "
                    f"--items leaves later items out"
                )

    def run(self, x: Tensor, index: np.ndarray, steps: int) -> Iterator[tuple[int, Tensor]]:
        """Yield ``lead, state`` for the lead times 1 .. ``steps``; no parameter may change until
        the end.

        Parameters
        ----------
        x
            ``(B, C, H, W)`` standardised inputs.
        index
            ``(B,)`` positions of the items, which determine their random draws.

        Yields
        ------
        tuple
            The lead time in steps, and ``(s, B, V, H, W)`` float64 states of this rank's members in
            the units of the data.
        """
        with self.posterior.method.keeping_draws(DRAWS):
            yield from self._states(x, index, steps)

    def _states(self, x: Tensor, index: np.ndarray, steps: int) -> Iterator[tuple[int, Tensor]]:
        method, mine, own = self.posterior.method, self.mine, self.channels
        blank, where = self.view.blank, torch.from_numpy(index).to(x.device)
        current, stacked = x, False
        if self.perturb:
            current, stacked = self._perturbed(x, where), True
        for lead in range(1, steps + 1):
            with torch.no_grad(), method.predicting():
                outputs = method(current, samples=mine, step=0, stacked=stacked, index=where)
            means, _ = self.view.likelihood.moments(outputs, blank(outputs))
            units, shape = self.view.units, means.shape
            state = units.value(means.flatten(0, 1)).unflatten(0, shape[:2])
            yield lead, state
            if lead == steps:
                return
            if not stacked:
                current, stacked = x.expand(len(mine), *x.shape).clone(), True
            current[:, :, own.state] = self.scale.standardise(state, own.state).to(x.dtype)
            self._force(current, index, lead)

    def _force(self, current: Tensor, index: np.ndarray, lead: int) -> None:
        """Set the time features and the forcings of inputs to those at a lead time."""
        own = self.channels
        if len(own.clock):
            values = torch.as_tensor(own.features(self.clock.at(index, lead)))
            scaled = self.scale.standardise(values.to(current.device), own.clock)
            current[:, :, own.clock] = scaled.to(current.dtype)
        if len(own.forcings):
            assert self.read is not None
            later = self.read(self.clock.item_at(lead)[index])
            current[:, :, own.forcings] = later[:, own.forcings]

    def _perturbed(self, x: Tensor, where: Tensor) -> Tensor:
        """Return ``(s, B, C, H, W)`` inputs; noise is added for all members but the first."""
        own = self.channels
        current = x.expand(len(self.mine), *x.shape).clone()
        shape = (len(own.state), *x.shape[2:])
        for place, member in enumerate(self.mine):
            if member:
                name = key(self.posterior.config.seed, Purpose.PERTURB, member)
                noise = place_normals(
                    place_keys([name], x.device), where, int(np.prod(shape)), torch.float64
                )[0].unflatten(1, shape)
                current[place][:, own.state] += (self.perturb * noise).to(x.dtype)
        return current
