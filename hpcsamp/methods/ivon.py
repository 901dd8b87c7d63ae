"""IVON: mean-field variational inference by natural gradients, at the cost of Adam.

With the posterior N(m, sigma^2), ``p = 1 / (N sigma^2)`` and the gradients ``g`` and ``s`` of the
loss (data term and KL / N) with respect to ``m`` and ``log sigma``, a step is

    r = (1 - b2) N s,        p <- p (1 + r + r^2 / 2),        so that p stays positive
    v <- b1 v + (1 - b1) g
    m <- m - lr clip(v / (1 - b1^t) (sigma / sigma0)^2, -clip_radius, clip_radius)

(Shen et al. 2024, "Variational Learning is Effective for Large Deep Networks", Algorithm 1.) Their
Hessian is ``h = p - delta`` with ``delta = 1 / (N prior_std^2)``. Their estimate of it is
``(d data / d log sigma) / sigma^2``, and its difference from ``h`` is ``s / sigma^2`` of the whole
loss, so a step needs only the two sums that mean-field VI exchanges. The step is elementwise. The
momentum includes the gradient of the prior.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hpcsamp.errors import UsageError
from hpcsamp.methods.mean_field import MeanField
from hpcsamp.methods.normal import BLOCK
from hpcsamp.methods.priors import Kind


class Ivon(MeanField):
    """Mean-field normal posterior that is trained by IVON.

    The posterior, its prior, its draws and its predictions are those of
    :class:`~hpcsamp.methods.mean_field.MeanField`. A rank keeps 3 n values between steps (m,
    sigma and the momentum) where Adam makes it 6 n. Deterministic parameters are trained by Adam,
    with the settings of ``[optimizer]``; its schedule applies to both learning rates.

    Parameters
    ----------
    module
        See :class:`~hpcsamp.methods.mean_field.MeanField`, also for the arguments that are not
        listed here. ``initial_std`` is sigma0; the authors' ``h0`` is
        ``1 / (N initial_std^2) - delta``, and their weight decay is ``delta``.
    lr
        Learning rate; for sigma = sigma0 it is that of SGD with momentum.
    momentum, hessian_momentum
        ``b1`` and ``b2``, at least 0 and below 1. Small datasets, with few steps, need a smaller
        ``b2`` than the authors' 0.99999 for sigma to leave its initial value. If the loss has a
        temperature T, ``1 - b2`` counts T times.
    clip_radius
        Largest step of a mean, in units of ``lr``: the authors' times ``h0 + delta``, so that it
        does not depend on N.

    Raises
    ------
    UsageError
        If a value is out of range, or the loss is not linear in the samples.
    """

    in_parts = True
    sums_early = True

    def __init__(
        self,
        module: nn.Module,
        *,
        lr: float = 0.3,
        momentum: float = 0.9,
        hessian_momentum: float = 0.999,
        clip_radius: float = 0.02,
        prior_mean: float = 0.0,
        prior_std: float = 0.2,
        prior: Kind = "normal",
        initial_std: float = 0.02,
        scale_std: bool = False,
        antithetic: bool = False,
        bayesian: Callable[[str], bool] | Sequence[str] | None = None,
        priors: Sequence[Mapping[str, Any]] = (),
        seed: int = 1,
        samples_per_pass: int | Literal["auto"] = "auto",
        autocast: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            module,
            prior_mean=prior_mean,
            prior_std=prior_std,
            prior=prior,
            initial_std=initial_std,
            scale_std=scale_std,
            antithetic=antithetic,
            bayesian=bayesian,
            priors=priors,
            seed=seed,
            samples_per_pass=samples_per_pass,
            autocast=autocast,
        )
        for what, value in {"lr": lr, "clip_radius": clip_radius}.items():
            if not value > 0:
                raise UsageError(f"method.{what} = {value} must be greater than 0")
        for what, value in {"momentum": momentum, "hessian_momentum": hessian_momentum}.items():
            if not 0 <= value < 1:
                raise UsageError(f"method.{what} = {value} must be at least 0 and below 1")
        self.lr, self.betas, self.clip_radius = lr, (momentum, hessian_momentum), clip_radius
        self._scale = initial_std**-2
        self._items = 0
        self._made = False

    def begin(self, items: int, steps: int, steps_per_epoch: int) -> None:
        """See :meth:`Method.begin`; the size of a step depends on the number of items."""
        self._items = items

    def check_loss(self, name: str, linear: bool) -> None:
        """See :meth:`Method.check_loss`: the Hessian is estimated sample by sample."""
        if not linear:
            raise UsageError(
                f"loss.name = {name!r} combines all S samples, so that its gradients are no "
                f"estimate of the Hessian of the data term; method 'ivon' needs a loss that is "
                f"linear in the samples, e.g. 'expected_nll'"
            )

    @property
    def optimizers(self) -> Mapping[str, Callable[..., torch.optim.Optimizer]]:
        """``Adam``: IVON for means and standard deviations, Adam for deterministic parameters."""
        return {"Adam": self._optimizer}

    def _optimizer(
        self,
        parameters: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> torch.optim.Optimizer:
        if not self._items:
            raise UsageError(
                "call method.begin(items, steps, steps_per_epoch) before the optimiser is made"
            )
        names = [name for name, p in self.named_parameters() if p.requires_grad]
        parts = dict(zip(names, parameters, strict=True))
        if not {"mean", "log_std"} <= parts.keys():
            raise UsageError("IVON trains means and standard deviations together; unfreeze both")
        ivon = {"lr": self.lr, "betas": self.betas, "clip_radius": self.clip_radius}
        adam = {"lr": lr, "betas": betas, "eps": eps}
        self._made = True
        return NaturalSteps(
            (parts["mean"], parts["log_std"]), parts.get("fixed"), ivon, adam,
            items=self._items, scale=self._scale,
        )  # fmt: skip

    def optimizer_numbers(self, name: str) -> int | None:
        """See :meth:`Method.optimizer_numbers`: one momentum, and Adam's of other parameters."""
        random = self.drawn_numbers
        return random + 2 * (self.numbers - 2 * random) if name in self.optimizers else None

    def after_step(self) -> None:
        """See :meth:`Method.after_step`.

        Raises
        ------
        UsageError
            If another optimiser has made the step.
        """
        if not self._made:
            raise UsageError(
                "Ivon is trained by its own steps: make the optimiser by "
                "method.optimizers['Adam'](method.parameters())"
            )


