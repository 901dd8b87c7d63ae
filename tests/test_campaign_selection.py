"""Points by their keys, states, numbers and names; and points that cannot run."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcsamp.campaign import runnable
from hpcsamp.campaign.points import Campaign
from hpcsamp.campaign.selection import select
from hpcsamp.campaign.status import PointStatus
from hpcsamp.errors import UsageError

SWEEP = """
config = "base.toml"
[product]
seed = [1, 2, 3]
"method.samples" = [4, 16]
[[list]]
"loss.name" = "predictive_nll"
[[list]]
"loss.name" = "expected_nll"
"loss.temperature" = 0.5
[derived]
half = "method.samples // 2"
[resources]
ranks = "method.samples // 4"
"""


def made(folder: Path, text: str = SWEEP) -> Campaign:
    (folder / "base.toml").write_text('[data]\npath = "d"\n[model]\nname = "mlp"\n')
    (folder / "sweep.toml").write_text(text)
    return Campaign(folder / "sweep.toml")


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("method.samples == 16 and seed < 3", 4),
        ("seed in [1, 3]", 8),
        ("loss.temperature == 0.5", 6),  # of the others it is the default
        ("half == 2", 6),  # a name of the campaign's own
        ("resources.ranks > 1", 6),
        ("point <= 5", 5),
        ("data.batch == 64", 12),  # a default
        ("model.name == 'cnn'", 0),
        ("model.hidden == None", 12),  # a key that no point has
    ],
)
def test_points_are_selected_by_any_key(tmp_path, where, count):
    assert len(select(where).of_plan(made(tmp_path))) == count


def test_conditions_are_joined(tmp_path):
    campaign = made(tmp_path)
    points = [PointStatus(p, "failed" if p.number % 2 else "done") for p in campaign.points]
    chosen = select("seed == 1", ["failed"]).among(campaign, points)
    assert [s.point.number for s in chosen] == [1, 3]
    third = campaign.points[2]
    chosen = select(None, ["failed,done"], ["2", third.name[:9]]).among(campaign, points)
    assert [s.point.number for s in chosen] == [2, 3]
    assert not select()
    assert select().among(campaign, points) == points


@pytest.mark.parametrize(
    ("where", "states", "points", "words"),
    [
        ("sed == 1", [], [], ["no key 'sed'", "'seed'"]),
        ("seed ==", [], [], ["--where", "is not an expression"]),
        ("__import__('os')", [], [], ["not one of the functions"]),
        (None, ["fail"], [], ["--state fail", "'failed'"]),
        (None, [], ["zz"], ["no point 'zz'"]),
        ("9**9**9 == seed", [], [], ["--where", "bits"]),
    ],
)
def test_wrong_conditions_are_refused(tmp_path, where, states, points, words):
    with pytest.raises(UsageError) as e:
        select(where, states, points).of_plan(made(tmp_path))
    for word in words:
        assert word in str(e.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[resources]\nranks = 32", ["S = 16 samples", "P = 32 ranks"]),
        ("[product]\n'method.samples' = [4, 2]\n[resources]\nranks = 4", ["point 2", "S = 2"]),
        ("[resources]\nranks = 3\nnodes = 2", ["node 1 has 2", "node 2 has 1"]),
        (
            "[set]\n'parallel.samples' = 3\n[resources]\nranks = 4",
            ["parallel.samples = 3 does not divide", "4"],
        ),
    ],
)
def test_points_that_cannot_run_are_refused(tmp_path, text, words):
    campaign = made(tmp_path, f'config = "base.toml"\n{text}')
    with pytest.raises(UsageError) as e:
        runnable.check(campaign, campaign.points)
    for word in words:
        assert word in str(e.value)
    # commands of one's own need not train
    own = made(tmp_path, f'config = "base.toml"\ncommands = ["true"]\n{text}')
    runnable.check(own, own.points)


def test_points_that_can_run_are_not_refused(tmp_path):
    for text in (
        SWEEP,
        'config = "base.toml"\n[resources]\nranks = 3',  # uneven shares are legal
        'config = "base.toml"\n[set]\n"parallel.samples" = "none"\n[resources]\nranks = 64',
        'config = "base.toml"\n[set]\n"parallel.samples" = "world"\n[resources]\nranks = 3\n'
        "nodes = 2",
        'config = "base.toml"\n[resources]\nranks = 1000000\nnodes = 1000000',
    ):
        campaign = made(tmp_path, text)
        runnable.check(campaign, campaign.points)


# What a point is named by ----------------------------------------------------------------------


def test_what_is_evaluated_is_no_part_of_the_name(tmp_path):
    base = 'config = "base.toml"\n'
    [usual] = made(tmp_path, base).points
    for text in ('evaluate = ""\n', 'evaluate = "valid"\n', 'evaluate = ["test", "valid"]\n'):
        campaign = made(tmp_path, text + base)
        assert [p.name for p in campaign.points] == [usual.name]
    assert campaign.spec.files() == (
        "summary.json",
        "evaluation/test.json",
        "evaluation/valid.json",
    )
    with pytest.raises(UsageError, match="a split is listed twice"):
        made(tmp_path, 'evaluate = ["test", "test"]\n' + base)


def test_folders_of_former_names_are_found(tmp_path):
    """Recorded when the split was a part of the hash; found also with another split today."""
    for split, name in (("", "e27352a87abf"), ("valid", "bd70460476b0")):
        folder = tmp_path / (split or "none")
        folder.mkdir()
        text = 'config = "base.toml"\n'
        [fresh] = made(folder, text).points
        (folder / "campaigns" / "sweep" / "points" / name).mkdir(parents=True)
        for today in ("", "test", "valid"):
            [point] = made(folder, f'evaluate = "{today}"\n{text}').points
            assert point.name == name != fresh.name
