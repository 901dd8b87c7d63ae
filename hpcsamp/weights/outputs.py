"""Select one tensor among the outputs of a module.

Many networks return a tuple, a dictionary or a dataclass. A loss of one output reads one tensor of
these: the requested entry, or ``logits``, or the only one. (If several outputs are needed, they are
packed together, see :mod:`.calling`.)
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hpcsamp.errors import UsageError
from hpcsamp.spelling import suggest
from hpcsamp.weights.calling import entries

USUAL = "logits"
"""Entry that is selected if several tensors are returned and none is requested."""


def tensor_of(outputs: Any, of: str, entry: str | None = None) -> Tensor:
    """Return one of the tensors that a module returned.

    Parameters
    ----------
    outputs
        A tensor, or tensors in tuples, lists, dictionaries and dataclasses.
    of
        Name of the module, for messages.
    entry
        The requested entry, by its name or number, with dots if it is nested: ``logits``, ``0``,
        ``1.hidden``. None: ``logits``, or the only one.

    Raises
    ------
    UsageError
        If no tensor or several ones match; the message lists those that exist.
    """
    found = dict(entries(outputs))
    if entry is None and (USUAL in found or len(found) == 1):
        one: Tensor = found.get(USUAL, next(iter(found.values())))
        return one
    if entry is not None and entry in found:
        one = found[entry]
        return one
    if not found:
        raise UsageError(
            f"{of} returns a {type(outputs).__name__} that contains no floating-point tensor"
        )
    if "" in found:
        raise UsageError(f"{of} returns a single tensor: leave model.output = {entry!r} out")
    there = ", ".join(f"{name} {tuple(t.shape)}" for name, t in found.items())
    asked = "" if entry is None else f" and no {entry!r}{suggest(entry, found)}"
    raise UsageError(
        f'{of} returns {there}{asked}; select one by model.output = "{next(iter(found))}"'
    )


class Chosen:
    """A forward hook that replaces the outputs of a module by one of the tensors.

    Parameters
    ----------
    of, entry
        See :func:`tensor_of`.
    """

    def __init__(self, of: str, entry: str | None = None) -> None:
        self.of, self.entry = of, entry

    def __call__(self, module: Any, inputs: Any, outputs: Any) -> Tensor:
        """See :func:`tensor_of`."""
        return tensor_of(outputs, self.of, self.entry)
