"""Parameter groups with settings of their own, within the flat parameters of a method.

Methods keep all weights in few flat tensors, so that a draw, an exchange and an update are one
operation each. A group is made of runs of these tensors: each run becomes a parameter that shares
its memory, and so does its gradient. Any torch optimiser then treats it like a group of separate
parameters, and draws and exchanges do not depend on groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from hpcsamp.collectives.flat import FlatGradient
from hpcsamp.collectives.updates import Updates, ids, parameters_of
from hpcsamp.errors import UsageError
from hpcsamp.grid.placement import rows_of
from hpcsamp.methods.base import Method
from hpcsamp.spelling import suggest

KINDS = ("mean", "log_std")
"""Trained parts of a random weight, as suffixes of names."""


@dataclass(frozen=True)
class Group:
    """A parameter group: a pattern for the names of parameters, and their settings.

    Attributes
    ----------
    pattern
        Matches names of parameters, as in ``head.*`` or ``*.bias``.
    of
        ``"mean"`` or ``"log_std"``: only these parameters of random weights; None for both.
    options
        Settings of the optimiser, e.g. ``lr``.
    """

    pattern: str = "*"
    of: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"pattern = {self.pattern!r}" + (f", of = {self.of!r}" if self.of else "")

    def holds(self, name: str, base: str, kind: str) -> bool:
        """Return whether a trained tensor belongs to the group."""
        if self.of is not None and kind != self.of:
            return False
        return fnmatchcase(base, self.pattern) or fnmatchcase(name, self.pattern)


@dataclass(frozen=True)
class _Run:
    """A run of columns of a parameter that are in one group; group 0: no pattern matches."""

    parameter: int
    start: int
    stop: int
    group: int


class Divided(Updates):
    """The parameters that a rank updates, divided into groups.

    Parameters
    ----------
    whole
        The same parameters without groups, whose gradient is exchanged.
    method
        Method that the parameters belong to.
    groups
        The groups; parameters that no pattern matches use the optimiser's own settings.

    Attributes
    ----------
    parts
        Argument of the optimiser: one dictionary with ``params`` for each group.

    Raises
    ------
    UsageError
        If a pattern matches nothing, two groups match the same parameter, or named tensors of the
        method are not parts of its parameters.
    """

    views = True

    def __init__(self, whole: Updates, method: Method, groups: Sequence[Group]) -> None:
        self.whole, self.groups = whole, groups
        self.parameters = whole.parameters
        self.collectives, self.placement = whole.collectives, whole.placement
        self._rows = rows_of(method.placement) is not None
        self._runs = list(self._divide(_claims(method, groups)))
        made = [self._part(self.parameters[run.parameter], run) for run in self._runs]
        self._made = [nn.Parameter(part) for part in made]
        tables: list[dict[str, Any]] = [
            {"params": []},
            *({"params": [], **g.options} for g in groups),
        ]
        for run, parameter in zip(self._runs, self._made, strict=True):
            tables[run.group]["params"].append(parameter)
        self.parts: Any = [table for table in tables if table["params"]]
        in_order = sorted(self._runs, key=lambda run: run.group)
        self.stepped = [(self.parameters[run.parameter], self._place_of(run)) for run in in_order]

    @property
    def contiguous(self) -> bool:
        """Whether each part is contiguous and real, as fused optimisers need."""
        return all(p.is_contiguous() and not p.is_complex() for p in self._made)

    def _place_of(self, run: _Run) -> slice | None:
        """Return the slice for :attr:`stepped`; None for the whole parameter."""
        if run.stop - run.start == self._columns(self.parameters[run.parameter]):
            return None
        return slice(run.start, run.stop)

    def _columns(self, p: Tensor) -> int:
        return p[0].numel() if self._rows else p.numel()

    def _part(self, p: Tensor, run: _Run) -> Tensor:
        """Return the columns of a run as a view."""
        p = p.detach()
        if run.stop - run.start == self._columns(p):
            return p
        flat = p.flatten(1) if self._rows else p.view(-1)
        return flat[..., run.start : run.stop]

    def _divide(self, claims: Sequence[tuple[Tensor, int, str]]) -> Iterator[_Run]:
        for number, p in enumerate(self.parameters):
            columns = self._columns(p)
            own = sorted(
                (*self._place(p, tensor, name), group)
                for tensor, group, name in claims
                if _within(p, tensor)
            )
            runs: list[tuple[int, int, int]] = []
            end = 0
            for start, stop, group in (*own, (columns, columns, 0)):
                if start > end:
                    runs.append((end, start, 0))
                if runs and runs[-1][2] == group and runs[-1][1] == start:
                    runs[-1] = (runs[-1][0], stop, group)
                elif stop > start:
                    runs.append((start, stop, group))
                end = max(end, stop)
            yield from (_Run(number, *run) for run in runs)

    def _place(self, p: Tensor, tensor: Tensor, name: str) -> tuple[int, int]:
        """Return the first and last column of a named tensor."""
        one = tensor[0] if self._rows else tensor
        start = int(tensor.storage_offset() - p.storage_offset())
        if not one.is_contiguous() or start + one.numel() > self._columns(p):
            raise _no_part(name)
        return start, start + one.numel()

    # Called by optimisers and exchanges ----------------------------------------------------------

    @property
    def largest(self) -> int:
        """See :attr:`Updates.largest`."""
        return self.whole.largest

    def zero(self) -> None:
        """Make the gradients of the parts views of those of the parameters."""
        for run, made in zip(self._runs, self._made, strict=True):
            gradient = self.parameters[run.parameter].grad
            made.grad = None if gradient is None else self._part(gradient, run)

    def is_gone(self, gradient: FlatGradient) -> bool:
        """See :meth:`Updates.is_gone`: an optimiser's gradients are those of its parts."""
        return gradient.is_gone or all(made.grad is None for made in self._made)

    def reduce(self, gradient: FlatGradient) -> None:
        """See :meth:`Updates.reduce`."""
        self.whole.reduce(gradient)

    def clip(self, gradient: FlatGradient, largest: float) -> None:
        """See :meth:`Updates.clip`: the norm is that of all groups together."""
        self.whole.clip(gradient, largest)

    def mismatch(self, optimizer: torch.optim.Optimizer, method: Method) -> UsageError | None:
        """See :meth:`Updates.mismatch`."""
        trained = (p for p in method.parameters() if p.requires_grad)
        same = ids(self.parameters) == ids(trained)
        if same and ids(parameters_of(optimizer)) == ids(self._made):
            return None
        return UsageError(
            f"{type(optimizer).__name__} must be created from the parts of the groups of "
            f"{type(method).__name__}"
        )

    def trouble(self) -> UsageError | None:
        """See :meth:`Updates.trouble`."""
        for run, made in zip(self._runs, self._made, strict=True):
            p = self.parameters[run.parameter]
            if made.untyped_storage().data_ptr() != p.untyped_storage().data_ptr():
                return UsageError("the method's storage was replaced since its groups were created")
        return None


