"""same.py BOUND RUN RUN: compare the losses of two runs; exit with 1 if they differ."""

import json
import sys
from pathlib import Path


def losses(run: str) -> dict[int, float]:
    """The training loss by step."""
    lines = map(json.loads, (Path(run) / "metrics.jsonl").read_text().splitlines())
    return {e["step"]: e["loss"] for e in lines if e["event"] == "train"}


bound, one, other = float(sys.argv[1]), losses(sys.argv[2]), losses(sys.argv[3])
if not one or one.keys() != other.keys():
    sys.exit(f"steps {sorted(one)} and {sorted(other)}")
worst = max(abs(one[s] - other[s]) / abs(one[s]) for s in one)
print(f"largest relative difference of {len(one)} losses: {worst:.1e}, allowed {bound:.0e}")
sys.exit(worst > bound)
