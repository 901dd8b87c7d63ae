"""Mean-field variational inference: an independent normal distribution for each weight.

    w_s = mean + exp(log_std) * eps_s,       eps_s ~ N(0, 1) drawn for (seed, step, sample, block)

(Bayes by Backprop; Blundell et al. 2015, Algorithm 1 of the paper.) All means lie in one flat
tensor and all log standard deviations in another, so that a draw is one fused operation, the
gradient one exchange, and the optimiser step one kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from hpcsamp.errors import UsageError
from hpcsamp.grid import share
from hpcsamp.methods.accumulate import Accumulator
from hpcsamp.methods.flat_sums import FlatAccumulator
from hpcsamp.methods.gathering import GatheredAccumulator
from hpcsamp.methods.late_reads import LateReads
from hpcsamp.methods.made_up import Drawn, Trial
from hpcsamp.methods.mean_shares import MeanShares
from hpcsamp.methods.normal import (
    Divergence,
    LogRatio,
    NormalDraw,
    Span,
    add_divergence,
    block_of,
    blocks,
    section,
)
from hpcsamp.methods.priors import Kind, chosen_variables, normal_prior, usual_prior
from hpcsamp.methods.sharing import Drawing
from hpcsamp.streams import Purpose
from hpcsamp.watchdog import here
from hpcsamp.weights import Pieces
from hpcsamp.weights.layout import Density


class MeanField(MeanShares):
    """Mean-field normal posterior over the weights of a module.

    Parameters
    ----------
    module
        A plain ``nn.Module`` (its architecture need not change), whose current parameters are the
        initial means; or a module that contains torch_blue's ``VIModule``, which defines its own
        priors and initial values. Afterwards the module's parameters share memory with the
        method's.
    prior_mean, prior_std
        Normal prior of every weight, for a plain module.
    prior
        ``"normal"``: with the standard deviation ``prior_std``. ``"scaled"``: with
        ``prior_std / sqrt(fan in)`` of the layer, for its bias too. ``"empirical_bayes"``: with a
        standard deviation for each layer that maximises the ELBO, without ``prior_std``
        (:mod:`hpcsamp.methods.learned_prior`). ``priors`` take precedence.
    initial_std
        Initial standard deviation of the posterior, for a plain module.
    scale_std
        Multiply ``initial_std`` by ``1 / sqrt(fan in)`` of the layer.
    bayesian
        Which parameters of a plain module are random: patterns of names such as ``head.*``, or a
        function of the name (default: all but those of normalisation layers, as in torch_blue).
        Next to torch_blue's modules, plain parameters are random only if they are named here.
    priors
        Other priors for some weights of a plain module, by patterns, see
        :func:`~hpcsamp.methods.priors.by_pattern`.
    antithetic
        In training, sample ``2k + 1`` uses the negative noise of sample ``2k``, even on another
        rank (if S is odd, the last one has no partner). Each draw has the same distribution; the
        terms of the gradient that are odd in the noise cancel within a pair.
    autocast
        Type in which torch evaluates the operations of the module that it considers safe, e.g.
        ``torch.bfloat16``; parameters and draws keep their type.
    seed, samples_per_pass
        See :class:`~hpcsamp.methods.base.Method`.

    Attributes
    ----------
    mean, log_std
        ``(n,)``, the variational parameters of all variables in the order of the module.
    fixed
        ``(m,)``, parameters that stay deterministic, or None.

    Raises
    ------
    UsageError
        If the module has no trainable weights, or has distributions other than normal ones.
    """

    draws_weights = True
    in_parts = True
    captures = True
    sums_in_one = True
    #: Whether its gradient is that of :class:`FlatAccumulator`; declared by each class itself.
    sums_early: ClassVar[bool] = True

    def __init__(
        self,
        module: nn.Module,
        *,
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
        for what, value in {"prior_std": prior_std, "initial_std": initial_std}.items():
            if value <= 0:
                raise UsageError(f"method.{what} = {value} must be greater than 0")
        usual = usual_prior(prior, prior_mean, prior_std, module)
        found = chosen_variables(module, usual, bayesian, priors)
        if not found.random.variables:
            raise UsageError(
                f"{type(module).__name__} has no trainable weights to place a distribution on"
            )
        super().__init__([found], seed, samples_per_pass, autocast)
        means = found.means()
        self.mean = nn.Parameter(found.random.flatten(means))
        self.log_std = nn.Parameter(found.log_stds(initial_std, scale_std))
        self.fixed: nn.Parameter | None = None
        if found.deterministic.variables:
            self.fixed = nn.Parameter(found.deterministic.flatten(means))
        self.antithetic = antithetic
        #: Runs of neighbouring variables with the same prior: in most models a single one.
        self._spans = found.random.runs(normal_prior)
        #: Variables whose prior is known only by its log density.
        self._others = [v for v in found.random.variables if isinstance(v.prior, Density)]
        self._accumulator: FlatAccumulator | None = None
        self._reads = LateReads()
        self._link()

    @property
    def module(self) -> nn.Module:
        """The wrapped module; its parameters show the posterior."""
        return self.variables.module

    def forward(
        self,
        x: Tensor,
        samples: range,
        step: int | None = None,
        *,
        stacked: bool = False,
        index: Tensor | None = None,
    ) -> Tensor:
        """Evaluate some samples, see :meth:`Method.forward`."""
        step = self.step if step is None else step
        outputs, chunks = [], list(self.chunks(samples, stacked))
        with self._draws(step, len(chunks)) as draw:
            for chunk in chunks:
                lo, hi = chunk.start - samples.start, chunk.stop - samples.start
                views = x[lo:hi] if stacked else x
                with here.part("draw"):
                    weights, shared = draw(chunk)
                place = self.place_of(chunk, step, index)
                y = self._run(self.variables, weights, shared, views, len(chunk), stacked, place)
                outputs.append(y)
                del weights, shared, y  # free them before the next draw
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    @contextmanager
    def _draws(self, step: int, count: int) -> Iterator[Drawing]:
        """Iterate over ``count`` functions, each of which draws a chunk."""
        if self._sharing is not None:
            learns = torch.is_grad_enabled()
            if self._made_up:
                yield partial(
                    self._sharing.made_up.draw,
                    step=step,
                    learns=learns,
                    predicts=self.in_prediction,
                )
            else:
                yield from self._sharing.draws(self.mean, self.log_std, self.fixed, step, count)
            return
        layout, shared, accumulator = self.variables.random, self._fixed_views(), self._accumulator
        if self._observer.busy and accumulator is None:
            yield lambda chunk: (self._draw_to_observe(step, chunk), shared)
            return
        # once for all chunks; an accumulator needs none, nor does a kept draw
        std = self.std() if accumulator is None and self._kept is None else None

        def draw(chunk: range) -> Drawn:
            if accumulator is None:
                return layout.named(self.draw(step, chunk, std)), shared
            return accumulator.draw(len(chunk), partial(self.noise, step, chunk)), shared

        yield draw

    def _draw_to_observe(self, step: int, samples: range) -> dict[str, Tensor]:
        """Return ``(k, *shape)`` weights by name, the same leaves in all passes that observe.

        Gradients with respect to means and log standard deviations follow from those with respect
        to the weights, and would take three times their memory.
        """
        name = ("weights", step, samples, self.in_prediction)
        if self._tried is None or self._tried[0] != name:
            flat = self._blank(samples)
            leaves = {k: v.data for k, v in self.variables.random.named(flat).items()}
            for leaf in leaves.values():
                leaf.requires_grad_(not self.in_prediction)
            self._tried = name, (leaves, flat)
        found: dict[str, Tensor]
        found, flat = self._tried[1]
        with torch.no_grad():  # again in each pass, because a module may write to its weights
            for part, _ in blocks([(0, flat.shape[1], None)], block_of(flat)):
                noise = self.noise(step, samples, flat[:, part], part.start)
                noise.mul_(self.log_std[part].exp()).add_(self.mean[part])
        return found

    def leaves_observed(self) -> Sequence[Tensor]:
        """See :meth:`Method.leaves_observed`."""
        found = None if self._tried is None else self._tried[1]
        return list(found[0].values()) if isinstance(found, tuple) else ()

    def noise(self, step: int, samples: range, out: Tensor | None = None, first: int = 0) -> Tensor:
        """Return ``(k, n)`` standard normal noise of some samples, written to ``out`` if given.

        ``out``: ``(k, m)``, for the noise of the weights ``first ... first + m - 1``.
        """
        if out is not None:
            return self._noise(step, samples, out, first)
        name = (step, samples, self.in_prediction)
        if not self._in_trial:
            return self._noise(step, samples, self._blank(samples))
        if self._tried is None or self._tried[0] != name:
            self._tried = name, self._noise(step, samples, self._blank(samples))
        found: Tensor = self._tried[1]
        return found

    def _blank(self, samples: range) -> Tensor:
        n = self.variables.random.size
        return self.mean.new_empty(len(samples), n, requires_grad=False)

    def _noise(self, step: int, samples: range, out: Tensor, first: int = 0) -> Tensor:
        layout = self.variables.random
        if self.in_prediction:
            return layout.draw(out, self.seed, Purpose.PREDICT_WEIGHTS, 0, samples, first)
        of = [self.partner(s)[0] for s in samples] if self._in_pairs else samples
        layout.draw(out, self.seed, Purpose.WEIGHTS, step, of, first)
        if self._in_pairs:
            out[1 - samples.start % 2 :: 2].neg_()
        return out

    @property
    def _in_pairs(self) -> bool:
        return self.antithetic and not self.in_prediction

    def partner(self, sample: int) -> tuple[int, int]:
        """Return the sample whose noise a sample uses, and its sign."""
        if sample % 2 and self._in_pairs:
            return sample - 1, -1
        return sample, 1

    def draw(self, step: int, samples: range, std: Tensor | None = None) -> Tensor:
        """Return ``(k, n)`` weights of some samples, differentiable in mean and log_std.

        ``std``: the result of :meth:`std`, if the caller has already computed it.
        """

        self._check_whole()

        def drawn() -> Tensor:
            own = self.std() if std is None else std
            weights: Tensor = NormalDraw.apply(
                self.mean, self.log_std, own, self.noise(step, samples)
            )
            return weights

        return self.kept_draw((step, samples, self.in_prediction), drawn)

    @contextmanager
    def accumulating(self) -> Iterator[Accumulator]:
        """Sum gradients over chunks; each sample reads the parameters twice."""
        if self._sharing is not None:
            if self._made_up:
                yield Trial(self._sharing.made_up)
                return
            own = GatheredAccumulator(self._sharing, self.mean, self.log_std, self.fixed)
            self._sharing.accumulator = own
            try:
                yield own
            finally:
                self._sharing.accumulator = None
            return
        reads = LateReads(known=True) if self.compiled else self._reads
        self._accumulator = FlatAccumulator(
            self.mean, self.log_std, self.fixed, self.variables.random, reads
        )
        try:
            yield self._accumulator
        finally:
            self._accumulator = None

    def early(self) -> Sequence[Sequence[tuple[str, slice]]]:
        """See :meth:`Method.early`; the deterministic parameters are complete last."""
        if not vars(type(self)).get("sums_early", False) or self._sharing is not None:
            return ()
        fixed = []
        if self.fixed is not None and self.fixed.requires_grad:
            fixed = [[("fixed", slice(0, len(self.fixed)))]]
        places = [v.place for v in self.variables.random.variables]
        return [*fixed, *([("mean", place), ("log_std", place)] for place in places)]

    def std(self) -> Tensor:
        """Return ``(n,)`` standard deviations, without gradient.

        They are not cached between calls: torch's fused optimisers change ``log_std`` without
        increasing its version.
        """
        return self.log_std.detach().exp()

    def penalty(self, part: int = 0, parts: int = 1) -> Tensor:
        """Return KL(q || prior) in nats, by torch_blue's divergence; or a share of it.

        Shares are slices of the flat parameters, so P ranks compute each gradient element once.

        Raises
        ------
        UsageError
            If a prior has no KL in closed form.
        """
        if self._others:
            v = self._others[0]
            raise UsageError(
                f"{v.name} has the prior {getattr(v.prior, 'name', '')}, whose KL has no closed "
                f'form: set loss.kl = "monte_carlo"'
            )
        spans = self._spans_of(part, parts)
        value: Tensor = Divergence.apply(self.mean, self.log_std, spans, torch.is_grad_enabled())
        return value

    def add_penalty(
        self, gradients: list[Tensor | None], factor: float, part: int = 0, parts: int = 1
    ) -> Tensor | None:
        """See :meth:`Method.add_penalty`."""
        if self._others or type(self).penalty is not MeanField.penalty:
            return None
        trained = [p for p in self.parameters() if p.requires_grad]
        sums: dict[int, Tensor] = {}
        for i, p in enumerate(trained):
            if p is self.mean or p is self.log_std:
                total = gradients[i]
                sums[id(p)] = gradients[i] = torch.zeros_like(p) if total is None else total
        both = sums.get(id(self.mean)), sums.get(id(self.log_std))
        return add_divergence(self.mean, self.log_std, self._spans_of(part, parts), both, factor)

    def _spans_of(self, part: int, parts: int) -> list[Span]:
        """Return the spans of one of ``parts`` shares of the weights that this rank holds."""
        own = share(self.mean.numel(), parts, part)
        first = self._start
        return section(self._normal_spans(), first + own.start, first + own.stop, first)

    def penalties(self) -> dict[str, tuple[int, float]]:
        """Number of weights and closed-form KL of each variable; see :meth:`Method.penalties`."""
        self._check_whole()
        result, normal = {}, self._normal_spans()
        for v in self.variables.random.variables:
            if isinstance(v.prior, Density):
                continue
            span = section(normal, v.place.start, v.place.stop)
            kl = Divergence.apply(self.mean.detach(), self.log_std.detach(), span, False)
            result[v.name] = (v.size, float(kl))
        return result

    def log_ratio(self, samples: range, step: int | None = None) -> Tensor:
        """Return log density ratios of draws, see :meth:`Method.log_ratio`.

        The noise is drawn again, here and in the backward pass, rather than kept for S samples.
        """
        self._check_whole()
        step = self.step if step is None else step
        noises, spans = partial(self._noises, samples, step), self._normal_spans()
        value: Tensor = LogRatio.apply(self.mean, self.log_std, self.std(), noises, spans)
        return value - self._log_priors(samples, step) if self._others else value

    def _log_priors(self, samples: range, step: int) -> Tensor:
        """Return ``(k,)`` log densities under priors that are known only by their log density.

        They include the constants of the posterior's normal densities for these variables.
        """
        means = self.variables.random.named(self.mean)
        found = []
        for s in samples:
            weights = self.variables.random.named(self.draw(step, range(s, s + 1))[0])
            total = self.mean.new_zeros((), dtype=torch.float64)
            for v in self._others:
                assert isinstance(v.prior, Density)
                density = v.prior.log_prob(weights[v.name], means[v.name])
                total = total + density.sum(dtype=torch.float64)
                total = total + 0.5 * math.log(2 * math.pi) * v.size
            found.append(total)
        return torch.stack(found)

    def _noises(self, samples: range, step: int) -> Iterator[Tensor]:
        return (self.noise(step, range(s, s + 1))[0] for s in samples)

    def named_variational(self) -> Iterator[tuple[str, Tensor]]:
        """Iterate over ``name.mean`` and ``name.log_std``, then over deterministic parameters."""
        self._check_whole()
        yield from self._named(dict(self.named_parameters())).items()

    def pieces(self) -> dict[str, Pieces]:
        """See :meth:`Method.pieces`."""
        found: dict[str, Pieces] = dict.fromkeys(("mean", "log_std"), self.variables.random)
        if self.fixed is not None:
            found["fixed"] = self.variables.deterministic
        return found | self.constant_pieces()

    def named_pieces(self) -> dict[str, Pieces]:
        """See :meth:`Method.named_pieces`."""
        of = {v.name: v.part for v in self.variables.trained.variables if v.part is not None}
        drawn = set(self.variables.random.names)
        ends = {name: (".mean", ".log_std") if name in drawn else ("",) for name in of}
        return {name + end: part for name, part in of.items() for end in ends[name]}

    def _named(self, flat: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Split flat variational parameters by name."""
        means, log_stds = (self.variables.random.named(flat[n]) for n in ("mean", "log_std"))
        found = {}
        for name in means:
            found[f"{name}.mean"] = means[name].detach()
            found[f"{name}.log_std"] = log_stds[name].detach()
        if "fixed" in flat:
            fixed = self.variables.deterministic.named(flat["fixed"])
            found |= {name: value.detach() for name, value in fixed.items()}
        return found

    def _fixed_views(self) -> dict[str, Tensor]:
        return {} if self.fixed is None else self.variables.deterministic.named(self.fixed)

    def _link(self) -> None:
        layout = self.variables.random
        if self._sharing is not None:
            self._show_nothing()
            return
        means = layout.named(self.mean.data) | self._fixed_views()
        self.variables.show(means, layout.named(self.log_std.data))
