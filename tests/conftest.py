"""What the tests share: small runs, mpirun with a time limit, and faults put in from outside."""

from __future__ import annotations

import atexit
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from patience import patient
from served import OF_IMPORTS, Servers

# One thread a rank: with more, every product waits for the core that other work has taken.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure() -> None:
    """Let SIGTERM end a test run as Ctrl-C does: what fixtures have started is stopped."""
    signal.signal(signal.SIGTERM, lambda *_: pytest.exit("terminated", 128 + signal.SIGTERM))


_patient: list[pytest.Mark] = []


def pytest_itemcollected(item: pytest.Item) -> None:
    """Be patient with tests under MPI, too; parameters of a test share one mark."""
    for mark in item.iter_markers("mpi"):
        if "timeout" in mark.kwargs and not any(mark is m for m in _patient):
            mark.kwargs["timeout"] = patient(mark.kwargs["timeout"])
            _patient.append(mark)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start the ranks of tests under MPI as :func:`launch` does."""
    ranks = any(item.get_closest_marker("mpi") for item in session.items)
    if ranks and "OMPI_COMM_WORLD_RANK" not in os.environ:
        session.config.option.python_executable = str(servers().python)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none that torch can use."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    from hpcsamp.devices import observe

    seen = observe()
    if not seen.visible:
        why = seen.reason if seen.built else "this torch is a CPU build"
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=f"torch sees no GPU: {why}"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what the style check of tests/run.sh leaves out; skipped tests are listed anyway."""
    if shutil.which("shellcheck") is None:
        terminalreporter.write_line("shellcheck was not found: no shell script was checked")


@dataclass
class Done:
    """An ended command."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The lines that hpcsamp says of errors."""
        return [line for line in self.err.splitlines() if line.startswith("hpcsamp: error")]


#: Variables with which these tests were started.
FIRST = dict(os.environ)


def environment() -> dict[str, str]:
    """The environment without what this process has left in it: the variables of MPI, should it
    have called it, with which mpirun would take itself for a rank and end without a word, and those
    that imports have set.
    """
    left = {name for name in OF_IMPORTS if name not in FIRST}
    mpi = ("OMPI_COMM", "PMIX", "OPAL")
    return {k: v for k, v in os.environ.items() if k not in left and not k.startswith(mpi)}


def launch(
    ranks: int,
    *arguments: str,
    timeout: float = 60,
    cwd: Path | None = None,
    python: str | Path = sys.executable,
) -> Done:
    """Run ``python ARGUMENTS`` on some ranks; a job that hangs fails the test."""
    if ranks > 1 and shutil.which("mpirun") is None:
        pytest.skip("mpirun was not found")
    served = str(python) == sys.executable
    command = [str(servers().python if served else python), *arguments]
    if ranks > 1:
        # by its name, as users do: with a path it changes LD_LIBRARY_PATH
        command = ["mpirun", "-n", str(ranks), *command]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=environment(),
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=patient(timeout))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"{command} took more than {patient(timeout)} s\n{out}\n{err}")
    return Done(process.returncode, out, err)


@cache
def servers() -> Servers:
    """Those of this session."""
    started = Servers(environment())
    atexit.register(started.close)
    return started


@pytest.fixture(scope="session")
def hpcsamp() -> Callable[..., Done]:
    """``hpcsamp(ranks, "train", ...)``: the command line on some ranks."""

    def run(ranks: int, *arguments: str, **options: Any) -> Done:
        return launch(ranks, "-m", "hpcsamp", *map(str, arguments), **options)

    return run


@pytest.fixture(scope="session")
def commands() -> Callable[..., Done]:
    """``commands(ranks, ["train", ...], ["evaluate", ...])``: several of them in one job."""

    def run(ranks: int, *lines: list[Any], **options: Any) -> Done:
        told = json.dumps([[str(a) for a in line] for line in lines])
        program = Path(__file__).parent / "commands.py"
        ended_together = ("-m", "mpi4py") if ranks > 1 else ()  # one process needs no MPI library
        return launch(ranks, *ended_together, str(program), told, **options)

    return run


