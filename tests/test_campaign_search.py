"""A search with Optuna: its points, and that kills lose nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from patience import patient

from hpcsamp.campaign import space, submit
from hpcsamp.campaign.points import Campaign
from hpcsamp.campaign.search import Searcher
from hpcsamp.campaign.status import Survey
from hpcsamp.campaign.store import Store
from hpcsamp.errors import UsageError

optuna = pytest.importorskip("optuna")

# The metric is known by formula: lr 0.1 and the second batch size are best. The point of a file
# named "kill" kills its own job at its first start.
TASK = """
import json, math, os, pathlib, signal, sys
folder, *settings = sys.argv[1:]
given = dict(s.split("=", 1) for s in settings if s != "--set")
folder = pathlib.Path(folder)
with (folder / "started").open("a") as f:
    f.write("x")
kill = pathlib.Path(sys.argv[0]).with_name("kill")
try:
    kill.rename(kill.with_name("killed"))
    os.killpg(0, signal.SIGKILL)
except FileNotFoundError:
    pass
lr, batch = float(given["optimizer.lr"]), int(given["data.batch"])
nll = math.log10(lr / 0.1) ** 2 + (batch != 64)
summary = {"steps": 3, "planned_steps": 3, "parameters_sha256": "0" * 64, "metrics": {"nll": nll}}
(folder / "summary.json").write_text(json.dumps(summary))
"""

SEARCH = """
config = "base.toml"
commands = ['launch python3 -S task.py "$point" "${settings[@]}"']
[search]
metric = "nll"
trials = 30
at_once = 3
[search.space]
"optimizer.lr" = { low = 1e-4, high = 10.0, log = true }
"data.batch" = [32, 64, 128]
[site]
name = "local"
cores = 3
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "base.toml").write_text('[data]\npath = "d"\n[model]\nname = "mlp"\n')
    (tmp_path / "task.py").write_text(TASK)
    path = tmp_path / "search.toml"
    path.write_text(SEARCH)
    yield path
    if (tmp_path / "campaigns/search/search.json").exists():
        submit.cancel(Campaign(path))


def start(file: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "hpcsamp", "campaign", "search", file, "--every", "0.1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )


def done(file: Path) -> dict[str, int]:
    """How often each finished point was started."""
    campaign = Campaign(file)
    if not space.read_trials(campaign.folder):
        return {}
    survey = Survey(campaign, Store(campaign.folder).load())
    folders = {s.point.name: campaign.folder / "points" / s.point.name for s in survey.of("done")}
    return {name: len((folder / "started").read_text()) for name, folder in folders.items()}


def test_30_trials_survive_a_kill_of_the_search_and_of_a_point(file):
    file.with_name("kill").touch()  # the first point
    driver = start(file)
    end = time.monotonic() + patient(60)
    while len(before := done(file)) < 5:
        assert driver.poll() is None, driver.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.2)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    driver = start(file)
    output = driver.communicate(timeout=patient(120))[0]
    assert driver.returncode == 0, output
    after = done(file)
    assert before.items() <= after.items()  # what was finished was not started again
    assert sorted(after.values())[:-1] == [1] * (len(after) - 1)
    assert file.with_name("killed").exists()
    assert max(after.values()) == 2
    trials = space.read_trials(Campaign(file).folder)
    assert len(after) == len(trials)  # equal trials are one point
    lr = min(trials, key=lambda t: abs(t["optimizer.lr"] - 0.1))
    assert 0.01 < lr["optimizer.lr"] < 1
    journal = Campaign(file).folder / "optuna.log"
    backend = optuna.storages.journal.JournalFileBackend(str(journal))
    study = optuna.load_study(
        study_name="campaign", storage=optuna.storages.JournalStorage(backend)
    )
    assert [t.state.name for t in study.trials] == ["COMPLETE"] * 30
    assert f"best: nll = {study.best_value:.6g} in trial {study.best_trial.number + 1}" in output
    assert study.best_value < 0.5


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("optimizer.lr", "training.rate", "'training.rate' is not a key"),
        ("low = 1e-4", "low = 0.0", "positive low"),
        ("[32, 64, 128]", "{ low = 4 }", "expected a list of values"),
        ("[32, 64, 128]", "{ low = 4, high = 2 }", "low is larger than high"),
        ("[32, 64, 128]", '{ low = 4, high = "5" }', "must be finite numbers"),
        ("trials = 30", "trials = 0", "search.trials = 0"),
        ("[search]\n", "[product]\nseed = [1]\n[search]\n", "cannot be combined with axes"),
    ],
)
def test_searches_that_are_refused(file, old, new, words):
    file.write_text(SEARCH.replace(old, new))
    with pytest.raises(UsageError) as e:
        _ = Campaign(file).points
    assert words in str(e.value)


def test_a_search_without_trials_has_no_points(file):
    with pytest.raises(UsageError, match="there are no trials yet"):
        _ = Campaign(file).points


def test_a_pruned_trial_is_not_started_again(file, monkeypatch):
    file.write_text(
        SEARCH.replace("trials = 30", 'trials = 1\npruner = "median"').replace(
            "python3 -S task.py", "sleep 60;"
        )
    )
    searcher = Searcher(file, None, list)
    assert searcher.step()
    campaign = Campaign(file)
    end = time.monotonic() + patient(20)
    while not Store(campaign.folder).read_marks():
        assert time.monotonic() < end
        time.sleep(0.05)
    monkeypatch.setattr(searcher, "_is_hopeless", lambda *_: True)
    tell = searcher.study.tell
    monkeypatch.setattr(searcher.study, "tell", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # killed before Optuna knew
        searcher.step()
    monkeypatch.setattr(searcher.study, "tell", tell)
    assert not searcher.step()
    assert [t.state.name for t in searcher.study.trials] == ["PRUNED"]
    assert Survey(campaign, Store(campaign.folder).load()).counts() == {"pruned": 1}
    assert submit.submit(campaign, [*submit.NEW, "failed", "interrupted"]).points == []
