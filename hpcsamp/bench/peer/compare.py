"""``hpcsamp bench baselines --against numpyro``: steps of hpcsamp and NumPyro in turns.

Every variant runs on the same single core with one thread in its own process; hpcsamp's step is
that of ``hpcsamp train``, including feed, agreement and log.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpcsamp.bench import records
from hpcsamp.bench.peer import svi
from hpcsamp.bench.peer.cases import ITEMS, Case
from hpcsamp.bench.turns import Turns, VariantJob
from hpcsamp.bench.variants import OURS, Variant
from hpcsamp.errors import HpcsampError

PEER, FLOOR = "numpyro", "eager_floor"
#: One thread of XLA, which reads both when it starts.
XLA = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def peer_job(case: Case, batch: Path, python: Path, core: int | None) -> VariantJob:
    """Create the job of NumPyro on one core."""
    environment = {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "XLA_FLAGS": XLA,
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": "0",
    }
    arguments = ["-I", str(svi.__file__), json.dumps(case.for_peer(batch))]
    return VariantJob(PEER, 1, arguments, environment, python=str(python), core=core)


def measure(
    case: Case, folder: Path, python: Path, settings: Sequence[str], rounds: int
) -> list[dict[str, Any]]:
    """Measure hpcsamp, NumPyro and torch's lower bound in turns; return a record of each.

    Parameters
    ----------
    folder
        Empty folder for the data and the configuration.
    python
        Interpreter of NumPyro's environment.
    settings
        Keys of hpcsamp's configuration to set.
    rounds
        Number of timed rounds, after one warm-up round.

    Raises
    ------
    HpcsampError
        If a variant fails, or does not run on the core that was assigned to it.
    """
    config, batch = case.write(folder)
    core = min(os.sched_getaffinity(0))
    ours, floor = (
        Variant(name, name, str(config), None, tuple(settings), 1, None, case.steps)
        for name in (OURS, FLOOR)
    )
    jobs = [ours.job(core=core), peer_job(case, batch, python, core), floor.job(core=core)]
    with Turns(jobs) as turns:
        found = turns.rounds("round", rounds, warm=1)
        ends = turns.end()
    where = records.surroundings()
    made = []
    for name, own, told in zip((OURS, PEER, FLOOR), found, ends, strict=True):
        if told["cores"] != [core]:
            raise HpcsampError(f"{name} ran on cores {told['cores']}, not on core {core} alone")
        times = [answer["seconds"] for answer in own]
        made.append(
            {
                "event": "peer",
                "network": case.name,
                "variant": name,
                "samples": case.samples,
                "batch": case.batch,
                "round_steps": case.steps,
                **records.timed(times, ITEMS, case.batch),
                **where,
                **told,
                "versions": where["versions"] | told.get("versions", {}),
            }
        )
    return made


def ratio(found: Sequence[dict[str, Any]], above: str, below: str) -> dict[str, float]:
    """Return median, minimum and maximum over rounds of the ratio of two variants' times."""
    rounds = {record["variant"]: record["rounds"] for record in found}
    values = [a / b for a, b in zip(rounds[above], rounds[below], strict=True)]
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
