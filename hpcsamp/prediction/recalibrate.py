"""Recalibrate a finished run on a split: scaling of class probabilities, conformal thresholds."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hpcsamp.errors import UsageError
from hpcsamp.grid import together
from hpcsamp.prediction.calibration_fit import Options, check, fit
from hpcsamp.prediction.calibration_set import check_unseen, collect, facts, split_of
from hpcsamp.prediction.posterior import Posterior
from hpcsamp.prediction.predict import alone
from hpcsamp.run import recalibration


def recalibrate_run(
    posterior: Posterior,
    options: Options,
    *,
    data: str | Path | None = None,
    split: str | None = None,
) -> dict[str, Any]:
    """Fit a recalibration and store it in the run folder. Collective over the world.

    Parameters
    ----------
    posterior
        Posterior that uses no recalibration.
    data, split
        Calibration set, see :meth:`Posterior.open`; by default the split ``valid`` of the run.

    Returns
    -------
    dict
        Facts of the posterior, of the calibration set, and of the fit for each target.

    Raises
    ------
    DataError, UsageError
        If the set does not fit or is too small, the options apply to no target, or the folder
        cannot be written; the same on every rank.
    """
    topology, restored = posterior.topology, posterior.restored
    folder = restored.folder
    with together(topology.world):
        check(options)
        if restored.checkpoint.resolve().parent != folder.checkpoints.resolve():
            raise UsageError(
                f"{restored.checkpoint} is not in {folder.checkpoints}: only a checkpoint of the "
                f"run folder can be recalibrated"
            )
        dataset = posterior.open(data, split_of(posterior, data, split))
        check_unseen(posterior, dataset)
    quantiles = options.score in ("auto", "cqr")
    with ExitStack() as stack:
        lock = alone(stack, topology, folder.path / recalibration.NAME)
        parameters = posterior.parameters()
        material = collect(posterior, dataset, options.level, quantiles=quantiles)
        found, entry = None, None
        with together(topology.world):
            if topology.is_root:
                found = fit(
                    material, options, posterior.config.seed, f"{dataset.path}, {dataset.split}"
                )
                entry = recalibration.Entry(parameters, posterior.samples, facts(dataset), found)
                assert lock is not None
                lock.check()
                try:
                    recalibration.keep(folder, restored.step, entry)
                except OSError as e:
                    raise UsageError(f"cannot write {folder.path}: {e.strerror or e}") from e
        found = topology.world.bcast(found)
    left_out = [m.title for m in material if m.name not in found]
    return {
        **posterior.facts(),
        "dataset": facts(dataset),
        "notes": list(dataset.notes),
        "targets": {name: of.table() for name, of in found.items()},
        "titles": {m.name: m.title for m in material},
        "left_out": left_out,
    }
