"""Files are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hpcsamp import files


@pytest.mark.parametrize("error", [OSError("full"), ValueError("no"), KeyboardInterrupt()])
def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a"
    files.write_whole(path, "old")

    def half():
        with files.whole(path) as part:
            part.write_text("half")
            raise error

    with pytest.raises(type(error)):
        half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]  # noqa: PTH208


def test_a_file_is_on_disk_before_it_has_its_name_and_the_name_after(tmp_path, monkeypatch):
    path, order = tmp_path / "a", []
    replace = Path.replace
    monkeypatch.setattr(files, "sync", lambda p: order.append(p))
    monkeypatch.setattr(Path, "replace", lambda p, to: (order.append(to), replace(p, to)))
    with files.whole(path) as part:
        part.write_text("new")
        assert not path.exists()
    assert order == [part, path, tmp_path]
    assert path.read_text() == "new"
    assert part.name.startswith(".a.")
    assert part.name.endswith(".part")  # which a run removes that goes on after a kill


def test_bytes_that_are_not_utf8_and_names_of_any_locale(tmp_path):
    files.write_whole(tmp_path / "ä", "x\udcffü\n")
    assert (tmp_path / "ä").read_bytes() == b"x\xff\xc3\xbc\n"
