"""Processes that are forked from one that has imported torch, which takes a core for seconds.

``Servers.python`` takes the place of ``python`` in a command, also in one under ``mpirun``: it is
a file that starts :mod:`stand_in`, which asks a server to fork a process with its arguments,
environment, files, folder, cores and priority. That process goes the way that a started one goes,
to the end of the interpreter; nothing of MPI is imported before. There are two servers, for odd and
even ranks, so that strings have other hashes on other ranks, as in processes that are started.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import runpy
import selectors
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

COUNT = 2


class Servers:
    """The servers of a session; to be closed at its end.

    Attributes
    ----------
    python
        Path of a file that starts a process as Python does.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="served-")
        folder = Path(self._folder.name)
        self.python = folder / "python"
        words = [sys.executable, "-I", "-S", str(Path(__file__).with_name("stand_in.py")), folder]
        self.python.write_text(f'#!/bin/sh\nexec {shlex.join(map(str, words))} "$@"\n')
        self.python.chmod(0o700)
        self._processes = [
            subprocess.Popen(
                [sys.executable, __file__, str(folder / str(i))],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                env=environment,
                text=True,
                start_new_session=True,
            )
            for i in range(COUNT)
        ]
        for process in self._processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"

    def close(self) -> None:
        """End the servers."""
        for process in self._processes:
            process.terminate()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        self._folder.cleanup()


def of_python(environment: dict[str, str]) -> dict[str, str]:
    """What Python, torch and the linker read as they start."""
    known = ("PYTHON", "OMP_", "MKL_", "TORCH", "LD_", "KMP_", "MALLOC_", "GLIBC_")
    return {k: v for k, v in environment.items() if k.startswith(known)}


def serve(path: str) -> dict[str, Any]:
    """Fork a process for each connection; returns what it is told in a process.

    A connection brings a JSON line and three files. The answer is the id of the process, then its
    exit code; or ``0``, if a process would not be what Python starts. A process whose connection is
    closed is killed.
    """
    started = of_python(dict(os.environ))
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen(64)
    chosen = selectors.DefaultSelector()
    chosen.register(listening, selectors.EVENT_READ)
    processes: dict[socket.socket, tuple[int, int]] = {}
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        for key, _ in chosen.select():
            if key.fileobj is listening:
                asked, _ = listening.accept()
                told, files = _told(asked)
                python = of_python(told["environment"]) == started
                if not python or not _known(told["arguments"][0]):
                    asked.sendall(b"0\n")
                    asked.close()
                elif process := os.fork():
                    asked.sendall(b"%d\n" % process)
                    ended = os.pidfd_open(process)
                    processes[asked] = process, ended
                    chosen.register(asked, selectors.EVENT_READ)
                    chosen.register(ended, selectors.EVENT_READ, asked)
                else:
                    for other in [listening, asked, *processes]:
                        other.close()
                    for _, other_end in processes.values():
                        os.close(other_end)
                    chosen.close()
                    return told | {"files": files}
                for file in files:
                    os.close(file)
            elif key.data is None:  # nobody waits for it any longer
                chosen.unregister(key.fileobj)
                os.kill(processes[key.fileobj][0], 9)
            else:
                _end(chosen, key.data, *processes.pop(key.data))


def _known(first: str) -> bool:
    """Whether :func:`run` knows a command that begins like this."""
    return first in ("-m", "-c") or not first.startswith("-")


def _told(asked: socket.socket) -> tuple[dict[str, Any], list[int]]:
    line, files, _, _ = socket.recv_fds(asked, 1 << 16, 3)
    while not line.endswith(b"\n"):
        line += asked.recv(1 << 16)
    return json.loads(line), files


def _end(chosen: selectors.BaseSelector, asked: socket.socket, process: int, ended: int) -> None:
    _, status = os.waitpid(process, 0)
    chosen.unregister(ended)
    os.close(ended)
    if asked in chosen.get_map():
        chosen.unregister(asked)
        with contextlib.suppress(OSError):
            asked.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
    asked.close()


def become(told: dict[str, Any]) -> None:
    """Take session, folder, environment, files, cores and chance of a process that is started."""
    os.setsid()
    os.chdir(told["cwd"])
    os.sched_setaffinity(0, told["cores"])
    os.setpriority(os.PRIO_PROCESS, 0, told["priority"])
    os.environ.clear()
    os.environ.update(told["environment"])
    for stream, file in enumerate(told["files"]):
        os.dup2(file, stream)
        os.close(file)
    numpy.random.seed()  # that of random changes itself


def run(arguments: list[str], cwd: str) -> None:
    """Go the way of ``python ARGUMENTS``."""
    first, *rest = arguments
    if first == "-m":
        module, *rest = rest
        sys.argv, sys.path[0] = [first, *rest], cwd
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    elif first == "-c":
        code, *rest = rest
        sys.argv, sys.path[0] = [first, *rest], ""
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(code, "<string>", "exec"), main.__dict__)
    else:
        sys.argv, sys.path[0] = [first, *rest], str(Path(first).resolve().parent)
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    import numpy
    import pytest  # noqa: F401

    import hpcsamp.cli
    import hpcsamp.losses
    import hpcsamp.metrics  # noqa: F401

    early = [name for name in ("mpi4py.MPI", "horovod.torch", "h5py") if name in sys.modules]
    if early or threading.active_count() > 1:
        sys.exit(f"served: {early or 'threads'} before a process is forked")
    gc.collect()
    gc.freeze()  # as it ends, a process copies no page of these for their last look
    told = serve(sys.argv[1])
    become(told)
    run(told["arguments"], told["cwd"])
