"""Run a command in a process that a server forks: ``python -I -S client.py SOCKET COMMAND ...``.

The process has the arguments, standard files, folder, environment, cores and priority of this one,
and a process group of its own. It gets the signals that this one gets, and this one ends as it
does. If the server does not answer or refuses, the command is run here. Only the standard library
is imported, to start in milliseconds.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from contextlib import suppress

FORWARDED = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def main() -> None:
    """Ask for a process and wait for its end."""
    path, *command = sys.argv[1:]
    here = os.getcwd()  # noqa: PTH109 - importing pathlib takes longer than all of this
    asked = {
        "arguments": command[1:],
        "cwd": here,
        "environment": dict(os.environ),
        "cores": sorted(os.sched_getaffinity(0)),
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
    }
    usual = {number: signal.getsignal(number) for number in FORWARDED}
    process = 0
    early: list[int] = []

    def forward(number: int, _: object) -> None:
        if process:
            with suppress(ProcessLookupError):
                os.kill(process, number)
        else:
            early.append(number)

    for number in FORWARDED:
        if usual[number] != signal.SIG_IGN:
            signal.signal(number, forward)
    try:
        server = socket.socket(socket.AF_UNIX)
        server.connect(path)
        socket.send_fds(server, [b"3"], [0, 1, 2])
        answers = server.makefile("rw")
        answers.write(json.dumps(asked) + "\n")
        answers.flush()
        process = int(answers.readline() or 0)
    except OSError:
        process = 0
    if not process:
        for number in FORWARDED:
            signal.signal(number, usual[number])
        for sent in early:
            os.kill(os.getpid(), sent)
        os.execv(command[0], command)
    for sent in early:
        forward(sent, None)
    code = 0
    try:
        code = int(answers.readline() or -signal.SIGKILL)
    except OSError:  # the server was killed, and the process with it
        code = -signal.SIGKILL
    if code < 0:
        with suppress(OSError):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
