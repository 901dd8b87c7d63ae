"""Registry of all methods, losses, likelihoods, tasks, networks, transports, datasets and
schedulers that a configuration can name.

Adding one of them takes a new file and one line here. A class is imported when it is first used.
"""

from __future__ import annotations

from typing import Literal

from hpcsamp.registry import Registry

METHODS = Registry(
    "method.name",
    {
        "mean_field": "hpcsamp.methods.mean_field:MeanField",
        "batch_ensemble": "hpcsamp.methods.batch_ensemble:BatchEnsemble",
        "ensemble": "hpcsamp.methods.ensemble:Ensemble",
        "flipout": "hpcsamp.methods.flipout:Flipout",
        "ivon": "hpcsamp.methods.ivon:Ivon",
        "last_layer": "hpcsamp.methods.last_layer:LastLayer",
        "local_reparameterisation": "hpcsamp.methods.local_reparameterisation:"
        "LocalReparameterisation",
        "mc_dropout": "hpcsamp.methods.mc_dropout:MCDropout",
        "rank1": "hpcsamp.methods.rank1:Rank1",
        "sgld": "hpcsamp.methods.sgld:Chains",
        "svgd": "hpcsamp.methods.svgd:SVGD",
        "swag": "hpcsamp.methods.swag:SWAG",
    },
    base="hpcsamp.methods:Method",
)

LOSSES = Registry(
    "loss.name",
    {
        "expected_nll": "hpcsamp.losses.expected:ExpectedNLL",
        "beta_nll": "hpcsamp.losses.beta:BetaNLL",
        "predictive_nll": "hpcsamp.losses.mixture:PredictiveNLL",
        "gaussian_mixture_nll": "hpcsamp.losses.mixture:GaussianMixtureNLL",
        "alpha_divergence": "hpcsamp.losses.mixture:AlphaDivergence",
        "importance_weighted_elbo": "hpcsamp.losses.importance:ImportanceWeightedELBO",
        "mean_mse": "hpcsamp.losses.moments:MeanMSE",
        "gaussian_moments_nll": "hpcsamp.losses.moments:GaussianMomentsNLL",
        "crps": "hpcsamp.losses.crps:CRPS",
        "energy_score": "hpcsamp.losses.energy:EnergyScore",
    },
    base="hpcsamp.losses:DataLoss",
)

LIKELIHOODS = Registry(
    "likelihood.name",
    {
        "categorical": "hpcsamp.losses.labels:Categorical",
        "pixelwise": "hpcsamp.losses.labels:Pixelwise",
        "bernoulli": "hpcsamp.losses.labels:Bernoulli",
        "cumulative_logits": "hpcsamp.losses.labels:CumulativeLogits",
        "gaussian": "hpcsamp.losses.likelihoods:Gaussian",
        "learned_gaussian": "hpcsamp.losses.likelihoods:LearnedGaussian",
        "predicted_gaussian": "hpcsamp.losses.likelihoods:PredictedGaussian",
        "poisson": "hpcsamp.losses.counts:Poisson",
        "negative_binomial": "hpcsamp.losses.counts:NegativeBinomial",
        "student_t": "hpcsamp.losses.likelihoods:StudentT",
    },
    base="hpcsamp.losses:Likelihood",
)

TASKS = Registry(
    "task.kind",
    {
        "classification": "hpcsamp.tasks.classification:Classification",
        "regression": "hpcsamp.tasks.regression:Regression",
        "multilabel": "hpcsamp.tasks.multilabel:Multilabel",
        "segmentation": "hpcsamp.tasks.segmentation:Segmentation",
        "counts": "hpcsamp.tasks.counts:Counts",
        "ordinal": "hpcsamp.tasks.ordinal:Ordinal",
        "several": "hpcsamp.tasks.several:Several",
    },
    base="hpcsamp.tasks:Task",
)

MODELS = Registry(
    "model.name",
    {
        "mlp": "hpcsamp.models.mlp:MLP",
        "vit": "hpcsamp.models.vit:ViT",
        "swin": "hpcsamp.models.swin:Swin",
        "mixer": "hpcsamp.models.mixer:Mixer",
        "lstm": "hpcsamp.models.steps:LSTM",
        "gru": "hpcsamp.models.steps:GRU",
        "temporal": "hpcsamp.models.steps:Temporal",
        "given": "hpcsamp.models.given:given",
    },
)

