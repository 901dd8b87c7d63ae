"""Evaluation of a finished (or stopped) run: load, evaluate a split, write ``evaluation/``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpcsamp import collectives as exchange
from hpcsamp.config import RunConfig
from hpcsamp.data import Dataset
from hpcsamp.errors import CheckpointError, UsageError
from hpcsamp.prediction.evaluate import Evaluator, gather_items
from hpcsamp.topology import Topology, share_samples, together
from hpcsamp.training import build, checkpoint, state
from hpcsamp.training.record import RunFolder, write_whole


def evaluate_run(
    folder: RunFolder,
    config: RunConfig,
    topology: Topology,
    *,
    split: str,
    samples: int,
    which: str = "last",
) -> dict[str, Any]:
    """Evaluate a run on a split and write ``evaluation/SPLIT.json`` and ``.h5``. Collective.

    Parameters
    ----------
    samples
        ``S`` of the predictive distribution.
    which
        ``"last"``, ``"best"``, or the path of a checkpoint.

    Returns
    -------
    dict
        What was written to the JSON file.
    """
    with together(topology.world):
        share_samples(samples, topology.grid, topology.sample_rank)
        path = _checkpoint(folder, which) if topology.is_root else None
    path = topology.world.bcast(path)
    with together(topology.world):
        saved = checkpoint.read(path, topology.device)
        checkpoint.check_config(path, saved["config"], config.model_dump(exclude_none=True))
        dataset = Dataset.open(config.data.path, split)
        method = build.method(config, dataset, topology)
        method.load_state_dict(state.part_of_method(saved["method"], method.members))
        likelihood = build.likelihood(config)
    evaluator = Evaluator(
        dataset,
        topology,
        exchange.choose(topology, "mpi"),  # there is no gradient to exchange
        likelihood,
        samples=samples,
        batch=config.evaluation.batch,
        bins=config.evaluation.bins,
        dtype=build.DTYPES[config.training.precision],
        reader=config.data.reader,
    )
    try:
        found = evaluator.run(method, keep_items=True)
    finally:
        evaluator.close()
    result = {
        "split": split,
        "checkpoint": path.name,
        "step": saved["step"],
        "samples": samples,
        "temperature": config.loss.temperature,
        "metrics": found.metrics,
        "reliability": found.reliability,
    }
    items = gather_items(found.items, topology)
    with together(topology.world):
        if items is not None:
            _write(folder, split, result, items)
            folder.log(split, step=saved["step"], **found.metrics)
    return result


def _checkpoint(folder: RunFolder, which: str) -> Path:
    if which == "last":
        path = checkpoint.latest(folder.checkpoints)
        if path is None:
            raise CheckpointError(f"{folder.path} has no checkpoint yet")
        return path
    return folder.checkpoints / "best.pt" if which == "best" else Path(which)


def _write(
    folder: RunFolder, split: str, result: dict[str, Any], items: dict[str, np.ndarray]
) -> None:
    place = folder.path / "evaluation"
    try:
        place.mkdir(exist_ok=True)
        # Plain I/O on one rank: nothing collective to meet a reader's thread.
        temporary = place / f".{split}.h5"
        with h5py.File(temporary, "w", driver="sec2") as f:
            for name, values in items.items():
                f.create_dataset(name, data=values)
            f.attrs["samples"] = result["samples"]
            f.attrs["checkpoint"] = result["checkpoint"]
        temporary.replace(place / f"{split}.h5")
        write_whole(place / f"{split}.json", json.dumps(result, indent=1) + "\n")
    except OSError as e:
        raise UsageError(f"cannot write {place}: {e.strerror or e}") from e
