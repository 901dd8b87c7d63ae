"""Ranks that are stopped for good are noticed and named, and the job ends; others go on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import environment
from test_training import ranks_of, start, wait_for_step

from hpcsamp.data import Dataset
from hpcsamp.run import checkpoint
from hpcsamp.watchdog import Doing, Phase, stall
from hpcsamp.watchdog.signs import Signs
from hpcsamp.watchdog.verdict import Blame, Witness
from hpcsamp.watchdog.whereabouts import (
    BEAT,
    COLUMNS,
    DOING,
    LONGEST,
    PASSED,
    QUIET,
    READS,
    Whereabouts,
    describe,
)

STALL = 8  # far above what a busy machine keeps a process from its core


# Who is to blame ----------------------------------------------------------------------------------


def row(beat: int, passed: int = 0, doing: int = 0, **more: int) -> list[int]:
    found = [0] * COLUMNS
    found[BEAT], found[PASSED], found[DOING] = beat, passed, doing
    for name, value in more.items():
        found[{"quiet": QUIET, "longest": LONGEST, "reads": READS}[name]] = value
    return found


def test_the_one_that_is_not_heard_is_to_blame_not_those_that_wait():
    witness = Witness(3, 0.0)
    for second in range(1, 25):
        for rank in (0, 1, 2):
            if rank != 1 or second < 10:
                waits = Doing.EXCHANGE if rank != 1 else 0
                witness.see(rank, row(second, 5, waits), float(second))
        blame = witness.verdict([0, 1, 2], 10.0, float(second))
        assert blame == ([Blame(1, second - 9.0, "stopped")] if second > 19 else [])


def test_one_whose_thread_hangs_is_told_from_those_that_wait():
    witness = Witness(2, 0.0)
    for second in range(1, 40):
        witness.see(0, row(second, 5, Doing.BATCH), float(second))
        witness.see(1, row(second, 5, Doing.BATCH, quiet=second * 1000, reads=1), float(second))
    assert witness.verdict([0, 1], 30.0, 39.0) == [Blame(1, 39.0, "stuck")]


def test_all_that_wait_for_each_other_are_told_by_how_far_they_came():
    witness = Witness(3, 0.0)
    for second in range(1, 40):
        for rank in range(3):
            witness.see(rank, row(second, 4 if rank == 2 else 5, Doing.AGREEMENT), float(second))
    (blame,) = witness.verdict([0, 1, 2], 30.0, 39.0)
    assert (blame.rank, blame.kind) == (2, "waiting")
    witness.see(0, row(40, 5, Doing.BATCH, reads=1), 40.0)  # it reads a large batch
    assert witness.verdict([0, 1, 2], 30.0, 40.0) == []


def test_a_rank_that_was_quiet_for_long_and_went_on_is_given_longer():
    witness = Witness(2, 0.0)
    assert witness.limit(10.0) == 10.0
    witness.see(1, row(1, longest=20_000), 1.0)
    assert witness.limit(10.0) == 60.0
    witness.see(0, row(1), 40.0)  # it was not heard for 40 s
    assert witness.limit(10.0) == 120.0


def test_for_one_that_was_suspended_no_time_has_passed():
    witness = Witness(2, 0.0)
    witness.see(1, row(1), 1.0)
    witness.shift(1000.0)
    assert witness.verdict([0, 1], 10.0, 1008.0) == []
    assert [b.rank for b in witness.verdict([1], 10.0, 1012.0)] == [1]


def quiet_during(where: Whereabouts, action: Callable[[], object]) -> float:
    """Longest quiet, in seconds, that a thread which looks every 0.1 s finds during an action."""
    signs, ended, found = Signs(where, time.monotonic()), threading.Event(), [0.0]

    def look() -> None:
        while not ended.wait(0.1):
            signs.look(time.monotonic())
            found.append(where.row[QUIET] / 1000)

    thread = threading.Thread(target=look)
    thread.start()
    action()
    ended.set()
    thread.join()
    return max(found)


def test_a_thread_that_hangs_is_told_from_one_that_works():
    where = Whereabouts()

    def hang() -> None:
        time.sleep(2.0)

    def work() -> None:
        until = time.monotonic() + 2.0
        while time.monotonic() < until:
            pass

    def read(action: Callable[[], None]) -> None:
        with where.reading(0, 7):
            action()

    def reader(action: Callable[[], None]) -> None:
        thread = threading.Thread(target=read, args=(action,))
        thread.start()
        thread.join()

    assert quiet_during(where, hang) > 1.5
    assert quiet_during(where, work) < 1.5
    assert where.row[LONGEST] < 1500
    with where.waiting(Doing.EXCHANGE):
        assert quiet_during(where, hang) == 0  # it waits for others
        assert quiet_during(where, lambda: reader(hang)) > 1.5
        assert quiet_during(where, lambda: reader(work)) < 1.5


def test_where_a_rank_is_reads_well():
    where = Whereabouts()
    assert describe(where.row) == "the start"
    where.at(Phase.STEP, 12)
    with where.waiting(Doing.EXCHANGE), where.reading(1, 3):
        assert describe(where.row) == "step 12, in an exchange, reading batch 3 of epoch 1"
    assert describe(where.row) == "step 12"
    for phase in Phase:
        where.at(phase, 1)
        assert describe(where.row)


def test_nodes_are_excluded_where_it_is_the_nodes(tmp_path):
    places = [("a", 1), ("b", 2), ("b", 3), ("c", 4)]
    rows = [row(1)] * 4

    def excluded(*blame: Blame) -> str:
        return stall.record(blame, rows, places, 10.0)["exclude"]

    assert excluded(Blame(1, 11.0, "stopped"), Blame(2, 11.0, "stopped")) == "b"
    assert excluded(Blame(1, 11.0, "stuck"), Blame(3, 11.0, "stopped")) == "b,c"
    assert excluded(*(Blame(r, 11.0, "stuck") for r in range(4))) == ""
    assert excluded(Blame(2, 11.0, "waiting")) == ""
    for count in (1, 2):
        stall.write(tmp_path / "run" / stall.STALL, stall.record([], rows, places, 10.0))
        assert json.loads((tmp_path / "run" / stall.STALL).read_text())["count"] == count


# Real jobs ----------------------------------------------------------------------------------------


class Stopped:
    """Jobs in which a rank stops, all at the same time."""

    def __init__(self, folder: Path, config: Path, run: Path) -> None:
        self.folder = folder
        train = ["train", config, "--set=training.epochs=3000", f"--set=training.stall={STALL}"]
        images = [*train, "--data", folder / "images"]
        mixer = ["train", "mixer-era5", "--preset=tiny", "--data=synthetic", *train[2:],
                 f"--set=data.path={folder / 'fields'}", "--set=parallel.model=2"]  # fmt: skip
        late = [f"--stall={STALL}"]
        cases: dict[str, list[Any]] = {
            "exchange": [1, "exchange", 40, "stop", *train, "-o", folder / "exchange"],
            "model": [1, "post", 60, "stop", *mixer, "-o", folder / "model"],
            "read": [1, "read", 12, "stop", *images, "-o", folder / "read"],
            "hung": [1, "read", 12, "hang", *images, "-o", folder / "hung"],
            "checkpoint": [0, "save", 4, "stop", *train, "-o", folder / "checkpoint"],
            "evaluate": [1, "evaluation", 2, "stop", "evaluate", run, "--split=train", *late],
            "predict": [1, "write", 3, "stop", "predict", run, "-o", folder / "p.h5", *late],
            "ingest": [1, "shard", 2, "stop", "ingest", "digits", "-o", folder / "set",
                       "--shard-mb=0.02", *late],
        }  # fmt: skip
        program = Path(__file__).parent / "stops.py"
        self.jobs = {
            name: subprocess.Popen(
                ["mpirun", "-n", "2", sys.executable, str(program), *map(str, case)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
                env=environment(),
            )
            for name, case in cases.items()
        }

    def end(self) -> None:
        for job in self.jobs.values():
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGKILL)
            job.communicate()

    def told(self, name: str, file: Path) -> tuple[str, dict[str, Any]]:
        """The line, and the stall file, of a job that has ended."""
        job = self.jobs[name]
        out, err = job.communicate(timeout=150)
        assert job.returncode == 1, (out, err)
        (line,) = [x for x in err.splitlines() if x.startswith("hpcsamp: error")]
        assert "Traceback" not in err
        told = json.loads(file.read_text())
        (rank,) = told["ranks"]
        assert f"rank {rank['rank']} (process {rank['pid']} on {rank['host']})" in line
        assert rank["last_seen"] in line
        assert line.endswith(f"; the job is ended, see {file} (more: hpcsamp explain stall)")
        assert STALL <= rank["seconds"] < 6 * STALL
        assert told["exclude"] == rank["host"]
        until = time.monotonic() + 30
        while Path(f"/proc/{rank['pid']}/cmdline").exists() and time.monotonic() < until:
            time.sleep(0.05)
        assert not Path(f"/proc/{rank['pid']}/cmdline").exists(), "it was left behind"
        return line, rank


@pytest.fixture(scope="module")
def stopped(
    small: Path, commands: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stopped]:
    folder = tmp_path_factory.mktemp("stopped")
    done = commands(
        1,
        ["train", small, "-o", folder / "run", "--set=training.steps=2"],
        # of more bytes an item than are held in memory: 6 batches an epoch
        ["ingest", "synthetic", "--like=cifar10", "--items=500", "-o", folder / "images"],
    )
    assert done.code == 0, done.err
    assert Dataset.open(folder / "images", "train").count // 64 == 6
    assert "the job ends if a rank gives no sign of life for 600 s" in done.out
    jobs = Stopped(folder, small, folder / "run")
    yield jobs
    jobs.end()


def test_in_the_middle_of_an_exchange(stopped):
    _, rank = stopped.told("exchange", stopped.folder / "exchange" / "stall.json")
    assert (rank["rank"], rank["kind"]) == (1, "stopped")
    assert re.fullmatch(r"step \d+, in an exchange.*", rank["last_seen"])


def test_between_model_ranks(stopped):
    """The others wait for what it was to write into memory that they share."""
    _, rank = stopped.told("model", stopped.folder / "model" / "stall.json")
    assert (rank["rank"], rank["kind"]) == (1, "stopped")
    assert rank["last_seen"].startswith("step ")


def test_in_the_middle_of_a_read(stopped):
    _, rank = stopped.told("read", stopped.folder / "read" / "stall.json")
    assert (rank["rank"], rank["kind"]) == (1, "stopped")
    assert re.fullmatch(r"step \d+.*, reading batch \d of epoch 1", rank["last_seen"])


def test_in_a_file_system_that_hangs(stopped):
    line, rank = stopped.told("hung", stopped.folder / "hung" / "stall.json")
    assert (rank["rank"], rank["kind"]) == (1, "stuck")
    assert re.search(r"reading batch \d of epoch 1", rank["last_seen"])
    assert "is alive but has been idle for" in line


def test_in_the_middle_of_a_checkpoint(stopped, hpcsamp, small):
    run = stopped.folder / "checkpoint"
    _, rank = stopped.told("checkpoint", run / "stall.json")
    assert (rank["rank"], rank["kind"]) == (0, "stopped")
    newest = checkpoint.latest(run / "checkpoints")
    step = checkpoint.read(newest)["step"]
    # it is written behind the steps that follow, until the next one is to be begun
    seen = re.match(r"(?:the checkpoint of )?step (\d+)", rank["last_seen"])
    assert step <= int(seen[1]) <= step + 2 * 19
    # its lock is that of a process which has ended
    done = hpcsamp(1, "train", small, "-o", run, "--resume", "--set=training.epochs=3000",
                   f"--set=training.steps={step + 1}")  # fmt: skip
    assert done.code == 0, done.err
    assert f"resumed after step {step}" in done.out


def test_in_an_evaluation(stopped):
    _, rank = stopped.told("evaluate", stopped.folder / "run" / "stall.json")
    assert (rank["rank"], rank["last_seen"].split(",")[0]) == (1, "batch 1 of an evaluation")
    assert not (stopped.folder / "run" / "evaluation" / "train.json").exists()


def test_in_a_prediction(stopped):
    _, rank = stopped.told("predict", stopped.folder / "p.h5.stall.json")
    assert (rank["rank"], rank["kind"]) == (1, "stopped")
    assert not (stopped.folder / "p.h5").exists()


def test_in_an_ingest(stopped, hpcsamp):
    target = stopped.folder / "set"
    _, rank = stopped.told("ingest", stopped.folder / "set.stall.json")
    assert (rank["rank"], rank["kind"]) == (1, "stopped")
    assert rank["last_seen"].startswith("shard ")
    done = hpcsamp(1, "ingest", "digits", "-o", target, "--shard-mb=0.02")
    assert done.code == 0, done.err
    assert Dataset.open(target, "train").count == 1258


def test_ranks_that_were_suspended_and_continued_go_on(small, tmp_path):
    """All of them for longer than the limit, as Slurm and the lid of a laptop do; then one alone,
    for less."""
    run = tmp_path / "run"
    changes = ["--set=training.epochs=3000", "--set=training.stall=5"]
    job = start(["train", str(small), "--output", str(run), *changes])
    wait_for_step(job, run, 5)
    ranks = ranks_of(job.pid)
    assert len(ranks) == 2
    for suspended, seconds in ((ranks, 8.0), (ranks[1:], 2.0)):
        for pid in suspended:
            os.kill(pid, signal.SIGSTOP)
        before = (run / "metrics.jsonl").read_text().count("\n")
        time.sleep(seconds)
        for pid in suspended:
            os.kill(pid, signal.SIGCONT)
        wait_for_step(job, run, before + 20)
    os.kill(job.pid, signal.SIGUSR2)
    out, err = job.communicate(timeout=60)
    assert job.returncode == 75, (out, err)
    assert not (run / "stall.json").exists()


def test_between_nodes_and_many_times_in_a_process(script, tmp_path):
    """Each rank a node of its own: by messages alone. Nothing is left of watchdogs that ended."""
    code = textwrap.dedent(
        f"""
        import os, signal, threading, time
        from pathlib import Path
        from hpcsamp.errors import HpcsampError
        from hpcsamp.runtime import mpi
        MPI = mpi()
        from hpcsamp.watchdog import Phase, dog, here, rank_table
        comm = MPI.COMM_WORLD
        file = Path({str(tmp_path / "stall.json")!r})

        def held():
            return threading.active_count(), len(os.listdir("/proc/self/fd"))

        def watch(number):
            with dog.Watchdog(comm, 1.0 if number % 2 else 600.0, file) as watchdog:
                here.at(Phase.STEP, number)
                if number == 3:
                    time.sleep(0.2 * comm.rank)
                if number % 5 == 4:
                    error = HpcsampError("agreed")
                    error.agreed = True
                    raise error
            return len(watchdog._table.known)

        def rounds(count):
            for number in range(count):
                try:
                    assert watch(number) == comm.size
                except HpcsampError as e:
                    assert str(e) == "agreed"

        rounds(5)
        before = held()
        rounds(40)
        shared, rank_table._shared = rank_table._shared, lambda node: None
        rounds(10)
        assert held() == before, (held(), before)
        assert not file.exists()
        with dog.Watchdog(comm, {STALL}, file) as watchdog:
            here.at(Phase.STEP, 7)
            until = time.monotonic() + 2
            while time.monotonic() < until:  # all are heard of
                pass
            assert (watchdog._table.rows[:, 0] > 0).all(), watchdog._table.rows
            if comm.rank == 1:
                os.kill(os.getpid(), signal.SIGSTOP)
            comm.Barrier()
        """
    )
    done = script(3, code, timeout=120)
    assert done.code == 1, done.err
    assert "AssertionError" not in done.err, done.err
    (rank,) = json.loads((tmp_path / "stall.json").read_text())["ranks"]
    assert (rank["rank"], rank["kind"], rank["last_seen"]) == (1, "stopped", "step 7")
    assert [x for x in done.err.splitlines() if "rank 1 (process" in x]
