"""Estimate the noise of saved states after training, for losses that do not determine it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpcsamp.data import Dataset
from hpcsamp.grid import together
from hpcsamp.prediction import noise
from hpcsamp.run import width

if TYPE_CHECKING:
    from hpcsamp.training.loop import Trainer


def of_best(trainer: Trainer) -> None:
    """Store the noise width of the last evaluation if it is the best so far. Collective."""
    t, step = trainer, trainer.method.step
    assert t.validation is not None
    found = noise.open_widths(t.validation.likelihood)
    if found and t.keeper.best_step == step:
        with together(t.topology.world):
            if t.topology.is_root:
                t.folder.check()
                width.keep(t.folder, step, found, alone=True)


def of_last(trainer: Trainer) -> None:
    """Estimate and store the width for the final state. Collective.

    If there are more ranks than samples per evaluation, the first evaluation estimates the width.
    """
    t, method, step = trainer, trainer.method, trainer.method.step
    if not noise.is_open(t.assembled.likelihood):
        return
    samples = method.prediction_samples(t.config.evaluation.samples)
    if samples < t.topology.sample_size:
        return
    if t.validation is not None and t.validation.step == step:
        found = t.validation.likelihood
    else:
        with together(t.topology.world):
            items = Dataset.open(t.dataset.path, noise.split_of(t.dataset.manifest))
        with t.optimisation.average.in_place():
            found = noise.fit_on(t.assembled, items, t.topology, t.collectives, samples)
    with together(t.topology.world):
        if t.topology.is_root:
            t.folder.check()
            width.keep(t.folder, step, noise.open_widths(found))
