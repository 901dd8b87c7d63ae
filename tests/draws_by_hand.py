"""A module's own random numbers, recomputed number by number with Python integers."""

from __future__ import annotations

import math

import torch

from hpcsamp.streams import Purpose
from hpcsamp.streams.branches import BRANCH
from hpcsamp.streams.noise import name_of
from hpcsamp.streams.places import GAMMA, mixed


def branch(word, number):
    """One arrow of :mod:`hpcsamp.streams.branches`."""
    return mixed(word + (number + 1) * BRANCH)


def mask(rate, shape, seed, step, sample, call, index=None, purpose=Purpose.MODULE):
    """Mask of a dropout layer: ``(B, *shape)`` for items, ``(1, *shape)`` for all."""
    level = round(rate * 65536)
    stream = branch(branch(name_of(seed, purpose, step), sample), call)
    rows = [stream] if index is None else [branch(stream, item) for item in index.tolist()]
    found = []
    for own in rows:
        for i in range(math.prod(shape)):
            bits = mixed(own + (i // 4 + 1) * GAMMA) >> 16 * (i % 4) & 0xFFFF
            signed = bits - 65536 if bits >= 32768 else bits
            found.append(0 if signed < level - 32768 else 65536 / (65536 - level))
    return torch.tensor(found, dtype=torch.float64).view(len(rows), *shape)