class NaturalSteps(torch.optim.Optimizer):
    """IVON for the means and log standard deviations of weights, Adam for other parameters.

    Parameters
    ----------
    pair
        ``(n,)`` means and log standard deviations, or shares of them.
    fixed
        ``(m,)`` deterministic parameters, or None.
    ivon, adam
        Settings of the two parameter groups.
    items
        ``N``, the number of training items.
    scale
        ``1 / sigma0^2``.
    """

    def __init__(
        self,
        pair: tuple[Tensor, Tensor],
        fixed: Tensor | None,
        ivon: Mapping[str, Any],
        adam: Mapping[str, Any],
        *,
        items: int,
        scale: float,
    ) -> None:
        self.items, self.scale = items, scale
        groups: list[dict[str, Any]] = [{"params": list(pair), **ivon}]
        if fixed is not None:
            groups.append({"params": [fixed], **adam})
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step with the gradients in ``.grad``; return the closure's value."""
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        ivon, *others = self.param_groups
        self._ivon(*ivon["params"], **{k: ivon[k] for k in ("lr", "betas", "clip_radius")})
        for group in others:
            self._adam(*group["params"], **{k: group[k] for k in ("lr", "betas", "eps")})
        return value

    def _ivon(
        self, mean: Tensor, log_std: Tensor, lr: float, betas: tuple[float, float],
        clip_radius: float,
    ) -> None:  # fmt: skip
        if mean.grad is None or log_std.grad is None:
            return
        state, (first, second) = self.state[mean], betas
        if not state:
            state["step"], state["momentum"] = torch.zeros(()), torch.zeros_like(mean)
        state["step"] += 1
        factor = self.scale / (1 - first ** int(state["step"]))
        for lo in range(0, len(mean), BLOCK):  # so that temporaries stay in the cache
            m, rho, v, g, s = (
                x[lo : lo + BLOCK]
                for x in (mean, log_std, state["momentum"], mean.grad, log_std.grad)
            )
            r = s * ((1 - second) * self.items)
            rho.sub_((r * 0.5).add_(1).mul_(r).log1p_(), alpha=0.5)  # p = exp(-2 rho) / N
            v.lerp_(g, 1 - first)
            step = torch.exp(2 * rho).mul_(v).mul_(factor).clamp_(-clip_radius, clip_radius)
            m.sub_(step, alpha=lr)

    def _adam(self, p: Tensor, lr: float, betas: tuple[float, float], eps: float) -> None:
        if p.grad is None:
            return
        state, (first, second) = self.state[p], betas
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        state["step"] += 1
        step, mean, square = int(state["step"]), state["exp_avg"], state["exp_avg_sq"]
        mean.lerp_(p.grad, 1 - first)
        square.mul_(second).addcmul_(p.grad, p.grad, value=1 - second)
        spread = (square / (1 - second**step)).sqrt_().add_(eps)
        p.addcdiv_(mean, spread, value=-lr / (1 - first**step))
