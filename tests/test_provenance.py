"""What is known of a program without its ranks."""

from __future__ import annotations

import subprocess
import sys

import numpy

from hpcsamp.provenance import git_diff, packages


def test_packages_are_those_that_are_imported(tmp_path, monkeypatch):
    """Of a removed package a folder without a name may be left; the first of a name counts."""
    for folder, text in (
        ("gone-1.0.dist-info", ""),
        ("numpy-0.1.dist-info", "Name: numpy\nVersion: 0.1\n"),
        ("Own-2.0.dist-info", "Name: Own\nVersion: 2.0\n"),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "METADATA").write_text(text)
    monkeypatch.setattr("sys.path", [*sys.path, str(tmp_path)])
    packages.cache_clear()
    found = packages()
    packages.cache_clear()
    assert found["numpy"] == numpy.__version__
    assert found["Own"] == "2.0"
    assert list(found) == sorted(found, key=str.lower)


def test_an_environment_in_another_checkout_is_not_of_its_commit(tmp_path):
    """A wheel in PROJECT/.venv would record the commit and the difference of the project."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e"]
    mine, theirs = tmp_path / "mine", tmp_path / ".venv" / "hpcsamp"
    for folder in (mine, theirs):
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
    for arguments in (["init", "-q"], ["add", "mine"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *arguments], check=True)
    (mine / "__init__.py").write_text("changed = 1")
    commit = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()
    found = git_diff(mine)
    assert found is not None
    assert found[0] == commit
    assert b"changed = 1" in found[1]
    assert git_diff(theirs) is None
