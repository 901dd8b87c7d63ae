"""Fit Laplace's approximation to the training set of a finished run."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from hpcsamp.errors import UsageError
from hpcsamp.grid import share, together
from hpcsamp.methods.curvature import best_precision, effective, log_evidence
from hpcsamp.methods.laplace import PREDICTIVES
from hpcsamp.prediction.gauss_newton import GaussNewton, check_probit
from hpcsamp.prediction.posterior import Posterior
from hpcsamp.prediction.predict import alone
from hpcsamp.run import laplace
from hpcsamp.run.digest import parameters_sha256
from hpcsamp.weights import Caller
from hpcsamp.weights.inputs import Inputs


def fit(
    posterior: Posterior, kind: str, precision: float | None = None, predictive: str = "samples"
) -> dict[str, Any]:
    """Fit a Laplace posterior and store it in the run folder. Collective over the world.

    One pass over the training set: data groups divide the batches, the ranks of a sample group the
    items of a batch. The sums are exchanged once.

    Parameters
    ----------
    posterior
        Posterior of the run itself.
    kind
        One of :data:`.gauss_newton.KINDS`.
    precision
        Prior precision; None for the one that maximises the marginal likelihood.
    predictive
        One of :data:`hpcsamp.methods.laplace.PREDICTIVES`.

    Returns
    -------
    dict
        Facts of the run and of the fit.

    Raises
    ------
    DataError, UsageError
        If the run or its training set does not allow it, or the folder cannot be written; the same
        on every rank.
    """
    topology, restored, run = posterior.topology, posterior.restored, posterior.run
    folder, begin = restored.folder, time.perf_counter()
    x = run.shapes.batch(2, dtype=run.dtype, device=topology.device)
    with together(topology.world):
        if run.shapes.targets.parts or isinstance(x, Inputs):
            raise UsageError("Laplace needs one input and one target for each item")
        if precision is not None and not 0 < precision < float("inf"):
            raise UsageError(f"--prior-precision {precision} must be greater than 0 and finite")
        if predictive not in PREDICTIVES:
            raise UsageError(f"--predictive {predictive}: choose from {', '.join(PREDICTIVES)}")
        if predictive == "probit":
            check_probit(posterior.likelihood)
        if restored.checkpoint.resolve().parent != folder.checkpoints.resolve():
            raise UsageError(
                f"{restored.checkpoint} is not in {folder.checkpoints}: only a checkpoint of the "
                f"run folder can have a Laplace posterior"
            )
        network = laplace.point_network(run, topology)
        call = Caller(network)
        sums = GaussNewton(network, call, kind, posterior.likelihood, x)
        dataset = posterior.training_set()
    with ExitStack() as stack:
        lock = alone(stack, topology, folder.path / laplace.NAME)
        evaluator = posterior.evaluator(dataset)
        try:
            for batch in evaluator.loader.epoch(0):
                with together(topology.world):
                    if batch.mask is not None and not _all_known(batch.mask):
                        raise UsageError(
                            f"{dataset.path}: Laplace needs all targets of the training set, but "
                            f"some are missing"
                        )
                    mine = share(len(batch.weight), topology.sample_size, topology.sample_rank)
                    if len(mine):
                        own = slice(mine.start, mine.stop)
                        sums.add(batch.x[own], batch.y[own], batch.weight[own])
        finally:
            evaluator.close()
        posterior.collectives.sum_(sums.flat, "world")
        curvatures = sums.curvatures()
        values = torch.cat([of.eigenvalues() for of in curvatures.values()])
        square = sum(
            float(p.detach().double().square().sum())
            for layer in sums.layers.values()
            for p in layer.parameters()
        )
        chosen = best_precision(values, square) if precision is None else precision
        parameters = parameters_sha256(posterior.method, topology)
        with together(topology.world):
            if topology.is_root:
                assert lock is not None
                lock.check()
                entry = laplace.Entry(parameters, kind, predictive, chosen, curvatures)
                laplace.keep(folder, restored.step, entry)
    return {
        **posterior.facts(),
        "kind": kind,
        "predictive": predictive,
        "items": dataset.count,
        "layers": list(curvatures),
        "weights": values.numel(),
        "prior_precision": chosen,
        "effective_weights": effective(values, chosen),
        "log_likelihood": sums.log_likelihood,
        "log_evidence": log_evidence(sums.log_likelihood, values, square, chosen),
        "seconds": time.perf_counter() - begin,
    }


def _all_known(mask: Tensor | dict[str, Tensor]) -> bool:
    each = mask.values() if isinstance(mask, dict) else [mask]
    return all(bool(of.all()) for of in each)
