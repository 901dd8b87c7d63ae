"""``hpcsamp bench``: benchmarks, one file per command."""

from __future__ import annotations

from hpcsamp.cli.tree import group

#: Commands in the order of the help, each with its module and the first line of its docstring.
COMMANDS = {
    "scaling": (
        "hpcsamp.cli.bench_scaling:scaling",
        "Time training steps on increasing numbers of ranks: speed-up, or efficiency if S grows.",
    ),
    "baselines": (
        "hpcsamp.cli.bench_baselines:baselines",
        "Time whole training steps of hpcsamp and of its baselines, in alternating rounds.",
    ),
    "step": (
        "hpcsamp.cli.bench_step:step",
        "Time a training step on all ranks and on one, against S plain passes and torch_blue.",
    ),
    "feed": (
        "hpcsamp.cli.bench_feed:feed",
        "Compare delivering a batch to all ranks by duplicate reads, a broadcast or a shared ring.",
    ),
    "exactness": (
        "hpcsamp.cli.bench_exactness:exactness",
        "Measure the gradient error of loss.exact = false against the number of ranks, per loss.",
    ),
    "reference": (
        "hpcsamp.cli.bench_reference:reference",
        "Compare held-out likelihoods with those of scikit-learn's models on small datasets.",
    ),
    "sbc": (
        "hpcsamp.cli.bench_sbc:sbc",
        "Check posteriors by simulation-based calibration on linear regressions (Talts et al. "
        "2018).",
    ),
    "conformal": (
        "hpcsamp.cli.bench_conformal:conformal",
        "Measure the coverage of conformal intervals over many fits and over a drifting time "
        "series.",
    ),
    "forecast": (
        "hpcsamp.cli.bench_forecast:forecast",
        "Compare forecasts of runs with seasonal naive, ETS, SARIMA and boosted quantiles.",
    ),
    "dropout": (
        "hpcsamp.cli.bench_dropout:dropout",
        "Time Monte Carlo dropout against plain passes over a batch S/P times as large.",
    ),
    "calibrate": (
        "hpcsamp.cli.calibrate:calibrate",
        "Measure the constants of the performance model and, with --check, its error.",
    ),
    "gpu": (
        "hpcsamp.cli.bench_gpu:gpu",
        "Time whole training steps on one GPU, and compare them with performance goals.",
    ),
    "load": (
        "hpcsamp.cli.bench_load:load",
        "Time hs.load(RUN).predict against plain passes, and its first call against import torch.",
    ),
    "memory": (
        "hpcsamp.cli.bench_memory:memory",
        "Measure the peak memory of each rank in a few training steps and compare the prediction.",
    ),
    "checkpoint": (
        "hpcsamp.cli.bench_checkpoint:checkpoint",
        "Time how long a checkpoint takes to write, and how long it pauses training.",
    ),
    "transports": (
        "hpcsamp.cli.bench_transports:transports",
        "Time the all-reduce of a gradient with Horovod, MPI and torch.distributed.",
    ),
    "model-axis": (
        "hpcsamp.cli.bench_model_axis:model_axis",
        "Time a mixer's step on M model ranks against 1/M of its matrix products on all cores.",
    ),
}

app = group(
    "bench",
    """Benchmark hpcsamp on this machine, against real baselines.

    Examples:

        hpcsamp bench scaling --workload vit-digits --ranks 1,2 --small

        hpcsamp bench calibrate --check --output calibration.json
    """,
    COMMANDS,
)
