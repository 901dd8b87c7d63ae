"""What people install is what is tested: the wheel and the sdist hold the whole package."""

from __future__ import annotations

import configparser
import csv
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml
from conftest import launch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from patience import patient

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hpcsamp"


def checkout() -> set[str]:
    """Files of the checkout (or of an unpacked sdist) that are not made by building or running."""
    if (ROOT / ".git").exists():
        listed = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard"]
        names = subprocess.check_output(listed, text=True).splitlines()
        return {n for n in names if (ROOT / n).exists()}
    made = {".venv", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", "PKG-INFO"}
    paths = [p.relative_to(ROOT) for p in ROOT.rglob("*") if p.is_file()]
    return {str(p) for p in paths if not made & {*p.parts} and ".egg-info" not in str(p)}


def build(kind: str, source: Path, out: Path) -> Path:
    """Call setuptools as pip and its like do, without a network."""
    code = f"import setuptools.build_meta as b; print('made', b.build_{kind}({str(out)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=source,
        capture_output=True,
        text=True,
        timeout=patient(60),
    )
    assert done.returncode == 0, done.stderr
    return out / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, Path]:
    """The sdist of the checkout, the wheel of the checkout, and the wheel of the sdist."""
    folder = tmp_path_factory.mktemp("built")
    for name in checkout():  # building writes beside the sources
        (folder / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / "copy" / name)
    sdist = build("sdist", folder / "copy", folder)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    unpacked = folder / sdist.name.removesuffix(".tar.gz")
    for name in ("wheel", "again"):
        (folder / name).mkdir()
    return {
        "unpacked": unpacked,
        "wheel": build("wheel", folder / "copy", folder / "wheel"),
        "again": build("wheel", unpacked, folder / "again"),
    }


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> Path:
    """The Python of a new environment that holds the wheel; dependencies are those of the tests."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=patient(60)
    )
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    wheel = built["wheel"]
    subprocess.run(
        [*pip, "install", "-q", "--no-index", "--no-deps", wheel], check=True, timeout=patient(60)
    )
    # After its own packages come those of the tests. Their .pth files, the finder of an editable
    # hpcsamp among them, are not read there.
    own = next(folder.glob("lib/python*/site-packages"))
    paths = dict.fromkeys(sysconfig.get_paths()[k] for k in ("purelib", "platlib"))
    (own / "dependencies.pth").write_text("\n".join(paths))
    return python


def test_a_folder_of_modules_is_a_package():
    """Setuptools leaves others out of the wheel, and an editable installation hides it."""
    folders = {p.parent for p in PACKAGE.rglob("*.py")}
    assert [f for f in folders if not (f / "__init__.py").is_file()] == []


def test_the_sdist_is_the_checkout(built):
    there = {str(p.relative_to(built["unpacked"])) for p in built["unpacked"].rglob("*")}
    assert checkout() - there == set()


@pytest.mark.parametrize("kind", ["wheel", "again"])
def test_the_wheel_is_the_package(kind, built):
    with zipfile.ZipFile(built[kind]) as archive:
        names = {n for n in archive.namelist() if ".dist-info/" not in n}
    assert names == {n for n in checkout() if n.startswith("hpcsamp/")}


def test_the_wheel_works_outside_of_the_checkout(installed, small, tmp_path):
    where = tmp_path / "elsewhere"
    where.mkdir()
    lines = [
        ["train", str(small), "--output", "run", "--set", "training.epochs=1"],
        ["evaluate", "run"],
        ["predict", "run", "--out", "predictions.h5"],
        ["report", "run"],
        ["doctor", "--json", "doctor.json"],
    ]
    shutil.copy(Path(__file__).parent / "commands.py", where)
    done = launch(1, "commands.py", json.dumps(lines), python=installed, timeout=120, cwd=where)
    assert done.code == 0, done.out + done.err
    for made in ("run/summary.json", "run/evaluation/test.json", "predictions.h5"):
        assert (where / made).is_file()
    assert (where / "run" / "report" / "index.html").is_file()
    checks = {c["name"]: c for c in json.loads((where / "doctor.json").read_text())["checks"]}
    assert checks["package"]["status"] == "ok"
    assert str(installed.parent.parent) in checks["package"]["found"]
    start = json.loads((where / "run" / "provenance.json").read_text())["starts"][0]
    assert start["git"] is None


def test_the_doctor_misses_a_part_of_the_package(installed, tmp_path):
    """A wheel without a room, a file cut short after the installation, and one removed."""
    own = next(installed.parent.parent.glob("lib/python*/site-packages"))
    shutil.rmtree(own / "hpcsamp" / "training")
    record = next(own.glob("hpcsamp-*.dist-info/RECORD"))
    rows = list(csv.reader(record.read_text().splitlines()))
    with record.open("w", newline="") as file:
        csv.writer(file).writerows(r for r in rows if not r[0].startswith("hpcsamp/training/"))
    cut = own / "hpcsamp" / "report" / "maps.py"
    cut.write_text(cut.read_text()[:400])
    (own / "hpcsamp" / "campaign" / "sites" / "lumi.toml").unlink()
    hpcsamp = installed.with_name("hpcsamp")
    done = launch(1, str(hpcsamp), "doctor", python=installed, timeout=120, cwd=tmp_path)
    assert done.code == 1, done.out + done.err
    found = next(line for line in done.out.splitlines() if line.startswith("package "))
    assert "hpcsamp/campaign/sites/lumi.toml cannot be read: No such file" in found
    assert "hpcsamp/report/maps.py was changed after the installation" in found
    assert "there is no hpcsamp.training" in found
    assert done.out.count("problems: 1") == 1


# -- the version --------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    """A git repository with what building needs; ``git`` and ``version`` run in it."""
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, tmp_path)
    (tmp_path / "hpcsamp").mkdir()
    (tmp_path / "hpcsamp" / "__init__.py").touch()
    return tmp_path


def git(tree: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    return subprocess.check_output(["git", *who, "-C", str(tree), *words], text=True).strip()


def version(tree: Path) -> str:
    called = [sys.executable, "setup.py", "--quiet", "--version"]
    return subprocess.check_output(called, cwd=tree, text=True).split()[-1]


def written() -> str:
    found = re.search(r"^version = (\S+)$", (ROOT / "setup.cfg").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def test_the_version_is_that_of_the_tag(tree, tmp_path):
    assert version(tree) == written()  # a copy without git
    git(tree, "init", "--quiet")
    git(tree, "add", ".")
    git(tree, "commit", "--quiet", "-m", "one")
    commit = git(tree, "rev-parse", "--short=8", "HEAD")
    assert version(tree) == f"{written()}.dev1+g{commit}"
    git(tree, "tag", "-a", "v0.7.3", "-m", "release")
    assert version(tree) == "0.7.3"
    with (tree / "README.md").open("a") as file:
        file.write("edited")
    assert version(tree) == "0.7.3+changed"
    git(tree, "commit", "--quiet", "-a", "-m", "two")
    commit = git(tree, "rev-parse", "--short=8", "HEAD")
    assert version(tree) == f"0.7.4.dev1+g{commit}"
    sdist = build("sdist", tree, tmp_path)
    assert sdist.name == f"hpcsamp-0.7.4.dev1+g{commit}.tar.gz"
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "there", filter="data")
    [unpacked] = (tmp_path / "there").iterdir()
    assert version(unpacked) == f"0.7.4.dev1+g{commit}"


def test_what_states_the_version_agrees():
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {written()}\n" in citation
    recipe = (ROOT / "envs" / "conda" / "recipe.yaml").read_text()
    assert f'default="{written()}"' in recipe
    if not (ROOT / ".git").exists():
        return
    here = git(ROOT, "tag", "--points-at", "HEAD").split()
    for tag in (t for t in here if re.match(r"v\d", t)):
        assert tag == f"v{written()}"
        assert f"\n## {written()}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_conda_recipe_requires_what_the_package_requires():
    names = {"matplotlib": "matplotlib-base", "tomli_w": "tomli-w", "torch": "pytorch"}
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    wanted = set()
    for line in setup["options"]["install_requires"].split():
        one = Requirement(line)
        if one.name != "torch_blue":  # of PyPI, see the recipe
            name = names.get(one.name, one.name.lower())
            wanted.add((name, one.specifier))
    recipe = yaml.safe_load((ROOT / "envs" / "conda" / "recipe.yaml").read_text())
    found = set()
    for line in recipe["requirements"]["run"]:
        name, _, bounds = line.partition(" ")
        if name != "python":
            found.add((name, SpecifierSet(bounds)))
    assert found == wanted
    assert recipe["requirements"]["run"][0] == f"python {setup['options']['python_requires']}"


def test_recipes_of_clusters_require_what_the_package_requires():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    required = [Requirement(line) for line in setup["options"]["install_requires"].split()]
    spack = ROOT / "envs" / "spack" / "spack_repo" / "hpcsamp" / "packages" / "py_hpcsamp"
    found = re.findall(
        r'depends_on\("py-([\w-]+)(?:@([\d.:]+))?"', (spack / "package.py").read_text()
    )
    bounds = {name: bound for name, bound in found if bound or name == "packaging"}
    for one in required:
        if one.name == "torch_blue":  # of PyPI, see the package
            continue
        bound = bounds[one.name.lower().replace("_", "-")]
        low = [s.version for s in one.specifier if s.operator == ">="]
        assert bound.split(":")[0] == (low[0] if low else ""), one
    build = ROOT / "envs" / "easybuild" / f"hpcsamp-{written()}-foss-2024a.eb"
    table: dict[str, object] = {}
    exec(build.read_text(), table)  # an easyconfig is Python
    versions = {d[0].lower(): d[1] for d in [*table["dependencies"], *table["exts_list"]]}
    for one in required:
        if one.name.lower() in versions:
            assert one.specifier.contains(versions[one.name.lower()]), one
    assert {"pytorch", "torch_blue", "typer", "h5py", "pydantic"} <= versions.keys()
