"""Write a first configuration for a dataset, with settings that usually work for its shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcsamp.config import toml_value
from hpcsamp.data.manifest import Manifest, read_manifest
from hpcsamp.errors import UsageError

BATCH = 64
#: Largest number of tokens of an image for a transformer.
TOKENS = 64

#: Largest number of inputs of an item that is treated as a row of a table.
NUMBERS = 256
#: Number of training items from which a perceptron is wider and deeper. The more weights there are
#: per item, the wider their posterior stays: with few items, intervals of a large network are much
#: too wide.
MANY = 5000
#: Training items of a table below which intervals are clearly too wide; measured by
#: tests/intervals.py, see the page on benchmarks.
ENOUGH = 500


@dataclass(frozen=True)
class Settings:
    """Settings of a first configuration that depend on the network.

    Attributes
    ----------
    steps
        Training steps.
    epochs
        Largest number of epochs.
    samples
        Weight samples of a step.
    prior_std, initial_std
        Standard deviation of the weights in the prior, and of the posterior at the start.
    lr
        Learning rate. The learnt noise starts at 1 standard deviation of the targets; Adam moves
        its logarithm by about ``lr`` in a step, half of that on average over the schedule.
    warmup
        Fraction of the epochs in which the weight of the KL divergence grows.
    """

    steps: int
    epochs: int
    samples: int
    prior_std: float
    initial_std: float
    lr: str
    warmup: float


FIELDS = Settings(300, 200, 8, 0.5, 0.02, "2e-3", 1 / 3)
IMAGES = Settings(1000, 200, 16, 0.5, 0.02, "2e-3", 1 / 3)
#: Settings of a perceptron, chosen by the coverage of 90 % intervals (tests/intervals.py).
COLUMNS = Settings(2000, 1000, 16, 0.3, 0.05, "2e-2", 0.2)

TEXT = """\
# A first configuration for {path}: {items:,} training items.
seed = 1

[data]
path = {quoted}
batch = {batch}

[model]
{model}

[method]
name = "mean_field"         # a normal posterior over all weights
samples = {samples}                # weight samples of a step
prior_std = {prior}
initial_std = {initial}

[loss]
name = "expected_nll"       # the negative ELBO, with the usual likelihood of the task
kl_warmup_epochs = {warmup}

[optimizer]
name = "Adam"
lr = {lr}

[schedule]
name = "CosineAnnealingLR"
warmup_epochs = 1

[training]
epochs = {epochs}
evaluate_every = {every}

[evaluation]
samples = 32
"""


def usual(path: str | Path, model: Sequence[str] = (), named: str = "") -> str:
    """Return a configuration for a dataset as TOML text with comments.

    Parameters
    ----------
    path
        The dataset folder.
    model
        Lines of ``[model]``; by default, a network of the package that fits the inputs.
    named
        Name of the folder in the configuration; by default ``path``.

    Raises
    ------
    DataError
        If there is no such dataset.
    UsageError
        If no network of the package accepts such inputs.
    """
    manifest = read_manifest(path)
    items = manifest.splits["train"]
    batch = max(1, min(BATCH, items))
    lines = list(model) or network(manifest)
    shape = input_shape(manifest)
    use = COLUMNS if of_series(manifest) or (shape is not None and _few(shape)) else IMAGES
    if fields_of(manifest) is not None:
        use, batch = FIELDS, min(batch, 8)
    epochs = min(use.epochs, max(2, round(use.steps / -(-items // batch))))
    return TEXT.format(
        path=named or path,
        quoted=toml_value(named or str(path)),
        items=items,
        batch=batch,
        model="\n".join(lines),
        samples=use.samples,
        prior=use.prior_std,
        initial=use.initial_std,
        lr=use.lr,
        warmup=max(1, round(epochs * use.warmup)),
        epochs=epochs,
        every=max(1, epochs // 8),
    )


def input_shape(manifest: Manifest) -> tuple[int, ...] | None:
    """Shape of an item if there is one numeric input; None otherwise."""
    plain = manifest.inputs == "numbers" or manifest.inputs == {"x": "numbers"}
    return tuple(manifest.arrays["x"].shape) if plain else None


def network(manifest: Manifest) -> list[str]:
    """Lines of ``[model]`` for a network of the package that fits the inputs of a dataset.

    Raises
    ------
    UsageError
        If the inputs are ids, or there are several.
    """
    shape = input_shape(manifest)
    if shape is None:
        what = "ids" if manifest.inputs == "ids" else "several inputs"
        raise UsageError(
            f"{manifest.name} has {what}, which no network of the package accepts: name one with "
            f"--set model.name=..., or create a project with your own network with "
            f"hpcsamp init DIR --data DATASET"
        )
    if fields_of(manifest) is not None:
        strip = _largest(shape[2], 8)
        return ['name = "mixer"', f"strip = {strip}", "width = 64", "blocks = 2"]
    if of_series(manifest):
        return ['name = "mlp"', "hidden = [128, 128]"]  # the paper's for time series
    if len(shape) == 3 and (patch := _patch(shape)):
        lines = ['name = "vit"', f"patch = {patch}", "width = 48"]
        return [*lines, "heads = 3", "layers = 2", "hidden = 96"]
    return ['name = "mlp"', f"hidden = {hidden(manifest)}"]


def hidden(manifest: Manifest) -> list[int]:
    """Units of the hidden layers of a perceptron; fewer for a table of few items."""
    shape = input_shape(manifest)
    small = shape is not None and _few(shape) and manifest.splits["train"] < MANY
    return [32] if small else [64, 64]


def few_items(path: str | Path) -> list[str]:
    """Return a warning if a table has too few items for intervals of the right width."""
    manifest = read_manifest(path)
    shape, items = input_shape(manifest), manifest.splits["train"]
    values = manifest.classes is None and not manifest.targets
    table = shape is not None and _few(shape) and not of_series(manifest)
    if not table or not values or items >= ENOUGH:
        return []
    return [
        f"{items} training items are fewer than {ENOUGH}, so predictive intervals will be too "
        f"wide: in tests, 90 % intervals contained 91 to 100 % of new values with 27 training "
        f"items, 95 to 98 % with 270, and 91 to 93 % with 900"
    ]


def of_series(manifest: Manifest) -> bool:
    """Whether items are windows of a time series (``hpcsamp ingest series``)."""
    return "series" in manifest.source


def fields_of(manifest: Manifest) -> int | None:
    """Number of fields or classes of targets on the same grid as the inputs; else None."""
    shape = input_shape(manifest)
    if manifest.targets or shape is None or len(shape) != 3:
        return None
    of = tuple(manifest.arrays["y"].shape)
    if of[-2:] != shape[1:]:
        return None
    return manifest.classes or math.prod(of[:-2])


def _few(shape: Sequence[int]) -> bool:
    """Whether an item has few values, like a row of a table."""
    return len(shape) < 3 and math.prod(shape) <= NUMBERS


def _patch(shape: Sequence[int]) -> int | None:
    """Side of the smallest square patches that divide an image into at most ``TOKENS`` patches."""
    common = math.gcd(shape[1], shape[2])
    sides = [p for p in range(1, common + 1) if common % p == 0]
    few = [p for p in sides if shape[1] * shape[2] // p**2 <= TOKENS]
    return few[0] if few and few[0] <= 32 else None


def _largest(number: int, most: int) -> int:
    """The largest divisor of ``number`` that is at most ``most``."""
    return next(d for d in range(most, 0, -1) if number % d == 0)
