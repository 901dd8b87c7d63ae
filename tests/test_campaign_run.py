"""Campaigns from submit to collect, on this machine and with commands that stand for schedulers."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest
from patience import patient

from hpcsamp import files
from hpcsamp.campaign import products, submit
from hpcsamp.campaign.points import Campaign
from hpcsamp.campaign.status import PointStatus, Survey
from hpcsamp.campaign.store import Store
from hpcsamp.errors import HpcsampError, UsageError
from hpcsamp.sealing import text

# A run that takes no time: what it writes depends on its settings, as training's does.
FAKE = """
import hashlib, json, os, pathlib, sys, time
folder, *settings = sys.argv[1:]
given = dict(s.split("=", 1) for s in settings if s != "--set")
folder = pathlib.Path(folder)
with (folder / "started").open("a") as f:
    f.write("x")
if given["seed"] == "4" and given["method.samples"] == "2" and given["data.batch"] == "64":
    sys.exit("hpcsamp: error: this one fails by design")
while given["seed"] == "2" and not os.path.exists(sys.argv[0] + ".go"):
    time.sleep(0.02)
digest = hashlib.sha256(repr(sorted(given.items())).encode()).hexdigest()
summary = {"steps": 3, "planned_steps": 3, "parameters_sha256": digest, "world_size": 1,
           "metrics": {"accuracy": int(digest[:4], 16) / 65536}}
