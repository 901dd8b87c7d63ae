"""One right file of every kind that is read back, and what reads it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import data_sets
import h5py
import numpy as np
import torch

from hpcsamp import config
from hpcsamp.bench import records
from hpcsamp.campaign import products, submit
from hpcsamp.campaign.schedulers import runner
from hpcsamp.campaign.store import CampaignState, JobRecord, Store, Submission
from hpcsamp.data import Dataset
from hpcsamp.errors import CheckpointError
from hpcsamp.planning import calibration, fit
from hpcsamp.prediction.writer import ParallelFile
from hpcsamp.processes import started
from hpcsamp.report.records import read_run
from hpcsamp.run import checkpoint, retention
from hpcsamp.run.folder import RunFolder
from hpcsamp.sealing import hdf5, text
from hpcsamp.tasks.coordinates import read_coordinates
from hpcsamp.tasks.layout import FileLayout, FileVariable

Made = tuple[Path, Callable[[], Any], bytes, bool]


def make(folder: Path) -> dict[str, Made]:
    """Path, reader, the bytes of another one, and whether a beginning is right; by name."""
    made: dict[str, Made] = {}
    for build in (_data, _run, _campaign, _measured):
        for name in ("a", "b"):
            (folder / name).mkdir(exist_ok=True)
        one, two = build(folder / "a", 1), build(folder / "b", 2)
        for name, (path, read, prefix) in one.items():
            other = b"" if build is _measured else two[name][0].read_bytes()
            made[name] = (path, read, other, prefix)
    return made


Built = dict[str, tuple[Path, Callable[[], Any], bool]]


def _data(folder: Path, seed: int) -> Built:
    place = folder / "set"
    data_sets.make(place, count=30, chunk_bytes=600, seed=seed)

    def shard() -> Any:
        with Dataset.open(place) as dataset:
            axes = read_coordinates(dataset)
            return dataset.read_all("x"), dataset.read_all("y"), repr(axes.axes)

    return {
        "manifest": (place / "manifest.json", shard, False),
        "shard": (place / "shard-00000.h5", shard, False),
    }


def _run(folder: Path, seed: int) -> Built:
    from mpi4py import MPI

    from hpcsamp.grid import AXES, RankAxis, Topology, plan_grid

    place = folder / "run"
    run = RunFolder(place)
    table = {"seed": seed, "data": {"path": "d"}, "model": {"name": "mlp", "hidden": [4]}}
    settings = config.check(table)
    run.prepare(settings, resume=False)
    run.add_start({"git": {"commit": f"{seed}" * 40, "diff_sha256": ""}, "step": 0})
    for step in range(1, 9):
        run.log("train", step=step, loss=seed / step)
    run.log("valid", step=8, epoch=0, nll=0.5, accuracy=None)
    run.write_summary(
        {"steps": 8, "planned_steps": 8, "metrics": {"nll": 0.5}, "parameters_sha256": "ab" * 32}
    )
    result = {"split": "test", "samples": 4, "metrics": {"nll": 0.1 * seed}, "reliability": {}}
    (place / "evaluation").mkdir()
    run.write_json("evaluation/test.json", result)

    comm = MPI.COMM_SELF
    topology = Topology(
        plan_grid(["node"], "node"), comm, comm, tuple(RankAxis(n, comm) for n in AXES), comm,
        torch.device("cpu"),
    )  # fmt: skip
    index = np.arange(40)
    layout = FileLayout(
        {"index": FileVariable(("index",), "<i8", values=index)},
        {
            "total": FileVariable(("index",), "<f4", "nat"),
            "target": FileVariable(("index",), "<i8"),
        },
        {"run": run.run, "split": "test", "format": text.FORMAT},
    )
    for path in (place / "evaluation/test.h5", folder / "predictions.h5"):
        file = ParallelFile(path, layout, topology)
        for rows in np.split(index, 4):
            file.write("total", rows, np.sqrt(rows) * seed)
            file.write("target", rows, rows % 3)
        file.finish()

    def content(f: h5py.File) -> dict[str, Any]:
        attributes = {k: str(v) for k, v in f.attrs.items()}
        return {**attributes, **{k: (d[()], d.attrs.get("units", "")) for k, d in f.items()}}

    def items() -> Any:
        evaluation = read_run(place).evaluation("test")
        assert evaluation is not None
        with evaluation.open() as f:
            return content(f)

    def predictions() -> Any:
        with hdf5.opened(folder / "predictions.h5", run.run) as f:
            return content(f)

    def evaluated() -> Any:
        found = read_run(place).evaluation("test")
        return None if found is None else [found.split, found.samples, found.metrics]

    saved = checkpoint.step_path(run.checkpoints, 8)
    plain = settings.model_dump(mode="json", exclude_none=True)
    mean = torch.randn(30, generator=torch.manual_seed(seed))
    checkpoint.save(saved, {"step": 8, "run": run.run, "config": plain, "method": {"mean": mean}})

    def state() -> Any:
        found = checkpoint.read(saved)
        checkpoint.check_config(saved, found["config"], plain)
        checkpoint.check_run(saved, found, run.run)
        return found

    def newest() -> Any:
        path, _ = retention.newest_whole(run.checkpoints)
        if path is None:
            raise CheckpointError("there is none")
        return state()

    def configuration() -> Any:
        folder = RunFolder(place)
        found = folder.config()
        checkpoint.check_run(saved, checkpoint.read(saved), folder.run)
        return found.model_dump()

    return {
        "config.toml": (
            place / "config.toml",
            configuration,
            False,
        ),
        "config.toml, report": (place / "config.toml", lambda: read_run(place).config, False),
        "provenance.json": (
            place / "provenance.json",
            lambda: RunFolder(place).read_json("provenance.json"),
            False,
        ),
        "metrics.jsonl": (place / "metrics.jsonl", lambda: list(RunFolder(place).events()), True),
        "metrics.jsonl, report": (place / "metrics.jsonl", lambda: read_run(place).events, True),
        "summary.json": (place / "summary.json", lambda: _product(place, "summary.json"), False),
        "evaluation.json": (place / "evaluation/test.json", evaluated, False),
        "evaluation.h5": (place / "evaluation/test.h5", items, False),
        "predictions.h5": (folder / "predictions.h5", predictions, False),
        "checkpoint": (saved, state, False),
        "checkpoint, resume": (saved, newest, False),
    }


def _product(folder: Path, name: str) -> Any:
    products.check(folder, [name])
    return products.read(folder, name)


def _campaign(folder: Path, seed: int) -> Built:
    store = Store(folder / f"campaign-{seed}")
    place = store.submission(1)
    place.mkdir(parents=True)
    table = f"aaaaaaaaaaa{seed}\tseed={seed}\nbbbbbbbbbbb{seed}\tseed=7\n"
    (place / "points-00.tsv").write_text(table)
    record = JobRecord(
        script="job-00.sh",
        table="points-00.tsv",
        sha256="ab" * 32,
        table_sha256=submit._sha256(table),
        count=2,
        shape="1 rank",
        job=f"{seed}",
    )
    submission = Submission(number=1, scheduler="local", jobs=[record])
    store.save(CampaignState(datasets={"d": f"uid{seed}"}, submissions=[submission]))
    hashes = {"points-00.tsv": submit._sha256(table), "job-00.sh": f"{seed}" * 64}
    (place / submit.RENDERED).write_text(text.to_json({"files": hashes}, text.owner_of(place)))
    queue = {"cores": 2, "at_once": 0, "arrays": [{"script": "job-00.sh", "count": seed}]}
    (place / runner.QUEUE).write_text(text.to_json(queue, text.owner_of(place)))
    state = {"pid": os.getpid(), "started": started(os.getpid()), "next": seed, "again": []}
    (place / runner.STATE).write_text(text.to_json({**state, "running": []}, text.owner_of(place)))

    def running() -> Any:
        found = runner.alive(place)
        return None if found is None else dict(found)

    return {
        "campaign.json": (store.file, lambda: store.load().model_dump(), False),
        "rendered.json": (place / submit.RENDERED, lambda: submit._recorded(place), False),
        "points.tsv": (place / "points-00.tsv", lambda: store.members(submission, record), False),
        "local.json": (place / runner.QUEUE, lambda: runner.Runner(place).arrays, False),
        "local-state.json": (place / runner.STATE, running, False),
    }


def _measured(folder: Path, seed: int) -> Built:
    file = folder / "calibration.json"
    rates = dict.fromkeys(("draw", "penalty", "update", "augment", "read", "copy"), 1e-9 * seed)
    model = {"key": "k", "name": "m", "base": 1e-3, "per_item": 1e-4, "overhead": 1e-3}
    model |= {"flops": 1e6, "operations": 10}
    table = {"machine": {"cpu": "x"}, "models": [model], "agreement": 1e-5, **rates}
    calibration.save(file, calibration.Calibration.model_validate(table))
    lines = folder / "scaling.jsonl"
    record = {"model": "m", "samples": 4, "batch": 8, "sample_group_size": 2, "world_size": 2}
    records.write(lines, [{**record, "seconds_per_step": seed * t} for t in (0.1, 0.2, 0.3)])
    return {
        "calibration.json": (file, lambda: calibration.load(file).model_dump(), False),
        "scaling.jsonl": (lines, lambda: fit.read(lines), True),
    }
