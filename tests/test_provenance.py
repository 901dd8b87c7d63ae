"""What is known of a program without its ranks."""

from __future__ import annotations

import sys

import numpy

from hpcsamp.provenance import packages


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
