"""The peer's own virtual environment, built when it is first needed.

It lies in the cache (``HPCSAMP_CACHE``, as that of ``envs/``), named by what it is made of, and is
whole once it holds a file ``complete``. pip fetches, so that a site's pip configuration holds.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from hpcsamp.errors import HpcsampError, UsageError
from hpcsamp.locks import locked

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
STAMP = "complete"


def folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where the environment is, or would be."""
    home = environment.get("XDG_CACHE_HOME") or "~/.cache"
    cache = Path(environment.get("HPCSAMP_CACHE") or f"{home}/hpcsamp").expanduser()
    made_of = f"{sys.version} {platform.machine()} {REQUIREMENTS.read_text()}"
    return cache / f"peer-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}"


def python(place: Path) -> Path:
    """The interpreter of an environment."""
    return place / "bin" / "python"


def is_built(place: Path) -> bool:
    """Whether an environment is whole."""
    return (place / STAMP).is_file() and python(place).exists()


def build(place: Path, say: Callable[[str], None]) -> Path:
    """Build the environment unless it is there; one process at a time does.

    Parameters
    ----------
    say
        Is called with lines for the user before what takes long.

    Returns
    -------
    Path
        Its interpreter.

    Raises
    ------
    UsageError
        If the cache cannot be written.
    HpcsampError
        If a package cannot be fetched, with pip's own reason and the log.
    """
    if is_built(place):
        return python(place)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UsageError(f"HPCSAMP_CACHE: {place.parent} cannot be made: {e.strerror}") from e
    lock = place.with_name(f"{place.name}.lock")
    with locked(lock, place, lambda: say(f"another process is building {place}; waiting for it")):
        if not is_built(place):
            say(f"building the peer's environment {place} (about 0.7 GB, once)")
            _build(place)
    return python(place)


def _build(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)  # what an interrupted build has left
    log = place.with_name(f"{place.name}.log")
    pip = [python(place), "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
    with log.open("w") as told:
        for command in (
            [sys.executable, "-m", "venv", place],
            [*pip, "--only-binary=:all:", "--no-deps", "--requirement", REQUIREMENTS],
        ):
            done = subprocess.run(
                list(map(str, command)), stdin=subprocess.DEVNULL, stdout=told, stderr=told
            )
            if done.returncode:
                raise HpcsampError(
                    f"the environment of numpyro cannot be built in {place}: {_reason(log)} "
                    f"(log: {log}); it needs a package index, so build it where the network is "
                    f"reached, e.g. on a login node, or name an index in pip's configuration"
                )
    (place / STAMP).touch()


def _reason(log: Path) -> str:
    """pip's first error, else its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return [*errors[:1], *lines[-1:], "without a message"][0].removeprefix("ERROR: ")
