"""Variants of an experiment that take turns, each a job of its own.

Every variant is an MPI job with processes, memory and Horovod of its own, so that nothing of one is
measured in another. While it is not its turn, a job is stopped (SIGSTOP): no thread of it takes a
core. All go through the same rounds, so a machine whose speed drifts does so for all of them.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import IO, Any

from hpcsamp.errors import HpcsampError, UsageError

MARK = "@hpcsamp "
"""Begins a line of a job's rank 0 that is meant for the one who gives the turns."""


class Job:
    """One variant: ranks that wait for their turn.

    Parameters
    ----------
    name
        For messages.
    ranks
        How many.
    arguments
        Of ``python``; the program serves turns, see :mod:`hpcsamp.bench.worker`.
    environment
        Set beside the present one.
    timeout
        Longest time of a turn, in seconds.
    python
        Another interpreter, to be started without MPI as the only process.
    core
        The one core that all processes of the job may use (default: as this process).
    """

    def __init__(
        self,
        name: str,
        ranks: int,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        timeout: float = 900,
        *,
        python: str | None = None,
        core: int | None = None,
    ) -> None:
        self.name, self.timeout = name, timeout
        self._python, self._core = python, core
        self.pids: list[int] = []
        self._ranks, self._arguments, self._environment = ranks, list(arguments), environment
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""

    def start(self) -> dict[str, Any]:
        """Start the ranks and wait until all is built; what the job says of itself.

        It sleeps from then on.

        Raises
        ------
        UsageError
            If there is no mpirun.
        HpcsampError
            If the job fails.
        """
        self._errors: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives with the job
        self._process = subprocess.Popen(
            [*self._program(), *map(str, self._arguments)],
            env={**os.environ, **self._environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            preexec_fn=self._prepare,
        )
        hello = self._answer()
        self.pids = hello.pop("pids")
        self._stop()
        return hello

    def turn(self, word: str) -> dict[str, Any]:
        """Have the job do something, alone on the machine."""
        self._signal(signal.SIGCONT)
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{word}\n".encode())
            self._process.stdin.flush()
        except OSError:
            raise self._failed() from None
        answer = self._answer()
        if word != "end":
            self._stop()
        return answer

    def close(self) -> None:
        """End it, whatever it does."""
        process, self._process = self._process, None
        if process is None:
            return
        self._send(process, signal.SIGCONT)
        try:
            process.communicate(timeout=10)  # rank 0 reads that there is nothing more to do
        except subprocess.TimeoutExpired:
            self._send(process, signal.SIGKILL)
            process.kill()
            process.communicate()
        self._errors.close()

    def _program(self) -> list[str]:
        if self._python is not None:
            return [self._python]
        mpirun = shutil.which("mpirun") or shutil.which("mpiexec")
        if mpirun is None:
            raise UsageError("mpirun was not found; load an MPI module or source envs/local.sh")
        return [mpirun, "-n", str(self._ranks), sys.executable]

    def _prepare(self) -> None:
        """Runs in the new process before the program does."""
        _end_with_parent()
        if self._core is not None:
            os.sched_setaffinity(0, {self._core})

    def _stop(self) -> None:
        time.sleep(0.05)  # the answer is out: what rank 0 has left to do is to wait
        self._signal(signal.SIGSTOP)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._send(self._process, number)

    def _send(self, process: subprocess.Popen[bytes], number: int) -> None:
        if process.poll() is not None:
            return  # and its ranks are gone
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _answer(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        source, end = self._process.stdout.fileno(), time.monotonic() + self.timeout
        while True:
            line, newline, rest = self._buffer.partition(b"\n")
            if newline:
                self._buffer = rest
                text = line.decode(errors="replace")
                if text.startswith(MARK):
                    told: dict[str, Any] = json.loads(text[len(MARK) :])
                    return told
                continue
            if not select.select([source], [], [], max(0.0, end - time.monotonic()))[0]:
                raise HpcsampError(f"{self.name} has not answered for {self.timeout:g} s")
            more = os.read(source, 1 << 16)
            if not more:
                raise self._failed()
            self._buffer += more

    def _failed(self) -> HpcsampError:
        assert self._process is not None
        self._process.wait()
        self._errors.seek(0)
        lines = [line for line in self._errors.read().splitlines() if line.strip()]
        said = [line for line in lines if line.startswith("hpcsamp:")] or lines[-1:]
        why = said[0].removeprefix("hpcsamp: error: ") if said else "without a word"
        return HpcsampError(f"{self.name} ended with exit code {self._process.returncode}: {why}")


def _end_with_parent() -> None:
    """Have the kernel end mpirun, and it its ranks, should this process be killed: they may be
    stopped then, and would stay for ever.
    """
    set_death_signal = 1  # PR_SET_PDEATHSIG of sys/prctl.h
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGTERM)


class Turns:
    """Jobs that are measured together.

    Parameters
    ----------
    jobs
        In the order of their turns. One is started when the one before is ready: they do not
        compete while they build, and what the first one makes (data) the others find.
    """

    def __init__(self, jobs: Iterable[Job]) -> None:
        self.jobs: list[Job] = []
        self.told: list[dict[str, Any]] = []
        try:
            for job in jobs:
                self.jobs.append(job)
                self.told.append(job.start())
        except BaseException:
            self.close()
            raise

    def rounds(self, word: str, count: int, warm: int = 0) -> list[list[dict[str, Any]]]:
        """So many rounds, after some that warm up; for each job its answers."""
        answers: list[list[dict[str, Any]]] = [[] for _ in self.jobs]
        for number in range(warm + count):
            for job, own in zip(self.jobs, answers, strict=True):
                answer = job.turn(word)
                if number >= warm:
                    own.append(answer)
        return answers

    def end(self) -> list[dict[str, Any]]:
        """What each job says at its end."""
        return [job.turn("end") for job in self.jobs]

    def __enter__(self) -> Turns:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all jobs."""
        for job in self.jobs:
            job.close()
