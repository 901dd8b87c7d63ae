"""Train every kind of task for two epochs: ``[mpirun -n N] python task_cases.py FOLDER SAMPLES``.

Writes ``FOLDER/N.json``: the losses of the steps, and the metrics of the valid split.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from hpcsamp.config import check
from hpcsamp.grid import init
from hpcsamp.losses import Likelihood
from hpcsamp.run.prepare import prepare
from hpcsamp.training.loop import train


class Exponential(Likelihood):
    """Times until an event by their log rates: a density of whole items, and no moments."""

    def log_prob(self, outputs, target):
        log_rate = outputs[..., 0]
        return log_rate - log_rate.exp() * (target + 0.5)


CASES = {
    "tags": {"task": {"class_weights": "balanced"}},
    "blobs": {"task": {"class_weights": [0.5, 1.0, 2.0]}, "likelihood": {"label_noise": 0.1}},
    "visits": {"likelihood": {"name": "negative_binomial"}},
    "ratings": {"task": {"class_weights": "balanced"}, "training": {"best": "rps"}},
    "own": {"like": "visits", "likelihood": {"name": "task_cases:Exponential"}},
}


def main(folder: Path, samples: str) -> None:
    topology = init(samples=int(samples) if samples.isdigit() else samples)
    found = {}
    for name, more in CASES.items():
        like = more.get("like", name)
        table = {
            "data": {
                "path": str(folder / "none"), "batch": 12,
                "synthetic": {"like": like, "items": 60},
            },
            "task": more.get("task", {}),
            "model": {"name": "mlp", "hidden": [6]},
            "method": {"samples": 4, "samples_per_pass": 2, "strategy": "loop"},
            "loss": {"name": "predictive_nll"},
            "likelihood": more.get("likelihood", {}),
            "training": {"epochs": 2, "precision": "float64", "log_every": 1}
            | more.get("training", {}),
        }  # fmt: skip
        config = prepare(check(table), "synthetic", topology.world)
        run = folder / f"{name}-{topology.size}"
        summary = train(config, topology, run)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses = [line["loss"] for line in lines if line.get("event") == "train"]
        found[name] = {"losses": losses, "metrics": summary["metrics"]}
    if topology.is_root:
        (folder / f"{topology.size}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2])
