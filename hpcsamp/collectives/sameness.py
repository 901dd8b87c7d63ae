"""Compare values that must agree between ranks, and report the first difference on all ranks.

A comparison costs one sum of a few numbers: if the 32-bit hashes of all ranks equal their mean, the
ranks have the same values. The values are exchanged only otherwise, to report the difference.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpcsamp.collectives.base import Collectives, Over
from hpcsamp.errors import DivergedError, HpcsampError, UsageError

Facts = Mapping[str, Any]

#: Prefix of the names of facts about weights.
WEIGHTS = "weights "


def compare(
    facts: Facts,
    collectives: Collectives,
    over: Over,
    *,
    trouble: HpcsampError | None = None,
    count: float = 0.0,
) -> float:
    """Raise on every rank unless all have the same facts. Collective.

    Parameters
    ----------
    facts
        Numbers and strings by name.
    over
        The ranks that compare their facts.
    trouble
        Error that occurred on this rank, to be raised on all ranks.
    count
        A number to be summed over the ranks in the same exchange.

    Returns
    -------
    float
        The sum of ``count``.

    Raises
    ------
    UsageError
        If ranks differ (the message names the first difference, its values and ranks), or if a rank
        has an error.
    DivergedError
        If weights differ.
    """
    digest = hashlib.blake2b(repr(facts).encode(), digest_size=8).digest()
    words = np.empty(4)
    words[:2] = np.frombuffer(digest, np.uint32)
    words[2:] = trouble is not None, count
    total = collectives.total(words, over)
    if total[2] or (words[:2] * collectives.size(over) != total[:2]).any():
        own = None if trouble is None else (type(trouble), str(trouble))
        everyone = collectives.tell((collectives.rank, own, dict(facts)), over)
        raise agreed(_difference(everyone), collectives, over)
    return float(total[3])


def compare_all(
    facts: Facts,
    of_replicas: Iterable[tuple[Facts, Over]],
    collectives: Collectives,
    trouble: HpcsampError | None,
    count: float = 0.0,
) -> float:
    """Raise on every rank unless all ranks, and all replicas, have the same facts.

    Collective over the world. Costs one exchange, and one more for each kind of replicas that are
    not all ranks.

    Parameters
    ----------
    of_replicas
        Facts that need to agree only within groups of ranks, with these groups.
    facts, trouble, count
        As in :func:`compare`, which raises the same.
    """
    all_facts, by_ranks = dict(facts), dict[Over, dict[str, Any]]()
    for more, over in of_replicas:
        by_ranks.setdefault(over, {}).update(more)
    for over, more in by_ranks.items():
        if collectives.size(over) == collectives.size("world"):
            all_facts |= more
        elif collectives.size(over) > 1:
            try:
                compare(more, collectives, over)
            except HpcsampError as e:
                trouble = trouble or e
    return compare(all_facts, collectives, "world", trouble=trouble, count=count)


def agreed(error: HpcsampError, collectives: Collectives, over: Over = "world") -> HpcsampError:
    """Mark an error as known to all ranks, if all of them are about to raise it."""
    error.agreed = collectives.whole_job and collectives.size(over) == collectives.size("world")
    return error


Told = tuple[int, tuple[type[HpcsampError], str] | None, dict[str, Any]]


def _difference(everyone: Sequence[Told]) -> HpcsampError:
    for _, trouble, _ in everyone:
        if trouble is not None:
            kind, message = trouble
            return kind(message)
    first, _, expected = everyone[0]
    for rank, _, facts in everyone[1:]:
        for name in expected | facts:
            one, other = (f.get(name, "absent") for f in (expected, facts))
            if repr(one) != repr(other):
                return (DivergedError if name.startswith(WEIGHTS) else UsageError)(
                    f"ranks must have the same {name}, which is {one} on rank {first} and "
                    f"{other} on rank {rank}"
                )
    return UsageError("ranks differ, but not in the values that can be reported")


def settings_of(thing: Any, deep: int = 2) -> dict[str, Any]:
    """Return the class of an object and its public attributes with plain values."""
    found: dict[str, Any] = {"class": type(thing).__qualname__}
    slots = getattr(type(thing), "__slots__", ())  # of a dataclass without a __dict__
    values = vars(thing) if hasattr(thing, "__dict__") else {n: getattr(thing, n) for n in slots}
    for name, value in values.items():
        if name.startswith("_"):
            continue
        if (plain := plain_value(value)) is not None:
            found[name] = plain
        elif deep > 1 and type(value).__module__.startswith("hpcsamp."):
            found[name] = settings_of(value, deep - 1)
    return found


def plain_value(value: Any) -> Any:
    """Return a value that can be compared by its ``repr``; None if there is none."""
    if isinstance(value, Tensor):
        return float(value) if value.numel() == 1 else fingerprint(value)
    if isinstance(value, torch.dtype):
        return str(value)
    if isinstance(value, (tuple, list)):
        parts = [plain_value(v) for v in value]
        return None if None in parts else parts
    return value if isinstance(value, (bool, int, float, str)) else None


#: Number of elements of a tensor that its fingerprint covers.
_LOOKED_AT = 1024


def fingerprint(x: Tensor) -> str:
    """Return shape, type and a hash of at most 1024 evenly spaced elements; takes about 10 us."""
    flat = x.detach().reshape(-1)
    some = flat[:: max(1, len(flat) // _LOOKED_AT)]
    return f"{tuple(x.shape)} {str(x.dtype)[6:]} {hash_of(some)}"


def hash_of(x: Tensor) -> str:
    """Return a hash of a flat tensor's bits."""
    bits: Any = x.detach().contiguous().cpu().view(torch.uint8).numpy()
    return f"{zlib.crc32(bits):08x}"