@pytest.fixture(scope="session")
def refusals() -> Callable[..., list[Done]]:
    """``refusals(ranks, ["train", ...], ["predict", ...])``: what becomes of commands of which each
    ends by an error that all ranks know of, so that one start of the ranks does for all.
    """

    def run(ranks: int, *lines: list[Any], **options: Any) -> list[Done]:
        told = json.dumps([[str(a) for a in line] for line in lines])
        program = Path(__file__).parent / "commands.py"
        done = launch(ranks, "-m", "mpi4py", str(program), "--refused", told, **options)
        assert done.code == 0, done.err
        found = []
        for of_ranks in json.loads(done.out):
            codes, outs, errs = zip(*of_ranks, strict=True)
            assert len(codes) == ranks
            assert len(set(codes)) == 1, of_ranks
            found.append(Done(codes[0], "".join(outs), "".join(errs)))
        return found

    return run


@pytest.fixture(scope="session")
def script() -> Callable[..., Done]:
    """``script(ranks, code)``: Python code on some ranks."""

    def run(ranks: int, code: str, **options: Any) -> Done:
        return launch(ranks, "-c", code, **options)

    return run


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory, hpcsamp: Callable[..., Done]) -> Path:
    """The digits as shards."""
    folder = tmp_path_factory.mktemp("data") / "digits"
    done = hpcsamp(1, "ingest", "digits", "--out", folder)
    assert done.code == 0, done.err
    return folder


SMALL = """
seed = 3
[data]
path = "{digits}"
batch = 64
[model]
name = "mlp"
hidden = [16]
[method]
samples = 6
samples_per_pass = 1
[loss]
name = "expected_nll"
kl_warmup_epochs = 1
[optimizer]
lr = 5e-3
[schedule]
name = "CosineAnnealingLR"
[training]
epochs = 2
precision = "float64"
log_every = 1
[evaluation]
samples = 6
batch = 90
"""


@pytest.fixture(scope="session")
def small(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configuration of a run that takes a second or two.

    Samples are evaluated one at a time: a clock would choose now this chunk, now that, and runs
    would agree to the last digits but not to the last bit.
    """
    path = tmp_path_factory.mktemp("config") / "small.toml"
    path.write_text(SMALL.format(digits=digits))
    return path


@pytest.fixture(scope="session")
def prepared(
    digits: Path, tmp_path_factory: pytest.TempPathFactory, commands: Callable[..., Done]
) -> Path:
    """What the pages of the documentation find in their folder: the digits, a run on them, and a
    table of a made-up electricity load.
    """
    folder = tmp_path_factory.mktemp("prepared")
    shutil.copytree(digits, folder / "data" / "digits")
    rows = ["time,region,temperature,load"]
    for hour in range(480):
        day, of_day = divmod(hour, 24)
        warm = 12 + 6 * math.sin((of_day - 9) / 24 * 2 * math.pi) + 0.2 * day
        load = 50 - warm + 8 * math.sin((of_day - 6) / 24 * 2 * math.pi) + (hour * 37 % 11) / 5
        region = ("north", "south")[hour % 2]
        rows.append(f"2024-01-{day + 1:02d} {of_day:02d}:00,{region},{warm:.2f},{load:.2f}")
    (folder / "load.csv").write_text("\n".join(rows) + "\n")
    settings = ("method.samples=4", "training.epochs=2", "evaluation.samples=8", "model.width=24")
    added = [word for setting in settings for word in ("--set", setting)]
    run = folder / "runs" / "four"
    done = commands(
        1,
        ["train", "vit-digits", "--output", run, *added],
        ["evaluate", run],
        cwd=folder,
    )
    assert done.code == 0, done.err
    return folder
