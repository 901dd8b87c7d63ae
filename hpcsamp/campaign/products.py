"""A finished point: its product files exist and check."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpcsamp.errors import DataError
from hpcsamp.sealing import text


def signature(folder: str, products: Sequence[str]) -> str | None:
    """A short hash of the sizes and times of the product files; None if one is missing or empty.

    One file-system call a product, and none of their content: what was checked once need not be
    read again as long as this stays the same.
    """
    facts = []
    for product in products:
        try:
            found = os.stat(f"{folder}/{product}")  # noqa: PTH116 - thousands of them
        except OSError:
            return None
        if not found.st_size:
            return None
        facts.append((found.st_size, found.st_mtime_ns))
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]


def check(folder: Path, products: Sequence[str]) -> None:
    """Read the products and see that they are whole.

    ``summary.json`` must say as many steps as were planned and hold the hash of the parameters;
    other JSON files must parse; of others it is known only that they are not empty.

    Raises
    ------
    DataError
        Naming the file and what is wrong with it.
    """
    for product in products:
        path = folder / product
        try:
            size = path.stat().st_size
        except OSError:
            raise DataError(f"{path} is missing") from None
        if not size:
            raise DataError(f"{path} is empty")
        if path.suffix == ".json":
            content = read(folder, product)
            if path.name == "summary.json":
                _check_summary(path, content)


def read(folder: Path, product: str) -> dict[str, Any]:
    """A JSON product of a point.

    Raises
    ------
    DataError
        If it is not what was written.
    """
    run = owner(folder)
    own = product in ("summary.json", "provenance.json") or product.startswith("evaluation/")
    return text.read_json(folder / product, run, unsealed=not (own and run))


def owner(folder: Path) -> str:
    """Name of the run in a folder, which its files are sealed for; empty where there is none.

    Raises
    ------
    DataError
        If its configuration is not what was written.
    """
    file = folder / "config.toml"
    return str(text.read_toml(file, None).get("run", "")) if file.is_file() else ""


def _check_summary(path: Path, content: dict[str, Any]) -> None:
    steps, planned = content.get("steps"), content.get("planned_steps")
    if not isinstance(steps, int) or steps < 1:
        raise DataError(f"{path} is damaged: steps = {steps}")
    if planned is not None and steps != planned and not content.get("ended"):
        raise DataError(f"{path} says {steps} of {planned} steps: the run is not finished")
    if not re.fullmatch(r"[0-9a-f]{64}", str(content.get("parameters_sha256"))):
        raise DataError(f"{path} is damaged: it holds no hash of the parameters")
