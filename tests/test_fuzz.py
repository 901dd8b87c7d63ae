"""No change to a file that is read back is taken with another meaning: the short version."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fuzz import WORDS, fuzz, kinds


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return kinds(tmp_path_factory.mktemp("fuzz"))


def test_changed_files_are_refused(files):
    for name, kind in files.items():
        counts = fuzz(kind, 25, seed=7)
        assert not {w: counts[w] for w in WORDS[2:] if counts[w]}, name
        assert counts["refused"] > 20, name
