"""A command of hpcsamp in which one rank stops, or hangs, in the middle of something.

WHICH RANK WHERE TIMES HOW ARGUMENTS...: e.g. ``1 exchange 20 stop train small.toml``.
"""

import os
import signal
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import torch

from hpcsamp.cli import main
from hpcsamp.layers.mailbox import Mailbox
from hpcsamp.prediction.writer import ParallelFile
from hpcsamp.runtime import mpi
from hpcsamp.watchdog import Doing, Phase
from hpcsamp.watchdog.whereabouts import Whereabouts

rank, where, times, how = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
sys.argv = ["hpcsamp", *sys.argv[5:]]
seen = 0


def reached(place: str) -> None:
    """Stop here if it is the place, for the so-manieth time."""
    global seen
    if place != where or mpi().COMM_WORLD.rank != rank:
        return
    seen += 1
    if seen == times and how == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(0.5)  # it may be delivered to another thread, a little later
    elif seen == times:  # as in a file system that hangs
        pipe = Path(tempfile.mkdtemp()) / "pipe"
        os.mkfifo(pipe)
        pipe.read_bytes()


class Stops(Whereabouts):
    """Whereabouts at some of which a rank stops."""

    def at(self, phase, number=0):
        super().at(phase, number)
        reached(Phase(phase).name.lower())

    @contextmanager
    def waiting(self, doing):
        with super().waiting(doing):
            reached(Doing(doing).name.lower())
            yield

    @contextmanager
    def reading(self, epoch, batch):
        with super().reading(epoch, batch):
            reached("read")
            yield


save, write, post = torch.save, ParallelFile.write, Mailbox.post


def half_saved(content, file):
    file.write(b"half of it")
    file.flush()
    reached("save")
    file.seek(0)
    save(content, file)


def written(self, *arguments, **options):
    reached("write")
    write(self, *arguments, **options)


def posted(self, *arguments):
    reached("post")
    post(self, *arguments)


torch.save, ParallelFile.write, Mailbox.post = half_saved, written, posted
import hpcsamp.watchdog  # noqa: E402

hpcsamp.watchdog.here.__class__ = Stops
main()
