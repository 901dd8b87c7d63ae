"""Commands in processes that are forked from one that has imported torch, which takes seconds.

The server reads a JSON line for each process from its standard input: ``arguments`` of
``python -m hpcsamp``, ``cwd``, ``environment``, and the files ``out`` and ``err``. It answers with
the id of the process, then with its exit code. A process goes the way that a started one goes, to
the end of the interpreter; nothing of MPI is imported before.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any


class Server:
    """Starts processes one at a time; to be closed at the end of a session."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._at_start = _of_python(environment)
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
            start_new_session=True,
        )

    def serves(self, environment: dict[str, str]) -> bool:
        """Whether a process with this environment would have imported the same."""
        return _of_python(environment) == self._at_start

    def run(
        self,
        arguments: tuple[str, ...],
        cwd: Path | None,
        environment: dict[str, str],
        limit: float,
    ) -> tuple[int | None, str, str]:
        """Exit code (None: it was ended at the time limit), standard output and error."""
        with self._lock, tempfile.TemporaryDirectory() as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            told = {
                "arguments": arguments, "cwd": str(cwd or Path.cwd()), "environment": environment,
                "out": str(out), "err": str(err),
            }  # fmt: skip
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(told) + "\n")
            self._process.stdin.flush()
            process, code = int(self._line()), None
            if select.select([self._process.stdout], [], [], limit)[0]:
                code = int(self._line())
            else:
                os.killpg(process, signal.SIGKILL)
                self._line()
            return code, *(path.read_text(errors="backslashreplace") for path in (out, err))

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def close(self) -> None:
        """End the server; it reads no more lines."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def _of_python(environment: dict[str, str]) -> dict[str, str]:
    """What Python, torch and the linker read as they start."""
    known = ("PYTHON", "OMP_", "MKL_", "TORCH", "LD_", "KMP_")
    return {k: v for k, v in environment.items() if k.startswith(known)}


def serve() -> list[str]:
    """Fork a process for each line; returns the arguments in a process, and ends in the server."""
    for line in sys.stdin:
        told: dict[str, Any] = json.loads(line)
        process = os.fork()
        if not process:
            _become(told)
            return list(told["arguments"])
        _answer(process)
        _, status = os.waitpid(process, 0)
        _answer(os.waitstatus_to_exitcode(status))
    sys.exit()


def _answer(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def _become(told: dict[str, Any]) -> None:
    """Take session, folder, environment and files of a process that has been started."""
    os.setsid()
    os.chdir(told["cwd"])
    os.environ.clear()
    os.environ.update(told["environment"])
    ways = (os.O_RDONLY, os.O_WRONLY | os.O_CREAT, os.O_WRONLY | os.O_CREAT)
    for stream, (path, way) in enumerate(
        zip((os.devnull, told["out"], told["err"]), ways, strict=True)
    ):
        opened = os.open(path, way, 0o600)
        os.dup2(opened, stream)
        os.close(opened)
    sys.argv = ["hpcsamp", *told["arguments"]]
    sys.path[0] = told["cwd"]  # as python -m has it


if __name__ == "__main__":
    import hpcsamp.cli
    import hpcsamp.losses
    import hpcsamp.metrics

    early = [name for name in ("mpi4py.MPI", "horovod.torch", "h5py") if name in sys.modules]
    if early or threading.active_count() > 1:
        sys.exit(f"served: {early or 'threads'} before a process is forked")
    serve()
    hpcsamp.cli.main()
