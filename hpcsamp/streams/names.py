"""Purposes of random streams, keys of streams, and generators at the start of a stream."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


class Purpose(IntEnum):
    """Purpose of a random stream. Its number enters the stream's key: never change it."""

    INITIAL = 1  # initial parameters: (); of an ensemble member: (member,)
    NOISE = 2  # retired: weight noise in training from one generator for each (step, sample)
    PREDICT = 3  # retired: dropout masks in prediction by place
    DROPOUT = 4  # retired: dropout masks by place
    AUGMENT = 5  # augmentation: (epoch, item, sample)
    ORDER = 6  # order of items: (epoch, ...)
    SYNTHETIC = 7  # synthetic data: (split, item)
    SPLIT = 8  # random division of items into train, valid and test: ()
    ITEM = 9  # noise of items in training: (step, sample), separate by layer; place: item
    ANCHOR = 10  # retired: centres of the priors of an ensemble from one generator each
    # by place (see .noise), with these steps and samples:
    WEIGHTS = 11  # weight noise in training: step, sample
    PREDICT_WEIGHTS = 12  # weight noise in evaluation and prediction: 0, sample
    CHAIN = 13  # noise of a Markov chain: step, chain
    CENTRES = 14  # centres of the priors of an ensemble: 0, member
    FACTORS = 15  # factors of the deviations that make up a sample of swag: 0, sample
    # by branches (see .branches): step, sample, call and, for draws of an item, item
    MODULE = 16  # draws of a module itself in training
    PREDICT_MODULE = 17  # draws of a module itself in prediction, at step 0
    OBSERVATIONS = 18  # observations drawn from the posterior predictive: (sample,)
    PERTURB = 19  # perturbation of initial states of a rollout: (member,); place: item
    MEMBERS = 20  # initial factors of batch_ensemble, by place: 0, member
    SPACE = 22  # further inputs at which svgd compares functions: (step,)
    # by branches: layer, attempt and mask
    MASKS = 21  # fixed masks of mc_dropout


def key(seed: int, purpose: Purpose, *counters: int) -> int:
    """Compute the 64-bit key of a stream.

    Parameters
    ----------
    seed
        The run's seed, >= 0.
    purpose
        Purpose of the random numbers.
    counters
        Non-negative integers: step, sample, epoch, item, as listed at :class:`Purpose`.
    """
    words = np.random.SeedSequence([seed, int(purpose), *counters]).generate_state(1, np.uint64)
    return int(words[0])


def numpy_generator(seed: int, purpose: Purpose, *counters: int) -> np.random.Generator:
    """Return a NumPy generator (Philox) at the start of a stream."""
    return np.random.Generator(np.random.Philox(key=key(seed, purpose, *counters)))


def torch_generator(
    device: torch.device | str, seed: int, purpose: Purpose, *counters: int
) -> torch.Generator:
    """Return a torch generator at the start of a stream.

    CPU and GPU generators differ, so numbers agree between ranks and restarts on the same device
    type, but not between device types.

    torch's CPU generator uses only the low 32 bits of its seed, so the last counter (the sample) is
    added with an odd factor: two samples of a step then never have the same seed, whereas hashed
    seeds would collide once in 2**32 / S**2 steps.
    """
    import torch

    last = counters[-1] if counters else 0
    seed64 = key(seed, purpose, *counters[:-1]) + last * 0x9E37_79B9_7F4A_7C15
    generator = torch.Generator(device=device)
    generator.manual_seed(seed64 & 0x7FFF_FFFF_FFFF_FFFF)
    return generator
