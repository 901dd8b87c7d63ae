"""Networks of the comparison with NumPyro, their data, and their configuration for hpcsamp.

Weights have the prior ``N(0, prior_std)``; regressions have normal noise with a known standard
deviation. Both libraries compute in float32 and update with Adam.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from hpcsamp.errors import UsageError
from hpcsamp.ingest.arrays import from_arrays
from hpcsamp.ingest.build import build
from hpcsamp.names import Task
from hpcsamp.spelling import suggest

ITEMS = 4096
"""``N``, the number of training items in every case."""


@dataclass(frozen=True)
class Case:
    """A multilayer perceptron and the sizes of its training step.

    Attributes
    ----------
    widths
        Widths of the input, the hidden layers and the output.
    activation
        ``tanh`` or ``relu``.
    task
        ``classification`` (the last width is the number of classes) or ``regression``.
    batch, samples
        Number of items and of weight samples per step.
    steps
        Number of steps per round.
    prior_std, noise_std, initial_std
        Standard deviations of the prior, of the observations of a regression, and of the initial
        posterior.
    lr
        Learning rate of Adam.
    """

    widths: tuple[int, ...]
    activation: str
    task: Task
    batch: int
    samples: int
    steps: int
    prior_std: float = 1.0
    noise_std: float = 1.0
    initial_std: float = 0.02
    lr: float = 1e-3

    @property
    def name(self) -> str:
        """Name made of the widths, e.g. ``13-50-1``."""
        return "-".join(map(str, self.widths))

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """``(N, widths[0])`` inputs and ``(N, widths[-1])`` targets or ``(N,)`` classes."""
        draw = np.random.Generator(np.random.Philox(key=1))
        x = draw.standard_normal((ITEMS, self.widths[0]), np.float32)
        if self.task == "classification":
            return x, draw.integers(0, self.widths[-1], ITEMS)
        return x, draw.standard_normal((ITEMS, self.widths[-1]), np.float32)

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write the configuration and the data of both libraries to an empty folder.

        Returns
        -------
        tuple
            The configuration for hpcsamp, with its dataset in the same folder, and an ``.npz`` file
            with the batch ``x``, ``y`` for NumPyro.
        """
        x, y = self.arrays()
        source = from_arrays(
            {"train": (x, y)},
            name=self.name,
            source={"made_up": True},
            task=self.task,
            fractions={},
        )
        build(source, folder / "data")
        np.savez(folder / "batch.npz", x=x[: self.batch], y=y[: self.batch])
        config = folder / "config.toml"
        config.write_text(tomli_w.dumps(self._table(folder / "data")))
        return config, folder / "batch.npz"

    def _table(self, data: Path) -> dict[str, Any]:
        known = {"name": "gaussian", "std": self.noise_std}
        return {
            "seed": 1,
            "task": self.task,
            "data": {"path": str(data), "batch": self.batch, "reader": "memory"},
            "model": {
                "name": "mlp",
                "hidden": list(self.widths[1:-1]),
                "activation": self.activation,
            },
            "method": {
                "name": "mean_field",
                "samples": self.samples,
                "prior_std": self.prior_std,
                "initial_std": self.initial_std,
            },
            "loss": {"name": "expected_nll"},
            "likelihood": known if self.task == "regression" else {},
            "optimizer": {"name": "Adam", "lr": self.lr},
            "training": {"epochs": 1},
        }

    def for_peer(self, batch: Path) -> dict[str, Any]:
        """Return the case as the JSON argument of :mod:`hpcsamp.bench.peer.svi`."""
        return {**asdict(self), "items": ITEMS, "data": str(batch)}


CASES = {
    case.name: case
    for case in (
        Case((13, 50, 1), "tanh", "regression", batch=32, samples=16, steps=100),
        Case((96, 128, 128, 24), "relu", "regression", batch=64, samples=16, steps=20),
        Case((784, 512, 512, 10), "relu", "classification", batch=64, samples=4, steps=4),
    )
}


def find(names: str) -> list[Case]:
    """Return cases by their names, separated by commas; all for an empty string.

    Raises
    ------
    UsageError
        If a name is unknown.
    """
    wanted = [name.strip() for name in names.split(",")] if names else list(CASES)
    for name in wanted:
        if name not in CASES:
            raise UsageError(
                f"--workload {name}: with --against numpyro choose from {', '.join(CASES)}"
                f"{suggest(name, CASES)}"
            )
    return [CASES[name] for name in wanted]
