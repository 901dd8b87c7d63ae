"""Particles that repel each other: Stein variational gradient descent, repulsive ensembles.

S particles ``w_i`` are moved together to the posterior ``exp(-N L)``, where L is the loss per item
with ``-log prior / N``. With a kernel ``k_ij = k(|w_i - w_j|^2 / h)`` and ``g_j = dL / dw_j``, the
optimiser receives for particle i, instead of ``g_i``,

    stein         1/S sum_j (k_ij g_j - grad_j k_ij / N)
    wasserstein   g_i + sum_j grad_i k_ij / (N sum_j k_ij)

(Liu and Wang 2016, equation 8; D'Angelo and Fortuin 2021, equation 10, the gradient flow with a
kernel density estimate.) Both are linear in the particles and in their gradients, with S x S
matrices that depend on the distances only. So each of P ranks needs all particles for 1/P of the
weights: particles and gradients are exchanged all-to-all, the squared distances are summed over
the ranks, and the directions are sent back. A rank sends 3 n S/P values.

Networks with different weights may be the same function, so a repulsive ensemble may also act on
functions: with ``f_i``, the outputs of particle i on all m values of the batch of a step, and the
Jacobian ``J_i = df_i / dw_i``, the optimiser receives

    wasserstein   g_i + J_i^T sum_j grad_{f_i} k_ij / (N sum_j k_ij),   k_ij = k(|f_i - f_j|^2 / h)
    stein         p_i + J_i^T 1/S sum_j (k_ij dL/df_j - grad_{f_j} k_ij / N)

(D'Angelo and Fortuin 2021, section 3.2; Wang et al. 2019, equation 8.) The prior is one of weights,
so the kernel does not average its gradient ``p_i``. Outputs, and for ``stein`` the gradients there,
are exchanged in the place of weights, 2 or 3 m S/P values, and the distances are also summed over
the data groups, so that the kernel sees the batches of all of them. Each particle evaluates its
batch once more for the product with its Jacobian. Further inputs are compared like those of the
batch; the data groups divide them.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hpcsamp.errors import UsageError
from hpcsamp.grid import share
from hpcsamp.grid.columns import Columns, SampleGroup
from hpcsamp.methods.functions import Functions, Pass, divided, joined
from hpcsamp.methods.further_inputs import FurtherInputs
from hpcsamp.methods.members import Members
from hpcsamp.methods.normal import BLOCK


class SVGD(Members):
    """S interacting particles in the space of weights, or of functions.

    A step replaces the particles' gradients before they are clipped and passed to the optimiser.
    The directions do not depend on the grid. Each of P ranks holds S/P particles of n weights and
    their gradients, and during a step 4 n S/P values more. Predictions use the particles as an
    ensemble. Weights without uncertainty follow their own gradients and are left out of the
    distances.

    In high dimension the variance collapses: with S below the number of weights, the spread of the
    particles falls far below that of the posterior (Ba et al. 2022, "Understanding the Variance
    Collapse of SVGD in High Dimensions"). For a network this is an ensemble whose members are kept
    apart, not a sample of its posterior. With 64 particles and a normal posterior of 1 and 2
    weights, standard deviations are 2 and 5 % too small with ``"rbf"``, 1 and 3 % with ``"imq"``.
    ``"wasserstein"`` fits the density of the particles smoothed by the kernel, so that their own
    standard deviation is smaller, by 15 to 20 % for 2 weights.

    The temperature of the loss applies to the prior only.

    Parameters
    ----------
    network, samples, own, others
        See :class:`~hpcsamp.methods.members.Members`; at least 2 samples.
    prior_std
        Standard deviation of the normal prior of every weight.
    flow
        ``"stein"`` or ``"wasserstein"``, see above. With ``"stein"`` gradients are averaged by the
        kernel over S particles, so the learning rate for SGD is up to S times that of an ensemble.
    kernel
        Function of the squared distance d. ``"rbf"``: ``exp(-d / h)``. ``"imq"``:
        ``(1 + d / h)^(-1/2)``, with heavier tails. It is not integrable, so ``"wasserstein"``,
        which estimates a density, needs ``"rbf"``.
    bandwidth
        ``h``, in squared units of the weights (or outputs), or ``"median"``: the squared median
        distance of two particles divided by log S, in each step.
    space
        ``"weights"``, or ``"function"``: distances of outputs on the batch.
    space_inputs, space_table
        Number of further inputs in each step at which functions are compared, and the ``.npy`` file
        of inputs, as the network receives them, whose rows are drawn; without it, they are standard
        normal numbers.

    Raises
    ------
    UsageError
        If S is less than 2 or a value is out of range; in a step, if the median distance is 0, or,
        in the space of functions, if the network normalises over the batch, further inputs do not
        fit it, or gradients are scaled, which ``"stein"`` does not support there.
    """

    trains_with_noise = False
    directs = True

    def __init__(
        self,
        network: Callable[[int], nn.Module] | nn.Module,
        samples: int,
        own: range | None = None,
        *,
        prior_std: float = 1.0,
        flow: Literal["stein", "wasserstein"] = "stein",
        kernel: Literal["rbf", "imq"] = "rbf",
        bandwidth: float | Literal["median"] = "median",
        space: Literal["weights", "function"] = "weights",
        space_inputs: int = 0,
        space_table: str | None = None,
        **others: Any,
    ) -> None:
        if samples < 2:
            raise UsageError(
                f"method.samples = {samples}: a kernel between particles needs at least 2"
            )
        for what, value, known in (
            ("flow", flow, ("stein", "wasserstein")),
            ("kernel", kernel, ("rbf", "imq")),
            ("space", space, ("weights", "function")),
        ):
            if value not in known:
                raise UsageError(f"method.{what} = {value!r}; choose from {', '.join(known)}")
        if flow == "wasserstein" and kernel != "rbf":
            raise UsageError(
                f"method.kernel = {kernel!r} cannot estimate a density, which method.flow = "
                f"{flow!r} needs: set it to 'rbf'"
            )
        if bandwidth != "median" and not (
            isinstance(bandwidth, int | float) and 0 < bandwidth < math.inf
        ):
            raise UsageError(
                f"method.bandwidth = {bandwidth!r} must be 'median' or a number greater than 0"
            )
        if space != "function" and (space_inputs or space_table is not None):
            raise UsageError(
                f"method.space_inputs = {space_inputs}: functions are compared at further inputs, "
                f"but method.space = {space!r}; set it to 'function'"
            )
        super().__init__(network, samples, own, prior_std=prior_std, **others)
        self.flow, self.kernel, self.bandwidth, self.space = flow, kernel, bandwidth, space
        self._functions = Functions()
        self._further = FurtherInputs(space_inputs, space_table, self.seed)
        self._items = 0

    def begin(self, items: int, steps: int, steps_per_epoch: int) -> None:
        """See :meth:`Method.begin`; the repulsion is divided by the number of items."""
        self._items = items
        _ = self._further.table  # fails before the first step

    def check_loss(self, name: str, linear: bool) -> None:
        """See :meth:`Method.check_loss`: each particle needs the gradient of its own posterior."""
        if not linear:
            raise UsageError(
                f"loss.name = {name!r} combines all S samples, so that a particle has no posterior "
                f"of its own; method 'svgd' needs a loss that is linear in the samples, e.g. "
                f"'expected_nll'"
            )

    def unfit(self, optimizer: torch.optim.Optimizer) -> UsageError | None:
        """See :meth:`Method.unfit`: refuse weight decay, which the kernel would not average."""
        kind = type(optimizer).__name__
        if not self._items:
            return UsageError(
                "call method.begin(items, steps, steps_per_epoch) before hs.distribute()"
            )
        closure = inspect.signature(optimizer.step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            return UsageError(
                f"{kind} evaluates the loss several times in a step, but method 'svgd' moves all "
                f"particles once; use an optimiser that steps without a closure"
            )
        decay = max((group.get("weight_decay", 0) for group in optimizer.param_groups), default=0)
        if decay:
            return UsageError(
                f"optimizer.weight_decay = {decay:g} of {kind} would move particles without "
                f"the kernel; set it to 0 and use method.prior_std"
            )
        return None

    def forward(
        self,
        x: Tensor,
        samples: range,
        step: int | None = None,
        *,
        stacked: bool = False,
        index: Tensor | None = None,
    ) -> Tensor:
        """See :meth:`Method.forward`; in the space of functions, passes of training are kept."""
        y = super().forward(x, samples, step, stacked=stacked, index=index)
        if self.space == "function" and y.requires_grad and not self._in_trial:
            step = self.step if step is None else step
            self._functions.watch(y, x, samples, step, stacked, index)
        return y

    @torch.no_grad()
    def direct(self, group: SampleGroup, scale: float = 1.0) -> None:
        """Replace the gradient of each particle by its direction. Collective over the sample group.

        Parameters
        ----------
        group
            The collectives of the sample group.
        scale
            Factor that the gradients contain, of a ``GradScaler``.

        Raises
        ------
        UsageError
            If the median distance of the particles is 0, or there are no outputs on a batch.
        """
        assert self.weights.grad is not None
        if self.space == "function":
            self.weights.grad += self.without_deterministic(self._of_functions(group, scale))
            return
        columns = Columns(self.samples, self.layout.size, group)
        gradients = columns.from_rows(self.weights.grad)
        rows = columns.from_rows(self.weights.detach())
        rows = rows - rows.mean(0)  # only differences matter; a large common mean would cost digits
        every = torch.ones(self.layout.size, dtype=torch.bool, device=rows.device)
        moved = self.without_deterministic(every)[columns.mine.start : columns.mine.stop]
        rows *= moved
        gram = gram_of(rows)
        if group.sample_size > 1:
            group.sum_(gram, "sample")
        values, slopes = self._kernel(distances(gram))
        average, apart = matrices(self.flow, values, slopes)
        apart *= scale / self._items
        directions = average.to(rows.dtype) @ gradients
        directions.addmm_(apart.to(rows.dtype), rows, alpha=-1)
        if not moved.all():
            directions[:, ~moved] = gradients[:, ~moved]
        del gradients, rows  # a rank holds at most 4 n S/P values more
        self.weights.grad.copy_(columns.to_rows(directions))

    def _of_functions(self, group: SampleGroup, scale: float) -> Tensor:
        """Return what the space of functions adds to the gradients of the particles, ``(s, n)``."""
        if self.state.whole:
            raise UsageError(
                "method.space = 'function' evaluates each batch twice, but the network normalises "
                "over the whole batch, or keeps a running mean of it: set model.batch_norm = "
                '"frozen" or "group"'
            )
        passes = self._functions.passes()
        if not passes:
            raise UsageError(
                "method.space = 'function' needs the outputs of the step: compute the gradient by "
                "loss(method, x, y, samples=S).backward()"
            )
        if self.flow == "stein" and scale != 1:
            raise UsageError(
                "method.flow = 'stein' with method.space = 'function' uses the gradient of the "
                "loss as it is, but a GradScaler scales it: set training.precision to float32 or "
                "bfloat16, or method.flow = 'wasserstein'"
            )
        passes += self._at_further_inputs(passes[0])
        rows = joined(passes, self.members)
        columns = Columns(self.samples, rows.shape[1], group)
        values = columns.from_rows(rows)
        values = values - values.mean(0)
        gram = gram_of(values)
        for over in ("sample", "data"):
            if group.size(over) > 1:
                group.sum_(gram, over)
        average, apart = matrices(self.flow, *self._kernel(distances(gram)))
        pushed = (apart * (-scale / self._items)).to(values.dtype) @ values
        if self.flow == "stein":
            gradients = columns.from_rows(joined(passes, self.members, lambda seen: seen.gradient))
            average.diagonal().sub_(1)  # the particle's own gradient is there already
            average *= self.gradient_scale / group.size("data")
            pushed.addmm_(average.to(values.dtype), gradients.to(values.dtype))
        directions = columns.to_rows(pushed)
        total = torch.zeros_like(self.weights)
        for seen, wanted in divided(directions, passes, self.members):
            total += self._pulled_back(seen, wanted)
        if group.size("data") > 1:
            group.sum_(total, "data")
        return total

    def _at_further_inputs(self, seen: Pass) -> list[Pass]:
        """Evaluate this data group's part of the further inputs of a step, like a given pass."""
        if not self._further.count:
            return []
        x = self._further.draw(seen.step, seen.x[0] if seen.stacked else seen.x)
        data = self.state.group
        own = share(len(x), 1 if data is None else data.size, 0 if data is None else data.rank)
        x = x[own.start : own.stop]
        index = torch.arange(own.start, own.stop, device=x.device)
        found = []
        for chunk in self.chunks(self.members) if len(own) else ():
            y = super().forward(x, chunk, seen.step, index=index).flatten(1)
            found.append(Pass(x, chunk, seen.step, False, index, y, torch.zeros_like(y)))
        return found

    def _pulled_back(self, seen: Pass, directions: Tensor) -> Tensor:
        """Return ``J^T v`` of a pass, ``(s, n)``, for ``v`` of shape ``(k, m)``."""
        with torch.enable_grad(), self.accumulating() as accumulator:
            for part in seen.chunks(self.chunks):
                first = part.samples.start - seen.samples.start
                y = super().forward(
                    part.x, part.samples, part.step, stacked=part.stacked, index=part.index
                )
                v = directions[first : first + len(part.samples)]
                accumulator.backward(y, v.view_as(y).to(y.dtype))
            [total] = accumulator.gradients()
        assert total is not None
        return total

    def _kernel(self, squares: Tensor) -> tuple[Tensor, Tensor]:
        """Return the kernel of squared distances and its slopes, see :func:`matrices`."""
        if self.bandwidth == "median":
            i, j = torch.triu_indices(len(squares), len(squares), 1, device=squares.device)
            h = float(squares[i, j].sqrt().quantile(0.5)) ** 2 / math.log(len(squares))
            if h == 0:
                raise UsageError(
                    "the median distance of the particles is 0, so the kernel would have "
                    "bandwidth 0: use different initial weights for each, or set method.bandwidth"
                )
        else:
            h = float(self.bandwidth)
        if self.kernel == "rbf":
            values = (squares / -h).exp()
            return values, values * (2 / h)
        base = 1 + squares / h
        return base**-0.5, base**-1.5 / h


def gram_of(rows: Tensor) -> Tensor:
    """Return the ``(S, S)`` float64 inner products of rows ``(S, n)``, without a copy of them."""
    total = rows.new_zeros(len(rows), len(rows), dtype=torch.float64)
    for block in rows.split(BLOCK, 1):
        wide = block.double()
        total.addmm_(wide, wide.T)
    return total


def distances(gram: Tensor) -> Tensor:
    """Return the squared distances ``(S, S)`` from the inner products of vectors."""
    own = gram.diagonal()
    found = (own[:, None] + own - 2 * gram).clamp_(min=0)
    return found.fill_diagonal_(0)


def matrices(flow: str, values: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
    """Return A and B of the directions ``A g - B w / N``, ``(S, S)`` each.

    Parameters
    ----------
    flow
        ``"stein"`` or ``"wasserstein"``.
    values, slopes
        Kernel ``k_ij`` and ``s_ij`` with ``grad_j k_ij = s_ij (w_i - w_j)``.
    """
    apart = torch.diag(slopes.sum(1)) - slopes  # B w = sum_j s_ij (w_i - w_j)
    if flow == "stein":
        return values / len(values), apart / len(values)
    return torch.eye(len(values), dtype=values.dtype, device=values.device), apart / values.sum(
        1, keepdim=True
    )
