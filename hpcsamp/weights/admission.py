"""Whether a strategy gives what the loop over samples gives, found by trying it once.

No list says which modules a strategy can evaluate. For each new combination of sizes it is tried on
the very weights and inputs, and its outputs of a few samples are compared with the loop's.
Coincidences of sizes (as many tokens as items, say) are found so, as well.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hpcsamp.errors import HpcsampError
from hpcsamp.weights.strategies import STRATEGIES, Chunk, NotPossibleError


def tried(chunk: Chunk, strategy: str) -> str | None:
    """Why a strategy is not to be used for a chunk; None if it is right.

    Draws nothing and keeps no graph. Costs a pass of the strategy and up to three of the loop.
    """
    rows = sorted({0, chunk.samples // 2, chunk.samples - 1})
    with torch.no_grad():
        truth = STRATEGIES["loop"](chunk.some(rows))
    try:
        found = STRATEGIES[strategy](chunk).detach()
    except NotPossibleError as e:
        return str(e)
    except HpcsampError:
        raise
    except Exception as e:
        return f"{type(e).__name__}: {(str(e).splitlines() or [''])[0][:160]}"
    expected = (chunk.samples, *truth.shape[1:])
    if tuple(found.shape) != expected:
        return f"outputs have the shape {tuple(found.shape)} and not {expected}"
    if found.dtype != truth.dtype:
        return f"outputs are {found.dtype} and not {truth.dtype}"
    if not same(truth, found[rows]):
        return "outputs differ from those of one sample after the other"
    return None


def same(truth: Tensor, other: Tensor) -> bool:
    """Whether ``(k, B, ...)`` outputs agree, to a part of what tells the samples apart.

    Not of the outputs themselves: a mean far from 0 would hide any difference.
    """
    if not (truth.is_floating_point() or truth.is_complex()):
        return torch.equal(truth, other)
    clean = truth.nan_to_num()
    apart = (truth - truth.mean(0)).nan_to_num().abs().max()
    digits = 100 * torch.finfo(truth.dtype).eps * clean.abs().max()
    return torch.allclose(truth, other, rtol=0, atol=float(1e-3 * apart + digits), equal_nan=True)
