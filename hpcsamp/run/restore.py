"""Restore a run from a checkpoint, ready to predict on any grid."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from hpcsamp.config import RunConfig, check
from hpcsamp.errors import CheckpointError
from hpcsamp.grid import Topology, together
from hpcsamp.run import checkpoint, chosen, laplace, noise_form, resolve
from hpcsamp.run.assemble import Run, in_turn
from hpcsamp.run.folder import RunFolder
from hpcsamp.run.places import Places
from hpcsamp.run.saved import OTHER_DRAWS, UNSEALED, Saved
from hpcsamp.run.trained import Trained


@dataclass(frozen=True)
class Restored:
    """A run with the parameters of a checkpoint.

    Attributes
    ----------
    run
        Run on this rank.
    folder
        Folder of the run.
    trained
        Training set, whose statistics standardise all inputs.
    checkpoint, step
        Checkpoint of the parameters, and its step.
    samples
        ``S`` of the predictive distribution.
    """

    run: Run
    folder: RunFolder
    trained: Trained
    checkpoint: Path
    step: int
    samples: int


def restore(
    folder: RunFolder,
    config: RunConfig,
    topology: Topology,
    *,
    samples: int | None = None,
    which: str = "last",
    posterior: bool = False,
) -> Restored:
    """Restore a run with the parameters of a checkpoint. Collective over the world.

    Parameters
    ----------
    samples
        ``S`` of the predictive distribution; None for the number that the method holds or usually
        draws.
    which
        ``"last"``, ``"best"``, or the path of a checkpoint.
    posterior
        Whether the method is the Laplace posterior of the checkpoint (``hpcsamp laplace``), if it
        has one.

    Raises
    ------
    CheckpointError, DataError, UsageError
        If there is no checkpoint or its configuration differs, if neither the run folder nor its
        dataset describes the training set, or if the samples cannot be divided over the ranks; the
        same on every rank.
    """
    with together(topology.world):
        path = _checkpoint(folder, which) if topology.is_root else None
    path = topology.world.bcast(path)
    with together(topology.world):
        opened = Saved(path)
        saved = opened.content
        if saved["version"] == UNSEALED and topology.is_root:
            sys.stderr.write(
                f"hpcsamp: checkpoint {path} was written before files were sealed (format version "
                f"{UNSEALED}): damage may go unnoticed\n"
            )
        config = resolve.of_version(config, saved["version"])
        before = resolve.of_version(check(saved["config"], "checkpoint"), saved["version"])
        checkpoint.check_config(path, resolve.table_of(before), resolve.table_of(config))
        if which in ("last", "best"):
            checkpoint.check_run(path, saved, folder.run)
        trained = Trained.read(folder, config)
        if saved["dataset"] != trained.manifest.uid:
            raise CheckpointError(
                f"checkpoint {path} was trained on dataset {saved['dataset']}, but "
                f"{trained.path} is {trained.manifest.uid}; choose another dataset with --data"
            )
    with together(topology.world), in_turn(topology):
        run = Run.of(config, trained.items(0), topology)
    places = Places(run.method, topology)
    with together(topology.world):
        method = run.method
        if saved["version"] <= OTHER_DRAWS and method.draws_weights and topology.is_root:
            sys.stderr.write(
                f"hpcsamp: checkpoint {path} has format version {saved['version']}; the draws of "
                f"weights have changed since then: predictions use other samples of the same "
                f"distribution than before\n"
            )
        if topology.is_root:
            noise_form.draws_of_prediction(path, saved, method)
        part = opened.state("average" if "average" in opened else "method", places)
        if saved["version"] == UNSEALED:  # buffers and frozen parameters keep their initial values
            part = method.state_dict() | part
        method.load_state_dict(part)
        method.step = saved["step"]
        chosen.take(saved, method, topology)
    if posterior:
        own = path.resolve().parent == folder.checkpoints.resolve()
        run.method = laplace.apply(run, topology, folder, saved["step"], own=own)
        run.method.step = saved["step"]
    with together(topology.world):
        trained_by, method = method, run.method
        # a number of members is none of draws
        members = method is not trained_by and trained_by.placement.axis is not None
        usual = None if members else config.evaluation.samples
        samples = method.prediction_samples(samples or usual)
        method.prediction_share(samples, topology.sample_size, topology.sample_rank)
    if method.draws_weights and method is trained_by:
        noise_form.of_prediction(path, saved, topology)
    return Restored(run, folder, trained, path, saved["step"], samples)


def _checkpoint(folder: RunFolder, which: str) -> Path:
    if which == "last":
        path = checkpoint.latest(folder.checkpoints)
        if path is None:
            raise CheckpointError(f"{folder.path} has no checkpoint yet")
        return path
    return folder.checkpoints / "best.pt" if which == "best" else Path(which)
