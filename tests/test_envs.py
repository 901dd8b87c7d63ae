"""Files of envs/: what they load and set at places that are not here, by stub commands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from stubs import ROOT, Site, matches_record

SLURM_SITES = ["alps", "frontier", "horeka", "juwels", "lumi", "perlmutter"]


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path / "site")


def train(site: Site, **variables: str) -> subprocess.CompletedProcess[str]:
    script = "pbs/train.pbs" if "PBS_JOBID" in site.variables else "slurm/train.sbatch"
    arguments = (
        [] if "PBS_JOBID" in site.variables else ["config.toml", "runs/a", "--set", "seed=2"]
    )
    return site.run("bash", ROOT / "jobscripts" / script, *arguments, **variables)


@pytest.mark.parametrize("name", SLURM_SITES)
def test_sites_with_slurm(name, site):
    site.slurm()
    local = {"TMPDIR": str(site.folder)} if name == "horeka" else {}
    uenv = {"UENV_VIEW": "default"} if name == "alps" else {}
    done = train(site, HPCSAMP_SITE=name, **local, **uenv)
    assert done.returncode == 0, done.stderr
    matches_record(f"site-{name}.txt", site.calls())


def test_polaris(site):
    site.pbs()
    site.variables |= {"CONFIG": "config.toml", "RUN": "runs/a", "OPTIONS": "--set seed=2"}
    done = train(site, HPCSAMP_SITE="polaris", HPCSAMP_LOCAL="")
    assert done.returncode == 0, done.stderr
    matches_record("site-polaris.txt", site.calls())


@pytest.mark.parametrize("name", [*SLURM_SITES, "polaris"])
def test_a_site_says_what_it_follows_and_that_it_was_not_run(name):
    head = (ROOT / "envs" / f"{name}.sh").read_text().split("\nsource")[0]
    assert re.search(r"^# Follows https://", head, re.M)
    assert "# Not run on this system" in head


def test_alps_without_a_user_environment(site):
    site.slurm()
    done = train(site, HPCSAMP_SITE="alps")
    assert done.returncode == 1
    assert done.stderr.startswith("hpcsamp: no uenv is loaded")


def test_modules_must_be_named(site):
    site.slurm()
    done = train(site)
    assert done.returncode == 1
    assert "export HPCSAMP_MODULES=" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_site_that_is_not_there(site):
    site.slurm()
    done = train(site, HPCSAMP_SITE="atlantis")
    assert done.returncode != 0
    assert "envs/atlantis.sh" in done.stderr
    assert site.calls() == []


def test_a_module_that_does_not_load(site):
    site.slurm()
    site.variables["BASH_FUNC_module%%"] = (
        '() {  echo "ERROR: Unable to locate $2" >&2; return 1\n}'
    )
    done = train(site, HPCSAMP_MODULES="gcc openmpi")
    assert done.returncode == 1
    assert done.stderr == "hpcsamp: module load gcc: ERROR: Unable to locate gcc \n"


def test_a_job_builds_nothing(site, tmp_path):
    site.slurm()
    done = train(site, HPCSAMP_SITE="local", HPCSAMP_VENV=str(tmp_path / "venv"))
    assert done.returncode == 1
    assert "source the same file of envs/ on a login node first" in done.stderr
    assert not (tmp_path / "venv").exists()


# Who sees which GPU -------------------------------------------------------------------------------


SHOW = "env | grep VISIBLE_DEVICES | sort"
AMD = {"HPCSAMP_VENDOR": "amd"}
ALL = "0,1,2,3"


@pytest.mark.parametrize(
    ("variables", "options", "gpu"),
    [
        ({"SLURM_LOCALID": "2"}, (), "2"),
        ({"SLURM_LOCALID": "0", "OMPI_COMM_WORLD_LOCAL_RANK": "3"}, (), "3"),
        ({"PMI_LOCAL_RANK": "1"}, ("--reverse",), "2"),
        ({"PALS_LOCAL_RANKID": "5"}, (), "1"),
        ({"SLURM_LOCALID": "1", "CUDA_VISIBLE_DEVICES": "4,6"}, (), "6"),
        ({"SLURM_LOCALID": "3", "CUDA_VISIBLE_DEVICES": "GPU-8f"}, (), "GPU-8f"),
        ({"SLURM_LOCALID": "3", "ROCR_VISIBLE_DEVICES": "3"}, (), "3"),
        # with both set to 3, ROCm would look for the fourth of one GPU
        ({**AMD, "SLURM_LOCALID": "3"}, (), "3"),
        ({**AMD, "SLURM_LOCALID": "3", "CUDA_VISIBLE_DEVICES": ALL}, (), "3"),
        ({**AMD, "SLURM_LOCALID": "1", "HIP_VISIBLE_DEVICES": "4,5"}, (), "5"),
        (
            {
                **AMD, "SLURM_LOCALID": "1", "ROCR_VISIBLE_DEVICES": "6,7",
                "CUDA_VISIBLE_DEVICES": "0,1",
            },
            (),
            "7",
        ),
        ({**AMD, "SLURM_LOCALID": "0", "ROCR_VISIBLE_DEVICES": ALL}, ("--reverse",), "3"),
    ],
)  # fmt: skip
def test_own_gpu_sets_one_variable(variables, options, gpu, site):
    given = {"HPCSAMP_GPUS": "4", "HPCSAMP_VENDOR": "nvidia"} | variables
    done = site.run(ROOT / "envs" / "own_gpu.sh", *options, "bash", "-c", SHOW, **given)
    own = "CUDA" if given["HPCSAMP_VENDOR"] == "nvidia" else "ROCR"
    assert done.stdout == f"{own}_VISIBLE_DEVICES={gpu}\n", done.stderr


def test_own_gpu_counts_those_of_the_node(site, tmp_path):
    dev, kfd = tmp_path / "dev", tmp_path / "kfd"
    dev.mkdir()
    where = {"HPCSAMP_DEV": str(dev), "HPCSAMP_KFD": str(kfd), "SLURM_LOCALID": "4"}

    def run(**more):
        return site.run(ROOT / "envs" / "own_gpu.sh", "bash", "-c", SHOW, **(where | more))

    assert run().stdout == ""  # a node without GPUs
    for node, number in enumerate(("0", "0", "5161", "9801", "33")):  # two processors
        folder = kfd / "topology" / "nodes" / str(node)
        folder.mkdir(parents=True)
        (folder / "gpu_id").write_text(f"{number}\n")
    assert run().stdout == "ROCR_VISIBLE_DEVICES=1\n"
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (dev / name).touch()
    assert run().stdout == "CUDA_VISIBLE_DEVICES=0\n"
    assert run(HPCSAMP_VENDOR="amd").stdout == "ROCR_VISIBLE_DEVICES=1\n"


def test_own_gpu_without_a_launcher_or_a_driver(site, tmp_path):
    done = site.run(ROOT / "envs" / "own_gpu.sh", "true")
    assert done.returncode == 1
    assert "rank on this node" in done.stderr
    nothing = {"HPCSAMP_DEV": str(tmp_path), "HPCSAMP_KFD": str(tmp_path), "SLURM_LOCALID": "0"}
    for more, words in (
        ({"HPCSAMP_GPUS": "4"}, "set HPCSAMP_VENDOR=nvidia or amd"),
        ({"HPCSAMP_VENDOR": "intel"}, "must be nvidia or amd, not intel"),
    ):
        done = site.run(ROOT / "envs" / "own_gpu.sh", "true", **nothing, **more)
        assert done.returncode == 1
        assert words in done.stderr


# Where the system brings nothing ------------------------------------------------------------------

CONDA = """#!/bin/bash
echo "conda $*" >> "$STUB_LOG"
case "$1 ${2:-}" in
    "shell.bash hook") cat <<'T'
