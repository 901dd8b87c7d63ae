"""Freed memory is kept for the next step, unless the user has chosen an allocator."""

import subprocess
import sys

import pytest

from hpcsamp.training import heap

FAULTS = """
import resource, sys
import numpy as np
from hpcsamp.training import heap
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
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return int(done.stdout)


def test_memory_of_a_step_serves_the_next():
    pages = 3 * 8 * (8 << 20) // 4096
    assert faults("keep") < pages / 20
    assert faults("give back") > pages / 20  # else there is nothing to do, and this is in the way


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES", "LD_PRELOAD"])
def test_what_the_user_chose_is_left_alone(name):
    assert not heap.keep({name: "1"})
