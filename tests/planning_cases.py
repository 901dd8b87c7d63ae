"""Networks, machines, works and measurements that the tests of planning share."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from hpcsamp import config as configuration
from hpcsamp.planning import fit, machine
from hpcsamp.planning.counts import OperationCounts
from hpcsamp.planning.machine import Machine, NetworkLinks, Storage, Wire
from hpcsamp.planning.rates import Rates
from hpcsamp.planning.workload import Workload

ALPHA, BETA, GAMMA = 2e-6, 1e-9, 3e-10


def a_network(**changes) -> NetworkLinks:
    given = {
        "within": Wire(alpha=1e-6, bandwidth=1e11),
        "between": Wire(alpha=5e-6, bandwidth=1e10),
        "adapters": 2,
    }
    return NetworkLinks(**{**given, **changes})


def a_work(**changes) -> Workload:
    given = Workload(
        name="net", key="net", samples=16, batch=64, weights=1000, drawn=1000, trained=2000,
        counts=OperationCounts((0.0, 1e6), (0.0, 1e4), 50), x_bytes=400.0, stored_bytes=100.0,
        horovod_from=math.inf,
    )  # fmt: skip
    return replace(given, **changes)


def a_machine(**changes) -> Machine:
    given = machine.load("horeka").model_copy(
        update={
            "network": a_network(),
            "storage": Storage(node=1e9, total=1e10),
            "jitter": 0.0,
        }
    )
    return given.model_copy(update=changes)


def rates(work: Workload, place: Machine, **changes) -> Rates:
    given = Rates(
        place, work, "measured", draw=1e-9, penalty=4e-9, update=2e-9, overhead=1e-4,
        augment=1e-10, copy=1e-9, passes=(1e-3, 1e-4),
    )  # fmt: skip
    return replace(given, **changes)


def of_config(name: str, *settings: str) -> Workload:
    from hpcsamp.run.prepare import source_of
    from hpcsamp.run.shapes import DataShapes

    run = configuration.load(name, settings)
    return Workload.of(run, DataShapes.of(source_of(run.data.synthetic)))


def points(names=("vit", "mlp"), noise=0.0, crowd=1.2) -> list[fit.MeasuredStep]:
    """Steps of a machine that is as the model says."""
    constants = {"vit": (2e-3, 4e-3, 1e-3), "mlp": (1e-3, 1e-4, 1e-5)}
    generator = np.random.default_rng(3)
    found = []
    for name in names:
        o, a, d = constants[name]
        for p in (1, 2):
            for s in (2, 4, 8, 16):
                for b in (8, 16, 64):
                    own = s // p
                    t = (crowd if p > 1 else 1) * (o + a * own + d * own * b)
                    t += (p > 1) * (2e-4 + 4 * 50_000 * 1e-9)
                    t *= 1 + noise * generator.standard_normal()
                    found.append(fit.MeasuredStep(name, s, b, p, 1, t, 50_000))
    return found


def record(point: fit.MeasuredStep) -> dict:
    return {
        "model": point.model, "samples": point.samples, "batch": point.batch,
        "sample_group_size": point.sample_size, "data_group_size": point.data_size,
        "seconds_per_step": point.seconds, "trained": point.trained,
    }  # fmt: skip
