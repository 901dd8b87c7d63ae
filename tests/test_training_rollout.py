"""Training by rollout: gradients of a loop over steps, data, curricula and refusals.

That a curriculum is the same on any grid and goes on to the same bits: ``test_any_grid``.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from field_sets import LATITUDE, LONGITUDE, START, fields
from torch.utils.flop_counter import FlopCounterMode

from hpcsamp import config
from hpcsamp.collectives import Alone
from hpcsamp.data import Dataset
from hpcsamp.errors import UsageError
from hpcsamp.grid import init
from hpcsamp.ingest import build
from hpcsamp.ingest.fields import features
from hpcsamp.training.loop import Trainer

COUNT, WEIGHTS = 11, [1.0, 0.5, 2.0]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fields")
    build(fields({"train": COUNT, "valid": 4}), folder / "set")
    return folder


def configured(folder, *settings):
    table = {
        "seed": 5,
        "data": {"path": str(folder), "batch": 5},
        "model": {"name": "mlp", "hidden": [6]},
        "method": {"samples": 3, "samples_per_pass": 1},
        "loss": {"name": "expected_nll", "temperature": 0.0},
        "training": {"precision": "float64", "rollout": 3, "lead_weights": WEIGHTS, "epochs": 3},
    }
    return config.check(config.apply_overrides(table, list(settings)))


def trainer(folder, *settings, tmp_path):
    made = configured(folder, *settings)
    return Trainer(made, init("none", device="cpu"), tmp_path / "run", quiet=True)


def by_hand(made, batch, steps, truth):
    """The loss of a batch, by a loop over steps with all numbers put together here."""
    method, loss, items = made.method, made.optimisation.loss.data_loss, batch.index
    x, y, times = (torch.as_tensor(truth[n]) for n in ("x", "y", "time"))
    to, by = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True, correction=0)
    to_y, by_y = y.mean((0, 2, 3), keepdim=True), y.std((0, 2, 3), keepdim=True, correction=0)
    states, total = [x[items].clone() for _ in range(3)], 0.0
    for k in range(steps):
        with method.trying(made_up=False):
            outputs = torch.cat(
                [
                    method((states[s] - to) / by, range(s, s + 1), index=torch.as_tensor(items))
                    for s in range(3)
                ]
            ).view(3, len(items), -1)
        for row, item in enumerate(items):
            if item + k < COUNT:
                scaled = ((y[item + k] - to_y[0]) / by_y[0])[None]
                each = loss(outputs[:, row : row + 1], scaled, 3, Alone())
                total = total + WEIGHTS[k] / sum(WEIGHTS[:steps]) * each.sum() / len(items)
        if k + 1 == steps:
            return total
        means = outputs[..., :12].unflatten(2, (2, 3, 2)) * by_y + to_y
        for s in range(3):
            later = states[s].clone()
            later[:, 2], later[:, 0] = means[s, :, 0], means[s, :, 1]
            for row, item in enumerate(items):
                later[row, 1] = x[min(item + k + 1, COUNT - 1), 1]
                hours = np.timedelta64(int(times[item]) + 6 * (k + 1), "h")
                later[row, 4:] = torch.as_tensor(features(LATITUDE, LONGITUDE, START + hours))
            states[s] = later


CASES = {
    "stream": (),
    "keep": ("loss.name=crps",),
    "parts": ("loss.name=crps", "loss.memory=recompute", "data.accumulate=2"),
    "predicted": ("loss.name=gaussian_mixture_nll", "likelihood.name=predicted_gaussian"),
    "batched": ("method.samples_per_pass=3", "method.strategy=batched"),
    "vmap": ("method.samples_per_pass=3", "method.strategy=vmap", "loss.name=crps"),
    "ensemble": ("method.name=ensemble", "method.prior_std=1.0"),
    "dropout": ("method.name=mc_dropout", "method.rate=0.3", "method.masks=item",
                "method.prior_std=1.0", "method.samples_per_pass=2"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_that_of_a_loop_over_steps(case, place, tmp_path):
    truth = fields({"train": COUNT, "valid": 4}).items["train"]
    with trainer(place / "set", *CASES[case], tmp_path=tmp_path) as made:
        batch = next(iter(made.feed.batches(0)))
        assert sorted(batch.index)[-1] > COUNT - 3  # one without all lead times
        found = []
        for of in ("loss", "hand"):
            if of == "loss":
                x, _, _ = made.feed.augmented(0, batch)
                value = made.optimisation.loss(
                    made.method, x, batch.y, samples=3, weight=batch.weight, mask=batch.mask,
                    index=torch.as_tensor(batch.index), leads=batch.leads,
                )  # fmt: skip
            else:
                value = by_hand(made, batch, 3, truth)
            parameters = list(made.method.parameters())
            found.append((value.item(), torch.autograd.grad(value, parameters, allow_unused=True)))
    (value, gradients), (wanted, truths) = found
    assert value == pytest.approx(wanted, rel=1e-12)
    for a, b in zip(gradients, truths, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)
    assert max(float(g.abs().max()) for g in gradients) > 1e-3


def test_the_plan_counts_the_passes_of_a_rollout(place, tmp_path):
    """The predicted products of a step are those of a real one, and its activations k times."""
    from hpcsamp.planning import memory, parted
    from hpcsamp.planning.counts import IN_PLACE
    from hpcsamp.planning.workload import Workload
    from hpcsamp.run.shapes import DataShapes

    measured, planned = [], []
    for steps in (1, 3):
        how = (f"training.rollout={steps}", "data.batch=3", "model.hidden=[6,5]")
        with trainer(place / "set", *how, tmp_path=tmp_path / str(steps)) as made:
            batch = next(b for b in made.feed.batches(0) if max(b.index) < COUNT - 3)
            x, _, _ = made.feed.augmented(0, batch)
            for _ in range(2):  # the first pass also tries how the network is called
                flops = FlopCounterMode(display=False, custom_mapping=IN_PLACE)
                with flops:
                    value = made.optimisation.loss(
                        made.method, x, batch.y, samples=3, weight=batch.weight, mask=batch.mask,
                        index=torch.as_tensor(batch.index), leads=batch.leads,
                    )  # fmt: skip
                    torch.autograd.grad(value, list(made.method.parameters()))
            measured.append(flops.get_total_flops())
        planned_run = configured(place / "set", *how)
        with Dataset.open(place / "set") as dataset:
            shapes = DataShapes.of(dataset)
        work = Workload.of(planned_run, shapes)
        parts = memory.estimate(parted.blank(planned_run, shapes), memory.Grid())
        found = next(p.bytes for p in parts if p.name.startswith("a forward and backward pass"))
        planned.append((work.passes * work.counts.flops_of(3), found))
    assert measured == [3 * flops for flops, _ in planned]  # of three samples
    assert measured[1] / measured[0] > 3.5  # later steps need the gradient of their input
    assert planned[1][1] == 3 * planned[0][1]  # bytes of activations


def test_a_curriculum_reads_what_its_steps_need(place, tmp_path, monkeypatch):
    """One step is a run without rollouts, to the last bit; rows are read once for each step."""
    from hpcsamp.data import feed as room

    read = []
    plain = room.Feed._fill

    def counted(self, epoch, step, slot):
        read.append((epoch, step, {n: int(m) for n, m in self._items.items()}))
        plain(self, epoch, step, slot)

    monkeypatch.setattr(room.Feed, "_fill", counted)
    monkeypatch.setattr(Dataset, "small", lambda *_: False)
    runs = {}
    for name, rollout in {"plain": "1", "curriculum": "[[1, 2], [3, 1]]"}.items():
        read.clear()
        with trainer(
            place / "set", f"training.rollout={rollout}", "training.log_every=1",
            tmp_path=tmp_path / name,
        ) as made:  # fmt: skip
            made.run()
        lines = (tmp_path / name / "run/metrics.jsonl").read_text().splitlines()
        runs[name] = (
            [line.partition('"seconds"')[0] for line in lines if '"train"' in line],
            [*read],
        )
    assert runs["plain"][0][:4] == runs["curriculum"][0][:4]
    assert runs["plain"][0][4] != runs["curriculum"][0][4]
    sizes = [of for _, _, of in runs["curriculum"][1] if len(of) == 2 and of["x"] in (5, 15)]
    assert sizes == [{"x": 5, "y": 5}] * 4 + [{"x": 15, "y": 15}] * 2
    assert all(of["x"] == of["y"] for _, _, of in runs["plain"][1] if "y" in of)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["training.rollout=12", "training.lead_weights=[]"],
         r"training.rollout = 12: no item of train .* is followed by 11 later ones, each 6 h after "
         r"the other; the longest sequence allows 11 steps"),
        (["training.rollout=[[1, 2]]"], r"the curriculum has 2 epochs, but training.epochs = 3"),
        (["training.rollout=4"], r"a weight of at least 0 for each of 4 lead times is needed"),
        (["method.name=flipout"], r'cannot be combined with method.name = "flipout", whose noise'),
        (["augment.shift=true"], r"training.rollout = 3 cannot be combined with augment"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_by_rollout(settings, words, place, tmp_path):
    with pytest.raises(UsageError, match=words):
        trainer(place / "set", *settings, tmp_path=tmp_path)
