"""Make replicas equal at the start of training, and compare them during training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hpcsamp.collectives.base import Collectives
from hpcsamp.collectives.sameness import (
    WEIGHTS,
    compare_all,
    fingerprint,
    hash_of,
    plain_value,
    settings_of,
)
from hpcsamp.errors import HpcsampError
from hpcsamp.grid import Over
from hpcsamp.grid.placement import Replicated
from hpcsamp.methods.base import Method
from hpcsamp.streams.noise import form

#: Number of comparisons after which every weight has been compared once.
ROUND = 16


def make_alike(
    method: Method,
    optimizer: torch.optim.Optimizer,
    collectives: Collectives,
    trouble: HpcsampError | None,
    updates: Replicated,
    given: Mapping[str, Any],
) -> None:
    """Start all replicas from the weights, frozen parameters and buffers of the first. Collective.

    Parameters
    ----------
    trouble
        Error that occurred on this rank.
    updates
        Parameters that the optimiser updates.
    given
        Further settings that must be the same on all ranks.

    Raises
    ------
    UsageError
        On all ranks, if their settings differ or one of them has an error.
    """
    held, placement = method.held(), method.placement
    of_replicas: list[tuple[dict[str, Any], Over]]
    facts: dict[str, Any] = {"optimizer": type(optimizer).__qualname__}
    facts |= {**hyperparameters(optimizer), **given}
    facts |= {f"frozen {n!r}": not p.requires_grad for n, p in method.named_parameters()}
    parts = {n for n in held if placement.over(n) == placement.replicas}
    forms: dict[bool, dict[str, Any]] = {True: {}, False: {}}
    for name, x in held.items():
        forms[name in parts][f"shape of {name!r}"] = _form(x)
    states = _states(optimizer.state_dict()["state"], "optimizer.state")
    settings = {f"method.{k}": v for k, v in settings_of(method).items()}
    of_replicas = [
        (settings, "replicas"),
        (forms[True], placement.replicas),
        ({**forms[False], **method.attributes()}, placement.modules),
        (states, updates.replicas),
    ]
    compare_all(facts, of_replicas, collectives, trouble)
    for name, x in held.items():
        collectives.copy_first_(x, placement.over(name))


def hyperparameters(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the hyperparameters of all parameter groups, such as learning rates."""
    return {
        f"optimizer.param_groups[{i}][{name!r}]": plain_value(v)
        for i, group in enumerate(optimizer.param_groups)
        for name, v in group.items()
        if name != "params"
    }


class Replicas:
    """Compare the values that must agree between ranks, with one exchange of a few numbers.

    Parameters
    ----------
    parameters
        The weights. Each comparison covers a sixteenth of them.
    method, optimizer
        Objects whose settings are compared.
    collectives
        The transport; its claims are those of the loss.
    every
        Steps between two comparisons.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        method: Method,
        optimizer: torch.optim.Optimizer,
        collectives: Collectives,
        every: int = 1,
    ) -> None:
        self.method, self.optimizer, self.collectives = method, optimizer, collectives
        self.every = every
        names = {id(p): name for name, p in method.named_parameters()}
        size = sum(p.numel() for p in parameters)
        self._windows: list[list[tuple[str, nn.Parameter, slice]]] = []
        for i in range(ROUND):
            first, last, start = size * i // ROUND, size * (i + 1) // ROUND, 0
            window = []
            for p in parameters:
                lo, hi = max(first - start, 0), min(last - start, p.numel())
                start += p.numel()
                if lo < hi:
                    window.append((f"{WEIGHTS}{names[id(p)]}[{lo}:{hi}]", p, slice(lo, hi)))
            self._windows.append(window)

    def compare(self, trouble: HpcsampError | None, broken: bool) -> float:
        """Raise on all ranks if values differ or a rank has an error.

        Returns the number of ranks for which ``broken`` is true.
        """
        c, method = self.collectives, self.method
        if c.size("world") == 1 and trouble is None:
            return float(broken)
        facts: dict[str, Any] = {"method.step": method.step, "method.seed": method.seed}
        facts["generator of the noise (HPCSAMP_NOISE)"] = form(next(method.parameters()).device)
        facts |= hyperparameters(self.optimizer)
        of_replicas: list[tuple[dict[str, Any], Over]]
        placement = method.placement
        of_replicas = [
            (c.claims, "replicas"),
            (self._weights(), placement.replicas),
            (self._constants(), placement.modules),
        ]
        return compare_all(facts, of_replicas, c, trouble, float(broken))

    @property
    def _turn(self) -> int:
        return self.method.step // self.every % ROUND

    def _weights(self) -> dict[str, str]:
        window = self._windows[self._turn]
        return {name: hash_of(p.detach().reshape(-1)[part]) for name, p, part in window}

    def _constants(self) -> dict[str, str]:
        if self._turn:
            return {}
        constants = self.method.constants().items()
        return {f"{WEIGHTS}{name}": fingerprint(x) for name, x in constants}


def _form(x: Tensor) -> str:
    return f"{tuple(x.shape)} {str(x.dtype)[6:]}"


def _states(table: Any, name: str) -> dict[str, str]:
    """Return fingerprints of all tensors of an optimiser's state."""
    if isinstance(table, Tensor):
        return {name: f"{_form(table)} {hash_of(table.reshape(-1))}"}
    if isinstance(table, dict):
        return {
            k: v for i, part in table.items() for k, v in _states(part, f"{name}[{i!r}]").items()
        }
    return {name: repr(table)}
