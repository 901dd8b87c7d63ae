"""The lanes that all tests are run in: none is left out, and one that fails is seen."""

from __future__ import annotations

import lanes
import pytest


def test_each_file_is_in_one_group():
    every = set(lanes.HERE.rglob("test_*.py"))
    groups = lanes.groups(lanes.found())
    taken = [path for group in groups for path in group]
    assert len(taken) == len(set(taken))
    assert every == {f for p in taken for f in ([p] if p.is_file() else p.rglob("test_*.py"))}
    first = [*lanes.FOLDERS, *lanes.LONG]
    assert [group[0].name for group in groups[: len(first)]] == first
    assert max(map(len, groups)) <= lanes.TOGETHER


@pytest.mark.parametrize(
    ("last", "found"),
    [
        ("===== 3 passed in 0.02s =====", {"passed": 3}),
        ("== 1 failed, 12 passed, 2 skipped in 61.20s (0:01:01) ==",
         {"failed": 1, "passed": 12, "skipped": 2}),
        ("no line of pytest", {}),
    ],
)  # fmt: skip
def test_outcomes_are_read(last, found):
    assert lanes.outcomes(f"tests ...\n{last}\nand a warning") == found


def test_a_failure_and_a_broken_file_are_seen(monkeypatch, tmp_path, capsys):
    (tmp_path / "test_right.py").write_text("def test_right():\n    assert True\n")
    monkeypatch.setattr(lanes, "HERE", tmp_path)
    assert lanes.main() == 0
    assert "1 passed" in capsys.readouterr().out.splitlines()[-1]
    (tmp_path / "test_wrong.py").write_text("def test_wrong():\n    assert not 'seen'\n")
    assert lanes.main() == 1
    told = capsys.readouterr().out
    assert "not 'seen'" in told
    assert "1 failed, 1 passed" in told.splitlines()[-1]
    (tmp_path / "test_wrong.py").write_text("import nothing.of.this.name\n")
    assert lanes.main() == 1
