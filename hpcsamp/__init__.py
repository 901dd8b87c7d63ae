"""hpcsamp: sampling parallelism for Bayesian neural networks, on Horovod and MPI.

To use it in your own training loop::

    import hpcsamp as hs

    topology = hs.init(samples="node")
    collectives = hs.choose(topology)
    method = hs.MeanField(module, prior_std=1.0, seed=1)
    loss = hs.losses.ELBO(hs.losses.PredictiveNLL(hs.losses.Categorical()), N, collectives)
    optimizer = hs.distribute(torch.optim.Adam(method.parameters()), collectives, method)
    for x, y in hs.data.Loader("shards", topology, batch=256, seed=1):
        loss(method, x, y, samples=16).backward()  # ends with the exchange of the gradient
        optimizer.step()
        optimizer.zero_grad()

To predict with a finished run, on any computer and without MPI::

    posterior = hs.load("runs/a")
    print(posterior.predict(x, samples=64))
"""

from __future__ import annotations

import importlib
from typing import Any

# Names are imported on first use, so that `hpcsamp --help` does not wait for torch or start MPI.
_HOME = {
    "Campaign": "hpcsamp.campaign.points",
    "LearnedNoise": "hpcsamp.models",
    "MeanField": "hpcsamp.methods",
    "Topology": "hpcsamp.grid",
    "choose": "hpcsamp.collectives",
    "distribute": "hpcsamp.collectives",
    "fit": "hpcsamp.training.fit",
    "init": "hpcsamp.grid",
    "load": "hpcsamp.prediction.load",
}
_ROOMS = ("collectives", "data", "layers", "losses", "methods", "models", "prediction", "training")

__all__ = [*_HOME, *_ROOMS]


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    from hpcsamp.imports import modules_by_name, without_collection

    if name not in _HOME and name not in _ROOMS:
        raise AttributeError(f"module 'hpcsamp' has no attribute {name!r}")
    with without_collection(), modules_by_name():
        if name in _HOME:
            return getattr(importlib.import_module(_HOME[name]), name)
        return importlib.import_module(f"hpcsamp.{name}")


def _version() -> str:
    """Return the installed version, or "0+unknown" in a source folder that is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("hpcsamp")
    except PackageNotFoundError:
        return "0+unknown"
