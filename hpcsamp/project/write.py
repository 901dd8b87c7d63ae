"""Write the files of a project for a dataset."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

import numpy as np
from jinja2 import Environment, StrictUndefined

from hpcsamp.data.dataset import Dataset
from hpcsamp.data.manifest import Manifest, read_manifest
from hpcsamp.errors import UsageError
from hpcsamp.run.usual import fields_of, hidden, input_shape, usual

FILES = ("run.sh", "job.sh", "campaign.toml", "test_network.py")


def write(folder: str | Path, data: str | Path) -> list[Path]:
    """Write a network, a configuration, job scripts, a campaign and a test into a new folder.

    Parameters
    ----------
    folder
        Folder of the project, which must be empty or not exist.
    data
        The dataset folder, written to the files relative to ``folder``.

    Returns
    -------
    list of Path The files written.

    Raises
    ------
    DataError
        If there is no such dataset.
    UsageError
        If the folder is not empty.
    """
    folder, manifest = Path(folder), read_manifest(data)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not an empty folder; choose another name")
    source, lines = _network(manifest, data)
    seen = os.path.relpath(Path(data).resolve(), folder.resolve())
    texts = {
        "network.py": source,
        "run.toml": usual(data, ['name = "network:Network"', *lines], named=seen),
    }
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    for name in FILES:
        template = resources.files("hpcsamp.project").joinpath("files", f"{name}.j2").read_text()
        texts[name] = environment.from_string(template).render(name=folder.resolve().name)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text)
        if name.endswith(".sh"):
            (folder / name).chmod(0o755)
    return [folder / name for name in texts]


def _network(manifest: Manifest, data: str | Path) -> tuple[str, list[str]]:
    """Return the network file for the inputs of a dataset, and its keys in ``[model]``."""
    shape, lines = input_shape(manifest), []
    if isinstance(manifest.inputs, dict) and shape is None:
        name = "several"
    elif shape is None:
        name, lines = "ids", [f"words = {_words(data, [*manifest.splits])}     # ids are below it"]
    elif (fields := fields_of(manifest)) is not None:
        name, lines = "fields", [f"fields = {fields}"]
    elif len(shape) == 3:
        name = "images"
    else:
        name, lines = "rows", [f"hidden = {hidden(manifest)}"]
    networks = resources.files("hpcsamp.project.networks")
    return networks.joinpath(f"{name}.py").read_text(), lines


def _words(data: str | Path, splits: list[str]) -> int:
    """Return one more than the largest id of all splits."""
    largest = 0
    for split in splits:
        with Dataset.open(data, split) as items:
            for first in range(0, len(items), 4096):
                part = items.read_array("x", np.arange(first, min(first + 4096, len(items))))
                largest = max(largest, int(part.max()))
    return largest + 1
