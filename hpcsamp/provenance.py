"""What is known of a program without its ranks: commit, packages, modules."""

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
    """Version of every installed package; of two of a name the one that is imported."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        about = distribution.metadata  # parsed anew each time
        if "Name" in about and "Version" in about:  # the rest of a removed one may have neither
            found.setdefault(about["Name"], about["Version"])
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def modules(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Environment modules that are loaded."""
    return [m for m in environment.get("LOADEDMODULES", "").split(":") if m]


def git_diff(folder: Path) -> tuple[str, bytes] | None:
    """Commit and uncommitted difference of the checkout that ``folder``, a package, belongs to.

    None if there is no such checkout. An environment within the checkout of something else does
    not belong to it: its files are not tracked there.
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
    """Commit and hash of the uncommitted difference, empty if there is none; or None."""
    found = git_diff(folder)
    if found is None:
        return None
    commit, diff = found
    return {"commit": commit, "diff_sha256": hashlib.sha256(diff).hexdigest() if diff else ""}
