"""Check in a trial pass that a strategy gives the same results as a loop over samples.

There is no list of the modules that a strategy can evaluate. For each new combination of sizes the
strategy is tried with the actual weights and inputs, and its outputs of a few samples are compared
with those of the loop. This also detects coincidences of sizes (e.g. as many tokens as items).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hpcsamp.errors import HpcsampError
from hpcsamp.weights.complex_parts import parts_of
from hpcsamp.weights.inputs import each, tensors
from hpcsamp.weights.layers import ModuleLayer, followed
from hpcsamp.weights.strategies import STRATEGIES, Chunk, NotPossibleError, Pass, loop
from hpcsamp.weights.vectorised import refused_loops


class Verdict(NamedTuple):
    """Verdict on a strategy for chunks of certain sizes: whether its results are correct.

    Attributes
    ----------
    run
        The variant of the strategy that gives correct results; None if there is none.
    reason
        Why no variant is correct; None if one is.
    """

    run: Pass | None
    reason: str | None = None


def tried(chunk: Chunk, strategy: str) -> Verdict:
    """Compare the variants of a strategy with the loop, one after the other.

    Gradients are compared as well if they are enabled. This takes one pass of each variant that is
    tried, and up to three passes of the loop.
    """
    rows = sorted({0, chunk.samples // 2, chunk.samples - 1})
    learns = torch.is_grad_enabled()
    chunk = _apart(chunk, learns)
    truth = loop.run(chunk.some(rows))
    gradients = _gradients(truth, chunk) if learns else []
    truth = truth.detach()
    verdict = Verdict(None)
    for run in STRATEGIES[strategy]:
        reason = _wrong(run, chunk, rows, truth, gradients)
        if reason is None:
            return Verdict(run)
        verdict = Verdict(None, reason)
    return verdict


def _apart(chunk: Chunk, learns: bool) -> Chunk:
    """Return the chunk with its values detached from any graph."""

    def leaf(value: Any) -> Any:
        return value.detach().requires_grad_(learns and value.requires_grad)

    return replace(
        chunk,
        sampled={name: leaf(value) for name, value in chunk.sampled.items()},
        shared={name: leaf(value) for name, value in chunk.shared.items()},
        x=each(leaf, chunk.x),
        place=None if chunk.place is None else replace(chunk.place, trial=True),
    )


def _wrong(
    run: Pass, chunk: Chunk, rows: list[int], truth: Tensor, gradients: list[Tensor]
) -> str | None:
    """Describe the first fault of a pass; None if it has none."""
    layers: list[ModuleLayer] = []
    try:
        with followed(chunk.put.module, layers):
            found = run(chunk)
        expected = (chunk.samples, *truth.shape[1:])
        if tuple(found.shape) != expected:
            return f"outputs have the shape {tuple(found.shape)} instead of {expected}"
        if found.dtype != truth.dtype:
            return f"outputs have the type {found.dtype} instead of {truth.dtype}"
        if not same(truth, found[rows].detach()):
            return "outputs differ from those of one sample at a time"
        if gradients:
            with refused_loops():
                others = _gradients(found[rows], chunk)
            if not _all_same(gradients, others, _digits(truth)):
                return "gradients differ from those of one sample at a time"
    except (NotPossibleError, HpcsampError) as e:
        return f"{_at(layers)}{e}"
    except Exception as e:
        return f"{_at(layers)}{type(e).__name__}: {(str(e).splitlines() or [''])[0][:160]}"
    return None


def _at(layers: list[ModuleLayer]) -> str:
    return f"{layers[-1]}: " if layers else ""


def _gradients(outputs: Tensor, chunk: Chunk) -> list[Tensor]:
    """Gradients of a weighted sum of outputs with respect to all tensors that require one."""
    leaves = [*chunk.sampled.values(), *chunk.shared.values(), *tensors(chunk.x)]
    leaves = [leaf for leaf in leaves if leaf.requires_grad]
    if not leaves or not outputs.requires_grad:
        return []
    count = torch.arange(outputs.numel(), device=outputs.device)
    value = outputs * count.cos().view(outputs.shape).to(outputs.dtype)
    value = parts_of(value).sum()
    # of a scalar: torch imports sympy for gradients of anything else
    found = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
    return list(found)


def same(truth: Tensor, other: Tensor) -> bool:
    """Whether ``(k, B, ...)`` outputs agree, relative to the differences between the samples.

    A comparison relative to the outputs themselves would miss differences if their mean is far from
    0.
    """
    if not (truth.is_floating_point() or truth.is_complex()):
        return torch.equal(truth, other)
    apart = (truth - truth.mean(0)).nan_to_num().abs().max()
    limit = 1e-3 * apart + _digits(truth) * truth.nan_to_num().abs().max()
    return torch.allclose(truth, other, rtol=0, atol=float(limit), equal_nan=True)


def _all_same(truth: list[Tensor], others: list[Tensor], digits: float) -> bool:
    """Whether gradients agree, each relative to its largest value."""
    largest = [float(g.nan_to_num().abs().max()) if g.numel() else 0.0 for g in truth]
    for one, other, own in zip(truth, others, largest, strict=True):
        limit = 1e-3 * own + digits * max(largest)
        if not torch.allclose(one, other, rtol=0, atol=limit, equal_nan=True):
            return False
    return True


def _digits(outputs: Tensor) -> float:
    """Relative error of a pass through a network, due to the order of float sums."""
    kinds, device = [outputs.dtype], outputs.device.type
    if torch.is_autocast_enabled(device):
        kinds.append(torch.get_autocast_dtype(device))
    eps = max(torch.finfo(kind).eps for kind in kinds)
    return 100 * eps if eps < 1e-6 else 8 * eps
