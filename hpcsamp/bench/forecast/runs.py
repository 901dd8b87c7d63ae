"""Scores of the forecasts of a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from hpcsamp.bench.forecast.scores import Scores, scores
from hpcsamp.errors import UsageError
from hpcsamp.prediction.in_memory import predict_split
from hpcsamp.prediction.load import load


def of_run(
    folder: Path, data: Path, split: str, coverage: float, samples: int | None, recalibrated: bool
) -> Scores:
    """Forecast a split with a run.

    The CRPS is that of the predictive mixture. The interval is conformal if the run has been
    recalibrated, and else between quantiles of the mixture.

    Raises
    ------
    DataError
        If the set does not fit the run.
    UsageError
        If the run predicts no quantiles, or was recalibrated for another coverage.
    """
    posterior = load(folder, samples=samples, recalibrated=recalibrated)
    ends = [round(0.5 * (1 - coverage), 12), round(0.5 * (1 + coverage), 12)]
    found = predict_split(posterior, posterior.open(data, split), quantiles=ends, full=True)
    values, evaluation = found.values, found.evaluation
    assert evaluation is not None
    if "crps" not in evaluation.rows:
        raise UsageError(f"{folder}: the predictions of this run have no CRPS by lead time")
    low, high = np.moveaxis(values["quantiles"], 1, 0)
    note = f"{posterior.config.method.name}, {posterior.samples} samples"
    if "interval" in values:
        facts = posterior.facts()["recalibration"]
        if abs(facts["coverage"] - coverage) > 0.02:
            raise UsageError(
                f"{folder} was recalibrated for intervals with a coverage of "
                f"{facts['coverage']:.4g}, not {coverage:g}: give --coverage, or --uncalibrated"
            )
        low, high = np.moveaxis(values["interval"], 1, 0)
        note += f", conformal intervals ({facts['score']}, {facts['split']})"
    crps = np.asarray(evaluation.rows["crps"])
    found_scores = scores(str(folder), values["target"], values["mean"], low, high, crps, note)
    settings = posterior.config.model_dump(mode="json", exclude={"seed"})
    return replace(found_scores, kind=json.dumps(settings, sort_keys=True))
