"""The other job scripts, staging and the doctor, on the real Slurm."""

from __future__ import annotations

import csv
import json
import re

from slurm.test_train import SHAPE, submit


def test_staging_and_evaluate(slurm, small, digits, tmp_path):
    """Shards go to each node's own disk (here its /dev/shm), are read there, and are removed."""
    run, local = tmp_path / "run", "/dev/shm/disk"
    job = submit(
        slurm,
        "train.sbatch",
        tmp_path / "out",
        *(small, run, "--set", "training.epochs=1"),
        HPCSAMP_DATA=str(digits),
        HPCSAMP_LOCAL=local,
    )
    assert slurm.wait(job, 120) == "COMPLETED", (tmp_path / "out").read_text()
    out = (tmp_path / "out").read_text()
    assert f"staged {digits} to {local}/hpcsamp-{job}/digits on 2 nodes" in out
    assert str(digits) in (run / "config.toml").read_text()  # the copy does not outlive the job
    look = tmp_path / "look.sh"
    look.write_text(f"#!/bin/bash\nsrun find {local} > {tmp_path}/left\n")
    slurm.wait(slurm.sbatch(look, *SHAPE, f"--output={tmp_path}/look"), 30)
    assert (tmp_path / "left").read_text().split() == [local] * 4

    job = submit(slurm, "evaluate.sbatch", tmp_path / "out2", run, "--split", "test")
    assert slurm.wait(job, 120) == "COMPLETED", (tmp_path / "out2").read_text()
    assert (
        0 < json.loads((run / "evaluation" / "test.json").read_text())["metrics"]["accuracy"] <= 1
    )


def test_staging_that_fails_is_said_and_the_run_goes_on(slurm, small, digits, tmp_path):
    (tmp_path / "disk").write_text("not a folder")
    job = submit(
        slurm,
        "train.sbatch",
        tmp_path / "out",
        *(small, tmp_path / "run", "--set", "training.epochs=1"),
        HPCSAMP_DATA=str(digits),
        HPCSAMP_LOCAL=str(tmp_path / "disk"),
    )
    assert slurm.wait(job, 120) == "COMPLETED"
    out = (tmp_path / "out").read_text()
    assert f"WARNING: {digits} could not be staged to every node: reading the original" in out


def test_scaling(slurm, small, tmp_path):
    job = submit(slurm, "scaling.sbatch", tmp_path / "out", small, tmp_path / "scaling", "3")
    assert slurm.wait(job, 150) == "COMPLETED", (tmp_path / "out").read_text()
    rows = list(csv.DictReader((tmp_path / "scaling" / "scaling.csv").read_text().splitlines()))
    grids = [(r["ranks"], r["data_groups"], r["sample_ranks"]) for r in rows]
    assert grids == [("1", "1", "1"), ("2", "1", "2"), ("4", "2", "2")]


EXCHANGE = """
import sys
import torch
import hpcsamp as hs

topology = hs.init("node")
c = hs.choose(topology, "torch")
for over in ("world", "sample", "data"):
    x = torch.full((5,), float(topology.rank), dtype=torch.float64)
    c.sum_(x, over)
    assert x.tolist() == [float(sum(topology.comm(over).allgather(topology.rank)))] * 5
print(f"{sys.argv[1]}: {topology.data_size} x {topology.sample_size}", c.settings()["backend"])
"""


def test_ranks_of_torch_meet_under_srun_and_mpirun(slurm, tmp_path):
    program, job = tmp_path / "exchange.py", tmp_path / "job.sh"
    program.write_text(EXCHANGE)
    job.write_text(
        "#!/bin/bash\nset -euo pipefail\nsource $SLURM_SUBMIT_DIR/envs/modules.sh\n"
        f"srun python {program} srun\nmpirun python {program} mpirun\n"
    )
    number = slurm.sbatch(job, *SHAPE, f"--output={tmp_path}/out")
    state = slurm.wait(number, 120)
    out = (tmp_path / "out").read_text()
    assert state == "COMPLETED", out
    for launcher in ("srun", "mpirun"):
        assert out.count(f"{launcher}: 2 x 2 gloo") == 4, out
    assert slurm.processes() == []


def doctor(slurm, folder, *options: str, name: str = "doctor") -> str:
    script = folder / f"{name}.sh"
    script.write_text(
        "#!/bin/bash\nset -euo pipefail\nsource $SLURM_SUBMIT_DIR/envs/modules.sh\n"
        f"srun {' '.join(options)} hpcsamp doctor --json {folder}/{name}.json "
        "|| echo ended with $?\n"
    )
    job = slurm.sbatch(script, *SHAPE, f"--output={folder}/{name}.out")
    assert slurm.wait(job, 120) == "COMPLETED"
    return (folder / f"{name}.out").read_text()


def test_the_doctor_sees_the_grid(slurm, tmp_path):
    out = doctor(slurm, tmp_path, "--mpi=pmix")
    assert "ended with" not in out, out
    found = json.loads((tmp_path / "doctor.json").read_text())
    checks = {c["name"]: c for c in found["checks"]}
    assert checks["grid"]["found"].startswith("2 data groups x 2 sample ranks")
    assert re.fullmatch(r"Slurm job \d+, 4 ranks on 2 of 2 nodes", checks["job"]["found"])
    assert [r["host"] for r in found["ranks"]] == ["n1", "n1", "n2", "n2"]
    # and in the table: rank, host, data group, sample rank
    assert re.search(r"^ *3 +n2 +1 +1 ", out, re.M), out


def test_srun_without_pmi(slurm, small, digits, tmp_path):
    """Open MPI itself ends with a page of text from each process; a task alone needs no PMI."""
    lines = [
        f"hpcsamp train {small} --output {tmp_path}/run",
        f"hpcsamp ingest digits --out {tmp_path}/digits",
        "hpcsamp doctor",
    ]
    script, out = tmp_path / "job.sh", tmp_path / "out"
    script.write_text(
        "#!/bin/bash\nsource $SLURM_SUBMIT_DIR/envs/modules.sh\n"
        + "".join(f"srun --mpi=none {line}\necho ended with $?\n" for line in lines)
        + f"srun --mpi=none -N1 -n1 hpcsamp inspect {digits}\necho alone ended with $?\n"
    )
    job = slurm.sbatch(script, *SHAPE, f"--output={out}")
    assert slurm.wait(job, 120) == "COMPLETED"
    told = out.read_text()
    found = "srun started 4 processes that cannot find each other, because it offers no PMI"
    assert told.count(found) == len(lines), told
    assert told.count("hpcsamp: error") == len(lines) - 1  # the doctor's is in its table
    assert re.findall(r"^ended with (\d)", told, re.M) == ["2", "2", "1"]
    assert told.count("srun --mpi=pmix") == len(lines)
    assert "alone ended with 0" in told
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "digits").exists()
