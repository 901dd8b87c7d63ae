"""Records of scaling experiments, one JSON object per line, read by ``report`` and ``plan``.

Each line is one configuration, sealed (:mod:`hpcsamp.sealing.text`), with:

    event                    "scaling" or "baseline" (others have fields of their own)
    workload, model          name of the workload, and CONFIG[:PRESET], as in ``hpcsamp plan``
    mode, grid, label        scaling mode, null for a single configuration; alone, sampling, data,
                             hybrid or model; row of the table
    variant                  "hpcsamp", or a baseline
    world_size, nodes        ranks, nodes
    sample_group_size, data_group_size, model_group_size       P, D, M
    samples, batch, items    S, items per step over all data groups, N
    steps_per_epoch          steps of a whole epoch (steps of a round: ``round_steps``)
    rounds                   seconds per step of the slowest rank in each round
    seconds_per_step         their median (``spread``: minimum and maximum)
    seconds_per_epoch        seconds for all N items
    phases                   seconds per step by phase on rank 0, median over rounds
    peak_rss_mb              peak memory of each rank, in MiB
    peak_gpu_mb              peak of what torch allocated on each rank's GPU, in MiB; 0 without one
    trained                  size of the gradient
    collectives, threads, device, precision    transport with its settings; settings of a rank
    machine, versions, commit, date, command   provenance
"""

from __future__ import annotations

import os
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hpcsamp.errors import UsageError
from hpcsamp.files import write_whole
from hpcsamp.sealing import text

#: Packages whose versions influence the measured times.
PACKAGES = ("hpcsamp", "torch", "torch_blue", "horovod", "mpi4py", "numpy", "h5py")


def surroundings(device: str = "cpu") -> dict[str, Any]:
    """Return the machine, versions, commit, date and command."""
    import hpcsamp
    from hpcsamp.devices import driver
    from hpcsamp.planning.calibration import fingerprint
    from hpcsamp.provenance import git_state, packages

    known = {name.lower().replace("-", "_"): v for name, v in packages().items()}
    git = git_state(Path(hpcsamp.__file__).parent)
    machine = fingerprint(device) | {"usable_cores": len(os.sched_getaffinity(0))}
    if device == "cuda":
        machine["driver"] = driver()
    return {
        "machine": {k: v for k, v in machine.items() if k not in ("torch", "threads")},
        "versions": {name: known[name] for name in PACKAGES if name in known},
        "commit": None if git is None else git["commit"][:12] + "+" * bool(git["diff_sha256"]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["hpcsamp", *sys.argv[1:]]),
    }


def timed(rounds: Sequence[float], items: int, batch: int) -> dict[str, Any]:
    """Return the fields of a record that are computed from its rounds."""
    median = statistics.median(rounds)
    return {
        "rounds": list(rounds),
        "seconds_per_step": median,
        "spread": [min(rounds), max(rounds)],
        "seconds_per_epoch": median * items / batch,
    }


def phases(watched: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median over rounds of each phase."""
    found = [w for w in watched if w]
    return {name: statistics.median(w[name] for w in found) for name in (found[0] if found else ())}


def write(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write the records to a file atomically.

    Raises
    ------
    UsageError
        If it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.to_lines({text.VERSION: text.FORMAT, **r} for r in records))
    except OSError as e:
        raise UsageError(f"cannot write {path}: {e.strerror}") from e
