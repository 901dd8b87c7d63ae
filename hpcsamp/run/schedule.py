"""Create the learning-rate schedule by its name in ``torch.optim.lr_scheduler``."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from hpcsamp.config import RunConfig
from hpcsamp.errors import UsageError
from hpcsamp.run.assemble import task
from hpcsamp.run.optimizer import named


class Schedule:
    """A learning-rate schedule that advances per step, or per evaluation if it needs a metric.

    ``T_max``, ``total_steps`` and ``total_iters`` default to the whole run. A warm-up increases the
    learning rate linearly from near zero before the schedule begins; with a schedule that needs a
    metric, its factor multiplies the rate.

    Parameters
    ----------
    config
        Configuration with ``schedule`` and the length of the run.
    optimizer
        Optimiser whose learning rates change.
    steps_per_epoch
        Number of steps per epoch, the unit of lengths.

    Attributes
    ----------
    needs_metric
        Whether part of it waits for evaluations, as ``ReduceLROnPlateau`` does.

    Raises
    ------
    UsageError
        If a name or an argument is unknown, or the optimiser has its own schedule.
    """

    def __init__(
        self, config: RunConfig, optimizer: torch.optim.Optimizer, steps_per_epoch: int
    ) -> None:
        c, family = config.schedule, torch.optim.lr_scheduler
        self._steps: Any = None
        self._evaluations: Any = None
        self._larger = task(config).best.get(config.training.best, 1) < 0
        total = config.training.epochs * steps_per_epoch
        warm = round(c.warmup_epochs * steps_per_epoch)
        reason = getattr(optimizer, "own_schedule", None)
        if reason and (c.name != "none" or warm):
            key = f"name = {c.name!r}" if c.name != "none" else f"warmup_epochs = {c.warmup_epochs}"
            raise UsageError(f"schedule.{key}, but {reason}; leave [schedule] out")
        if c.name != "none":
            arguments = dict(c.arguments)
            kind = getattr(family, c.name, None)
            if inspect.isclass(kind):
                known = inspect.signature(kind).parameters
                for length in ("T_max", "total_steps", "total_iters"):
                    if length in known:
                        arguments.setdefault(length, max(1, total - warm))
                if _needs_metric(kind) and "mode" in known:
                    mode = arguments.setdefault("mode", "max" if self._larger else "min")
                    if mode != ("max" if self._larger else "min"):
                        raise UsageError(
                            f"schedule.mode = {mode!r} contradicts training.best = "
                            f"{config.training.best!r}, of which "
                            f"{'more' if self._larger else 'less'} is better: leave it out"
                        )
            before = [group["lr"] for group in optimizer.param_groups]
            made = named(family, family.LRScheduler, "schedule", c.name, optimizer, arguments)
            _check_rates(c.name, before, optimizer, arguments)
            if _needs_metric(type(made)):
                self._evaluations = made
            else:
                self._steps = made
        if warm:
            grow = family.LinearLR(optimizer, start_factor=1 / (warm + 1), total_iters=warm)
            self._steps = (
                grow
                if self._steps is None
                else family.SequentialLR(optimizer, [grow, self._steps], milestones=[warm])
            )

    @property
    def needs_metric(self) -> bool:
        """Whether part of the schedule waits for evaluations."""
        return self._evaluations is not None

    def step(self) -> None:
        """Advance after a step of the optimiser."""
        if self._steps is not None:
            self._steps.step()

    def evaluated(self, score: float) -> None:
        """Advance after an evaluation with a score of ``training.best``; lower is better."""
        if self._evaluations is not None:
            self._evaluations.step(-score if self._larger else score)

    def state_dict(self) -> dict[str, Any] | None:
        """Return the state for checkpoints."""
        steps = None if self._steps is None else self._steps.state_dict()
        if self._evaluations is None:
            return steps
        return {"steps": steps, "evaluations": self._evaluations.state_dict()}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Restore the state from a checkpoint."""
        if self._evaluations is not None and state is not None:
            self._evaluations.load_state_dict(state["evaluations"])
            state = state["steps"]
        if self._steps is not None:
            self._steps.load_state_dict(state)


def _needs_metric(kind: Any) -> bool:
    """Whether the ``step`` method of a schedule requires an argument."""
    parameters = list(inspect.signature(kind.step).parameters.values())[1:]
    return any(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)


def _check_rates(
    name: str, before: list[Any], optimizer: torch.optim.Optimizer, arguments: dict[str, Any]
) -> None:
    """Refuse a schedule that overwrites the different rates of groups with one rate."""
    after = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
    by_group = any(isinstance(v, list) and len(v) == len(after) for v in arguments.values())
    if len(set(before)) > 1 and after != before and not by_group:
        raise UsageError(
            f"schedule.name = {name!r} sets the rates of all groups to {after[0]:g}, but they are "
            f"{', '.join(f'{rate:g}' for rate in before)} in optimizer.lr and optimizer.groups: "
            f"give its rates as lists of {len(after)} numbers, one for each group"
        )
