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

CAMPAIGN = """
config = "base.toml"
evaluate = ""
[product]
seed = [1, 2, 3, 4]
"method.samples" = [1, 2, 4]
"data.batch" = [64, 128]
[derived]
"optimizer.lr" = "1e12 if seed == 4 and method.samples == 2 and data.batch == 64 else 5e-3"
"training.epochs" = "400 if seed == 1 and method.samples == 1 and data.batch == 64 else 1"
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
def test_24_points_one_fails_and_one_is_killed(slurm, digits, tmp_path):
    site = Site(slurm, digits, tmp_path)
    assert "submitted 24 points in 1 array" in site("submit")
    counts, _ = site.status()
    assert counts.keys() <= {"queued", "running"}
    assert "nothing to submit" in site("submit")
    saved = slurm.until(
        lambda: list(site.folder.glob("points/*/checkpoints/step-00000?00.pt")), 60, "a checkpoint"
    )
    assert {p.parents[1] for p in saved} == {site.folder / "points" / site.name(1)}
    slurm.command("scancel", "--signal=KILL", "--full", f"{site.job()}_0")
    assert site.wait() == {"done": 22, "failed": 1, "interrupted": 1}
    assert site.status()[1][1] == "interrupted"
    out = " ".join(site("status").split())
    assert "24 points: 22 done, 1 failed, 1 interrupted" in out
    assert "the loss is not finite" in out

    assert "submitted 2 points" in site("resume")
    assert site.wait() == {"done": 23, "failed": 1}
    log = (site.folder / "submissions" / "0002" / "log-00-0.txt").read_text()
    assert "resumed after step" in log  # not from the beginning
    assert "submitted 1 point " in site("resume")
    assert site.wait() == {"done": 23, "failed": 1}
    assert "nothing to submit" in site("submit")

    out = site("collect")
    assert "23 rows of 24 points" in out
    [named] = [line for line in out.splitlines() if line.startswith("no result")]
    assert "seed=4, method.samples=2, data.batch=64" in named
    rows = list(csv.DictReader((site.folder / "results.csv").read_text().splitlines()))
    assert len(rows) == 23
    assert all(0 <= float(r["valid.accuracy"]) <= 1 for r in rows)
    assert "parameters are bitwise equal" in site("verify", "--random")


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
    assert site.status()[0] == {"missing": 24}
    assert not (site.folder / "campaign.json").exists()


def test_jobs_that_were_not_noted_are_found_again(slurm, digits, tmp_path):
    """Killed between Slurm's answer and the note of it: nothing is submitted twice."""
    sweep = CAMPAIGN.replace("seed = [1, 2, 3, 4]", "seed = [2]") + 'header = ["#SBATCH --hold"]\n'
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
    assert site.status()[0] == {"queued": 6}
    assert json.loads(path.read_text())["submissions"][0]["jobs"][0]["job"] == job != other["job"]
    assert "JobHeldUser" in site("status")
    assert "cancelled point 1, point 2" in site("cancel", "--where", "point <= 2")
    assert site.status()[0] == {"queued": 4, "missing": 2}
    assert f"cancelled {other['job']}" in twin("cancel")
    assert site.status()[0] == {"queued": 4, "missing": 2}
    assert "submitted 2 points" in site("submit")
    assert "nothing to submit" in site("submit")
    assert slurm.command("squeue", "-h", "-o", "%F", "-j", job).split() == [job]
    assert job in site("cancel").removeprefix("cancelled ").strip().split(", ")
    assert site.status()[0] == {"missing": 6}


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
