"""``hpcsamp bench``: measured experiments, one file a command."""

from __future__ import annotations

import typer

from hpcsamp.cli.bench_baselines import baselines
from hpcsamp.cli.bench_checkpoint import checkpoint
from hpcsamp.cli.bench_dropout import dropout
from hpcsamp.cli.bench_exactness import exactness
from hpcsamp.cli.bench_feed import feed
from hpcsamp.cli.bench_gpu import gpu
from hpcsamp.cli.bench_load import load
from hpcsamp.cli.bench_memory import memory
from hpcsamp.cli.bench_model_axis import model_axis
from hpcsamp.cli.bench_reference import reference
from hpcsamp.cli.bench_scaling import scaling
from hpcsamp.cli.bench_step import step
from hpcsamp.cli.calibrate import calibrate

app = typer.Typer(no_args_is_help=True, help="Measure this machine, against real baselines.")
for command in (
    scaling,
    baselines,
    step,
    feed,
    exactness,
    reference,
    dropout,
    calibrate,
    gpu,
    load,
    memory,
    checkpoint,
    model_axis,
):
    app.command()(command)