(folder / "summary.json").write_text(json.dumps(summary))
"""

SWEEP = """
config = "base.toml"
commands = ['launch python3 -S fake.py "$point" "${settings[@]}"']
[product]
seed = [1, 2, 3, 4]
"method.samples" = [1, 2, 3]
"data.batch" = [32, 64]
[site]
name = "local"
cores = 3
"""


class Case:
    """A campaign in a folder: ``case("status")`` runs a command of it in a process of its own."""

    def __init__(self, folder: Path, text: str = SWEEP) -> None:
        self.file = folder / "sweep.toml"
        self.file.write_text(text)
        (folder / "base.toml").write_text('[data]\npath = "d"\n[model]\nname = "mlp"\n')
        (folder / "fake.py").write_text(FAKE)
        self.folder = folder / "campaigns" / "sweep"
        self.path = os.environ["PATH"]
        self.go()

    def go(self, yes: bool = True) -> None:
        """Points of seed 2 end; or wait until they may."""
        go = self.file.with_name("fake.py.go")
        go.touch() if yes else go.unlink()

    def __call__(self, command: str, *options: object, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "hpcsamp", "campaign", command, self.file, *map(str, options)],
            capture_output=True,
            text=True,
            timeout=patient(60),
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{self.path}"},
        )
        assert done.returncode == code, done.stdout + done.stderr
        if code:
            assert len(done.stderr.splitlines()) == 1, done.stderr
            assert done.stderr.startswith("hpcsamp: error")
        return done.stdout + done.stderr

    def survey(self) -> Survey:
        return Survey(Campaign(self.file), Store(self.folder).load())

    def wait(self, *words: str, timeout: float = 60) -> dict[str, int]:
        """Until no job waits or runs; or until these states, and no others, are left.

        A point is done as soon as its products are there; its job ends a little later.
        """
        end = time.monotonic() + patient(timeout)
        while True:
            survey = self.survey()
            counts = survey.counts()
            if set(counts) <= set(words) if words else not survey.live:
                return dict(counts)
            assert time.monotonic() < end, self("status")
            time.sleep(0.1)

    def block(self) -> list[PointStatus]:
        """Wait until all three cores are taken by points of seed 2, which wait for ``go``."""
        end = time.monotonic() + patient(60)
        while True:
            running = self.survey().of("running")
            folders = [self.folder / "points" / s.point.name for s in running]
            started = all((folder / "started").exists() for folder in folders)
            if [s.point.seed for s in running] == [2, 2, 2] and started:
                return running
            assert time.monotonic() < end, self("status")
            time.sleep(0.1)

    def state(self) -> str:
        return (self.folder / "campaign.json").read_text()


@pytest.fixture
def case(tmp_path):
    made = Case(tmp_path)
    yield made
    if made.folder.exists():
        submit.cancel(Campaign(made.file, "local"))


def runs(case: Case) -> int:
    """How often points were started."""
    return sum(len(f.read_text()) for f in case.folder.glob("points/*/started"))


# A whole campaign ----------------------------------------------------------------------------


def test_24_points_one_fails_and_one_is_killed(case):
    case.go(False)
    assert "submitted 24 points in 1 array" in case("submit")
    assert "nothing to submit" in case("submit")
    running = case.block()
    victim = running[0].point.name
    [group] = [
        int(p.name)
        for p in processes(case)
        if _command(p).startswith("bash") and _runs(p, case, victim)
    ]
    os.killpg(group, 9)
    case.go()
    assert case.wait() == {"done": 22, "failed": 1, "interrupted": 1}
    assert runs(case) == 24
    [killed] = case.survey().of("interrupted")
    assert killed.point.name == victim
    out = case("status")
    assert "24 points: 22 done, 1 failed, 1 interrupted" in out
    assert "exit 1: this one fails by design" in " ".join(out.split())

    assert "submitted 2 points" in case("resume")
    assert case.wait() == {"done": 23, "failed": 1}
    assert "submitted 1 point " in case("resume", "--time", "00:10:00")
    assert case.wait() == {"done": 23, "failed": 1}
    assert "1800" not in (case.folder / "submissions/0003/job-00.sh").read_text()
    assert "+ 600))" in (case.folder / "submissions/0003/job-00.sh").read_text()
    assert runs(case) == 24 + 2 + 1
    assert "nothing to submit" in case("submit")
    assert runs(case) == 24 + 2 + 1

    out = case("collect")
    assert "23 rows of 24 points" in out
    [named] = [line for line in out.splitlines() if line.startswith("no result")]
    assert "seed=4, method.samples=2, data.batch=64" in named
    assert "this one fails by design" in named
    rows = list(csv.DictReader((case.folder / "results.csv").read_text().splitlines()))
    assert len(rows) == 23
    assert {r["seed"] for r in rows} == {"1", "2", "3", "4"}
    assert all(0 <= float(r["valid.accuracy"]) < 1 for r in rows)
    out = case("account")
    assert "24 points: " in out
    assert 'next time: time = "00:05:00" for 1 rank on 1 node' in out
    best = max(rows, key=lambda r: float(r["valid.accuracy"]))["folder"]
    assert best in case("best", "accuracy")
    report = case.file.with_name("report")
    out = case("report", "--metric", "accuracy", "--out", report)
    assert "left out: learning curves" in out  # these runs have none
    page = (report / "index.html").read_text()
    assert "24 points: 23 done, 1 failed." in page
    assert "exit 1: this one fails by design" in page
    assert page.count("<tr>") == 2 + 1 + 24
    assert sorted(p.name for p in report.glob("*.png")) == ["keys-and-metric.png"]
    assert "method.samples" in page
    frame = Campaign(case.file).frame()
    assert frame.shape[0] == 23
    assert frame.loc[frame["valid.accuracy"].idxmax(), "folder"] == best
    assert "agrees: parameters are bitwise equal" in case("verify", "--random")
    assert processes(case) == []  # no daemon stays


def processes(case: Case) -> list[Path]:
    """What runs for a campaign."""
    everything = [p for p in Path("/proc").iterdir() if p.name.isdigit()]
    return [p for p in everything if str(case.folder) in _command(p)]


def _command(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _runs(process: Path, case: Case, name: str) -> bool:
    """Whether a process is the job script that runs a point."""
    index = _command(process).split()[-1]
    lines = (case.folder / "submissions/0001/points-00.tsv").read_text().splitlines()
    return lines[int(index)].startswith(name)


def test_points_that_train_and_the_numbers_again(hpcsamp, digits, small, tmp_path):
    """Real runs; the mended one goes on; another grid agrees within a tolerance."""
    (tmp_path / "sweep.toml").write_text(
        f"""
        config = "{small}"
        [set]
        "training.epochs" = 1
        "method.samples_per_pass" = "auto"  # the clock's choice is part of what is run again
        [product]
        seed = [1, 2]
        [[collect.reach]]
        metric = "accuracy"
        value = 0.05
        """
    )
    command = [1, "campaign"]
    assert hpcsamp(*command, "submit", tmp_path / "sweep.toml").code == 0
    folder = tmp_path / "campaigns" / "sweep"
    end = time.monotonic() + patient(100)
    while Survey(Campaign(tmp_path / "sweep.toml"), Store(folder).load()).counts()["done"] < 2:
        assert time.monotonic() < end, hpcsamp(*command, "status", tmp_path / "sweep.toml").out
        time.sleep(0.3)
    done = hpcsamp(*command, "collect", tmp_path / "sweep.toml", "--out", tmp_path / "table.h5")
    assert done.code == 0, done.err
    with h5py.File(tmp_path / "table.h5") as f:
        assert list(f["seed"]) == [1, 2]
        assert list(f["steps"]) == [19, 19]
        assert f["test.accuracy"].shape == (2,)
        assert list(f["epochs to valid.accuracy >= 0.05"]) == [1, 1]
    done = hpcsamp(*command, "verify", tmp_path / "sweep.toml", "2")
    assert done.code == 0, done.err
    assert "parameters are bitwise equal; all metrics are equal" in done.out
    done = hpcsamp(*command, "verify", tmp_path / "sweep.toml", "1", "--ranks", "2")
    assert done.code == 0, done.err
    assert "on 2 ranks instead of 1" in done.out
    # one more split is evaluated, and nothing is trained again
    trained = {p: p.read_text() for p in folder.glob("points/*/summary.json")}
    sweep = (tmp_path / "sweep.toml").read_text()
    (tmp_path / "sweep.toml").write_text(f'evaluate = ["test", "valid"]\n{sweep}')
    assert "2 outdated" in hpcsamp(*command, "status", tmp_path / "sweep.toml").out
    assert "submitted 2 points" in hpcsamp(*command, "submit", tmp_path / "sweep.toml").out
    while Survey(Campaign(tmp_path / "sweep.toml"), Store(folder).load()).counts()["done"] < 2:
        assert time.monotonic() < end + patient(60)
        time.sleep(0.3)
    assert trained == {p: p.read_text() for p in trained}
    assert len(list(folder.glob("points/*/evaluation/valid.json"))) == 2
    # numbers that are not those of the run are found
    [point] = [p for p in Campaign(tmp_path / "sweep.toml").points if p.seed == 2]
    run = folder / "points" / point.name
    summary = {**products.read(run, "summary.json"), "parameters_sha256": "0" * 64}
    (run / "summary.json").write_text(text.to_json(summary, products.owner(run)))
    done = hpcsamp(*command, "verify", tmp_path / "sweep.toml", "2")
    assert (done.code, done.err.split(": ")[-1]) == (2, f"point 2, {point.name} is not done\n")
    [mark] = folder.glob(f"marks/{point.name}.done.*")  # as if its job had seen these numbers
    spec = Campaign(tmp_path / "sweep.toml").spec
    mark.rename(
        mark.with_name(f"{point.name}.done.{products.stamp(run, spec.files())}.{spec.planned()}")
    )
    done = hpcsamp(*command, "verify", tmp_path / "sweep.toml", "2")
    assert done.code == 1
    assert "does not agree: parameters differ on the same grid" in done.err


def test_one_point_at_once(case):
    """As measurements need it, whatever the number of cores."""
    text = SWEEP.replace("[1, 2, 3, 4]", "[2, 3]")
    case.file.write_text(text.replace("cores = 3", "cores = 3\nat_once = 1"))
    case.go(False)
    case("submit")
    end = time.monotonic() + patient(60)
    while runs(case) == 0:
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(0.5)
    assert case.survey().counts() == {"running": 1, "queued": 11}
    case.go()
    assert case.wait() == {"done": 12}


STALLS = """
stall, starts = folder / "stall.json", len((folder / "started").read_text())
if given["method.samples"] == "2" or (given["method.samples"] == "3" and starts < 3):
    stall.write_text(json.dumps({"hosts": ["n"], "exclude": "n", "count": starts}, indent=1))
    sys.exit(1)
