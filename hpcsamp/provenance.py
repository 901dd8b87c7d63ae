"""Provenance of the software: git commit, installed packages, environment modules."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path


@cache
def packages() -> dict[str, str]:
    """Return the version of every installed package; for duplicates, of the imported one."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        about = distribution.metadata  # parsed at each access
        if "Name" in about and "Version" in about:  # remains of a removed package may have neither
            found.setdefault(about["Name"], about["Version"])
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def modules(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the loaded environment modules."""
    return [m for m in environment.get("LOADEDMODULES", "").split(":") if m]


def git_diff(folder: Path) -> tuple[str, bytes] | None:
    """Return the commit and the uncommitted diff of the git checkout that tracks a package folder.

    None if there is no such checkout. A package installed in an environment inside an unrelated
    checkout is not tracked by it.
    """

    def git(*arguments: str) -> bytes:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            check=True,
            timeout=10,
        ).stdout

    try:
        git("ls-files", "--error-unmatch", "--", "__init__.py")
        return git("rev-parse", "HEAD").decode().strip(), git("diff", "HEAD")
    except (OSError, subprocess.SubprocessError):
        return None


def git_state(folder: Path) -> dict[str, str] | None:
    """Return the commit and the hash of the uncommitted diff (empty without one), or None."""
    found = git_diff(folder)
    if found is None:
        return None
    commit, diff = found
    return {"commit": commit, "diff_sha256": hashlib.sha256(diff).hexdigest() if diff else ""}