def _claims(method: Method, groups: Sequence[Group]) -> list[tuple[Tensor, int, str]]:
    """Return the tensors that groups match, with the number of the group and their names."""
    named = dict(method.named_variational())
    parameters = [p for p in method.parameters() if p.requires_grad]
    claims: dict[str, int] = {}
    for number, group in enumerate(groups, 1):
        found = [name for name in named if group.holds(name, *_parts_of(name, named))]
        if not found:
            near = suggest(group.pattern, {_parts_of(name, named)[0] for name in named})
            raise UsageError(
                f"optimizer.groups: {group} matches no parameter{near}; the parameters are "
                f"{', '.join(_some(dict.fromkeys(_parts_of(n, named)[0] for n in named)))}"
            )
        for name in found:
            if name in claims:
                raise UsageError(
                    f"optimizer.groups: {name} is matched by {groups[claims[name] - 1]} and by "
                    f"{group}; a parameter can be in one group only"
                )
            claims[name] = number
    for name in claims:
        if not any(_within(p, named[name]) for p in parameters):
            raise _no_part(name)
    return [(named[name], group, name) for name, group in claims.items()]


def _parts_of(name: str, named: Mapping[str, Tensor]) -> tuple[str, str]:
    """Split the name of a trained tensor into the network's parameter and the suffix, or ""."""
    base, _, kind = name.rpartition(".")
    random = kind in KINDS and all(f"{base}.{k}" in named for k in KINDS)
    return (base, kind) if random else (name, "")


def _within(p: Tensor, tensor: Tensor) -> bool:
    """Whether a tensor is a part of the memory of a parameter."""
    if p.untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr():
        return False
    start = tensor.storage_offset() - p.storage_offset()
    return tensor.dtype == p.dtype and 0 <= start < p.numel()


def _no_part(name: str) -> UsageError:
    return UsageError(
        f"optimizer.groups: {name} is not part of a trained parameter of the method, so it "
        f"cannot have settings of its own"
    )


def _some(names: Mapping[str, Any]) -> list[str]:
    found = list(names)
    return found if len(found) <= 8 else [*found[:8], f"... ({len(found)} in all)"]
