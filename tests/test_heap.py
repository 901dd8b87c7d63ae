"""Freed memory is kept for the next step, unless the user has chosen an allocator."""

import subprocess
import sys

import pytest
from patience import patient

from hpcsamp import heap

FAULTS = """
import resource, sys
import numpy as np
from hpcsamp import heap
if sys.argv[1] == "keep":
    assert heap.keep({})
def step():
    made = [np.ones(1 << 20) for _ in range(8)]  # 8 MiB each
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
    command = [sys.executable, "-c", FAULTS, how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=patient(60), check=True)
    return int(done.stdout)


def test_memory_of_a_step_serves_the_next():
    pages = 3 * 8 * (8 << 20) // 4096
    assert faults("keep") < pages / 20
    assert faults("give back") > pages / 20  # else there is nothing to do, and this is in the way


HEAPS = """
import ctypes, sys, threading
import numpy as np
from hpcsamp import heap
if sys.argv[1] == "keep":
    assert heap.keep({})
meet = threading.Barrier(4)
def work():
    meet.wait()
    kept.append([np.ones(100) for _ in range(10000)])
    meet.wait()
kept = []
threads = [threading.Thread(target=work) for _ in range(4)]
for t in threads: t.start()
for t in threads: t.join()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fopen(sys.argv[2].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""


def heaps(how, path):
    subprocess.run([sys.executable, "-c", HEAPS, how, str(path)], timeout=patient(60), check=True)
    return path.read_text().count("<heap nr=")


def test_threads_share_one_heap(tmp_path):
    assert heaps("keep", tmp_path / "kept") == 1
    assert heaps("give back", tmp_path / "not") > 1


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES", "LD_PRELOAD"])
def test_what_the_user_chose_is_left_alone(name):
    assert not heap.keep({name: "1"})
