"""Campaigns on a real Slurm of two nodes."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from patience import patient

from hpcsamp.sealing import text
from slurm.cluster import ROOT

CAMPAIGN = """
config = "base.toml"
evaluate = ""
[product]
seed = [1, 2, 3, 4]
"method.samples" = [1, 2]
[derived]
"optimizer.lr" = "1e12 if seed == 4 and method.samples == 2 else 5e-3"
"training.epochs" = "200 if seed == 1 and method.samples == 1 else 1"
"training.evaluate_every" = "training.epochs"
"training.checkpoint_every" = "100 if training.epochs > 1 else 0"
[resources]
time = "00:05:00"
[site]
name = "slurm"
"""

BASE = """
[data]
path = "{digits}"
[model]
name = "mlp"
hidden = [8]
[evaluation]
samples = 4
"""


class Site:
    """A campaign on a cluster: ``site("status")`` runs a command of it."""

    def __init__(self, slurm, digits: Path, folder: Path, text: str = CAMPAIGN) -> None:
        self.slurm = slurm
        folder.mkdir(exist_ok=True)
        self.file = folder / "sweep.toml"
        self.file.write_text(text)
        (folder / "base.toml").write_text(BASE.format(digits=digits))
        self.folder = folder / "campaigns" / "sweep"

    def __call__(self, command: str, *options: str, code: int = 0) -> str:
        kept = {k: v for k, v in os.environ.items() if k.startswith(("OMPI_ALLOW", "OMPI_MCA"))}
        kept |= {k: os.environ[k] for k in ("PYTHONPATH",) if k in os.environ}
        path = f"{Path(sys.executable).parent}:/usr/bin:/bin:/usr/sbin"
        done = subprocess.run(
            [sys.executable, "-m", "hpcsamp", "campaign", command, str(self.file), *options],
            capture_output=True,
            text=True,
            timeout=patient(120),
            env=self.slurm.environment(**{**kept, "PATH": path}),
        )
        assert done.returncode == code, done.stdout + done.stderr
        if code:
            assert len(done.stderr.splitlines()) == 1, done.stderr
        return done.stdout + done.stderr

    def status(self) -> tuple[dict[str, int], dict[int, str]]:
        """Counts, and the state of each point by its number."""
        path = self.file.with_suffix(".json")
        self("status", "--json", str(path))
        found = json.loads(path.read_text())
        counts = {k: v for k, v in found["counts"].items() if v}
        return counts, {p["point"]: p["state"] for p in found["points"]}

    def wait(self, timeout: float = 240) -> dict[str, int]:
        """Until no point waits or runs."""
        end = time.monotonic() + patient(timeout)
        while {"queued", "running"} & (counts := self.status()[0]).keys():
            assert time.monotonic() < end, self("status")
            time.sleep(2)
        return counts

    def name(self, number: int) -> str:
        """Folder of a point, by its number in the first submission."""
        table = (self.folder / "submissions" / "0001" / "points-00.tsv").read_text()
        return table.splitlines()[number - 1].split("\t")[0]

    def job(self) -> str:
        """The array of the first submission."""
        state = json.loads((self.folder / "campaign.json").read_text())
        return str(state["submissions"][0]["jobs"][0]["job"])


@pytest.mark.timeout(patient(600))
def test_8_points_one_fails_and_one_is_killed(slurm, digits, tmp_path):
    site = Site(slurm, digits, tmp_path)
    assert "submitted 8 points in 1 array" in site("submit")
    counts, _ = site.status()
    assert counts.keys() <= {"queued", "running"}
    assert "nothing to submit" in site("submit")
    saved = slurm.until(
        lambda: list(site.folder.glob("points/*/checkpoints/step-00000?00.pt")), 60, "a checkpoint"
    )
    assert {p.parents[1] for p in saved} == {site.folder / "points" / site.name(1)}
    slurm.command("scancel", "--signal=KILL", "--full", f"{site.job()}_0")
    assert site.wait() == {"done": 6, "failed": 1, "interrupted": 1}
    assert site.status()[1][1] == "interrupted"
    out = " ".join(site("status").split())
    assert "8 points: 6 done, 1 failed, 1 interrupted" in out
    assert "the loss is not finite" in out

    assert "submitted 2 points" in site("resume")
    assert site.wait() == {"done": 7, "failed": 1}
    log = (site.folder / "submissions" / "0002" / "log-00-0.txt").read_text()
    assert "resumed after step" in log  # not from the beginning
    assert "submitted 1 point " in site("resume")
    assert site.wait() == {"done": 7, "failed": 1}
    assert "nothing to submit" in site("submit")

    out = site("collect")
    assert "7 rows of 8 points" in out
    [named] = [line for line in out.splitlines() if line.startswith("no result")]
    assert "seed=4, method.samples=2" in named
    rows = list(csv.DictReader((site.folder / "results.csv").read_text().splitlines()))
    assert len(rows) == 7
    assert all(0 <= float(r["valid.accuracy"]) <= 1 for r in rows)
    assert "parameters are bitwise equal" in site("verify", "3")  # a short one


def test_what_the_cluster_does_not_allow_is_said_before(slurm, digits, tmp_path):
    for resources, site_lines, words in (
        ('time = "2-00:00:00"', "", ["resources.time = 48:00:00", "debug 01:00:00"]),
        ("nodes = 3", "", ["resources.nodes = 3", "debug has 2"]),
        ("", 'partition = "gpu"', ['site.partition = "gpu"', "choose from debug"]),
        ("cores = 3", 'partition = "debug"', ["need 3 CPUs", "debug have at most 2"]),
        ('memory = "5G"', "", ["resources.memory = 5120 MiB", "at most 4000 MiB"]),
        # Slurm itself refuses, and says why
        (
            "",
            'header = ["#SBATCH --constraint=none"]',
            ["sbatch failed with exit code 1", "feature"],
        ),
    ):
        text = f'config = "base.toml"\n[resources]\n{resources}\n[site]\nname = "slurm"\n'
        site = Site(slurm, digits, tmp_path, text + site_lines)
        message = site("submit", code=1 if "sbatch" in words[0] else 2)
        for word in words:
            assert word in message
        assert site.status()[0] == {"missing": 1}
        state = site.folder / "campaign.json"
        assert not state.exists() or json.loads(state.read_text())["submissions"] == []


def test_a_slurm_that_does_not_answer(slurm, digits, tmp_path):
    site = Site(slurm, digits, tmp_path)
    deaf = tmp_path / "slurm.conf"
    text = slurm.configuration.read_text()
    port = next(line for line in text.splitlines() if line.startswith("SlurmctldPort="))
    deaf.write_text(text.replace(port, "SlurmctldPort=1"))
    site.file.write_text(CAMPAIGN + "timeout = 2\n")
    real, slurm_environment = slurm, slurm.environment

    class Deaf:
        def environment(self, **more: str) -> dict[str, str]:
            return {**slurm_environment(**more), "SLURM_CONF": str(deaf)}

    site.slurm = Deaf()
    message = site("submit", code=1)
    assert message.startswith("hpcsamp: error: scontrol")
    site.slurm = real
    assert site.status()[0] == {"missing": 8}
    assert not (site.folder / "campaign.json").exists()


def test_jobs_that_were_not_noted_are_found_again(slurm, digits, tmp_path):
    """Killed between Slurm's answer and the note of it: nothing is submitted twice."""
    sweep = (
        CAMPAIGN.replace("seed = [1, 2, 3, 4]", "seed = [2, 3]") + 'header = ["#SBATCH --hold"]\n'
    )
    site = Site(slurm, digits, tmp_path, sweep)
    site("submit")
    path = site.folder / "campaign.json"
    state = json.loads(path.read_text())
    job = state["submissions"][0]["jobs"][0]["job"]
    state["submissions"][0]["jobs"][0]["job"] = None
    path.write_text(text.to_json(state, site.folder.name))
    # a campaign of the same name elsewhere, whose job must not be taken for this one's
    twin = Site(slurm, digits, (tmp_path / "twin"), sweep)
    twin("submit")
    other = json.loads((twin.folder / "campaign.json").read_text())["submissions"][0]["jobs"][0]
    assert site.status()[0] == {"queued": 4}
    assert json.loads(path.read_text())["submissions"][0]["jobs"][0]["job"] == job != other["job"]
    assert "JobHeldUser" in site("status")
    assert "cancelled point 1, point 2" in site("cancel", "--where", "point <= 2")
    assert site.status()[0] == {"queued": 2, "missing": 2}
    assert f"cancelled {other['job']}" in twin("cancel")
    assert site.status()[0] == {"queued": 2, "missing": 2}
    assert "submitted 2 points" in site("submit")
    assert "nothing to submit" in site("submit")
    assert slurm.command("squeue", "-h", "-o", "%F", "-j", job).split() == [job]
    assert job in site("cancel").removeprefix("cancelled ").strip().split(", ")
    assert site.status()[0] == {"missing": 4}