conda() {
    if [ "$1" = activate ]; then export CONDA_PREFIX=$STUB_PREFIX; fi
    command conda "$@"
}
T
        ;;
    "env list") cat "$STUB_PREFIX/list" 2>/dev/null ;;
    "env create") echo "hpcsamp  /somewhere" > "$STUB_PREFIX/list" ;;
esac
"""


def test_conda(site, tmp_path):
    site.stub("conda", CONDA)
    prefix = tmp_path / "prefix"
    prefix.mkdir()
    # what follows is the recipe, which must find conda's own: it says what is missing in there
    source = f"set -u; source {ROOT}/envs/conda.sh; code=$?; echo $HPCSAMP_PYTHON; exit $code"
    variables = {"STUB_PREFIX": str(prefix), "SLURM_JOB_ID": "77"}
    done = site.run("bash", "-c", source, **variables)
    assert "a job does not make one" in done.stderr
    del variables["SLURM_JOB_ID"]
    made = ROOT / "envs" / "environment.yml"
    text = f"id() {{ echo 1000; }}; sudo() {{ false; }}; {source}"
    for _ in range(2):  # the second time it is there
        done = site.run("bash", "-c", text,
                        **variables, HPCSAMP_VENV=str(tmp_path / "venv"))  # fmt: skip
        assert done.stdout.splitlines()[-1] == f"{prefix}/bin/python"
        assert f"Python ({prefix}/bin/python)" in done.stderr
        assert "conda install" in done.stderr or "module spider" in done.stderr
    calls = [c for c in site.calls() if c.startswith("conda env create")]
    assert calls == [
        f"conda env create --name hpcsamp --file {made}".replace(str(ROOT), "CHECKOUT")
    ]
    assert "conda activate hpcsamp" in site.calls()
    names = [re.split(r"[ =<>]", d)[0] for d in yaml.safe_load(made.read_text())["dependencies"]]
    assert {"python", "openmpi", "hdf5", "cxx-compiler", "make"} <= set(names)


SPACK = """#!/bin/bash
echo "spack $*" >> "$STUB_LOG"
case "$1 ${2:-} ${3:-}" in
    "location --install-dir hdf5") [ -e "$STUB_PREFIX/installed" ] && echo "$STUB_PREFIX/hdf5" ;;
    "location --install-dir python") echo "$STUB_PREFIX/python" ;;
    "install  ") touch "$STUB_PREFIX/installed" ;;
