"""Run the variants of an experiment as separate MPI jobs in alternating rounds.

Every variant has its own processes, memory and Horovod, so that variants do not influence each
other. A job is stopped (SIGSTOP) while another one is measured, so that none of its threads uses a
core. All jobs run the same rounds, so that a drift in the speed of the machine affects all equally.
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
"""Prefix of lines on which rank 0 of a job answers the process that controls the rounds."""


class VariantJob:
    """The MPI job of one variant, which is stopped between its rounds.

    Parameters
    ----------
    name
        Name for messages.
    ranks
        Number of ranks.
    arguments
        Arguments of ``python``; the program is a worker, see :mod:`hpcsamp.bench.worker`.
    environment
        Additional environment variables.
    timeout
        Time limit of a round in seconds.
    python
        Another interpreter; the job is then a single process without MPI.
    core
        The only core that the processes of the job may use (default: those of this process).
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
        """Start the ranks, wait until they are ready, and return the job's description of itself.

        The job is then stopped until its first round.

        Raises
        ------
        UsageError
            If there are several ranks and mpirun is not installed.
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
        """Let the job execute a command while all other jobs are stopped."""
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
        """End the job, even if it is in the middle of a round."""
        process, self._process = self._process, None
        if process is None:
            return
        self._send(process, signal.SIGCONT)
        try:
            process.communicate(timeout=10)  # rank 0 reads the end of its input
        except subprocess.TimeoutExpired:
            self._send(process, signal.SIGKILL)
            process.kill()
            process.communicate()
        self._errors.close()

    def _program(self) -> list[str]:
        if self._python is not None:
            return [self._python]
        mpirun = shutil.which("mpirun") or shutil.which("mpiexec")
        if mpirun is None and self._ranks == 1:
            return [sys.executable]
        if mpirun is None:
            raise UsageError("mpirun was not found; load an MPI module or source envs/local.sh")
        return [mpirun, "-n", str(self._ranks), sys.executable]

    def _prepare(self) -> None:
        """Prepare the new process before the program starts in it."""
        _end_with_parent()
        if self._core is not None:
            os.sched_setaffinity(0, {self._core})

    def _stop(self) -> None:
        time.sleep(0.05)  # the answer was sent, and rank 0 only waits for commands
        self._signal(signal.SIGSTOP)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._send(self._process, number)

    def _send(self, process: subprocess.Popen[bytes], number: int) -> None:
        if process.poll() is not None:
            return  # and its ranks have ended
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
                raise HpcsampError(f"{self.name} did not answer within {self.timeout:g} s")
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
        why = said[0].removeprefix("hpcsamp: error: ") if said else "no message"
        return HpcsampError(f"{self.name} failed with exit code {self._process.returncode}: {why}")


def _end_with_parent() -> None:
    """Let the kernel end mpirun, and mpirun its ranks, if this process is killed.

    The ranks may be stopped at that time and would otherwise stay forever.
    """
    set_death_signal = 1  # PR_SET_PDEATHSIG of sys/prctl.h
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGTERM)


class Turns:
    """Jobs that are measured in alternating rounds.

    Parameters
    ----------
    jobs
        Jobs in the order of their rounds. Each job is started when the previous one is ready, so
        that they do not compete during start-up and can use data that the first one has created.
    """

    def __init__(self, jobs: Iterable[VariantJob]) -> None:
        self.jobs: list[VariantJob] = []
        self.told: list[dict[str, Any]] = []
        try:
            for job in jobs:
                self.jobs.append(job)
                self.told.append(job.start())
        except BaseException:
            self.close()
            raise

    def rounds(self, word: str, count: int, warm: int = 0) -> list[list[dict[str, Any]]]:
        """Run rounds after the warm-up rounds; return the answers of each job."""
        answers: list[list[dict[str, Any]]] = [[] for _ in self.jobs]
        for number in range(warm + count):
            for job, own in zip(self.jobs, answers, strict=True):
                answer = job.turn(word)
                if number >= warm:
                    own.append(answer)
        return answers

    def end(self) -> list[dict[str, Any]]:
        """Return the final answer of each job."""
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