TASK = """
set -eu
point=$1
echo x >>"$point/begun"
case "$*" in
*seed=2*) if [ "$(wc -l <"$point/begun")" -lt 2 ]; then exit 75; fi ;;
*seed=3*) [ -e mended ] || exit 4 ;;
esac
digest=$(sha256sum "$point/begun" | cut -c 1-64)
echo '{"steps": 1, "parameters_sha256": "'"$digest"'"}' >"$point/summary.json"
"""

PACKED = """
config = "base.toml"
commands = ['launch bash task.sh "$point" "${settings[@]}"']
[product]
seed = [1, 2, 3, 4, 5]
[resources]
time = "00:01:00"
points_per_job = 3
[stage.predict]
commands = ['basename "$train" >"$point/of.txt"']
results = ["of.txt"]
resources = { time = "00:01:00", points_per_job = 3 }
[stage.report]
needs = ["train", "predict"]
every = true
commands = ['launch cat "${predict[@]/%//of.txt}" >"$point/report.txt"']
results = ["report.txt"]
[site]
name = "slurm"
"""


def test_several_points_in_one_job(slurm, digits, tmp_path):
    """The one that stops early is continued by its job, which does not repeat those that ended."""
    site = Site(slurm, digits, tmp_path, PACKED)
    (tmp_path / "task.sh").write_text(TASK)
    told = site("submit")
    assert "train: submitted 5 points in 1 array" in told
    assert "predict: submitted 5 points in 1 array" in told
    first, second = (re.search(rf"{s}: .* array: (\d+)", told)[1] for s in ("train", "predict"))
    waits = slurm.command("squeue", "-h", "-j", second, "-o", "%E")
    assert f"aftercorr:{first}" in waits, waits
    assert site.wait() == {"done": 4, "failed": 1}
    begun = [(site.folder / "points" / site.name(n) / "begun").read_text() for n in range(1, 6)]
    assert list(map(len, begun)) == [2, 4, 2, 2, 2]
    logs = sorted(p.name for p in (site.folder / "submissions" / "0001").glob("*.txt"))
    assert logs == [*(f"log-00-{i}.txt" for i in range(5)), "pack-00-0.txt", "pack-00-1.txt"]
    assert "exit 4" in site("status")
    path = tmp_path / "account.json"
    site("account", "--json", str(path))
    found = json.loads(path.read_text())
    assert [p["starts"] for p in found["points"]] == [1, 2, 1, 1, 1]
    assert 0 < found["core_hours"] < found["core_hours_requested"] == pytest.approx(6 / 60)

    # an element of predict has not started, because a point that it follows has failed
    slurm.until(lambda: stage(site, "predict") == {"done": 2, "missing": 3}, 60, "predict")
    assert stage(site, "report") == {"missing": 1}
    (tmp_path / "mended").touch()
    told = site("resume")
    assert told.count("predict: submitted") == 2  # one waits for its point, and two for nothing
    assert "report: submitted 1 point" in told
    slurm.until(lambda: stage(site, "report") == {"done": 1}, 120, "the report")
    [report] = (site.folder / "stages" / "report" / "points").glob("*/report.txt")
    assert report.read_text().split() == [site.name(n) for n in range(1, 6)]


