"""Job scripts of every site against recorded ones; and that they are scripts.

After a wanted change: ``python tests/test_campaign_render.py`` records them anew; read the diff.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from hpcsamp.campaign import render, site
from hpcsamp.campaign.points import Campaign
from hpcsamp.campaign.schedulers.slurm import Slurm
from hpcsamp.errors import UsageError

RECORDED = Path(__file__).parent / "recorded" / "campaign"
CAMPAIGN = """
name = "sweep"
config = "mlp.toml"
[product]
seed = [1, 2, 3]
"model.hidden" = [[16], [32, 32]]
[resources]
nodes = "1 if seed < 3 else 2"
time = "02:00:00"
memory = "16G"
"""
CONFIG = '[data]\npath = "data/digits"\n[model]\nname = "mlp"\n'
ROOT = "/home/user/project"
IDENTITY = r"(--comment=hpcsamp:|-v HPCSAMP_JOB=)[0-9a-f]{16}\b"


def made(folder: Path, name: str, more: str = "") -> Campaign:
    """The campaign at a site, with a file for each that sites want to source."""
    for file in site.names():
        env = folder / "envs" / f"{file}.sh"
        env.parent.mkdir(exist_ok=True)
        env.touch()
    (folder / "mlp.toml").write_text(CONFIG)
    (folder / "sweep.toml").write_text(f'{CAMPAIGN}[site]\nname = "{name}"\n{more}')
    return Campaign(folder / "sweep.toml")


def files(campaign: Campaign) -> dict[str, str]:
    jobs = render.arrays(campaign.points, campaign.site, campaign.site.max_array)
    texts = render.files(campaign, jobs, campaign.folder / "submissions" / "0001")
    texts = {n: t.replace(str(campaign.root), ROOT) for n, t in texts.items()}
    # the identity of a job is that of its folder, which is another one in each test
    assert all(len(re.findall(IDENTITY, t)) == (campaign.site.scheduler != "local")
               for n, t in texts.items() if n.startswith("job-"))  # fmt: skip
    return {n: re.sub(IDENTITY, r"\1IDENTITY", t) for n, t in texts.items()}


@pytest.mark.parametrize("name", site.names())
def test_scripts_are_as_recorded(tmp_path, name):
    texts = files(made(tmp_path, name))
    recorded = {f.name: f.read_text() for f in (RECORDED / name).iterdir()}
    assert texts.keys() == recorded.keys()
    for file, text in texts.items():
        assert text == recorded[file], f"{name}/{file}: see the head of this file"


@pytest.mark.parametrize("name", site.names())
def test_scripts_pass_shellcheck(name):
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck was not found")
    scripts = [str(f) for f in sorted((RECORDED / name).glob("job-*"))]
    assert len(scripts) == 2
    done = subprocess.run([shellcheck, "--shell=bash", *scripts], capture_output=True, text=True)
    # SC1091: the sourced file is on another machine
    left = [line for line in done.stdout.splitlines() if "^--" in line and "SC1091" not in line]
    assert left == []


class Torn(Slurm):
    """A user's own scheduler, whose template is not one."""

    template = '{% extends "job.sh.j2" %}{% block header %}{{ rank }}'


def test_a_template_that_is_none_is_refused_in_one_line(tmp_path):
    campaign = made(tmp_path, "slurm", 'scheduler = "test_campaign_render:Torn"')
    with pytest.raises(UsageError, match=r"site.scheduler = 'test_campaign_render:Torn': template"):
        files(campaign)


def test_rendering_twice_gives_the_same(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    assert files(made(one, "slurm")) == files(made(two, "slurm"))


def test_lines_of_ones_own_stand_where_they_belong(tmp_path):
    script = files(
        made(
            tmp_path,
            "slurm",
            """
            header = ["#SBATCH --constraint=gpu{{ nodes }}"]
            before_modules = ["unset PYTHONPATH"]
            modules = ["gcc/13", "openmpi"]
            setup = ["export NCCL_DEBUG=INFO"]
            env = "envs/slurm.sh"
            at_once = 2
            requeue = false
            partition = "p"
            account = "a"
            launcher = "srun --mpi=pmix -n {{ ranks }}"
            """,
        )
    )["job-01.sbatch"]
    lines = script.splitlines()
    order = [
        "#!/bin/bash",
        "#SBATCH --array=0-1%2",
        "#SBATCH --partition=p",
        "#SBATCH --account=a",
        "#SBATCH --no-requeue",
        "#SBATCH --constraint=gpu2",
        "set -euo pipefail",
        "unset PYTHONPATH",
        f"source {ROOT}/envs/slurm.sh || stop 1",
        "module load gcc/13 || stop 1",
        "module load openmpi || stop 1",
        "export NCCL_DEBUG=INFO",
    ]
    places = [lines.index(line) for line in order]
    assert places == sorted(places)
    assert lines.index("#SBATCH --constraint=gpu2") < lines.index("#")  # Slurm reads no further
    assert "    srun --mpi=pmix -n 2 " in script
    assert "scontrol requeue" not in script


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ("header = ['{{ node }}']", "node"),
        ("launcher = 'srun {{'", "site.launcher"),
        ("env = 'envs/none.sh'", 'site.env = "envs/none.sh": there is no file'),
    ],
)
def test_wrong_lines_are_refused(tmp_path, more, word):
    with pytest.raises(UsageError) as e:
        files(made(tmp_path, "slurm", more))
    assert word in str(e.value)
    assert "\n" not in str(e.value)


def test_arrays_are_cut_where_they_would_be_too_large(tmp_path):
    campaign = made(tmp_path, "slurm", "max_array = 3")
    jobs = render.arrays(campaign.points, campaign.site, campaign.site.max_array)
    assert [(j.shape.nodes, len(j.points)) for j in jobs] == [(1, 3), (1, 1), (2, 2)]
    assert sorted(p.number for j in jobs for p in j.points) == [1, 2, 3, 4, 5, 6]


if __name__ == "__main__":
    for _name in [sys.argv[1]] if len(sys.argv) > 1 else site.names():
        with tempfile.TemporaryDirectory() as scratch:
            found = files(made(Path(scratch), _name))
        shutil.rmtree(RECORDED / _name, ignore_errors=True)
        (RECORDED / _name).mkdir(parents=True)
        for _file, _text in found.items():
            (RECORDED / _name / _file).write_text(_text)
