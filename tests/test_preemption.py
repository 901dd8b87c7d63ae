"""Stopping in time: what is noticed, that ranks agree, that nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import socket
import textwrap
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from patience import patient
from test_training import ranks_of, start, wait_for_step

from hpcsamp.cli import app
from hpcsamp.config import seconds
from hpcsamp.errors import PreemptedError, UsageError
from hpcsamp.locks import locked
from hpcsamp.losses import Parts
from hpcsamp.run import checkpoint
from hpcsamp.runtime import mpi
from hpcsamp.training.preemption import Watch, Wish, deadline, reason, stopped
from hpcsamp.training.step_agreement import Agreement


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def summary(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text())


def events(run: Path, *kinds: str) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    other = {"seconds", "seal"}  # a run's seals are its own
    return [{k: v for k, v in e.items() if k not in other} for e in lines if e["event"] in kinds]


# What is noticed ----------------------------------------------------------------------------------


def test_durations_are_those_of_slurm():
    for text, want in {
        "90": 5400,
        90: 5400,
        1.5: 90,
        "10:30": 630,
        "01:30:00": 5400,
        "1-12": 129600,
        "1-12:30": 131400,
        "2-00:00:05": 172805,
    }.items():
        assert seconds(text) == want
    for text in ("", "soon", "1:2:3:4", "-5", 0, "1-", "inf", "nan"):
        with pytest.raises(ValueError, match="is not a duration"):
            seconds(text)


def test_the_earliest_end_counts():
    assert deadline(None, {}) is None
    assert deadline(50, {}, now=100) == 150
    assert deadline(None, {"SLURM_JOB_END_TIME": "140"}, now=100) == 140
    assert deadline(50, {"SLURM_JOB_END_TIME": "160", "HPCSAMP_END_TIME": "120"}, now=100) == 120
    assert deadline(None, {"SLURM_JOB_END_TIME": "Unlimited"}) is None


def test_the_deadline_leaves_time_for_what_was_measured():
    clock = Clock()
    watch = Watch(clock.now + 1000, margin=60, clock=clock)
    assert watch.needed() == 60
    assert watch.wishes() == Wish.NONE
    clock.now += 40  # a stretch of 40 s between two steps, with an evaluation, say
    assert watch.wishes() == Wish.NONE
    assert watch.needed() == 80
    with watch.saving():
        clock.now += 15
    assert watch.needed() == 110
    clock.now = 2000 - 111
    watch._asked = clock.now - 1  # the long way here was not one stretch
    assert watch.wishes() == Wish.NONE
    clock.now += 1
    assert watch.wishes() == Wish.TIME


def test_a_short_job_has_time_to_work():
    clock = Clock()
    watch = Watch(clock.now + 40, margin=60, clock=clock)
    assert watch.needed() == 10
    assert Watch(clock.now - 5, clock=clock).wishes() == Wish.TIME
    assert Watch(clock=clock).wishes() == Wish.NONE


def test_signals_are_noted_and_handlers_put_back():
    before = [signal.getsignal(s) for s in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)]
    with Watch() as watch:
        os.kill(os.getpid(), signal.SIGUSR2)  # even before the first step
        assert watch.wishes() == Wish.USR2
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert watch.wishes() == Wish.USR2 | Wish.TERM
    assert [signal.getsignal(s) for s in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)] == before


def test_all_wishes_are_heard():
    parts = Parts(1.0, 0.5)
    for kind in ("cpu", "cuda"):
        topology = SimpleNamespace(
            world=mpi().COMM_SELF, rank=0, data_size=1, model_size=1, device=torch.device(kind)
        )
        read = []
        agreement = Agreement(
            topology, lambda read=read: read.append(1) or parts, Wish.USR2 | Wish.TIME
        )
        assert len(read) == (kind == "cpu")  # on a GPU, it would wait for the loss
        assert agreement.end("now", []) == (parts, Wish.USR2 | Wish.TIME)
        assert len(read) == 1


def test_a_second_interrupt_waits_only_for_a_checkpoint():
    with pytest.raises(KeyboardInterrupt), Watch():
        signal.raise_signal(signal.SIGINT)  # nothing to lose before the first step
    with Watch() as watch:
        watch.wishes()
        signal.raise_signal(signal.SIGINT)
        assert watch.wishes() == Wish.INT
        with watch.saving():
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_outside_of_the_main_thread_only_the_deadline_is_watched():
    found = []

    def run() -> None:
        with Watch(0.0) as watch:
            found.append(watch.wishes())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [Wish.TIME]


def test_what_is_told():
    error = stopped(Wish.USR2 | Wish.TIME, 7, 38, "x.pt")
    assert isinstance(error, PreemptedError)
    assert (error.exit_code, error.agreed) == (75, True)
    assert str(error).startswith("SIGUSR2, the time limit is near; 7 of 38 steps are done")
    assert stopped(Wish.INT | Wish.TERM, 7, 38, "x.pt").exit_code == 130
    assert PreemptedError.exit_code == 75
    assert reason(0) == ""


def test_sigterm_before_the_first_step_ends_the_process(script):
    done = script(
        1,
        "import os, signal; from hpcsamp.training.preemption import Watch\n"
        "with Watch():\n    os.kill(os.getpid(), signal.SIGTERM)\nprint('went on')",
    )
    assert (done.code, done.out) == (-signal.SIGTERM, "")


def test_a_wrong_limit_is_one_line(hpcsamp, small, tmp_path):
    done = hpcsamp(1, "train", small, "--output", tmp_path / "run", "--time-limit", "soon")
    assert done.code == 2
    assert len(done.errors) == 1
    assert "training.time_limit = 'soon'" in done.err
    assert "is not a duration" in done.err


# Runs ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference(hpcsamp, small, tmp_path_factory):
    """The run on two ranks to which nothing happens."""
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    done = hpcsamp(2, "train", small, "--output", run)
    assert done.code == 0, done.err
    return run


def test_one_rank_is_told_and_all_stop_and_resume(hpcsamp, small, reference, tmp_path):
    run = tmp_path / "run"
    job = start(["train", str(small), "--output", str(run)])
    wait_for_step(job, run, 5)
    os.kill(ranks_of(job.pid)[1], signal.SIGUSR2)
    _, err = job.communicate(timeout=patient(60))
    assert job.returncode == 75, err
    (line,) = [x for x in err.splitlines() if x.startswith("hpcsamp:")]
    step = events(run, "stopped")[0]["step"]
    assert 5 <= step < 38
    assert line.startswith(f"hpcsamp: stopped early: SIGUSR2; {step} of 38 steps are done")
    assert checkpoint.read(checkpoint.latest(run / "checkpoints"))["step"] == step
    assert not (run / "summary.json").exists()
    assert "Traceback" not in err
    done = hpcsamp(2, "train", small, "--output", run, "--resume")
    assert done.code == 0, done.err
    assert summary(run)["parameters_sha256"] == summary(reference)["parameters_sha256"]
    assert events(run, "train", "valid") == events(reference, "train", "valid")


def test_mpirun_passes_usr2_on_and_one_job_writes_a_run(commands, small, tmp_path):
    run = tmp_path / "run"
    again = ["train", str(small), "--output", str(run), "--resume", "--set=training.epochs=500"]
    job = start(again)
    wait_for_step(job, run, 20)
    (holder, _) = sorted(ranks_of(job.pid))
    done = commands(1, ["evaluate", run], again)
    assert job.poll() is None
    assert done.code == 2, done.err
    (line,) = done.errors
    assert f"{run} is being written by process {holder} on {socket.gethostname()} since" in line
    assert (run / "evaluation" / "test.json").exists()  # that is nobody else's
    assert "this evaluation was not added to metrics.jsonl" in done.err
    os.kill(job.pid, signal.SIGUSR2)
    _, err = job.communicate(timeout=patient(60))
    assert job.returncode == 75, err
    steps = [e["step"] for e in events(run, "train")]
    assert steps == list(range(1, len(steps) + 1))
    assert not list(run.rglob(".*"))


def test_one_job_at_a_time_writes_each_output(reference, tmp_path):
    (reference / "report").mkdir()
    (reference / "evaluation").mkdir()
    for lock, arguments in {
        reference / "evaluation" / ".test.lock": ["evaluate", reference],
        reference / "report" / ".lock": ["report", reference],
        tmp_path / ".p.h5.lock": ["predict", reference, "--out", tmp_path / "p.h5"],
        tmp_path / ".set.lock": ["ingest", "digits", "--out", tmp_path / "set"],
    }.items():
        told = f"is being written by process {os.getpid()} on"
        with locked(lock, "x"), pytest.raises(UsageError, match=told):
            app(list(map(str, arguments)), standalone_mode=False)
        app(list(map(str, arguments)), standalone_mode=False)
        assert not lock.exists()


def test_the_time_limit(hpcsamp, small, tmp_path):
    run = tmp_path / "run"
    arguments = ["--set=training.epochs=100000", "--set=training.time_margin=1"]
    done = hpcsamp(1, "train", small, "--output", run, "--time-limit", "0:04", *arguments)
    assert done.code == 75, done.err
    assert "stopped early: the time limit is near" in done.err
    step = checkpoint.read(checkpoint.latest(run / "checkpoints"))["step"]
    assert step == events(run, "stopped")[0]["step"] >= 1


def test_stops_anywhere_are_seamless(script, small, reference, tmp_path):
    """In mid-epoch, after an epoch's last step (before its evaluation), after the last but one;
    and with signals that arrive while the checkpoint is written.
    """
    code = textwrap.dedent(
        f"""
        import os, signal
        from pathlib import Path
        from hpcsamp import config
        from hpcsamp.errors import PreemptedError
        from hpcsamp.grid import init
        from hpcsamp.run import checkpoint
        from hpcsamp.training import preemption
        from hpcsamp.training.loop import train

        write = checkpoint.write
        def interrupted(f, content):
            for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT, signal.SIGINT):
                os.kill(os.getpid(), number)
            write(f, content)
            for number in (signal.SIGTERM, signal.SIGINT):
                os.kill(os.getpid(), number)

        class Watch(preemption.Watch):
            def wishes(self):
                self.asked = getattr(self, "asked", 0) + 1
                noted = super().wishes()
                if self.asked == stop:
                    checkpoint.write = interrupted
                    return preemption.Wish.USR2
                return noted

        preemption.Watch = Watch
        run = config.load({str(small)!r})
        topology = init(run.parallel.samples)
        for stop, step in ((7, 7), (12, 19), (18, 37), (99, 38)):
            checkpoint.write = write
            try:
                train(run, topology, {str(tmp_path / "run")!r}, resume=True)
                assert stop == 99
            except PreemptedError as e:
                assert f" {{step}} of 38 steps" in str(e), e
            newest = checkpoint.latest(Path({str(tmp_path / "run" / "checkpoints")!r}))
            assert checkpoint.read(newest)["step"] == step
        """
    )
    done = script(2, code)
    assert done.code == 0, done.err
    run = tmp_path / "run"
    assert summary(run)["parameters_sha256"] == summary(reference)["parameters_sha256"]
    assert summary(run)["metrics"] == summary(reference)["metrics"]
    assert events(run, "train", "valid") == events(reference, "train", "valid")


def test_a_bad_limit_in_a_file(small):
    from hpcsamp.config import load

    assert load(small, ["training.time_limit=90"]).training.time_limit == 90
    assert load(small, ['training.time_limit="01:30:00"']).training.time_limit == "01:30:00"
    with pytest.raises(UsageError, match=r"training\.time_limit = -1"):
        load(small, ["training.time_limit=-1"])