esac
"""


def test_spack(site, tmp_path):
    site.stub("spack", SPACK)
    source = f"set -u; source {ROOT}/envs/spack.sh; code=$?; echo $HPCSAMP_PYTHON; exit $code"
    job = site.run("bash", "-c", source, STUB_PREFIX=str(tmp_path), SLURM_JOB_ID="77")
    assert "a job does not do it" in job.stderr
    assert "spack install" not in site.calls()
    text = f"id() {{ echo 1000; }}; sudo() {{ false; }}; {source}"
    done = site.run("bash", "-c", text, STUB_PREFIX=str(tmp_path), HPCSAMP_VENV=str(tmp_path / "v"))
    assert done.stdout.splitlines()[-1] == f"{tmp_path}/python/bin/python3"
    assert "spack install" in site.calls()
    specs = yaml.safe_load((ROOT / "envs" / "spack" / "spack.yaml").read_text())["spack"]["specs"]
    assert any(s.startswith("hdf5") and "+mpi" in s for s in specs)


def test_a_wheelhouse_that_does_not_fit_is_refused(site, tmp_path):
    house = tmp_path / "house"
    house.mkdir()
    install = house / "install.sh"
    install.write_text((ROOT / "envs" / "wheelhouse_install.sh").read_text())
    (house / "python").write_text("3.2\n")
    (house / "extras").write_text("mpi,test\n")
    done = site.run("bash", install, tmp_path / "venv")
    assert done.returncode == 1
    assert f"{house} is not complete: run envs/wheelhouse.sh to its end" in done.stderr
    (house / "complete").touch()
    done = site.run("bash", install, tmp_path / "venv", HPCSAMP_PYTHON=sys.executable)
    assert done.returncode == 1
    assert "these wheels are for Python 3.2, but" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_the_container_is_built_by_the_same_recipe():
    text = (ROOT / "envs" / "hpcsamp.def").read_text()
    sections = dict(re.findall(r"^%(\w+)\n(.*?)(?=^%|\Z)", text, re.M | re.S))
    assert {"files", "post", "environment", "runscript", "test"} <= sections.keys()
    assert "source /opt/hpcsamp/envs/local.sh" in sections["post"]
    for name in ("post", "environment", "runscript"):
        done = subprocess.run(["sh", "-n"], input=sections[name], text=True, capture_output=True)
        assert done.returncode == 0, done.stderr


def test_the_module_needs_an_environment(tmp_path):
    init = Path("/usr/share/modules/init/bash")
    if not init.exists():
        pytest.skip("no environment modules here: tests/slurm/install.sh brings them")
    load = f"source {init}; module use {ROOT}/envs/modulefiles; module load hpcsamp"
    done = subprocess.run(
        ["bash", "-c", f"{load}; echo $?; command -v hpcsamp; echo $HPCSAMP_ROOT"],
        env={"PATH": "/usr/bin:/bin", "HPCSAMP_VENV": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert f"hpcsamp is not installed in {tmp_path}" in done.stderr
    assert done.stdout.splitlines()[0] == "1"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "hpcsamp").touch(0o755)
    done = subprocess.run(
        ["bash", "-c", f"{load}; echo $?; command -v hpcsamp; echo $HPCSAMP_ROOT"],
        env={"PATH": "/usr/bin:/bin", "HPCSAMP_VENV": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == ["0", str(tmp_path / "bin" / "hpcsamp"), str(ROOT)]
