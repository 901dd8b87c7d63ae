"""Job scripts: what they start, what they do with exit codes (stub commands), and for real."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import environment
from patience import patient
from stubs import ROOT, Site, matches_record

from hpcsamp.data.staged import staged
from hpcsamp.errors import DataError
from hpcsamp.sealing import text as sealed
from hpcsamp.watchdog import stall
from hpcsamp.watchdog.verdict import Blame

SCRIPTS = ROOT / "jobscripts"
NAMES = ["train", "evaluate", "predict", "ingest", "scaling"]


@pytest.fixture
def slurm_site(tmp_path):
    site = Site(tmp_path / "site", {"HPCSAMP_MODULES": "openmpi hpcsamp"})
    site.slurm()
    return site


@pytest.fixture
def pbs_site(tmp_path):
    site = Site(tmp_path / "pbs", {"HPCSAMP_MODULES": "openmpi hpcsamp"})
    site.pbs()
    return site


# What they start ----------------------------------------------------------------------------------


def test_every_script_is_there_for_every_scheduler():
    for name in NAMES:
        for folder, end in (("slurm", "sbatch"), ("pbs", "pbs")):
            text = (SCRIPTS / folder / f"{name}.{end}").read_text()
            assert text.startswith("#!/bin/bash\n# jobscripts/")
            assert f"\n#{'SBATCH' if folder == 'slurm' else 'PBS'} " in text
    assert "--signal=USR2@120" in (SCRIPTS / "slurm" / "train.sbatch").read_text()


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("evaluate", ["runs/a", "--split", "test"]),
        ("predict", ["runs/a", "--data", "data/a", "--out", "p.h5"]),
        ("ingest", ["digits", "--out", "data/a"]),
        ("train-mpirun", ["config.toml", "runs/a"]),
    ],
)
def test_slurm_scripts(script, arguments, slurm_site):
    done = slurm_site.run("bash", SCRIPTS / "slurm" / f"{script}.sbatch", *arguments)
    assert done.returncode == 0, done.stderr
    matches_record(f"slurm-{script}.txt", slurm_site.calls())


@pytest.mark.parametrize(
    ("script", "variables"),
    [
        ("train", {"CONFIG": "config.toml", "RUN": "runs/a", "OPTIONS": "--set seed=2"}),
        ("evaluate", {"RUN": "runs/a", "OPTIONS": "--split test"}),
        ("predict", {"RUN": "runs/a", "OPTIONS": "--data data/a --out p.h5"}),
        ("ingest", {"OPTIONS": "digits --out data/a"}),
    ],
)
def test_pbs_scripts(script, variables, pbs_site):
    done = pbs_site.run("bash", SCRIPTS / "pbs" / f"{script}.pbs", **variables)
    assert done.returncode == 0, done.stderr
    matches_record(f"pbs-{script}.txt", pbs_site.calls())


def test_a_script_without_its_arguments_is_one_line(slurm_site, pbs_site):
    for site, script in ((slurm_site, "slurm/train.sbatch"), (pbs_site, "pbs/train.pbs")):
        done = site.run("bash", SCRIPTS / script)
        assert done.returncode != 0
        assert len(done.stderr.splitlines()) == 1
        assert "usage" in done.stderr or "qsub -v CONFIG" in done.stderr


def test_layouts_are_computed(slurm_site, pbs_site, tmp_path):
    show = (
        f"source {SCRIPTS}/lib.sh; hpcsamp_layout; "
        'echo "$NODES $RANKS $RANKS_PER_NODE $CORES $OMP_NUM_THREADS"'
    )

    def layout(site, *unset, **variables):
        for name in unset:
            del site.variables[name]
        return site.run("bash", "-euc", show, **variables).stdout.split()

    # 16 hardware threads are 8 cores on nodes with two threads a core
    assert layout(slurm_site) == ["2", "8", "4", "8", "8"]
    # nothing was asked for: a node's 64 hardware threads, over its 4 ranks, two a core
    assert layout(slurm_site, "SLURM_CPUS_PER_TASK") == ["2", "8", "4", "8", "8"]
    assert layout(slurm_site, OMP_NUM_THREADS="3")[-1] == "3"
    slurm_site.stub(
        "scontrol", "#!/bin/bash\necho CPUTot=64 CoresPerSocket=32 Sockets=2 ThreadsPerCore=2\n"
    )
    assert layout(slurm_site) == ["2", "8", "4", "16", "16"]
    assert layout(pbs_site) == ["2", "8", "4", "16", "16"]
    alone = Site(tmp_path / "alone")
    assert layout(alone, RANKS="3") == ["1", "3", "3", "21", "21"]


def test_the_end_of_the_job_is_told(slurm_site, pbs_site):
    show = f'source {SCRIPTS}/lib.sh; hpcsamp_deadline; echo "${{HPCSAMP_END_TIME:-}}"'
    done = slurm_site.run("bash", "-euc", show, TZ="UTC")
    assert done.stdout == "1893553445\n", done.stderr  # 2030-01-02T03:04:05
    assert slurm_site.run("bash", "-euc", show, SLURM_JOB_END_TIME="1").stdout == "\n"
    told = int(pbs_site.run("bash", "-euc", show).stdout)
    assert 0 <= time.time() + 5400 - told < 60


# What they do with exit codes ---------------------------------------------------------------------


def scontrol(site):
    return [c for c in site.calls() if c.startswith("scontrol")]


def test_75_is_requeued(slurm_site):
    train = ["bash", SCRIPTS / "slurm" / "train.sbatch", "config.toml", "runs/a"]
    done = slurm_site.run(*train, STUB_CODE="75")
    assert done.returncode == 75
    assert scontrol(slurm_site) == ["scontrol requeue 77"]
    slurm_site.log.unlink()
    for variables in (
        {"STUB_CODE": "0"},
        {"STUB_CODE": "1"},
        {"STUB_CODE": "130"},
        {"STUB_CODE": "75", "STUB_STATE": "CANCELLED"},
        {"STUB_CODE": "75", "SLURM_RESTART_COUNT": "100"},
    ):
        done = slurm_site.run(*train, **variables)
        assert done.returncode == int(variables["STUB_CODE"])
        assert scontrol(slurm_site) == []


def stalls(run: Path, count: int, *ranks: int) -> dict[str, str]:
    """What lets the stub of a launcher leave a stall file as the watchdog does."""
    run.mkdir(exist_ok=True)
    (run / "stall.json").unlink(missing_ok=True)
    places = [("n1", 1), ("n2", 2), ("n3", 3)]
    blame = [Blame(r, 9.0, "stopped") for r in ranks]
    told = stall.record(blame, [[0] * 10] * 3, places, 8.0)
    if count > 1:
        (run / "stall.json").write_text(json.dumps({**told, "count": count - 1}))
    stall.write(run / "stall.json", told)
    text = (run / "stall.json").read_text()
    (run / "stall.json").unlink()
    return {"STUB_STALL": str(run / "stall.json"), "STUB_TOLD": text}


def test_a_job_that_stalled_is_requeued_without_the_nodes_that_hung(slurm_site, pbs_site, tmp_path):
    run = tmp_path / "run"
    train = ["bash", SCRIPTS / "slurm" / "train.sbatch", "config.toml", run]
    for code in ("1", "137", "143"):  # srun may hide it
        done = slurm_site.run(*train, STUB_CODE=code, **stalls(run, 1, 1))
        assert done.returncode == int(code)
        assert f"stalled on n2 (see {run}/stall.json): requeued" in done.stdout
        assert scontrol(slurm_site) == [
            "scontrol requeue 77",
            "scontrol update JobId=77 ExcNodeList=n2",
        ]
        slurm_site.log.unlink()
    told = stalls(run, 3, 0, 2)
    (run / "stall.json").write_text("an older one")
    slurm_site.run(*train, STUB_CODE="1", STUB_EXCLUDED="n7,n9", **told)
    assert scontrol(slurm_site)[1:] == ["scontrol update JobId=77 ExcNodeList=n7,n9,n1,n3"]
    slurm_site.log.unlink()
    told = stalls(run, 1, 0, 1, 2)  # all of them: it is not the nodes
    slurm_site.run(*train, STUB_CODE="1", **told)
    assert scontrol(slurm_site) == ["scontrol requeue 77"]
    slurm_site.log.unlink()
    done = slurm_site.run(*train, STUB_CODE="1", **stalls(run, 4, 1))
    assert "4 times: not again (HPCSAMP_STALLS)" in done.stdout
    assert scontrol(slurm_site) == []
    slurm_site.log.unlink()
    assert (run / "stall.json").exists()
    slurm_site.run(*train, STUB_CODE="1")  # an old stall file, and another fault
    assert scontrol(slurm_site) == []
    told = stalls(run, 1, 1)
    variables = {"CONFIG": "config.toml", "RUN": str(run), "STUB_CODE": "1", **told}
    done = pbs_site.run("bash", SCRIPTS / "pbs" / "train.pbs", **variables)
    assert f"stalled on n2 (see {run}/stall.json): submitted anew" in done.stdout
    assert [c for c in pbs_site.calls() if c.startswith("qsub")]


def test_75_is_submitted_anew_under_pbs(pbs_site):
    variables = {"CONFIG": "config.toml", "RUN": "runs/a", "STUB_CODE": "75"}
    done = pbs_site.run("bash", SCRIPTS / "pbs" / "train.pbs", **variables)
    assert done.returncode == 75
    (call,) = [c for c in pbs_site.calls() if c.startswith("qsub")]
    assert call.startswith(
        "qsub -q prod -A acct -N mine -l select=2:ncpus=64:mpiprocs=4:system=polaris "
        "-l walltime=01:30:00 -l filesystems=home:eagle -v CONFIG,RUN,OPTIONS,HPCSAMP_RESTARTS=1,"
    )
    assert call.endswith(" CHECKOUT/jobscripts/pbs/train.pbs")
    assert "HPCSAMP_MODULES" in call
    assert "HPCSAMP_END_TIME" not in call
    pbs_site.log.unlink()
    pbs_site.run(
        "bash",
        SCRIPTS / "pbs" / "train.pbs",
        **variables,
        HPCSAMP_RESTARTS="3",
        HPCSAMP_REQUEUES="3",
    )
    assert not [c for c in pbs_site.calls() if c.startswith("qsub")]


# Staging ------------------------------------------------------------------------------------------


def stage(*arguments: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", SCRIPTS / "stage.sh", *arguments],
        capture_output=True,
        text=True,
        timeout=patient(60),
        env=environment(),
    )


def test_a_staged_copy_is_whole_or_absent(digits, tmp_path):
    copy = tmp_path / "local" / "digits"
    done = stage(digits, copy)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in copy.rglob("*")) == sorted(p.name for p in digits.rglob("*"))
    assert stage(digits, copy).returncode == 0  # it is there already
    # a damaged source: the copy is as damaged, its checksums say so
    damaged = tmp_path / "damaged"
    shutil.copytree(digits, damaged)
    shard = max(damaged.rglob("*.h5"), key=lambda p: p.stat().st_size)
    with shard.open("r+b") as f:
        f.seek(shard.stat().st_size // 2)
        byte = f.read(1)
        f.seek(-1, 1)
        f.write(bytes([byte[0] ^ 1]))
    done = stage(damaged, tmp_path / "other")
    assert done.returncode == 1
    assert "is not complete" in done.stderr
    assert not (tmp_path / "other").exists()
    assert not list(tmp_path.glob("other*"))
    done = stage(tmp_path, tmp_path / "third")
    assert done.returncode == 1
    assert "it has no manifest.json" in done.stderr


def test_a_run_reads_the_staged_copy(digits, tmp_path):
    assert staged(digits, {}) == digits
    copy = tmp_path / "copy"
    shutil.copytree(digits, copy)
    assert staged(digits, {"HPCSAMP_STAGED_DATA": str(copy)}) == copy
    manifest = sealed.read_json(copy / "manifest.json")
    (copy / "manifest.json").write_text(sealed.to_json({**manifest, "uid": "other"}))
    with pytest.raises(DataError, match=r"copy is a copy of dataset other, but .*digits is"):
        staged(digits, {"HPCSAMP_STAGED_DATA": str(copy)})


# Without a scheduler, for real --------------------------------------------------------------------


def local(*arguments: str | Path, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", SCRIPTS / "local" / "train.sh", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment(), **variables},
        start_new_session=True,
    )


def test_local_training_stops_on_usr2_and_goes_on(small, tmp_path):
    run = tmp_path / "run"
    job = local(small, run, RANKS="2")
    until = time.monotonic() + patient(60)
    log = run / "metrics.jsonl"
    while not (log.exists() and '"step": 3,' in log.read_text()):
        assert time.monotonic() < until
        assert job.poll() is None, job.communicate()
        time.sleep(0.02)
    os.kill(job.pid, signal.SIGUSR2)
    out, err = job.communicate(timeout=patient(60))
    assert job.returncode == 75, err
    assert "stopped early with a checkpoint: run the same again" in out
    assert "hpcsamp: stopped early: SIGUSR2" in err
    again = local(small, run, RANKS="2")
    _, err = again.communicate(timeout=patient(90))
    assert again.returncode == 0, err
    assert json.loads((run / "summary.json").read_text())["steps"] == 38
