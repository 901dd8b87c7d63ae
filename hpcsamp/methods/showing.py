"""Methods whose modules' parameters are views of the method's flat parameters."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from hpcsamp.methods.base import Method
from hpcsamp.weights import Caller, Place, Put, Variables, evaluate
from hpcsamp.weights.complex_parts import in_parts
from hpcsamp.weights.extra import extra_of, put_extra


class Showing(Method):
    """A method with flat parameters; the parameters of its modules are views of them.

    Parameters
    ----------
    variables
        Variables of the module, or of a module for each of this rank's members.
    seed, samples_per_pass
        See :class:`~hpcsamp.methods.base.Method`.
    autocast
        Type in which torch evaluates the operations of the module that it considers safe, e.g.
        ``torch.bfloat16``; parameters and draws keep their type.
    """

    def __init__(
        self,
        variables: Sequence[Variables],
        seed: int,
        samples_per_pass: int | Literal["auto"],
        autocast: torch.dtype | None,
    ) -> None:
        super().__init__(seed, samples_per_pass)
        # in a list, so that they are not registered: their parameters are views of this method's
        self._variables = list(variables)
        self.autocast = autocast
        self._share_state([v.put for v in self._variables])

    def _holders(self) -> Sequence[tuple[Put, Sequence[int] | None]]:
        return [(self.variables.put, None)]

    @property
    def networks(self) -> list[nn.Module]:
        """See :attr:`Method.networks`."""
        return list({id(v.module): v.module for v in self._variables}.values())

    @property
    def callers(self) -> list[Caller]:
        """See :attr:`Method.callers`."""
        return [v.caller for v in self._variables]

    @property
    def variables(self) -> Variables:
        """Variables of the module, or of the first module."""
        return self._variables[0]

    def constants(self) -> dict[str, Tensor]:
        """See :meth:`Method.constants`."""
        return self.variables.constants()

    def extra_to_keep(self) -> dict[str, Any]:
        """See :meth:`Method.extra_to_keep`."""
        return dict(extra_of(self.variables.module))

    def take_extra(self, kept: Mapping[str, Any]) -> None:
        """See :meth:`Method.take_extra`."""
        put_extra(self.variables.module, kept)

    def _run(
        self,
        variables: Variables,
        sampled: Mapping[str, Tensor],
        shared: Mapping[str, Tensor],
        x: Tensor,
        samples: int,
        stacked: bool,
        place: Place,
    ) -> Tensor:
        """Return ``(k, B, ...)`` outputs of a module with these values, see :func:`.evaluate`."""
        with self._precision(x):
            return evaluate(
                variables.put,
                variables.call,
                {**sampled, **self._estimated(place)},
                shared,
                x,
                samples=samples,
                stacked=stacked,
                strategy=self.way,
                place=place,
            )

    def _precision(self, x: Tensor) -> AbstractContextManager[Any]:
        """Context with the method's own precision, whatever the caller's precision is."""
        if self.autocast is None and not torch.is_autocast_enabled(x.device.type):
            return nullcontext()
        return torch.autocast(x.device.type, self.autocast, enabled=self.autocast is not None)

    @abstractmethod
    def _link(self) -> None:
        """Let the modules' parameters share memory with this method's."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move or convert, with the modules' constants; then link their parameters again."""
        for module in self.networks:
            module._apply(in_parts(fn))
        result = super()._apply(fn, recurse)
        self._link()
        return result

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode of the method and its modules."""
        for module in self.networks:
            module.train(mode)
        return super().train(mode)
