"""Virtual environment of NumPyro, built when it is first needed.

It is in the cache (``HPCSAMP_CACHE``, like the environments of ``envs/``), named by a hash of its
contents, and complete once it contains a file ``complete``. pip downloads the packages, so that the
pip configuration of a site is used.
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
    """Return the folder of the environment, which need not exist yet."""
    home = environment.get("XDG_CACHE_HOME") or "~/.cache"
    cache = Path(environment.get("HPCSAMP_CACHE") or f"{home}/hpcsamp").expanduser()
    made_of = f"{sys.version} {platform.machine()} {REQUIREMENTS.read_text()}"
    return cache / f"peer-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}"


def python(place: Path) -> Path:
    """Return the interpreter of an environment."""
    return place / "bin" / "python"


def is_built(place: Path) -> bool:
    """Whether an environment is complete."""
    return (place / STAMP).is_file() and python(place).exists()


def build(place: Path, say: Callable[[str], None]) -> Path:
    """Build the environment unless it exists; only one process builds it at a time.

    Parameters
    ----------
    say
        Called with lines for the user before long operations.

    Returns
    -------
    Path
        Interpreter of the environment.

    Raises
    ------
    UsageError
        If the cache cannot be written.
    HpcsampError
        If a package cannot be downloaded; the message contains pip's reason and the path of
        the log.
    """
    if is_built(place):
        return python(place)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UsageError(f"HPCSAMP_CACHE: cannot create {place.parent}: {e.strerror}") from e
    lock = place.with_name(f"{place.name}.lock")
    with locked(lock, place, lambda: say(f"another process is building {place}; waiting for it")):
        if not is_built(place):
            say(f"building the environment of NumPyro in {place} (about 0.7 GB, only once)")
            _build(place)
    return python(place)


def _build(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)  # files of an interrupted build
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
    """Return pip's first error, or else its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return [*errors[:1], *lines[-1:], "without a message"][0].removeprefix("ERROR: ")
