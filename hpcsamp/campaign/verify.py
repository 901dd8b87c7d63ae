"""Run a finished point again and compare parameters and metrics."""

from __future__ import annotations

import math
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpcsamp.campaign import products, render, site
from hpcsamp.campaign.point import Point, find
from hpcsamp.campaign.points import Campaign
from hpcsamp.campaign.resources import Shape
from hpcsamp.campaign.schedulers.base import clean
from hpcsamp.campaign.status import Survey
from hpcsamp.campaign.store import Store
from hpcsamp.errors import DataError, HpcsampError, UsageError

#: Configuration keys for the number of samples per pass.
CHUNKS = {"training": "method.samples_per_pass", "prediction": "evaluation.samples_per_pass"}
#: Values of these keys with which a run chooses the number itself.
FREE = (None, "auto")
GRID = ("world_size", "sample_group_size", "data_group_size", "model_group_size")


@dataclass(frozen=True)
class RunComparison:
    """Comparison of two runs of a point.

    Attributes
    ----------
    agrees
        Whether the runs agree.
    verdict
        Description of the result.
    rows
        Rows of a table: ``(name, value of the first run, value of the second run)``.
    """

    agrees: bool
    verdict: str
    rows: list[tuple[str, Any, Any]]


def choose(campaign: Campaign, text: str | None, random: bool) -> Point:
    """Choose the point to verify.

    Raises
    ------
    UsageError
        If the point is not done, or no point is.
    """
    survey = Survey(campaign, Store(campaign.folder).load(), ask_scheduler=False)
    done = [s.point for s in survey.of("done")]
    if not done:
        raise UsageError("no point is done yet: there is nothing to verify")
    if text is None:
        if not random:
            raise UsageError("name a point by its number or its folder, or add --random")
        return secrets.choice(done)
    point = find(campaign.points, text)
    if point not in done:
        raise UsageError(f"point {point.number}, {point.name} is not done")
    return point


def verify(
    campaign: Campaign,
    point: Point,
    *,
    ranks: int | None = None,
    tolerance: float = 1e-3,
    keep: bool = False,
) -> RunComparison:
    """Run a point again in a scratch folder of the campaign and compare the results.

    Inside a batch job, it is launched like the jobs of the campaign; elsewhere, by mpirun.

    Parameters
    ----------
    ranks
        Number of ranks; None for the point's own.
    tolerance
        Largest relative difference of a metric on another grid; on the same grid, the parameters
        must be identical bit for bit.

    Raises
    ------
    HpcsampError
        If the second run fails.
    """
    first = campaign.folder / "points" / point.name
    chunks = {key: n for key, n in _chunks(first).items() if point.settings.get(key) in FREE}
    point = replace(point, settings={**point.settings, **chunks})
    if ranks is not None:
        point = replace(point, shape=Shape(ranks=ranks, cores=point.shape.cores))
    with _scratch(campaign.folder, keep) as scratch:
        _run(campaign, point, scratch)
        return compare(first, scratch / "points" / point.name, campaign.spec.files(), tolerance)


def _chunks(folder: Path) -> dict[str, int]:
    """Return the samples per pass that a run chose, which affect the rounding of its sums."""
    try:
        chosen = products.read(folder, "summary.json")["passes"]
        return {CHUNKS[what]: int(chunk) for what, (chunk, _) in chosen.items()}
    except (DataError, LookupError, TypeError, ValueError):
        return {}


