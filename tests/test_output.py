"""Tables for people and the same as JSON."""

from __future__ import annotations

import json
import math

import pytest

from hpcsamp.cli import output
from hpcsamp.errors import UsageError
from hpcsamp.spelling import joined

ROWS = [
    ["accuracy", 0.98765, "a\nb"],
    ["items", 360, None],
    ["long", -1.0, "words " * 40 + "z" * 90],
]


def test_plain_columns_are_aligned_and_whole(capsys):
    output.show("title", ["metric", "value", "note"], ROWS)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "title",
        "metric     value  note",
        "accuracy  0.9877  a",
        "                  b",
        "items        360",
    ]
    assert ROWS[2][2] in lines[5]


def test_a_terminal_gets_a_table_that_folds(capsys, monkeypatch):
    monkeypatch.setattr(output, "on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    output.show("[title]", ["metric", "value", "note"], ROWS, styles=["red", "", ""])
    told = capsys.readouterr().out
    assert "[title]" in told  # text, not markup
    assert told.count("words") == 40
    assert told.count("z") == 90
    assert max(map(len, told.splitlines())) <= 60


def test_json_has_the_rows_and_no_nan(tmp_path):
    file = tmp_path / "out.json"
    output.show("", ["name", "value"], [["a", 1.5], ["b", math.nan]], json_file=file)
    assert json.loads(file.read_text()) == [
        {"name": "a", "value": 1.5},
        {"name": "b", "value": None},
    ]
    output.show("", ["name"], [["a"]], json_file=file, data={"x": (1, math.inf), "p": tmp_path})
    assert json.loads(file.read_text()) == {"x": [1, None], "p": str(tmp_path)}
    with pytest.raises(UsageError, match=r"cannot write .*none/out\.json: No such file"):
        output.write_json(tmp_path / "none" / "out.json", {})


def test_names_with_commas_are_quoted():
    assert joined(["north", "south"]) == "north, south"
    assert joined(["broken, stop", "ok"]) == "'broken, stop', 'ok'"


def test_cells():
    assert [output.cell(v) for v in (True, None, 3, 1234567.0, "x")] == [
        "yes", "", "3", "1.235e+06", "x",
    ]  # fmt: skip
