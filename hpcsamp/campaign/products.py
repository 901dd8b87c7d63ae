"""Check and read the result files of a point, which show that it is finished."""

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
    """Hash the sizes and times of the result files; None if one is missing or empty.

    This needs one file-system call per file and does not read any content: files that were checked
    once need not be read again as long as their signature is the same. It covers the time of the
    last change of a file, which programs cannot set.
    """
    facts = _facts(folder, products)
    return _hash(facts) if facts is not None else None


def former_signature(folder: str, products: Sequence[str]) -> str | None:
    """Return the signature that earlier versions recorded, without the time of the last change."""
    facts = _facts(folder, products)
    return _hash([fact[:2] for fact in facts]) if facts is not None else None


def _facts(folder: str, products: Sequence[str]) -> list[tuple[int, ...]] | None:
    facts: list[tuple[int, ...]] = []
    for product in products:
        try:
            found = os.stat(f"{folder}/{product}")  # noqa: PTH116 - thousands of them
        except OSError:
            return None
        if not found.st_size:
            return None
        facts.append((found.st_size, found.st_mtime_ns, found.st_ctime_ns))
    return facts


def _hash(facts: Sequence[tuple[int, ...]]) -> str:
    return hashlib.sha256(repr(list(facts)).encode()).hexdigest()[:12]


def content(folder: Path, products: Sequence[str]) -> str:
    """Hash the content of the result files.

    Raises
    ------
    DataError
        If a file cannot be read.
    """
    whole = hashlib.sha256()
    for product in products:
        try:
            whole.update(hashlib.sha256((folder / product).read_bytes()).digest())
        except OSError as e:
            raise DataError(f"cannot read {folder / product}: {e.strerror}") from None
    return whole.hexdigest()[:16]


def stamp(folder: Path, products: Sequence[str]) -> str:
    """Return signature and content hash of the result files, as recorded in the mark of a point.

    Raises
    ------
    DataError
        If a file is missing or empty.
    """
    found = signature(str(folder), products)
    if found is None:
        check(folder, products)
    return f"{found}.{content(folder, products)}"


def check(folder: Path, products: Sequence[str]) -> None:
    """Read the result files and check that they are complete.

    ``summary.json`` must contain the planned number of steps and the hash of the parameters; other
    JSON files must be valid; all other files must not be empty.

    Raises
    ------
    DataError
        If a file is missing or incomplete; the message names it.
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


def read(folder: Path, product: str, run: str | None = None) -> dict[str, Any]:
    """Read a JSON result file of a point.

    Parameters
    ----------
    run
        The :func:`owner` of its files, if it is known already.

    Raises
    ------
    DataError
        If the file was changed after it was written.
    """
    run = owner(folder) if run is None else run
    own = product in ("summary.json", "provenance.json") or product.startswith("evaluation/")
    return text.read_json(folder / product, run, unsealed=not (own and run))


def owner(folder: Path) -> str:
    """Return the name of the run in a folder, which is part of its files' seals; empty if none.

    Raises
    ------
    DataError
        If its configuration was changed after it was written.
    """
    file = folder / "config.toml"
    return str(text.read_toml(file, None).get("run", "")) if file.is_file() else ""


def _check_summary(path: Path, content: dict[str, Any]) -> None:
    steps, planned = content.get("steps"), content.get("planned_steps")
    if not isinstance(steps, int) or steps < 1:
        raise DataError(f"{path} is damaged: steps = {steps}")
    if planned is not None and steps != planned and not content.get("ended"):
        raise DataError(f"{path} has {steps} of {planned} steps: the run is not finished")
    if not re.fullmatch(r"[0-9a-f]{64}", str(content.get("parameters_sha256"))):
        raise DataError(f"{path} is damaged: the hash of the parameters is missing")
