"""Train networks of other packages, named in a configuration, on the grid of this job.

    mpirun -n N python tests/named_cases.py SAMPLES FOLDER

SAMPLES is what the sample axis spans. Each run goes to a folder of its own.
"""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import hpcsamp as hs

ITEMS, BATCH = 16, 8
SERIES = {"lstm": "mean_field", "gru": "mc_dropout", "temporal": "mean_field",
          "dropped": "mc_dropout"}  # fmt: skip
SMALL = {
    "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "mobilenet": {
        "name": "torchvision.models:MobileNetV2", "width_mult": 0.25, "dropout": 0.0,
        "inverted_residual_setting": [[1, 8, 1, 1], [4, 16, 2, 2]],
    },
    "vit": {
        "name": "transformers:ViTForImageClassification", "image_size": "@height",
        "patch_size": 8, "num_channels": "@channels", **SMALL,
    },
    "bert": {
        "name": "transformers:BertForSequenceClassification", "vocab_size": 20,
        "max_position_embeddings": 8, **SMALL,
    },
    "fetched": {"name": "named_cases:fetched"},
    "lstm": {"name": "lstm", "width": 6, "layers": 2},
    "gru": {"name": "gru", "width": 6, "patch": 5, "dropout": 0.2},
    "temporal": {"name": "temporal", "width": 6, "heads": 2, "layers": 1, "patch": 4},
    "dropped": {"name": "temporal", "width": 6, "layers": 1, "patch": 4, "dropout": 0.2},
}  # fmt: skip


def fetched(in_shape: tuple[int, ...], outputs: int, cache: str) -> nn.Module:
    """A network with pretrained weights, which are downloaded if they are missing."""
    layer, file = nn.Linear(int(np.prod(in_shape)), outputs), Path(cache) / "weights.pt"
    if layer.weight.is_meta:
        raise RuntimeError("weights of a file have values")
    if not file.is_file():
        with (Path(cache) / "log").open("a") as f:
            f.write("fetched\n")
        time.sleep(0.3)
        torch.save(nn.Linear(int(np.prod(in_shape)), outputs).state_dict(), file)
    layer.load_state_dict(torch.load(file, weights_only=True))
    return nn.Sequential(nn.Flatten(), layer)


def items(name: str) -> tuple[Any, np.ndarray]:
    source = np.random.default_rng(3)
    y = np.arange(ITEMS) % 3
    if name in SERIES:
        x = source.normal(size=(ITEMS, 3, 12)).astype(np.float32)
        return x, x[:, 0, :5]
    if name != "bert":
        return source.normal(size=(ITEMS, 3, 16, 16)).astype(np.float32), y
    ids, length = source.integers(1, 20, (ITEMS, 6)), source.integers(2, 7, ITEMS)
    mask = np.arange(6) < length[:, None]
    return {"input_ids": np.where(mask, ids, 0), "attention_mask": mask}, y


def main(span: int | str, folder: Path) -> None:
    for name, model in MODELS.items():
        run = folder / name
        run.mkdir(parents=True, exist_ok=True)
        more = {"cache": str(run)} if name == "fetched" else {}
        method = SERIES.get(name, "mean_field")
        hs.fit(
            None, items(name), epochs=1, samples=4, method=method, valid=items(name),
            output=run / "run", quiet=True, model={**model, **more}, seed=2,
            inputs={"input_ids": "ids"} if name == "bert" else None,
            parallel={"samples": span}, optimizer={"lr": 1e-3},
            **{"training.precision": "float64", "training.log_every": 1, "data.batch": BATCH},
        )  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    span = sys.argv[1]
    main(int(span) if span.isdigit() else span, Path(sys.argv[2]))
