"""Results of finished points are not read again, and never believed against the files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hpcsamp.campaign import collect as collecting
from hpcsamp.campaign import index as indexing
from hpcsamp.campaign.index import FILE
from hpcsamp.campaign.points import Campaign
from hpcsamp.campaign.selection import Selection, select
from hpcsamp.sealing import edits, text

SUMMARY = {"steps": 3, "parameters_sha256": "0" * 64}


@pytest.fixture
def campaign(tmp_path):
    """Two points run by hand, with floating-point numbers that need all their digits."""
    (tmp_path / "base.toml").write_text('[data]\npath = "d"\n[model]\nname = "mlp"\n')
    file = tmp_path / "sweep.toml"
    file.write_text('config = "base.toml"\nevaluate = ""\n[product]\nseed = [1, 2]\n')
    made = Campaign(file)
    for point in made.points:
        (made.folder / "points" / point.name).mkdir(parents=True)
        write(made, point.number - 1, 0.1 + 0.2 * point.number)
    return made


def write(campaign: Campaign, number: int, nll: float, run: str = "a") -> Path:
    folder = campaign.folder / "points" / campaign.points[number].name
    if not (folder / "config.toml").exists():
        (folder / "config.toml").write_text(text.to_toml({"run": run}, run))
    summary = folder / "summary.json"
    summary.write_text(text.to_json({**SUMMARY, "metrics": {"nll": nll}}, run))
    return summary


def rows(
    campaign: Campaign, monkeypatch: pytest.MonkeyPatch, selection: Selection | None = None
) -> tuple[list[dict], list[int]]:
    """The rows, and the numbers of the points whose files were read."""
    read, row = [], collecting._row
    with monkeypatch.context() as patch:
        patch.setattr(collecting, "_row", lambda c, p: (read.append(p.number), row(c, p))[1])
        return collecting.collect(campaign, False, selection).rows, read


def test_only_points_whose_files_have_changed_are_read_again(campaign, monkeypatch):
    first, read = rows(campaign, monkeypatch)
    assert (len(first), read) == (2, [1, 2])
    assert rows(campaign, monkeypatch) == (first, [])
    # the same size and the same time, as a copy by rsync or cp -p has them
    path = campaign.folder / "points" / campaign.points[0].name / "summary.json"
    before = path.stat()
    write(campaign, 0, 0.30000000000000016)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size)
    second, read = rows(campaign, monkeypatch)
    assert read == [1]
    assert first[0]["valid.nll"] == 0.1 + 0.2
    assert second[0]["valid.nll"] == 0.30000000000000016
    # a file that was missing is a change, too
    (path.parent / "provenance.json").write_text(text.to_json({"starts": []}, "a"))
    assert rows(campaign, monkeypatch) == (second, [1])


def test_a_changed_index_or_plan_is_not_used(campaign, monkeypatch):
    first, _ = rows(campaign, monkeypatch)
    index = campaign.folder / FILE
    whole = index.read_text()
    contents = whole.partition("\n")[0]
    for broken, again in {
        whole.replace("0.5", "0.6", 1): [2],  # an entry
        whole[:-9]: [2],
        contents: [1, 2],
        whole.replace("valid.nll", "valid.mse", 1): [1, 2],
        whole.replace("]}", ", 3]}", 1): [1, 2],
        "": [1, 2],
        "\xff": [1, 2],
    }.items():
        assert broken != whole
        index.write_text(broken, "latin-1")
        assert rows(campaign, monkeypatch) == (first, again), broken
    campaign.file.write_text(campaign.file.read_text().replace("[1, 2]", "[2, 1]"))
    swapped, read = rows(Campaign(campaign.file), monkeypatch)
    assert read == [1, 2]
    assert [r["seed"] for r in swapped] == [2, 1]
    assert [r["point"] for r in swapped] == [1, 2]


def test_an_edited_file_is_refused_again_after_it_was_accepted(campaign, monkeypatch):
    path = write(campaign, 0, 0.5)
    path.write_text(path.read_text().replace("0.5", "0.4"))
    monkeypatch.setattr(edits, "_taken", [])
    accepted, read = rows(campaign, monkeypatch)
    assert (len(accepted), read) == (2, [1, 2])
    assert not (campaign.folder / FILE).exists()
    monkeypatch.setattr(edits, "_taken", None)
    refused, _ = rows(campaign, monkeypatch)
    assert [r["point"] for r in refused] == [2]


def test_selected_points_need_no_others_and_keep_their_entries(campaign, monkeypatch):
    rows(campaign, monkeypatch)
    first = select("seed == 1")
    write(campaign, 0, 0.75)
    write(campaign, 1, 0.25)
    some, read = rows(campaign, monkeypatch, first)
    assert ([r["valid.nll"] for r in some], read) == ([0.75], [1])
    both, read = rows(campaign, monkeypatch)  # the other entry was kept, and is out of date
    assert ([r["valid.nll"] for r in both], read) == ([0.75, 0.25], [2])
    # damage of an entry concerns those who ask for it
    index = campaign.folder / FILE
    index.write_text(index.read_text().replace(" 0.25", " 0.35"))
    assert rows(campaign, monkeypatch, first) == (some, [])
    assert rows(campaign, monkeypatch) == (both, [2])
    # without permission to write, results are read as they are
    with monkeypatch.context() as patch:
        patch.setattr(indexing, "whole", refuse)
        write(campaign, 0, 0.125)
        assert rows(campaign, patch)[1] == [1]
    assert rows(campaign, monkeypatch)[1] == [1]


def refuse(path):
    raise PermissionError(path)
