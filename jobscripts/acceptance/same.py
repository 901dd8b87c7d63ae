"""same.py BOUND DIFFERENCE RUN RUN: compare the losses and the last weights of two runs.

DIFFERENCE is what must differ between the two, so that a run is not compared with its like: grid,
transport, or starts (how often the run was started). Exit with 1 if it does not, or if
a loss or a weight differs by more than BOUND, relative to the largest.
"""

import json
import sys
from pathlib import Path

import torch


def losses(run: Path) -> dict[int, float]:
    """The training loss by step."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {e["step"]: e["loss"] for e in lines if e["event"] == "train"}


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The numbers of the posterior in the last checkpoint."""
    last = max((run / "checkpoints").glob("step-*.pt"))
    state = torch.load(last, weights_only=True, map_location="cpu")["method"]
    return {k: v for k, v in state.items() if isinstance(v, torch.Tensor) and v.numel()}


def made_by(run: Path) -> dict[str, str]:
    """Grid, transport, and starts of a run."""
    summary = json.loads((run / "summary.json").read_text())
    starts = json.loads((run / "provenance.json").read_text())["starts"]
    return {
        "grid": f"{summary['data_group_size']} data x {summary['sample_group_size']} sample ranks",
        "transport": summary["collectives"]["name"],
        "starts": f"{len(starts)} starts, on {starts[-1]['hosts']}",
    }


def main(told: str, difference: str, *names: str) -> None:
    """Compare the runs."""
    bound, runs = float(told), [Path(n) for n in names]
    makers = [made_by(run) for run in runs]
    for run, maker in zip(runs, makers, strict=True):
        print(f"{run.name}: {', '.join(maker.values())}")
    if makers[0][difference] == makers[1][difference]:
        sys.exit(f"both runs have the same {difference}: nothing is compared")
    one, other = map(losses, runs)
    if not one or one.keys() != other.keys():
        sys.exit(f"losses of steps {sorted(one)} and {sorted(other)}")
    worst = max(abs(one[s] - other[s]) / abs(one[s]) for s in one)
    first, second = map(weights, runs)
    if not first or first.keys() != second.keys():
        sys.exit(f"weights {sorted(first)} and {sorted(second)}")
    far = max(float((first[k] - second[k]).abs().max() / first[k].abs().max()) for k in first)
    numbers = sum(v.numel() for v in first.values())
    print(
        f"largest relative difference of {len(one)} losses {worst:.1e}, "
        f"of {numbers} weights {far:.1e}; allowed {bound:.0e}"
    )
    sys.exit(not (worst <= bound and far <= bound))


if __name__ == "__main__":
    main(*sys.argv[1:])
