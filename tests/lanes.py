"""All tests in lanes side by side: most of them leave one of two cores idle.

``python tests/lanes.py`` starts a pytest for some files at a time, HPCSAMP_TEST_LANES (default 2)
of them at once, prints the output of each as it ends, and the outcomes and times of all in the last
line.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

HERE = Path(__file__).parent
#: What takes minutes comes first, so that no lane is left with it at the end.
LONG = (
    "test_zoo.py",
    "test_any_grid.py",
    "test_model_axis.py",
    "test_training.py",
    "test_preemption.py",
)
#: Folders whose tests share what takes long to make, here a Slurm: each is one group, the first.
FOLDERS = ("slurm",)
#: Files of a pytest: more share what a session makes, fewer end together.
TOGETHER = 10
SLOWEST = ("--durations=12", "--durations-min=8")
NO_TESTS = 5  # exit code of pytest


def groups(files: list[Path]) -> list[list[Path]]:
    """Files or folders of each pytest in the order of their start; each is in one of them."""
    first = [path for name in (*FOLDERS, *LONG) for path in files if path.name == name]
    rest = sorted(set(files) - set(first), key=lambda path: (-path.stat().st_size, path.name))
    count = -(-len(rest) // TOGETHER)
    return [[path] for path in first] + [rest[i::count] for i in range(count)]


def found() -> list[Path]:
    """All files of tests, and the folders with more of them, which are given to pytest whole."""
    return sorted([*HERE.glob("test_*.py"), *{path.parent for path in HERE.glob("*/test_*.py")}])


def run(files: list[Path]) -> tuple[int, str]:
    """Exit code and output of the tests of some files."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *SLOWEST, *map(str, files)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # ranks that wait leave the core to those of the other lane
        env={**os.environ, "OMPI_MCA_mpi_yield_when_idle": "1"},
    )
    return done.returncode, done.stdout


def outcomes(output: str) -> Counter[str]:
    """How many tests passed, failed, ... by the last line of pytest."""
    last = next((s for s in reversed(output.splitlines()) if re.search(r"=.* in [\d.]+s", s)), "")
    return Counter(
        {word: int(n) for n, word in re.findall(r"(\d+) ([a-z]+)", last.split(" in ")[0])}
    )


def main() -> int:
    """Exit code: 0 if all tests of all files passed."""
    begun, total, failed = time.monotonic(), Counter[str](), 0
    with ThreadPoolExecutor(int(os.environ.get("HPCSAMP_TEST_LANES", "2"))) as lanes:
        jobs = [lanes.submit(run, files) for files in groups(found())]
        for job in as_completed(jobs):
            code, output = job.result()
            sys.stdout.write(output)
            sys.stdout.flush()
            total += outcomes(output)
            failed += code not in (0, NO_TESTS)
    told = ", ".join(f"{n} {word}" for word, n in sorted(total.items()))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    sys.stdout.write(
        f"hpcsamp: {told} in {time.monotonic() - begun:.0f} s; "
        f"{used.ru_utime + used.ru_stime:.0f} s of CPU time\n"
    )
    return 1 if failed or not total["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
