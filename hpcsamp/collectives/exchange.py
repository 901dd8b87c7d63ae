"""Hooks that end each backward pass with an exchange of the gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakMethod

import torch
from torch import Tensor, nn

from hpcsamp.collectives.apart import Apart
from hpcsamp.collectives.base import Collectives
from hpcsamp.collectives.buckets import Buckets, cut, units_of
from hpcsamp.collectives.early import EarlyExchange, EarlySums
from hpcsamp.collectives.flat import FlatGradient
from hpcsamp.collectives.replicas import Replicas
from hpcsamp.collectives.sameness import agreed
from hpcsamp.collectives.updates import Updates, ids, parameters_of
from hpcsamp.errors import DivergedError, UsageError
from hpcsamp.methods.base import Method

Written = TypeVar("Written", bound=Tensor)  # a tensor, or the parameter of that kind


def _weakly(function: Callable[[Written], Any]) -> Callable[[Written], Any]:
    """Wrap a method in a hook that holds only a weak reference to its object.

    The garbage collector does not see what the hooks of a parameter refer to: a strong reference
    would keep the exchange, the optimiser and the network for the rest of the process. The
    optimiser's own hooks keep the exchange as long as the optimiser.
    """
    found = WeakMethod(function)

    def call(x: Written) -> Any:
        method = found()
        return None if method is None else method(x)

    return call


class GradientExchange:
    """The hooks that exchange a method's gradient; see :func:`distribute`.

    A backward pass calls :meth:`_begin` before and :meth:`_wrote` after it has added to a
    parameter's gradient, and :meth:`_end` when it has finished.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        collectives: Collectives,
        method: Method,
        clip: float | None,
        updates: Updates,
        compare_every: int,
        buckets: int = 1,
    ) -> None:
        self.optimizer, self.collectives, self.method = optimizer, collectives, method
        self.clip, self.updates, self.compare_every = clip, updates, compare_every
        self.retired = False
        self.own = ids(parameters_of(optimizer))
        several = buckets > 1 and collectives.size("replicas") > 1
        kept = several or updates.views or not method.sums_in_one
        self.gradient = FlatGradient(updates.parameters, kept)
        self.replicas = Replicas(
            self.gradient.parameters, method, optimizer, collectives, compare_every
        )
        self.apart = Apart(method, collectives)
        self.early: EarlyExchange | None = None
        self._units: dict[int, int] = {}  # of each parameter, if it is exchanged in buckets
        if several and method.early():
            self.early = EarlyExchange(self.gradient, collectives, method, buckets, self._deliver)
        elif several:
            self._units = {id(p): i for i, p in enumerate(self.gradient.parameters)}
            self._plan = cut(units_of(self.gradient), buckets)
        self.zero()
        hooks: list[Any] = []
        for p in self.gradient.parameters:
            hooks.append(p.register_hook(_weakly(self._begin)))
            hooks.append(p.register_post_accumulate_grad_hook(_weakly(self._wrote)))
        self._hooks = hooks
        self._step_hooks = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]
        optimizer.zero_grad = self.zero  # type: ignore[method-assign]

    def retire(self, optimizer: torch.optim.Optimizer) -> None:
        """Remove the hooks when a newer exchange, of this or another optimiser, replaces them."""
        self.retired = True
        for hook in self._hooks:
            hook.remove()
        if optimizer is not self.optimizer:
            vars(self.optimizer).pop("zero_grad", None)
            self._step_hooks.pop(0)  # this hook reports that the optimiser was replaced
        for hook in self._step_hooks:
            hook.remove()

    # The gradient -----------------------------------------------------------------------------

    def zero(self, set_to_none: bool = True) -> None:
        """Set the gradient to zero; replaces the optimiser's ``zero_grad``."""
        self.gradient.zero()
        self.updates.zero()
        self._open = self._written = (
            False  # whether a backward pass is running, and has added anything
        )
        self._delivered: list[tuple[EarlySums, Tensor]] = []  # in this backward pass, with factors
        self._whole = False  # whether .grad holds the gradient of all ranks
        self._fresh = False  # whether it was exchanged since the last step
        self._held: Tensor | None = (
            None  # gradient of all ranks while a pass adds that of this rank
        )
        self._undirected: Tensor | None = None  # gradient that a method has made directions of
        self._broken = False  # whether the gradient of any rank was not finite

    def _begin(self, _: Tensor) -> None:
        if self._open:
            return
        self._open, self._written = True, False
        self._delivered = []
        if self._units:
            self._buckets = Buckets(self.gradient.flat, self._plan, self.collectives)
        torch.autograd.Variable._execution_engine.queue_callback(self._end)
        if self._whole:
            if self.updates.is_gone(self.gradient):  # set to None by another zero_grad
                self.zero()
                self._open = True
                return
            self._held = self.gradient.take()

    def _wrote(self, p: nn.Parameter) -> None:
        self._written = True
        if self._units and self.gradient.is_view(p):  # otherwise it is copied at the end
            self._buckets.complete(self._units[id(p)])

    def _deliver(self, sums: EarlySums, factor: Tensor) -> None:
        """Add a gradient that was summed over the ranks when the loss was computed."""
        self._begin(factor)
        self._delivered.append((sums, factor))

    def _end(self) -> None:
        if not self._open:
            return
        self._open = False
        if self._written or self._delivered:
            self._exchange()
        elif self._held is not None:  # torch.autograd.grad leaves .grad alone
            self.gradient.put_back(self._held)
            self._held = None

    def _exchange(self) -> None:
        """Convert this rank's gradient to that of all ranks and add it to the earlier one."""
        c, trouble = self.collectives, self._trouble()
        flat = self.gradient.collect() if trouble is None else self.gradient.flat
        early, self._delivered = self._delivered, []
        own = self._written or not early  # whether there is a gradient that was not summed early
        finite = [sums.finite for sums, _ in early]
        if self._units:
            finite.append(self._buckets.end())
            c.average_(flat)
        if self.early is not None:
            c.claims["whether the loss has terms beside those of ELBO"] = own
        if self.method.step % self.compare_every == 0:  # in other steps a GPU is not read
            if not self._units:
                finite.append(flat.sum().isfinite() or flat.isfinite().all())
            self._mine_broken = not all(map(bool, finite))
            self._broken |= self.replicas.compare(trouble, self._mine_broken) > 0
        if own and not self._units:
            self.updates.reduce(self.gradient)
        for sums, factor in early:
            flat.addcmul_(sums.flat, factor / c.data_size)
        self.apart.check(self.gradient)
        if (scale := self.method.gradient_scale) != 1:
            flat.mul_(scale)
        if self._held is not None:
            flat.add_(self._held)
            self._held = None
        if self._broken and c.size("world") > 1:
            # All ranks must see it, e.g. so that their GradScalers skip the same steps.
            for p in parameters_of(self.optimizer):
                if p.grad is not None:
                    p.grad.fill_(torch.nan)
        self._whole = self._fresh = True
        self._state = self.gradient.state

    # The step ---------------------------------------------------------------------------------

    def _before_step(
        self, _: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self.retired:
            raise UsageError(
                f"this {type(self.optimizer).__name__} no longer trains the "
                f"{type(self.method).__name__}: another optimiser has since been distributed for "
                f"it; use one optimiser, with parameter groups for parts that need other settings"
            )
        closures = [a for a in (*args[1:], *kwargs.values()) if callable(a)]
        if not closures:
            self._finish()
            self._direct()
            self._clip()
            return None
        self.updates.check_closure()

        def wrapped(closure: Callable[[], Any]) -> Callable[[], Any]:
            def of_all() -> Any:
                with torch.enable_grad():
                    value = closure()
                self._finish()
                self._direct()
                self._clip()
                return self._mean(value)

            return of_all

        swap = {id(c): wrapped(c) for c in closures}
        return (
            tuple(swap.get(id(a), a) for a in args),
            {k: swap.get(id(v), v) for k, v in kwargs.items()},
        )

    def _finish(self) -> None:
        """Exchange gradients that no backward pass has exchanged, such as those set by hand."""
        if self._open:  # a backward pass that was interrupted
            self._written = True
            self._end()
        elif not self._fresh:
            if (
                self._whole and self.gradient.state == self._state
            ):  # the gradient of the last step is used again
                self.replicas.compare(self._trouble(), False)
            else:  # set by hand
                self._exchange()
        scaled = getattr(self.optimizer, "found_inf", None) is not None
        if self._broken and not scaled and not self._is_finite():
            c = self.collectives
            told = c.tell((c.rank, self._mine_broken), "world")
            ranks = ", ".join(str(rank) for rank, broken in told if broken)
            raise agreed(
                DivergedError(
                    f"the gradient of step {self.method.step} is not finite on rank {ranks}; lower "
                    f"the learning rate, clip gradients, or check the data"
                ),
                c,
            )

    def _is_finite(self) -> bool:
        grads = [p.grad for p in parameters_of(self.optimizer) if p.grad is not None]
        return all(bool(g.isfinite().all()) for g in grads)

    def _direct(self) -> None:
        if self.method.directs:
            self._undirected = self.gradient.collect().clone()
            self.method.direct(self.collectives, self._scale)

    def _clip(self) -> None:
        if self.clip is not None:
            self.updates.clip(self.gradient, self.clip * self._scale)

    @property
    def _scale(self) -> float:
        """Factor of a GradScaler by which torch's fused optimisers divide the gradient."""
        scale = getattr(self.optimizer, "grad_scale", None)
        return 1.0 if scale is None else float(scale)

    def _mean(self, value: Any) -> Any:
        """Return the mean value of a closure over the ranks, so that they decide alike."""
        if isinstance(value, Tensor):
            return self.collectives.mean_over_data(value)
        if isinstance(value, float):
            return float(self.collectives.mean_over_data(torch.tensor(value, dtype=torch.float64)))
        return value

    def _after_step(self, *_: Any) -> None:
        self._fresh = False
        if self._undirected is not None:  # so that .grad may be added to, or used again
            self.gradient.flat.copy_(self._undirected)
            self._undirected = None
        self._state = self.gradient.state
        skipped = getattr(self.optimizer, "found_inf", None)
        if skipped is not None and float(skipped) > 0:  # a GradScaler skipped the step
            return
        self.updates.share()
        self.method.step += 1
        self.method.after_step()

    # Changes since hs.distribute() --------------------------------------------------------------

    def _trouble(self) -> UsageError | None:
        """Return an error if parameters were changed in a way that would lose gradients."""
        kind, gradient = type(self.optimizer).__name__, self.gradient
        if ids(parameters_of(self.optimizer)) != self.own:
            return UsageError(
                f"the parameters of {kind} have changed since hs.distribute(): add parameter "
                f"groups before it"
            )
        trained = (p for p in self.method.parameters() if p.requires_grad)
        if ids(trained) != ids(self.gradient.parameters):
            return UsageError(
                "parameters of the method were replaced (load_state_dict(assign=True)?), frozen or "
                "unfrozen since hs.distribute(); create and distribute a new optimiser after that"
            )
        for p in self.gradient.parameters:
            if (p.dtype.to_real(), p.device) != (gradient.dtype, gradient.device):
                return UsageError(
                    f"the method was {gradient.dtype} on {gradient.device} when hs.distribute() "
                    f"was called and is {p.dtype} on {p.device} now: convert it before creating "
                    f"its optimiser"
                )
        return self.updates.trouble()