def stage(site: Site, name: str) -> dict[str, int]:
    """Counts of a stage."""
    [line] = [s for s in site("status").splitlines() if f":{name}: " in s]
    return {s.split()[1]: int(s.split()[0]) for s in line.rpartition(": ")[2].split(", ")}


def test_the_pipeline_of_the_examples(slurm, digits, tmp_path):
    """Training, evaluation, ensemble, prediction, a longer run from the best, and the report."""
    example = (ROOT / "jobscripts" / "campaigns" / "pipeline.toml").read_text()
    for there, here in (
        ('config = "vit-digits"', 'config = "base.toml"'),
        ('root = "../.."\nfolder = "runs/pipeline"\n', ""),
        ('name = "local"', 'name = "slurm"'),
    ):
        assert there in example
        example = example.replace(there, here)
    site = Site(slurm, digits, tmp_path, example)
    told = site("submit")
    assert [s.split(":")[0] for s in told.splitlines()] == [
        *("train", "evaluate", "ensemble", "predict", "longer", "report")
    ]
    shown = site("status", "--watch", "--every", "1")
    assert "2 points: 2 done" in shown
    for name in ("evaluate", "ensemble", "predict", "longer", "report"):
        assert stage(site, name) == {"done": 2 if name in ("evaluate", "predict") else 1}, shown
    stages = site.folder / "stages"
    [path] = (stages / "ensemble" / "points").glob("*/ensemble.json")
    mixture = json.loads(path.read_text())
    paths = [stages / "evaluate" / "points" / site.name(n) / "test.json" for n in (1, 2)]
    each = [json.loads(path.read_text()) for path in paths]
    assert [run["run"] for run in mixture["runs"]] == [e["run"] for e in each]
    nll = [e["metrics"]["nll"] for e in each]
    assert 0 < mixture["metrics"]["nll"] < sum(nll) / 2  # -log is convex
    [page] = (site.folder / "stages" / "report" / "points").glob("*/report/index.html")
    [longer] = (site.folder / "stages" / "longer" / "points").iterdir()
    assert longer.name in page.read_text() or str(longer) in page.read_text()
    assert json.loads((longer / "summary.json").read_text())["steps"] == 3 * 19

    told = site("logs", "--where", "seed == 2")
    assert f"start 1 of {site.name(2)} on n" in told
    assert site.name(1) not in told
    path = tmp_path / "account.json"
    site("account", "--json", str(path))
    found = json.loads(path.read_text())
    assert [p["starts"] for p in found["points"]] == [1, 1]
    assert 0 < found["core_hours"] < found["core_hours_requested"] == pytest.approx(2 * 2 / 2)
    site("report", "--out", str(tmp_path / "report"))
    text = (tmp_path / "report" / "index.html").read_text()
    assert all(site.name(n) in text for n in (1, 2))


SEARCH = """
config = "base.toml"
evaluate = ""
[set]
training.epochs = 1
[search]
metric = "nll"
trials = 4
at_once = 4
[search.space]
"optimizer.lr" = { low = 1e-4, high = 1e-2, log = true }
[resources]
time = "00:05:00"
[site]
name = "slurm"
"""


def test_a_search_whose_trials_are_jobs(slurm, digits, tmp_path):
    pytest.importorskip("optuna")
    site = Site(slurm, digits, tmp_path, SEARCH)
    told = site("search", "--every", "1")
    found = re.search(r"best: nll = (\S+) in trial (\d)", told)
    assert found, told
    assert site.status()[0] == {"done": 4}
    site("collect")
    rows = list(csv.DictReader((site.folder / "results.csv").read_text().splitlines()))
    nll = [float(r["valid.nll"]) for r in rows]
    assert min(nll) == pytest.approx(float(found[1]), rel=1e-5)
    assert nll[int(found[2]) - 1] == min(nll)
    for path in site.folder.glob("points/*/provenance.json"):
        assert json.loads(path.read_text())["starts"][0]["launcher"].startswith("srun in job")