TRANSPORTS = Registry(
    "parallel.collectives",
    {
        "horovod": "hpcsamp.collectives.horovod:HorovodCollectives",
        "mpi": "hpcsamp.collectives.mpi:MpiCollectives",
        "torch": "hpcsamp.collectives.torch:TorchCollectives",
        "none": "hpcsamp.collectives.base:Alone",
    },
    base="hpcsamp.collectives:Collectives",
    words=("auto",),
)

CALLBACKS = Registry("training.callbacks", {}, base="hpcsamp.training.callbacks:Callback")

SETS = Registry(  # sources of hpcsamp ingest
    "ingest",
    {
        "digits": "hpcsamp.ingest.digits:digits",
        "npz": "hpcsamp.ingest.npz:npz",
        "named": "hpcsamp.ingest.npz_named:named",
        "npy": "hpcsamp.ingest.npy:npy",
        "csv": "hpcsamp.ingest.tables:table",
        "parquet": "hpcsamp.ingest.arrow:parquet",
        "arrow": "hpcsamp.ingest.arrow:arrow",
        "images": "hpcsamp.ingest.images:images",
        "netcdf": "hpcsamp.ingest.netcdf:netcdf",
        "zarr": "hpcsamp.ingest.netcdf:zarr",
        "grib": "hpcsamp.ingest.layouts:grib",
        "anemoi": "hpcsamp.ingest.layouts:anemoi",
        "makani": "hpcsamp.ingest.layouts:makani",
        "tar": "hpcsamp.ingest.tar:tar",
        "cifar10": "hpcsamp.ingest.cifar10:cifar10",
        "series": "hpcsamp.ingest.series:series",
        "entsoe": "hpcsamp.ingest.entsoe:entsoe",
        "era5": "hpcsamp.ingest.era5:era5",
        "synthetic": "hpcsamp.ingest.synthetic:synthetic",
    },
)

MADE_UP = Registry(
    "data.synthetic.like",
    {
        "digits": "hpcsamp.ingest.synthetic:Digits",
        "cifar10": "hpcsamp.ingest.synthetic:Cifar10",
        "entsoe": "hpcsamp.ingest.synthetic:Entsoe",
        "era5": "hpcsamp.ingest.synthetic:Era5",
        "tags": "hpcsamp.ingest.made_up:Tags",
        "blobs": "hpcsamp.ingest.made_up:Blobs",
        "visits": "hpcsamp.ingest.made_up:Visits",
        "ratings": "hpcsamp.ingest.made_up:Ratings",
    },
    base="hpcsamp.ingest.synthetic:Synthetic",
)

SCHEDULERS = Registry(
    "site.scheduler",
    {
        "slurm": "hpcsamp.campaign.schedulers.slurm:Slurm",
        "pbs": "hpcsamp.campaign.schedulers.pbs:PBS",
        "local": "hpcsamp.campaign.schedulers.local:Local",
    },
    base="hpcsamp.campaign.schedulers:Scheduler",
)

Task = Literal["classification", "regression", "multilabel", "segmentation", "counts", "ordinal"]
Precision = Literal["float32", "float64", "bfloat16"]
GraphsKey = bool | Literal["auto"]

Strategy = Literal["auto", "loop", "vmap", "batched"]

# data
Compression = Literal["gzip", "lzf"]
ReaderName = Literal["auto", "direct", "serial", "collective", "broadcast", "memory"]
Shuffle = Literal["global", "pool", "none"]
Verify = Literal["all", "sampled", "off"]
Share = Literal["sample", "rank", "all"]

# losses
KL = Literal["analytic", "monte_carlo"]
Memory = Literal["auto", "keep", "stream", "recompute"]

# grid
SampleAxis = Literal["node", "world", "none"] | int

# planning and benchmarks: S and batch fixed, or the batch or S growing with the ranks
Growth = Literal["fixed", "growing", "proportional"]
ScalingMode = Literal["fixed", "fixed-growing-batch", "proportional"]
