"""Time ``hs.load(RUN).predict`` against plain passes, and its first call against import torch."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hpcsamp
from hpcsamp.errors import DataError
from hpcsamp.prediction.export import example
from hpcsamp.prediction.load import LoadedPosterior

FIRST = """
import sys
import hpcsamp as hs

posterior = hs.load(sys.argv[1], device="cpu")
from hpcsamp.prediction.export import example  # afterwards, as users do not import it

x = example(posterior, 4)
one = dict(zip(posterior.trained.manifest.kinds, x))
posterior.predict(one if len(one) > 1 else one["x"])
"""


def predictions(run: Path, items: int, samples: int, rounds: int) -> list[float]:
    """Measure the ratio of the times of ``predict`` and of as many plain passes, in turns.

    Parameters
    ----------
    items
        Number of inputs: items of the run's dataset, repeated; zeros if the dataset is missing.
    samples
        Number of weight samples, and of plain passes.

    Returns
    -------
    list
        The ratio in each round.
    """
    posterior = hpcsamp.load(run, device="cpu", samples=samples)
    raw = _inputs(posterior, items)
    x = raw if len(raw) > 1 else raw["x"]
    network = posterior.module(0)
    shapes, dtype = posterior.run.shapes, posterior.run.dtype
    batch = shapes.batch(items, dtype=dtype, device=torch.device("cpu"))

    def plain() -> None:
        with torch.no_grad():
            for _ in range(samples):
                network(batch) if len(raw) == 1 else network(**batch.named)

    def predict() -> None:
        posterior.predict(x)

    predict()
    plain()
    return [_seconds(predict) / _seconds(plain) for _ in range(rounds)]


def _inputs(posterior: LoadedPosterior, count: int) -> dict[str, Any]:
    names = list(posterior.trained.manifest.kinds)
    try:
        with posterior.open(None, None) as dataset:
            found, _ = dataset.read(np.arange(min(count, dataset.count)))
    except DataError:
        return dict(zip(names, example(posterior, count), strict=True))
    arrays = found if isinstance(found, dict) else {"x": found}
    flags = {name for name, kind in posterior.trained.manifest.kinds.items() if kind == "flags"}
    raw = {name: np.resize(arrays[name], (count, *arrays[name].shape[1:])) for name in names}
    return {name: a.astype(bool) if name in flags else a for name, a in raw.items()}


def first_answers(run: Path, rounds: int) -> tuple[list[float], list[float]]:
    """Return the CPU seconds of new processes that make a first prediction or import torch."""
    answers, imports = [], []
    for _ in range(rounds):
        answers.append(_fresh(FIRST, str(run)))
        imports.append(_fresh("import torch"))
    return answers, imports


def ratio(over: list[float], under: list[float]) -> float:
    """Return the ratio of the medians."""
    return statistics.median(over) / statistics.median(under)


def _fresh(code: str, *arguments: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
