"""Fork a process for each command that a client sends.

Nothing of MPI may be started before a fork, and no thread: a forked process goes the way that a
started one goes, from the command line to the end of the interpreter.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import json
import os
import select
import shlex
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from hpcsamp.errors import HpcsampError
from hpcsamp.files import write_whole
from hpcsamp.processes import started
from hpcsamp.serving import client

SOCKET, READY = "socket", "ready"
_OF_PYTHON = (
    "PYTHON", "OMP_", "MKL_", "OPENBLAS_", "KMP_", "TORCH", "LD_", "MALLOC_", "GLIBC_",
    "LANG", "LC_",
)  # fmt: skip
_OF_MPI = ("mpi4py.MPI", "horovod.torch", "h5py")


def serve(
    folder: Path, owner: int, serves: Callable[[list[str]], bool] = lambda arguments: True
) -> list[str]:
    """Fork processes until the owner has ended; the folder is removed then.

    Parameters
    ----------
    folder
        An empty folder, for the socket and the line that says how a command is run.
    owner
        Id of the process with which the server ends.
    serves
        Whether a forked process can do what a command's arguments ask for; if not, the command
        starts by itself.

    Returns
    -------
    list of str
        In each forked process, the arguments of its command. The server does not return.

    Raises
    ------
    HpcsampError
        If a module of MPI is imported or a thread runs, which a fork would break.
    """
    early = [name for name in _OF_MPI if name in sys.modules]
    if early or threading.active_count() > 1:
        raise HpcsampError(f"no process can be forked after {', '.join(early) or 'a thread'}")
    return Server(folder, owner, serves).run()


def leave(code: Any) -> NoReturn:
    """End a forked process as ``sys.exit`` does, but leave all modules as they are.

    Taking those of torch apart takes 0.2 s.
    """
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized():
        mpi.Finalize()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        sys.exit(code)
    if code is not None and not isinstance(code, int):
        sys.exit(code)  # a message, which Python prints
    os._exit(code or 0)


class Server:
    """Listens in a folder and forks; see :func:`serve`."""

    def __init__(self, folder: Path, owner: int, serves: Callable[[list[str]], bool]) -> None:
        self.folder, self.serves = folder, serves
        self.owner, self.began = owner, started(owner)
        self.environment, self.cwd = _of_python(os.environ), str(Path.cwd())
        self.clients: dict[int, socket.socket] = {}
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(folder / SOCKET))
        self.listener.listen()

    def run(self) -> list[str]:
        """Return the arguments in a forked process."""
        woken, wake = os.pipe()
        for end in (woken, wake):
            os.set_blocking(end, False)
        usual = {n: signal.getsignal(n) for n in (*client.FORWARDED, signal.SIGCHLD)}
        for number in client.FORWARDED:  # they are for the processes; the owner ends the server
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake)
        gc.collect()
        gc.freeze()  # a collection would copy the pages that all processes share
        write_whole(self.folder / READY, self._line())
        while self.clients or (self.began and started(self.owner) == self.began):
            waiting: list[Any] = [self.listener, woken, *self.clients.values()]
            readable, *_ = select.select(waiting, [], [], 1.0)
            if woken in readable:
                os.read(woken, 4096)
            for process, connection in self.clients.items():
                if connection in readable:  # a client sends nothing more: it was killed
                    os.kill(process, signal.SIGKILL)
            self._reap()
            if self.listener in readable:
                told = self._start()
                if told is not None:
                    signal.set_wakeup_fd(-1)
                    for number, handler in usual.items():
                        signal.signal(number, handler)
                    os.close(woken)
                    os.close(wake)
                    return told
        self._end()

    def _line(self) -> str:
        """Return the line of bash that runs a command: COMMAND and its arguments are ``$@``."""
        words = (sys.executable, "-I", "-S", client.__file__, str(self.folder / SOCKET))
        return f'exec {" ".join(map(shlex.quote, words))} "$(type -P hpcsamp)" "$@"\n'

    def _start(self) -> list[str] | None:
        """Fork a process for a client; return its arguments in the process."""
        connection, _ = self.listener.accept()
        asked, files = _received(connection)
        if asked is None or not self._as_started(asked):
            with suppress(OSError):
                connection.sendall(b"0\n")
            connection.close()
            process = 0
        else:
            process = os.fork()
            if not process:
                self._become(asked, files)
                connection.close()
                return list(asked["arguments"])
            self.clients[process] = connection
            with suppress(OSError):  # a client that was killed is seen in the next round
                connection.sendall(b"%d\n" % process)
        for file in files:
            os.close(file)
        return None

    def _as_started(self, asked: Mapping[str, Any]) -> bool:
        """Whether a forked process is what Python starts: with other variables it would not be."""
        same = _of_python(asked["environment"]) == self.environment
        return same and self.serves(asked["arguments"])

    def _become(self, asked: Mapping[str, Any], files: list[int]) -> None:
        """Take what belongs to the command; end with the server if it is killed."""
        server = os.getppid()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != server:
            os._exit(1)
        os.setpgid(0, 0)  # a signal to its own group must not reach the server
        os.sched_setaffinity(0, asked["cores"])
        with suppress(PermissionError):  # only root may take a priority above that of the server
            os.setpriority(os.PRIO_PROCESS, 0, asked["priority"])
        for connection in (self.listener, *self.clients.values()):
            connection.close()
        for stream, file in enumerate(files):
            os.dup2(file, stream)
            os.close(file)
        # The server's own may believe that they can seek, or that they are no terminal.
        sys.stdin = _opened(0, "r", sys.stdin)
        sys.stdout = _opened(1, "w", sys.stdout)
        sys.stderr = _opened(2, "w", sys.stderr)
        os.environ.clear()
        os.environ.update(asked["environment"])
        os.chdir(asked["cwd"])
        if "numpy" in sys.modules:  # its own generator would be the same in all processes
            sys.modules["numpy"].random.seed()
        sys.argv = [sys.argv[0], *asked["arguments"]]
        if sys.path[0] == self.cwd:  # as python -m has it
            sys.path[0] = asked["cwd"]

    def _reap(self) -> None:
        """Report the exit codes of processes that have ended."""
        for process in list(self.clients):
            found, status = os.waitpid(process, os.WNOHANG)
            if found:
                connection = self.clients.pop(process)
                with suppress(OSError):
                    connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
                connection.close()

    def _end(self) -> NoReturn:
        shutil.rmtree(self.folder, ignore_errors=True)
        sys.exit()


def _received(connection: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """Return what a client asks for and its standard files; None if it asks for nothing."""
    files: list[int] = []
    connection.settimeout(10)
    try:
        _, files, *_ = socket.recv_fds(connection, 1, 3)
        with connection.makefile("r") as lines:
            asked = json.loads(lines.readline())
        return (asked if len(files) == 3 else None), files
    except (OSError, ValueError):
        return None, files


def _opened(descriptor: int, mode: str, like: Any) -> Any:
    """Open a standard file as Python does at its start; the standard error is never held back."""
    return open(
        descriptor,
        mode,
        buffering=1 if descriptor == 2 else -1,
        encoding=like.encoding,
        errors=like.errors,
        closefd=False,
    )


def _of_python(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that Python, its packages and the linker read as they start."""
    return {k: v for k, v in environment.items() if k.startswith(_OF_PYTHON)}