def compare(then: Path, now: Path, wanted: tuple[str, ...], tolerance: float) -> RunComparison:
    """Compare the result files of two runs of one point.

    Raises
    ------
    DataError
        If a result file is damaged.
    """
    rows: list[tuple[str, Any, Any]] = []
    worst, where = 0.0, ""
    for name in wanted:
        if not name.endswith(".json"):
            continue
        a, b = products.read(then, name), products.read(now, name)
        for key in sorted(a.get("metrics", {}).keys() | b.get("metrics", {}).keys()):
            x, y = a.get("metrics", {}).get(key), b.get("metrics", {}).get(key)
            rows.append((f"{Path(name).stem}.{key}", x, y))
            difference = _difference(x, y)
            if difference > worst:
                worst, where = difference, f"{Path(name).stem}.{key}"
    near = worst <= tolerance
    differ = (
        f"{where} has a relative difference of {worst:.2g}" if where else "all metrics are equal"
    )
    if "summary.json" not in wanted:
        return RunComparison(near, differ, rows)
    a, b = products.read(then, "summary.json"), products.read(now, "summary.json")
    grids = [tuple(s.get(k) for k in GRID) for s in (a, b)]
    hashes = [str(s["parameters_sha256"]) for s in (a, b)]
    rows.insert(0, ("parameters", hashes[0][:12], hashes[1][:12]))
    if hashes[0] == hashes[1]:
        return RunComparison(near, f"parameters are bitwise equal; {differ}", rows)
    if grids[0] == grids[1]:
        return RunComparison(
            False, f"parameters differ on the same grid; {differ}{_news(then, now)}", rows
        )
    grid = f"on {grids[1][0]} ranks instead of {grids[0][0]}"
    return RunComparison(near, f"{grid}, {differ} (tolerance {tolerance:g})", rows)


def _difference(x: Any, y: Any) -> float:
    if x == y:
        return 0.0
    if not isinstance(x, int | float) or not isinstance(y, int | float):
        return math.inf
    return abs(x - y) / max(abs(x), abs(y))


def _news(then: Path, now: Path) -> str:
    """List differences of versions, code and machine between two runs."""
    try:
        a, b = (products.read(f, "provenance.json")["starts"][-1] for f in (then, now))
    except (DataError, LookupError, TypeError):
        return ""
    news = [
        f"{k} was {a['packages'].get(k)}, is {v}"
        for k, v in b["packages"].items()
        if a["packages"].get(k) != v
    ]
    news += [
        f"{k} was {a.get(k)}, is {b.get(k)}"
        for k in ("git", "python", "hosts")
        if a.get(k) != b.get(k)
    ]
    return "; since then: " + ", ".join(news) if news else ""


def _run(campaign: Campaign, point: Point, scratch: Path) -> None:
    there = copy(campaign)
    if not {"SLURM_JOB_ID", "PBS_JOBID"} & os.environ.keys():
        launcher = "none" if point.shape.ranks == 1 else "mpirun"
        kept = {"env": campaign.site.env, "setup": campaign.site.setup} if campaign.site.env else {}
        there.site = site.load({"name": "local", "launcher": launcher, **kept}, campaign.root)
    [job] = render.arrays([point], there.site, 0)
    submission = scratch / "submissions" / "0001"
    submission.mkdir(parents=True)
    texts = {**render.files(there, [job], submission)}
    texts[job.script] = render.script(there, job, submission, folder=scratch)
    for name, text in texts.items():
        (submission / name).write_text(text)
    log = scratch / "log.txt"
    with log.open("wb") as out:
        done = subprocess.run(
            ["bash", str(submission / job.script), "0"],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={k: v for k, v in clean(os.environ).items() if not k.endswith("ARRAY_TASK_ID")},
        )
    if done.returncode:
        last = (log.read_text(errors="replace").strip().splitlines() or ["no output"])[-1]
        raise HpcsampError(f"the second run failed with exit code {done.returncode}: {last}")


@contextmanager
def _scratch(folder: Path, keep: bool) -> Iterator[Path]:
    """Create a scratch folder on the file system of the campaign, which all nodes see."""
    try:
        path = Path(tempfile.mkdtemp(prefix="verify-", dir=folder))
    except OSError as e:
        raise UsageError(f"cannot write {folder}: {e.strerror}") from e
    try:
        yield path
    finally:
        if not keep:
            shutil.rmtree(path, ignore_errors=True)
