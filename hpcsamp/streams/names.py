"""What streams are for, their keys, and generators at the start of a stream."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


class Purpose(IntEnum):
    """What a stream is for. The numbers are part of the results: never renumber."""

    INITIAL = 1  # initial parameters: (), of a member (member,)
    NOISE = 2  # retired: weight noise in training from one generator for each (step, sample)
    PREDICT = 3  # retired: dropout masks in prediction by place
    DROPOUT = 4  # retired: dropout masks by place
    AUGMENT = 5  # augmentation: (epoch, item, sample)
    ORDER = 6  # order of items: (epoch, ...)
    SYNTHETIC = 7  # made-up data: (split, item)
    SPLIT = 8  # items dealt to train, valid and test: ()
    ITEM = 9  # noise of items in training: (step, sample), apart by layer, place item
    ANCHOR = 10  # retired: centres of the priors of an ensemble from one generator each
    # by place (see .noise), each with the step and the samples named
    WEIGHTS = 11  # weight noise in training: step, sample
    PREDICT_WEIGHTS = 12  # weight noise in evaluation and prediction: 0, sample
    CHAIN = 13  # what moves a Markov chain: step, chain
    CENTRES = 14  # centres of the priors of an ensemble: 0, member
    FACTORS = 15  # factors of the deviations that a sample of swag is made of: 0, sample
    # by branches (see .branches), each with step, sample, call and, if it is of one, item
    MODULE = 16  # what a module draws by itself in training
    PREDICT_MODULE = 17  # what a module draws by itself in prediction, at step 0
    OBSERVATIONS = 18  # observations drawn from the posterior predictive: (sample,)


def key(seed: int, purpose: Purpose, *counters: int) -> int:
    """A 64-bit key for a stream.

    Parameters
    ----------
    seed
        The run's seed, >= 0.
    purpose
        What the numbers are for.
    counters
        Non-negative integers: step, sample, epoch, item, as listed at :class:`Purpose`.
    """
    words = np.random.SeedSequence([seed, int(purpose), *counters]).generate_state(1, np.uint64)
    return int(words[0])


def numpy_generator(seed: int, purpose: Purpose, *counters: int) -> np.random.Generator:
    """A NumPy generator (Philox) at the start of a stream."""
    return np.random.Generator(np.random.Philox(key=key(seed, purpose, *counters)))


def torch_generator(
    device: torch.device | str, seed: int, purpose: Purpose, *counters: int
) -> torch.Generator:
    """A torch generator at the start of a stream.

    CPU and GPU generators differ, so numbers agree between ranks and restarts on one kind of
    device, not between kinds.

    torch's CPU generator looks at the low 32 bits of its seed alone, so the last counter (the
    sample) is added with an odd factor: the samples of a step can then never share a seed, where
    hashed seeds would meet once in 2**32 / S**2 steps.
    """
    import torch

    last = counters[-1] if counters else 0
    seed64 = key(seed, purpose, *counters[:-1]) + last * 0x9E37_79B9_7F4A_7C15
    generator = torch.Generator(device=device)
    generator.manual_seed(seed64 & 0x7FFF_FFFF_FFFF_FFFF)
    return generator
