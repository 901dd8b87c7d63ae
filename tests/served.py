"""Processes that are forked from one that has imported torch, which takes a core for seconds.

``Servers.python`` takes the place of ``python`` in a command, also in one under ``mpirun``. There
are two servers (:mod:`hpcsamp.serving`), for odd and even ranks, so that strings have other hashes
on other ranks, as in processes that are started.
"""

from __future__ import annotations

import os
import runpy
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType

from hpcsamp.serving import client
from hpcsamp.serving.server import READY, SOCKET, serve

COUNT = 2
#: What scikit-learn and torch set as they are imported by the tests; with these, a process would
#: not be as it is started, and not be forked.
OF_IMPORTS = ("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK", "TORCHINDUCTOR_CACHE_DIR")


class Servers:
    """The servers of a session; to be closed at its end.

    Attributes
    ----------
    python
        Path of a file that starts a process as Python does.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="served-")
        folders = [Path(self._folder.name, str(i)) for i in range(COUNT)]
        self.python = Path(self._folder.name, "python")
        start = shlex.join((sys.executable, "-I", "-S", client.__file__))
        own = f"{self._folder.name}/$((${{OMPI_COMM_WORLD_RANK:-0}} % {COUNT}))/{SOCKET}"
        unset = shlex.join(("unset", *(v for v in OF_IMPORTS if v not in environment)))
        exec_ = f'exec {start} "{own}" {sys.executable} "$@"'
        self.python.write_text(f"#!/bin/sh\n{unset}\n{exec_}\n")
        self.python.chmod(0o700)
        self._processes = []
        for folder in folders:
            folder.mkdir()
            words = [sys.executable, __file__, str(folder), str(os.getpid())]
            options = {"stdin": subprocess.DEVNULL, "env": environment, "start_new_session": True}
            self._processes.append(subprocess.Popen(words, **options))
        for folder, process in zip(folders, self._processes, strict=True):
            while not (folder / READY).exists():
                assert process.poll() is None
                time.sleep(0.02)

    def close(self) -> None:
        """End the servers."""
        for process in self._processes:
            process.kill()
            process.wait()
        self._folder.cleanup()


def known(arguments: list[str]) -> bool:
    """Whether :func:`run` knows a command that begins like this."""
    return arguments[0] in ("-m", "-c") or not arguments[0].startswith("-")


def run(arguments: list[str]) -> None:
    """Go the way of ``python ARGUMENTS``."""
    first, *rest = arguments
    if first == "-m":
        module, *rest = rest
        sys.argv, sys.path[0] = [first, *rest], str(Path.cwd())
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
    import pytest  # noqa: F401

    import hpcsamp.cli
    import hpcsamp.losses
    import hpcsamp.metrics  # noqa: F401

    run(serve(Path(sys.argv[1]), int(sys.argv[2]), known))
