"""Measure how long a training loop waits for its batches, for the paper's ViT and small MLP."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import hpcsamp as hs
from hpcsamp.data import Loader
from hpcsamp.ingest import build
from hpcsamp.ingest.synthetic import synthetic

if TYPE_CHECKING:
    from hpcsamp.grid import Topology

#: dataset, its size, model, loss, items per step, number of timed steps
LOOPS: tuple[tuple[Any, int, str, str, int, int], ...] = (
    ("cifar10", 2000, "vit", "expected_nll", 32, 3),
    ("entsoe", 20_000, "mlp", "mean_mse", 64, 200),
)
SAMPLES = 16


def waits(folder: Path, topology: Topology) -> list[dict[str, Any]]:
    """Return, for each model, the fraction of time that the loop waits for data. Collective."""
    found = []
    for like, items, model, loss_name, batch, steps in LOOPS:
        path = folder / f"feed-loop-{like}"
        if not topology.world.bcast((path / "manifest.json").is_file()):
            build(synthetic(like, items), path, comm=topology.world)
        with Loader(path, topology, batch=batch) as loader:
            found.append({"model": model, **loop(loader, model, loss_name, steps, topology)})
    return found


def loop(
    loader: Loader, model: str, loss_name: str, steps: int, topology: Topology
) -> dict[str, float]:
    """Train for some steps and measure the waiting time, on all ranks."""
    dataset = loader.dataset
    outputs = dataset.classes or sum(dataset.y_shape)
    network = hs.models.build(model, {}, dataset.x_shape, outputs, seed=1)
    collectives = hs.choose(topology)
    method = hs.MeanField(network, prior_std=0.2, seed=1)
    data_loss = hs.losses.make(loss_name, dataset.task)
    loss = hs.losses.ELBO(data_loss, dataset.count, collectives)
    optimizer = hs.distribute(
        torch.optim.Adam(method.parameters(), fused=True), collectives, method
    )
    begun, before, done = time.perf_counter(), loader.waited, -1
    for x, y in loader.epoch(0):
        loss(method, x, y, samples=SAMPLES).backward()
        optimizer.step()
        optimizer.zero_grad()
        done += 1
        if done == 0:  # the first step warms up
            begun, before = time.perf_counter(), loader.waited
        if done == steps:
            break
    total = time.perf_counter() - begun
    waited = topology.world.allreduce((loader.waited - before) / total) / topology.size
    return {"step_seconds": total / done, "waited": waited}
