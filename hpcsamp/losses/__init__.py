"""Loss functions of all S outputs, exact for samples that are spread over ranks."""

from hpcsamp.losses import schedules
from hpcsamp.losses.about import About, Shared
from hpcsamp.losses.base import DataLoss, LinearLoss, StatisticsLoss
from hpcsamp.losses.beta import BetaNLL
from hpcsamp.losses.counts import NegativeBinomial, Poisson
from hpcsamp.losses.crps import CRPS
from hpcsamp.losses.custom import Custom
from hpcsamp.losses.document import render
from hpcsamp.losses.elbo import ELBO, Parts, check_parts
from hpcsamp.losses.energy import EnergyScore
from hpcsamp.losses.exactness import Exactness, check_exactness
from hpcsamp.losses.expected import ExpectedNLL
from hpcsamp.losses.importance import ImportanceWeightedELBO
from hpcsamp.losses.labels import Bernoulli, Categorical, CumulativeLogits, Pixelwise
from hpcsamp.losses.layers import LayerKL, kl_by_layer
from hpcsamp.losses.likelihoods import (
    FittedGaussian,
    Gaussian,
    LearnedGaussian,
    Likelihood,
    PredictedGaussian,
    Samples,
    StudentT,
)
from hpcsamp.losses.mixture import (
    AlphaDivergence,
    GaussianMixtureNLL,
    PredictiveNLL,
    log_mean_exp,
)
from hpcsamp.losses.moments import GaussianMomentsNLL, MeanMSE, centred_moments
from hpcsamp.losses.registry import defaults, make, make_likelihood
from hpcsamp.losses.several import Likelihoods, Several
from hpcsamp.losses.values import latitude_weights, like_target, over_values
from hpcsamp.names import LIKELIHOODS, LOSSES

__all__ = [
    "CRPS",
    "ELBO",
    "LIKELIHOODS",
    "LOSSES",
    "About",
    "AlphaDivergence",
    "Bernoulli",
    "BetaNLL",
    "Categorical",
    "CumulativeLogits",
    "Custom",
    "DataLoss",
    "EnergyScore",
    "Exactness",
    "ExpectedNLL",
    "FittedGaussian",
    "Gaussian",
    "GaussianMixtureNLL",
    "GaussianMomentsNLL",
    "ImportanceWeightedELBO",
    "LayerKL",
    "LearnedGaussian",
    "Likelihood",
    "Likelihoods",
    "LinearLoss",
    "MeanMSE",
    "NegativeBinomial",
    "Parts",
    "Pixelwise",
    "Poisson",
    "PredictedGaussian",
    "PredictiveNLL",
    "Samples",
    "Several",
    "Shared",
    "StatisticsLoss",
    "StudentT",
    "centred_moments",
    "check_exactness",
    "check_parts",
    "defaults",
    "kl_by_layer",
    "latitude_weights",
    "like_target",
    "log_mean_exp",
    "make",
    "make_likelihood",
    "over_values",
    "schedules",
    "table",
]


def table() -> str:
    """Return the table of losses in the README, as Markdown."""
    return render(LOSSES)
