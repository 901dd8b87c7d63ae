"""``python -I -S stand_in.py FOLDER ARGUMENTS``: a process of a server in place of this one.

It is forked there, see :mod:`served`. This one passes signals on to it, and ends as it ends. Only
modules that are built into Python are imported: this is what a rank costs.
"""

import _signal
import _socket
import json
import os
import sys
from array import array

folder, *arguments = sys.argv[1:]
rank = int(os.environ.get("OMPI_COMM_WORLD_RANK", "0"))
told = {
    "arguments": arguments,
    "cwd": os.getcwd(),  # noqa: PTH109 - pathlib takes longer to import than all else
    "environment": dict(os.environ),
    "cores": sorted(os.sched_getaffinity(0)),
    "priority": os.getpriority(os.PRIO_PROCESS, 0),
}
server = _socket.socket(_socket.AF_UNIX)
server.connect(f"{folder}/{rank % 2}")
line = json.dumps(told).encode() + b"\n"
files = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array("i", [0, 1, 2]))]
if rest := line[server.sendmsg([line], files) :]:
    server.sendall(rest)
process = 0


def received():
    """The next number of the server; None if it has ended."""
    found = b""
    while not found.endswith(b"\n"):
        more = server.recv(1)
        if not more:
            return None
        found += more
    return int(found)


def forward(number, _):
    if process:
        os.kill(process, number)


for number in (_signal.SIGTERM, _signal.SIGINT, _signal.SIGUSR1, _signal.SIGUSR2, _signal.SIGHUP):
    _signal.signal(number, forward)
process = received()
if process == 0:
    for number in (
        _signal.SIGTERM,
        _signal.SIGINT,
        _signal.SIGUSR1,
        _signal.SIGUSR2,
        _signal.SIGHUP,
    ):
        _signal.signal(number, _signal.SIG_DFL)
    os.execv(sys.executable, [sys.executable, *arguments])
code = received()
if code is None:
    sys.exit("stand_in: the server has ended")
if code < 0:
    if -code != _signal.SIGKILL:
        _signal.signal(-code, _signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
