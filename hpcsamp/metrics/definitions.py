"""Definitions of the metrics, for tables, files and captions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_PLAIN = {
    # classes
    "accuracy": "fraction of items whose most probable class is the true class",
    "nll": "negative log predictive density, nats per item (density of standardised values if the "
    "dataset is standardised)",
    "brier": "Brier score, sum over classes of squared differences, 0 to 2",
    "ece": "expected calibration error: mean |confidence - accuracy| over bins, weighted by items",
    "mace": "mean absolute calibration error, bin-unweighted: for classes, mean |confidence - "
    "accuracy| over non-empty bins; for numeric targets, mean |coverage - level| of the central "
    "intervals of 5, 10 .. 95 % that S samples can form",
    "entropy": "total uncertainty: entropy of the predictive distribution, nats",
    "aleatoric": "aleatoric uncertainty: mean entropy of the samples' predictions, nats",
    "mutual_information": "epistemic uncertainty: total minus aleatoric, nats",
    "aurc": "area under the risk-coverage curve: mean over k of the error rate of the k most "
    "confident items (by largest probability; ties are averaged)",
    "risk_50": "error rate of the most confident 50 % of the items",
    "risk_80": "error rate of the most confident 80 % of the items",
    "risk_90": "error rate of the most confident 90 % of the items",
    # values
    "rmse": "root mean squared error of the predictive mean",
    "mae": "mean absolute error of the predictive mean",
    "bias": "mean of predictive mean minus target",
    "crps": "continuous ranked probability score of the mixture of all samples' normal "
    "distributions, exact (Grimit et al. 2006, eq. 5), mean over values",
    "nll_physical": "nll of the values in physical units: nll plus the log of their scales",
    "spread": "root mean predictive variance: noise variance plus unbiased variance of the sample "
    "means (divided by S - 1)",
    "spread_epistemic": "root mean unbiased variance of the sample means, due to the weights",
    "sharpness": "mean predictive standard deviation",
    "spread_skill": "sqrt((S+1)/S) * spread / rmse, with observation noise counted once: 1 if "
    "calibrated, below 1 if overconfident, above 1 if underconfident",
    **{
        f"coverage_{q}": f"fraction of values inside the central {q} % interval of the mixture, or "
        "between order statistics of samples without noise"
        for q in (50, 80, 90, 95)
    },
    # chains
    "r_hat": "largest rank-normalised split R-hat of the samples' predictions over all items "
    "(Vehtari et al. 2021); chains agree if it is at most 1.01",
    "r_hat_above": "fraction of predicted values whose R-hat is above 1.01",
    "ess": "smallest bulk effective sample size of the samples' predictions over all items "
    "(Vehtari et al. 2021)",
    "items": "number of items evaluated",
}

_SCORES = {
    "total": "total uncertainty (entropy of the predictive distribution, or mean predictive "
    "variance)",
    "epistemic": "epistemic uncertainty (mutual information, or mean variance of the samples)",
    "confidence": "one minus the largest probability",
}

#: Definition of each metric by name. Units of the target are shown beside the numbers.
DESCRIPTIONS: Mapping[str, str] = {
    **_PLAIN,
    **{
        f"ood_auroc_{score}": "probability that an out-of-distribution item scores higher than an "
        f"item of this split, ties counted half; score: {description}"
        for score, description in _SCORES.items()
    },
    **{
        f"ood_fpr95_{score}": "fraction of out-of-distribution items accepted at the threshold "
        f"that accepts 95 % of this split; score: {description}"
        for score, description in _SCORES.items()
    },
}

WEIGHTED = "means over a grid are weighted by cos(latitude), with mean 1 (WeatherBench, Rasp 2020)"


def definitions(names: Iterable[str], weighted: bool = False) -> dict[str, str]:
    """Return the definitions of the named metrics.

    ``weighted``: whether values are weighted by the area of grid cells. Metrics of one of several
    targets are called ``NAME/metric``.
    """
    pairs = ((name, DESCRIPTIONS.get(name.rpartition("/")[2])) for name in names)
    found = {name: description for name, description in pairs if description is not None}
    return found | ({"weights": WEIGHTED} if weighted else {})
