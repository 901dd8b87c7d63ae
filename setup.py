"""Version of the package: of the tag that is checked out; everything else is in setup.cfg.

At a tag ``v0.2.0`` the version is 0.2.0, or 0.2.0+changed if files were edited. Commits after it
are 0.2.1.dev3+g1a2b3c4 (the third one), commits before the first tag 0.1.0.dev3+g1a2b3c4, where
0.1.0 is the version in setup.cfg. An sdist has its version in PKG-INFO. A tree that is neither (an
archive of a tag, a copy without .git) has the version of setup.cfg, which a release sets to that of
its tag.
"""

import re
import subprocess
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent


def version() -> str | None:
    """Return the version from PKG-INFO or git; None if there is neither."""
    info = ROOT / "PKG-INFO"
    if info.is_file():
        found = re.search(r"^Version: (.+)$", info.read_text("utf-8"), re.MULTILINE)
        return found[1].strip() if found else None
    if not (ROOT / ".git").exists():
        return None
    commit = git("rev-parse", "--short=8", "HEAD")
    if commit is None:
        return None
    described = git("describe", "--tags", "--long", "--match", "v[0-9]*.[0-9]*.[0-9]*")
    if described is None:
        number = git("rev-list", "--count", "HEAD")
        return f"{written()}.dev{number}+g{commit}"
    tag, number, _ = described.removeprefix("v").rsplit("-", 2)
    if number == "0":
        return tag + "+changed" * bool(git("status", "--porcelain", "--untracked-files=no"))
    first, _, last = tag.rpartition(".")
    return f"{first}.{int(last) + 1}.dev{number}+g{commit}"


def git(*words: str) -> str | None:
    """Return what git prints; None if it fails or is missing."""
    command = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip() or None


def written() -> str:
    """Return the version in setup.cfg."""
    found = re.search(r"^version = (\S+)$", (ROOT / "setup.cfg").read_text("utf-8"), re.MULTILINE)
    assert found is not None
    return found[1]


setup(version=version() or written())
