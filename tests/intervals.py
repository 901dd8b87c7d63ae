"""Coverage and width of the intervals of the configuration that is chosen for a small table.

    python tests/intervals.py KIND:ITEMS[:SEED] ...       e.g. step:100 wave:1000 diabetes:0

For each table: time of training, coverage of the 90 % intervals on the test split, and the mean
predictive standard deviation divided by the RMSE and, if it is known, by that of the noise. The
settings were chosen with the kinds ``linear``, ``friedman`` and ``exact`` and the first order of
``diabetes``; the others only check them.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hpcsamp.cli import app
from hpcsamp.ingest.build import build
from hpcsamp.ingest.named import from_named

G = np.random.Generator
#: Means and standard deviations of the targets of ``n`` items, with their inputs.
Made = tuple[np.ndarray, np.ndarray, float | np.ndarray]


def linear(g: G, n: int) -> Made:
    """Five inputs, noise of a tenth of the spread."""
    x = g.normal(size=(n, 5))
    return x, 100 + x @ np.array([3, -2, 1, 0.5, 0.0]), 0.4


def friedman(g: G, n: int) -> Made:
    """Friedman's first function (1991), five of ten inputs."""
    x = g.uniform(size=(n, 10))
    mean = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2
    return x, mean + 10 * x[:, 3] + 5 * x[:, 4], 1.0


def exact(g: G, n: int) -> Made:
    """Noise of a hundredth of the spread."""
    x = g.normal(size=(n, 4))
    return x, 1000 * (x[:, 0] + x[:, 1] ** 2), 20.0


def step(g: G, n: int) -> Made:
    """A step and a product."""
    x = g.uniform(-1, 1, size=(n, 4))
    return x, np.where(x[:, 0] > 0, 2, -1) + x[:, 1] * x[:, 2], 0.3


def wave(g: G, n: int) -> Made:
    """A wave and an exponential."""
    x = g.uniform(-1, 1, size=(n, 2))
    return x, 50 * (3 * np.cos(4 * x[:, 0]) + np.exp(x[:, 1])), 10.0


def unequal(g: G, n: int) -> Made:
    """Noise that depends on an input."""
    x = g.uniform(-2, 2, size=(n, 3))
    return x, np.sin(2 * x[:, 0]) + x[:, 1], 0.1 + 0.3 * np.abs(x[:, 0])


def diabetes(g: G, n: int) -> Made:
    """The 442 patients that come with scikit-learn."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    order = g.permutation(len(x))
    return x[order], y[order], 0.0


MADE: dict[str, Callable[[G, int], Made]] = {
    f.__name__: f for f in (linear, friedman, exact, step, wave, unequal, diabetes)
}


def measure(kind: str, items: int, seed: int, folder: Path) -> str:
    """Train on a table with the chosen configuration; a line of what came out."""
    g = np.random.default_rng((seed, items))
    x, mean, std = MADE[kind](g, (items or 354) + 2000)
    y = mean + std * g.normal(size=len(x))
    items = items or len(x) * 8 // 10
    train, valid = slice(0, items * 9 // 10), slice(items * 9 // 10, items)
    parts = {"train": train, "valid": valid, "test": slice(items, None)}
    pairs = {split: (x[own], y[own]) for split, own in parts.items()}
    build(from_named(pairs, name=kind, normalize=["y"]), folder / "set")
    begun = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        words = ["train", "--data", folder / "set", "-o", folder / "run", "-q"]
        app(list(map(str, words)), standalone_mode=False)
        seconds = time.perf_counter() - begun
        words = ["evaluate", folder / "run", "--json", folder / "found.json"]
        app(list(map(str, words)), standalone_mode=False)
    found = json.loads((folder / "found.json").read_text())["metrics"]
    noise = float(np.mean(std))
    of_noise = f", / noise {found['sharpness'] / noise:.2f}" if noise else ""
    return (
        f"{kind:9}{items:6} items  {seconds:5.0f} s  coverage {found['coverage_90']:.3f}  "
        f"width / rmse {found['sharpness'] / found['rmse']:.2f}{of_noise}"
    )


if __name__ == "__main__":
    for which in sys.argv[1:]:
        kind, items, seed = [*which.split(":"), "0", "0"][:3]
        with tempfile.TemporaryDirectory() as folder:
            print(measure(kind, int(items), int(seed), Path(folder)), flush=True)
