"""What each number is, for tables, files and captions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_PLAIN = {
    # classes
    "accuracy": "fraction of items whose most probable class is right",
    "nll": "negative log predictive density, nats per item (of standardised values where the set "
    "is standardised)",
    "brier": "Brier score, sum over classes of squared differences, 0 to 2",
    "ece": "expected calibration error: mean |confidence - accuracy| over bins, weighted by items",
    "mace": "mean absolute calibration error, bin-unweighted: of classes, mean |confidence - "
    "accuracy| over non-empty bins; of values, mean |coverage - level| of the central intervals of "
    "5, 10 .. 95 % that S samples attain",
    "entropy": "total uncertainty: entropy of the predictive distribution, nats",
    "aleatoric": "aleatoric uncertainty: mean entropy of the samples' predictions, nats",
    "mutual_information": "epistemic uncertainty: total minus aleatoric, nats",
    "aurc": "area under the risk-coverage curve: mean over k of the error rate of the k most "
    "confident items (largest probability; ties by their average)",
    "risk_50": "error rate of the most confident 50 % of the items",
    "risk_80": "error rate of the most confident 80 % of the items",
    "risk_90": "error rate of the most confident 90 % of the items",
    # values
    "rmse": "root mean squared error of the predictive mean",
    "mae": "mean absolute error of the predictive mean",
    "bias": "mean of predictive mean minus target",
    "crps": "continuous ranked probability score of the mixture of all samples' normal "
    "distributions, exact (Grimit et al. 2006, eq. 5), mean over values",
    "nll_physical": "nll of the values in their own units: plus the log of their scales",
    "spread": "root mean predictive variance: noise, and unbiased variance of the samples' means "
    "(divided by S - 1)",
    "spread_epistemic": "root mean unbiased variance of the samples' means: what comes from the "
    "weights",
    "sharpness": "mean predictive standard deviation",
    "spread_skill": "sqrt((S+1)/S) * spread / rmse, observation noise counted once: 1 if "
    "calibrated, below 1 overconfident, above 1 underconfident",
    **{
        f"coverage_{q}": f"fraction of values inside the central {q} % interval of the mixture, or "
        "between order statistics of samples without noise"
        for q in (50, 80, 90, 95)
    },
    "items": "items evaluated",
}

_SCORES = {
    "total": "total uncertainty (entropy of the predictive, or mean predictive variance)",
    "epistemic": "epistemic uncertainty (mutual information, or mean variance of the samples)",
    "confidence": "one minus the largest probability",
}

#: Of one metric, by name. Units of the target are said beside the numbers.
DESCRIPTIONS: Mapping[str, str] = {
    **_PLAIN,
    **{
        f"ood_auroc_{score}": "probability that an out-of-distribution item scores higher than one "
        f"of this split, ties counted half; score: {said}"
        for score, said in _SCORES.items()
    },
    **{
        f"ood_fpr95_{score}": "fraction of out-of-distribution items that pass where 95 % of this "
        f"split pass; score: {said}"
        for score, said in _SCORES.items()
    },
}

WEIGHTED = "means over a grid are weighted by cos(latitude), with mean 1 (WeatherBench, Rasp 2020)"


def definitions(names: Iterable[str], weighted: bool = False) -> dict[str, str]:
    """What the named metrics are; ``weighted``: values are weighted by the area of grid cells.

    Those of one of several targets are called ``NAME/metric``.
    """
    pairs = ((name, DESCRIPTIONS.get(name.rpartition("/")[2])) for name in names)
    found = {name: said for name, said in pairs if said is not None}
    return found | ({"weights": WEIGHTED} if weighted else {})
