"""Predictions of a posterior in Python: raw inputs in, a labelled dataset out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcsamp.errors import UsageError
from hpcsamp.imports import without_collection
from hpcsamp.prediction.file_attributes import attributes, levels_of
from hpcsamp.prediction.given import Given, given
from hpcsamp.prediction.in_memory import predict_items, predict_split
from hpcsamp.prediction.own_units import in_own_units
from hpcsamp.prediction.posterior import Posterior

if TYPE_CHECKING:
    import xarray as xr


class Predicting(Posterior):
    """A posterior that predicts raw inputs, in this process only."""

    def predict(
        self,
        x: Any,
        samples: int | None = None,
        quantiles: Sequence[float] | None = None,
        *,
        batch: int | None = None,
        keep_samples: bool = False,
        split: str | None = None,
        series: Sequence[str] | str | None = None,
    ) -> xr.Dataset:
        """Return the posterior predictive distribution of items, in the units of the data.

        Parameters
        ----------
        x
            Raw inputs (see :func:`hpcsamp.prediction.given.given`), or the path of a dataset
            folder.
        samples
            Number of samples of the predictive distribution; None for :attr:`samples`.
        quantiles
            Levels, for numeric targets; None for 5, 50 and 95 % if quantiles are available.
        batch
            Number of items evaluated at once; None for ``evaluation.batch``.
        keep_samples
            Also return the prediction of each weight sample.
        split
            Split of a dataset folder; None for ``test``, or the first split if there is no
            ``test``.
        series
            If the training set has several series: the name of the series of each window in ``x``,
            or of all of them. ``x`` and the predictions are in the units of the series.

        Returns
        -------
        xarray.Dataset
            The arrays that ``hpcsamp predict`` writes, with items along ``item``. For numeric
            targets: ``mean``, ``std``, ``std_aleatoric``, ``std_epistemic`` and ``quantiles``. For
            classes: ``probabilities``, and ``total``, ``aleatoric`` and ``epistemic`` uncertainty
            of each item. After ``hpcsamp recalibrate``, also ``interval`` or ``prediction_set``.
            If a single item was passed, there is no axis ``item``.

        Raises
        ------
        DataError
            If names, shape, type, units or coordinates of ``x`` differ from those of the run, or
            names of series are missing or unknown.
        UsageError
            If the method cannot draw this number of samples, or a level is not between 0 and 1.
        """
        check_levels(quantiles)
        if batch is not None and batch < 1:
            raise UsageError(f"batch = {batch} must be at least 1")
        of = self.with_samples(samples)
        with without_collection():  # xarray imports pandas
            from hpcsamp.prediction.labelled import labelled
        levels = levels_of(of, quantiles)
        items = None
        if isinstance(x, str | Path):
            opened = self.open(x, split)
            found = predict_split(of, opened, quantiles=levels, keep_samples=keep_samples)
        else:
            x, place = in_own_units(x, series, self.trained)
            items = given(x, self.trained)
            found = predict_items(
                of, items, batch=batch, quantiles=levels, keep_samples=keep_samples, series=place
            )
        for note in [*of.notes, *of._fixed(items)]:
            sys.stderr.write(f"hpcsamp: {note}\n")
        found.layout.attributes.update(attributes(of.facts(), self.trained.manifest.uid))
        return labelled(found, items)

    def _fixed(self, items: Given | None) -> list[str]:
        """Report that items without targets have intervals that are not adapted."""
        entry = self.recalibration if items is not None and not self.notes else None
        found = [] if entry is None else [of.conformal for of in entry.targets.values()]
        if not any(of is not None and of.adaptive is not None for of in found):
            return []
        return [
            "intervals of items without targets have the fixed thresholds of the calibration "
            "items; those of a dataset adapt to its earlier items"
        ]


def check_levels(levels: Sequence[float] | None) -> None:
    """Refuse levels of quantiles that are not between 0 and 1.

    Raises
    ------
    UsageError
        If a level is not; the message contains the first one.
    """
    for level in levels or ():
        if not 0 < level < 1:
            raise UsageError(f"quantiles at {level:g}: a level is between 0 and 1")