starts > 2 or sys.exit(75)
"""


@pytest.mark.parametrize("together", [1, 4])
def test_a_point_that_stops_early_or_stalls_is_started_again(case, together):
    """One that always stalls: three times more; also where a job runs several points."""
    case.file.with_name("fake.py").write_text(FAKE.replace("digest =", f"{STALLS}digest =", 1))
    text = SWEEP.replace("seed = [1, 2, 3, 4]", "seed = [1]")
    case.file.write_text(f"{text}[resources]\npoints_per_job = {together}\n")
    case("submit")
    assert case.wait() == {"done": 4, "failed": 2}
    assert runs(case) == 4 * 3 + 2 * 4
    logs = "".join(p.read_text() for p in case.folder.glob("submissions/0001/*.txt"))
    assert logs.count("campaign: a rank hung on n, see") == 2 * 2 + 2 * 3


def test_several_points_in_one_job(case):
    """Each has its own state, log and failure; only whole jobs can be cancelled."""
    case.file.write_text(f"{SWEEP}[resources]\npoints_per_job = 2\n")
    case.go(False)
    assert "submitted 24 points in 1 array" in case("submit")
    assert [s.point.number for s in case.block()] == [7, 9, 11]
    states = {s.point.number: s.word for s in case.survey().points}
    assert [states[n] for n in (6, 7, 8, 9, 13)] == [
        "done",
        "running",
        "queued",
        "running",
        "queued",
    ]
    refused = case("cancel", "--point", 7, code=2)
    assert "in the same jobs (resources.points_per_job): 8; select" in refused
    case.go()
    assert case.wait() == {"done": 23, "failed": 1}
    assert runs(case) == 24
    assert "exit 1: this one fails by design" in " ".join(case("status").split())
    logs = sorted(p.name for p in (case.folder / "submissions/0001").glob("log-*"))
    assert len(logs) == 24
    assert "submitted 1 point in 1 array" in case("resume")
    assert case.wait() == {"done": 23, "failed": 1}
    assert runs(case) == 25


def test_cancelled_points_are_gone_on_with(case):
    case.go(False)
    case("submit")
    case.block()
    assert "cancelled" in case("cancel")
    counts = case.survey().counts()
    assert not {"running", "queued"} & set(counts)
    assert counts["interrupted"] == 3
    assert "no job is waiting or running" in case("cancel")
    case.go()
    case("resume")
    assert case.wait() == {"done": 23, "failed": 1}


def test_provenance_is_stamped(case):
    text = SWEEP.replace("seed = [1, 2, 3, 4]", "seed = [1, 3]")
    case.file.write_text(text)
    os.environ["HPCSAMP_TEST_TOKEN"] = "secret"
    try:
        case("submit")
    finally:
        del os.environ["HPCSAMP_TEST_TOKEN"]
    folder = case.folder / "submissions" / "0001"
    stamp = json.loads((folder / "provenance.json").read_text())
    assert stamp["seeds"] == [1, 3]
    assert stamp["points"] == 12
    assert stamp["edited_by_hand"] == []
    assert {"commit", "modules", "packages", "environment", "host"} <= stamp.keys()
    assert "PATH" in stamp["environment"]
    assert "secret" not in json.dumps(stamp)
    assert (folder / "campaign.toml").read_text() == text
    for name in ("job-00.sh", "points-00.tsv", "base.toml"):
        assert stamp["files"][name] == submit._sha256((folder / name).read_text())
    case.wait()


# What is done, and what only looks like it -----------------------------------------------------


def test_products_that_were_damaged_are_not_done(case):
    case.file.write_text(SWEEP.replace("seed = [1, 2, 3, 4]", "seed = [1]"))
    case("submit")
    assert case.wait() == {"done": 6}
    points = Campaign(case.file).points
    paths = [case.folder / "points" / p.name / "summary.json" for p in points]
    paths[0].write_text(paths[0].read_text()[:30])
    paths[1].unlink()
    shutil.rmtree(paths[2].parent)
    content = json.loads(paths[3].read_text())
    paths[3].write_text(json.dumps({**content, "steps": 2}))
    paths[4].write_text(json.dumps(content))  # whole, but the results of another point
    paths[5].write_text(paths[5].read_text())  # the same at another time
    words = {s.point.number: (s.word, s.why) for s in case.survey().points}
    assert [words[n][0] for n in range(1, 7)] == ["failed"] * 5 + ["done"]
    assert "summary.json is damaged" in words[1][1]
    assert "summary.json is missing" in words[2][1]
    assert "2 of 3 steps" in words[4][1]
    assert "summary.json changed since the point ended" in words[5][1]
    assert "submitted 5 points" in case("resume")
    assert case.wait() == {"done": 6}


def test_half_written_folders_are_gone_on_with(case):
    case.file.write_text(SWEEP.replace("seed = [1, 2, 3, 4]", "seed = [1]"))
    points = Campaign(case.file).points
    half, empty, by_hand = (case.folder / "points" / p.name for p in points[:3])
    for folder in (half, empty, by_hand):
        folder.mkdir(parents=True)
    (half / "summary.json").write_text('{"steps": 3, "para')
    case("render", "--out", case.folder / "look")
    whole = {"steps": 3, "parameters_sha256": "0" * 64}
    (by_hand / "summary.json").write_text(json.dumps(whole))
    counts = case.survey().counts()
    assert counts == {"interrupted": 2, "done": 1, "missing": 3}
    assert "submitted 3 points" in case("submit")  # those never started
    assert "submitted 2 points" in case("resume")
    assert case.wait() == {"done": 6}
    assert json.loads((by_hand / "summary.json").read_text()) == whole


def test_a_point_runs_by_hand(case):
    out = case("render")
    script = out.split(":")[0]
    assert script.endswith("submissions/0001/job-00.sh")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{case.path}"}
    done = subprocess.run(["bash", script, "5"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [status] = case.survey().of("done")
    assert status.point.number == 6
    done = subprocess.run(["bash", script], env=environment, capture_output=True, text=True)
    assert "which line of points-00.tsv" in done.stderr


def test_an_exit_in_a_command_ends_the_point_with_its_mark(case):
    """Exit codes of commands reach the mark, and with zero the products are checked."""
    marks = []
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{case.path}"}
    for number, line in enumerate(("exit 3", "launch true; exit 0")):
        case.file.write_text(SWEEP.replace("commands = [", f"commands = [{line!r}, ", 1))
        script = case("render", "--out", case.file.with_name(str(number))).split(":")[0]
        done = subprocess.run(["bash", script, "0"], env=environment, capture_output=True)
        [mark] = (case.folder / "marks").iterdir()
        marks.append((done.returncode, mark.name.split(".", 1)[1]))
        mark.unlink()
    assert marks == [(3, "failed.3"), (1, "failed.1")]


# Many points -----------------------------------------------------------------------------------

MANY = f"""
config = "base.toml"
[product]
seed = {list(range(100))}
"method.samples" = {list(range(1, 11))}
"data.batch" = {list(range(1, 11))}
[derived]
"optimizer.lr" = "0.001 * data.batch"
"""


@pytest.fixture
def many(tmp_path):
    """10,000 points, all done, with two products each."""
    case = Case(tmp_path, MANY)
    campaign = Campaign(case.file)
    assert len(campaign.points) == 10_000
    marks = case.folder / "marks"
    marks.mkdir(parents=True)
    summary = json.dumps({"steps": 1, "parameters_sha256": "0" * 64})
    for point in campaign.points:
        folder = case.folder / "points" / point.name
        (folder / "evaluation").mkdir(parents=True)
        (folder / "summary.json").write_text(summary)
        (folder / "evaluation" / "test.json").write_text("{}")
        spec = campaign.spec
        whole = f"{products.stamp(folder, spec.files())}.{spec.planned()}"
        (marks / f"{point.name}.done.{whole}").touch()
    return case


def test_10000_points_take_fewer_than_three_calls_each(many, tmp_path):
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace was not found: it counts the calls of the file system")
    for command, said in (("status", "10000 points: 10000 done"), ("plan", "10000 points, at")):
        trace = tmp_path / "trace"
        began = time.monotonic()
        assert said in many(command)
        seconds = time.monotonic() - began
        done = subprocess.run(
            [
                *(strace, "-f", "-e", "trace=%file,%desc", "-o", trace),
                *(sys.executable, "-m", "hpcsamp", "campaign", command, many.file),
            ],
            capture_output=True,
            text=True,
            timeout=patient(120),
        )
        assert done.returncode == 0, done.stderr
        calls = trace.read_text().count("\n")  # those of starting Python included
        sys.stdout.write(f"{command}: {seconds:.2f} s, {calls / 10_000:.2f} calls a point\n")
        assert calls < 3 * 10_000


# Bad input: one line, and the campaign is as it was ---------------------------------------------


@pytest.fixture
def submitted(case):
    """A campaign with something in its state."""
    text = SWEEP.replace("seed = [1, 2, 3, 4]", "seed = [1]")
    case.file.write_text(text)
    case("submit")
    assert case.wait() == {"done": 6}
    case.file.write_text(text.replace("seed = [1]", "seed = [1, 3]"))
    return case


def unharmed(case: Case, before: str) -> None:
    assert case.state() == before
    assert case.survey().counts() == {"done": 6, "missing": 6}
    assert "submitted 6 points" in case("submit")
    assert case.wait() == {"done": 12}


def test_scripts_edited_by_hand_are_refused_unless_told(submitted):
    before = submitted.state()
    submitted("render")
    script = submitted.folder / "submissions" / "0002" / "job-00.sh"
    edited = script.read_text().replace("mark running\n", "mark running\ntouch $point/edited\n")
    script.write_text(edited)
    for command in ("submit", "resume", "render"):
        message = submitted(command, code=2)
        assert "job-00.sh was edited since it was rendered" in message
        assert "--accept-edits" in message
    assert submitted.state() == before
    assert script.read_text() == edited
    assert "submitted 6 points" in submitted("submit", "--accept-edits")
    assert submitted.wait() == {"done": 12}
    assert len(list(submitted.folder.glob("points/*/edited"))) == 6
    stamp = json.loads((script.parent / "provenance.json").read_text())
    assert stamp["edited_by_hand"] == ["job-00.sh"]
    assert stamp["files"]["job-00.sh"] == submit._sha256(edited)


def test_edits_are_written_over_if_told(submitted):
    submitted("render")
    script = submitted.folder / "submissions" / "0002" / "job-00.sh"
    fresh = script.read_text()
    script.write_text(fresh + "exit 3\n")
    submitted("render", "--force")
    assert script.read_text() == fresh
    # edits of a plan that has changed since cannot be kept
    script.write_text(fresh + "exit 3\n")
    text = submitted.file.read_text()
    submitted.file.write_text(text.replace("seed = [1, 3]", "seed = [1, 3, 5]"))
    assert "have changed since it was rendered" in submitted("submit", "--accept-edits", code=2)
    submitted.file.write_text(text)
    submitted("render", "--force")
    unharmed(submitted, submitted.state())


@pytest.mark.parametrize(
    "broken", ["campaign.json", "provenance.json", "job-00.sh", "points-00.tsv"]
)
def test_a_full_quota(submitted, broken, monkeypatch):
    before = submitted.state()
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{submitted.path}")
    real = files.write_whole

    def full(path: Path, text: str) -> None:
        if path.name == broken:
            raise OSError(errno.EDQUOT, "Disk quota exceeded", str(path))
        real(path, text)

    for module in ("store", "submit", "provenance"):
        monkeypatch.setattr(f"hpcsamp.campaign.{module}.write_whole", full)
    with pytest.raises(UsageError) as e:
        submit.submit(Campaign(submitted.file), ["missing"])
    assert "\n" not in str(e.value)
    assert broken in str(e.value)
    assert "Disk quota exceeded" in str(e.value)
    monkeypatch.undo()
    unharmed(submitted, before)


def test_a_disk_that_is_full_for_good(submitted):
    """A real one: nothing can be written, not even half of a file."""
    before = submitted.state()
    small = submitted.file.with_name("full")
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(small)]
    # in a mount namespace of its own
    script = (
        f"{' '.join(mount)} && cp {submitted.file.parent}/*.toml {small}/ && "
        f"head -c 16k /dev/zero >{small}/filler; "
        f"exec {sys.executable} -m hpcsamp campaign submit {small}/sweep.toml"
    )
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script],
        capture_output=True,
        text=True,
    )
    if "mount" in done.stderr or "unshare" in done.stderr:
        pytest.skip(f"no file system of our own: {done.stderr.strip()}")
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("hpcsamp: error")]
    assert len(errors) == 1
    assert "No space left on device" in errors[0]
    unharmed(submitted, before)


def test_a_job_that_cannot_be_noted_is_cancelled(submitted, monkeypatch):
    text = submitted.file.read_text()
    submitted.file.write_text(text.replace("seed = [1, 3]", "seed = [1, 2]"))
    submitted.go(False)  # those of seed 2 would go on for ever
    before = submitted.state()
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{submitted.path}")
    real = Store.save

    def full(self, state):
        if any(r.job for r in state.submissions[-1].jobs) and len(state.submissions) > 1:
            raise UsageError("cannot write campaign.json: Disk quota exceeded")
        real(self, state)

    monkeypatch.setattr(Store, "save", full)
    with pytest.raises(HpcsampError, match="quota"):
        submit.submit(Campaign(submitted.file), ["missing"])
    monkeypatch.undo()
    assert submitted.state() == before
    assert processes(submitted) == []
    submitted.go()
    assert "submitted 6 points" in submitted("resume")
    assert submitted.wait() == {"done": 12}


def test_a_damaged_state_file_is_said(submitted):
    path = submitted.folder / "campaign.json"
    whole = path.read_text()
    path.write_text(whole[:40])
    assert "campaign.json is damaged" in submitted("status", code=1)
    path.write_text(whole)
    unharmed(submitted, whole)


def test_two_commands_at_once(submitted):
    with Store(submitted.folder).lock():
        told = submitted("submit", code=2)
        assert f"the campaign {submitted.folder} is being written by process {os.getpid()}" in told
    unharmed(submitted, submitted.state())


def test_tables_that_cannot_be_written(submitted, tmp_path):
    assert "the name must end in .csv" in submitted("collect", "--out", "x.xls", code=2)
    (tmp_path / "file").touch()
    assert "cannot write" in submitted("collect", "--out", tmp_path / "file" / "x.csv", code=2)
    assert "there is no point '99'" in submitted("verify", "99", code=2)
    assert "name a point by its number" in submitted("verify", code=2)


def test_parquet_where_pyarrow_is(submitted, tmp_path):
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        assert "pip install 'hpcsamp[tables]'" in submitted(
            "collect", "--out", tmp_path / "t.parquet", code=2
        )
        assert not list(tmp_path.glob("*.parquet*"))
        return
    submitted("collect", "--out", tmp_path / "t.parquet")
    table = parquet.read_table(tmp_path / "t.parquet")
    assert table.num_rows == 6
    assert table["seed"].to_pylist() == [1] * 6
