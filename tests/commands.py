"""Commands of hpcsamp one after the other, in one start of the ranks: a JSON list of lists.

With ``--refused`` each goes the way of a process to its exit code, and what rank 0 prints is a JSON
list with a list for each command: exit code, output and errors of every rank.
"""

import contextlib
import io
import json
import sys

from hpcsamp.cli import app, main


def refused(lines):
    from mpi4py import MPI

    found = []
    for arguments in lines:
        out, err, code = io.StringIO(), io.StringIO(), 0
        sys.argv = ["hpcsamp", *arguments]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
            except SystemExit as e:
                code = e.code
        found.append(MPI.COMM_WORLD.gather((code, out.getvalue(), err.getvalue())))
    if MPI.COMM_WORLD.rank == 0:
        print(json.dumps(found))


if sys.argv[1] == "--refused":
    refused(json.loads(sys.argv[2]))
else:
    for arguments in json.loads(sys.argv[1]):
        app(arguments, standalone_mode=False)
