"""Compare the transports with each other: python tests/same_transports.py [--buckets N].

The runs of test_any_grid are trained for some steps in float64 on each of its grids, by MPI, by
torch.distributed (gloo) and by Horovod. What is printed for each grid is the largest relative
difference of losses and weights from those by MPI, with the run that it belongs to. The exit code
is 1 if one is above 1e-12. With ``--buckets`` the runs are those that exchange in buckets.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from conftest import SMALL, launch
from test_any_grid import GRIDS, RUNS, source
from test_training import losses, parameters

from hpcsamp.ingest import build

TRANSPORTS = ("mpi", "torch", "horovod")
LIMIT, STEPS = 1e-12, 5
IN_BUCKETS = ("mean_field", "antithetic", "alpha", "mc_dropout", "mc_dropout_of_samples")
BRIEF = (f"training.steps={STEPS}", "training.log_every=1", "evaluation.batch=256")


def grids() -> dict[str, tuple[int, tuple[str, ...]]]:
    """The grids, without their transports, and with chunks that no clock chooses."""
    found: dict[str, tuple[int, tuple[str, ...]]] = {}
    for name, (ranks, settings) in GRIDS.items():
        own = tuple(s for s in settings if "collectives" not in s and not s.endswith("=auto"))
        found.setdefault(name.removesuffix(", torch"), (ranks, own))
    return found


def apart(run: Path, other: Path) -> float:
    """Largest relative difference of the losses, or that of all weights together."""
    a, b = losses(run), losses(other)
    assert len(a) == len(b) == STEPS, (run, len(a), len(b))
    mine, theirs = parameters(run), parameters(other)
    weights = float((mine - theirs).norm() / theirs.norm())
    return max(weights, *(abs(x - y) / abs(y) for x, y in zip(a, b, strict=True)))


def main() -> int:
    """Train, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--buckets", type=int, default=1, help="parallel.buckets")
    buckets = parser.parse_args().buckets
    runs = {n: s for n, s in RUNS.items() if buckets == 1 or n in IN_BUCKETS}
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        values, digits, small = root / "values", root / "digits", root / "small.toml"
        build(source(), values)
        done = launch(1, "-m", "hpcsamp", "ingest", "digits", "--out", str(digits), timeout=60)
        assert done.code == 0, done.err
        small.write_text(SMALL.format(digits=digits))
        for grid, (ranks, own) in grids().items():
            lines = [
                ["train", small, "--output", root / grid / transport / name]
                + [f"--set={s.format(values=values)}" for s in (*settings, *own, *BRIEF)]
                + [f"--set=parallel.collectives={transport}", f"--set=parallel.buckets={buckets}"]
                for transport in TRANSPORTS
                for name, settings in runs.items()
            ]
            told = json.dumps([[str(a) for a in line] for line in lines])
            program = Path(__file__).parent / "commands.py"
            done = launch(ranks, "-m", "mpi4py", str(program), told, timeout=600)
            assert done.code == 0, done.err
            found = [
                (apart(root / grid / t / name, root / grid / "mpi" / name), name, t)
                for t in TRANSPORTS[1:]
                for name in runs
            ]
            for transport in TRANSPORTS[1:]:
                most, name, _ = max(f for f in found if f[2] == transport)
                worst = max(worst, most)
                print(
                    f"{grid}: {transport} and mpi, {len(runs)} runs: {most:.1e} ({name})",
                    flush=True,
                )
    print(f"{'ok' if worst <= LIMIT else 'TOO FAR APART'}: at most {worst:.1e}, limit {LIMIT:g}")
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
