"""Several inputs and targets by name: files, batches, losses and runs, against plain torch."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from several_sets import CLASSES, N, Plants, Reader, make_plants, plants, sentences
from torch.nn import functional as F  # noqa: N812

import hpcsamp as hs
from hpcsamp.data import Dataset, Loader
from hpcsamp.data.manifest import read_manifest
from hpcsamp.data.verify import verify
from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest import build
from hpcsamp.ingest.named import from_named
from hpcsamp.losses import ELBO, Categorical, ExpectedNLL, Gaussian, PredictiveNLL, Several
from hpcsamp.methods import Ensemble, MCDropout, MeanField


def serial():
    from mpi4py import MPI

    from hpcsamp.grid import init

    return init("none", comm=MPI.COMM_SELF, device="cpu")


@pytest.fixture
def folder(tmp_path):
    make_plants(tmp_path / "plants")
    return tmp_path / "plants"


def true_batch(items, index):
    """What a batch has to be, by NumPy."""

    def scaled(values, axes):
        return (values - np.nanmean(values, axes, keepdims=True)) / np.nanstd(
            values, axes, keepdims=True
        )

    image = scaled(items["image"].astype(float), (0, 2, 3))
    size = scaled(items["size"], 0)
    return {
        "image": image[index],
        "age": scaled(items["age"].astype(float), 0)[index],
        "kind": items["kind"][index],
        "size": size[index],
        "weight": (items["weight"] / items["weight"].mean())[index],
    }


def assert_true(batch, items):
    truth = true_batch(items, batch.index)
    assert list(batch.x) == ["image", "age"]
    for name, found in {**batch.x, "size": batch.y["size"], "weight": batch.weight}.items():
        assert np.allclose(found.numpy(), truth[name], rtol=0, atol=1e-12, equal_nan=True), name
    assert batch.y["kind"].dtype == torch.int64
    assert np.array_equal(batch.y["kind"].numpy(), truth["kind"])
    assert np.array_equal(batch.mask["kind"].numpy(), truth["kind"] >= 0)
    assert np.array_equal(batch.mask["size"].numpy(), ~np.isnan(truth["size"]))


# Files -------------------------------------------------------------------------------------------


def test_a_set_of_named_arrays_is_what_was_given(folder):
    items, manifest = plants(), read_manifest(folder)
    assert manifest.schema_version == 3
    assert manifest.task == "several"
    assert list(manifest.kinds.items()) == [("image", "numbers"), ("age", "numbers")]
    assert manifest.targets["kind"].classes == CLASSES
    assert manifest.targets["kind"].class_names == ["a", "b", "c"]
    assert manifest.arrays["size"].row_units == ["cm", "cm"]
    x, y = Dataset.open(folder).read(range(N))
    for name, found in (x | y).items():
        assert np.array_equal(found, items[name], equal_nan=found.dtype.kind == "f"), name
    size, stats = items["size"], manifest.stats["size"]
    assert np.allclose(stats.mean, np.nanmean(size, 0), rtol=1e-14)
    assert np.allclose(stats.std, np.nanstd(size, 0), rtol=1e-13)
    assert stats.count == (~np.isnan(size)).sum(0).min()
    with h5py.File(folder / manifest.shards[0].file) as f:
        assert {"image", "age", "kind", "size", "weight"} <= set(f)
        assert json.loads(f["kind"].attrs["class_names"]) == ["a", "b", "c"]
        assert [v.decode() for v in f["coords/row_of_age"]] == ["mean", "low", "high"]


def test_every_byte_of_it_is_verified(folder):
    from mpi4py import MPI

    manifest = read_manifest(folder)
    assert verify(folder, manifest, MPI.COMM_SELF).bad == []
    entry = manifest.shards[0]
    with (folder / entry.file).open("r+b") as f:
        f.seek(int(entry.chunks["size"].array()[0]))
        f.write(b"\1")
    assert any("chunk 0 of size" in line for line in verify(folder, manifest, MPI.COMM_SELF).bad)


def test_a_set_of_x_and_y_is_as_it_was(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2
    made = build(
        from_named({"train": ({"a": x}, {"b": y})}, name="s", fractions={}), tmp_path / "a"
    )
    assert (made.schema_version, made.inputs, made.targets) == (2, "numbers", {})
    assert set(made.arrays) == {"x", "y"}
    with Loader(tmp_path / "a", serial(), batch=4) as loader:
        batch = next(iter(loader))
    assert isinstance(batch.x, torch.Tensor)
    assert batch.mask is None


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"train": ({"a": np.ones((4, 2)), "b": np.ones((3, 2))}, np.ones(4))},
         "train has 4 items of a, but 3 of b"),
        ({"train": ({"a": np.ones(4), "b": np.arange(4)}, np.ones(4))},
         "b has whole numbers .*ids.*or numbers"),
        ({"train": ({"a": np.ones(4), "b": np.ones(4)}, np.ones(4)),
          "test": ({"a": np.ones(4)}, np.ones(4))}, "test has the arrays a, but train has a, b"),
        ({"train": ({"a": np.ones(4), "index": np.ones(4)}, np.ones(4))},
         "'index' cannot be the name"),
        ({"train": ({"a": np.ones(4), "b": [np.ones(2), np.ones(3)] * 2}, np.ones(4))},
         "b has items of 2 to 3 steps; name the input"),
        ({"train": ({"a": np.ones(4), "b": np.asarray([1, 1, np.nan, 1])}, np.ones(4))},
         r"b of train: 1 of \d+ values are NaN"),
        ({"train": ({"a": np.ones(4), "b": np.ones(4)}, np.asarray([1, 1, np.nan, 1]))},
         r"y of train: 1 of \d+ values are NaN"),
        ({"train": ({"a": np.ones(4), "b": np.ones(4)}, {"a": np.ones(4), "c": np.ones(4)})},
         "a cannot be both an input and a target"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(tmp_path, change, line):
    with pytest.raises((DataError, ValueError), match=line):
        build(from_named(change, name="s", fractions={}), tmp_path / "s")


# Batches -----------------------------------------------------------------------------------------


@pytest.mark.mpi(ranks=[1, 4], timeout=60, unit="s")
def test_every_grid_and_reader_gives_the_same_batches(mpi_ranks, comm):
    from hpcsamp.grid import init

    path = Path(comm.bcast(tempfile.mkdtemp() if comm.rank == 0 else None))
    if comm.rank == 0:
        make_plants(path / "plants", chunk_bytes=80)
    comm.Barrier()
    items = plants()
    grids = [init(s, device="cpu") for s in ("world", "none", *([2] if comm.size == 4 else []))]
    for topology, reader in itertools.product(grids, ("direct", "serial", "collective", "memory")):
        options = {"shuffle": "pool", "reader": reader, "dtype": torch.float64}
        with Loader(path / "plants", topology, batch=8, **options) as loader:
            seen = []
            for batch in loader.epoch(1):
                assert_true(batch, items)
                seen += [i for part in topology.data_comm.allgather(batch.index) for i in part]
                same = topology.sample_comm.allgather(batch.x["image"].numpy().tobytes())
                assert len(set(same)) == 1
        assert len(set(seen)) == N // 8 * 8
    comm.Barrier()
    if comm.rank == 0:
        shutil.rmtree(path)


def test_padding_of_a_batch_has_no_weight(folder):
    with Loader(folder, serial(), batch=16, shuffle=False, tail="mask") as loader:
        last = list(loader)[-1]
    assert last.true.tolist() == [True] * 2 + [False] * 14
    assert ((last.weight > 0).numpy() == last.true).all()


# Losses ------------------------------------------------------------------------------------------


def loss_of(kind=ExpectedNLL):
    return Several({"kind": kind(Categorical()), "size": kind(Gaussian(0.7))}, {"size": 0.3})


def formula(network, weights_of, batch, samples, mixture):
    """The data term with missing values and weights, by plain torch."""
    kinds, sizes = [], []
    for s in range(samples):
        out = torch.func.functional_call(network, weights_of(s), (batch.x["age"], batch.x["image"]))
        kinds.append(
            F.log_softmax(out["kind"], -1).gather(1, batch.y["kind"].clamp(0)[:, None])[:, 0]
        )
        there = batch.mask["size"]
        log_p = torch.distributions.Normal(out["size"], 0.7).log_prob(batch.y["size"].nan_to_num())
        sizes.append((log_p * there).sum(1))
    kinds, sizes = torch.stack(kinds) * batch.mask["kind"], torch.stack(sizes)
    if mixture:
        kinds, sizes = (t.logsumexp(0) - np.log(samples) for t in (kinds, sizes))
    else:
        kinds, sizes = kinds.mean(0), sizes.mean(0)
    each = -kinds - 0.3 * sizes
    return (each * batch.weight).sum() / batch.count


@pytest.mark.parametrize("memory", ["keep", "stream", "recompute"])
@pytest.mark.parametrize("kind", [ExpectedNLL, PredictiveNLL])
def test_the_loss_is_that_of_plain_torch(folder, kind, memory):
    if memory == "stream" and kind is PredictiveNLL:
        pytest.skip("not linear")
    torch.manual_seed(1)
    network = Plants()
    with Loader(folder, serial(), batch=16, dtype=torch.float64) as loader:
        batch = next(iter(loader))
    method = MeanField(Plants(), prior_std=1.0, initial_std=0.1, seed=3, samples_per_pass=2)
    loss = ELBO(loss_of(kind), N, memory=memory)
    found = loss(
        method, batch.x, batch.y, samples=5, weight=batch.weight, count=batch.count, mask=batch.mask
    )
    found.backward()
    drawn = method.draw(0, range(5))
    layout = method.variables.random
    rows = [layout.named(row[None]) for row in drawn]
    truth = formula(
        network,
        lambda s: {n: v[0] for n, v in rows[s].items()} | method._fixed_views(),
        batch,
        5,
        kind is PredictiveNLL,
    )
    assert loss.parts.data == pytest.approx(truth.item(), rel=1e-12)
    mean, log_std = method.mean.grad, method.log_std.grad
    method.zero_grad()
    (truth + method.penalty() / N).backward()
    for one, other in ((mean, method.mean.grad), (log_std, method.log_std.grad)):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-13)


def test_an_item_without_a_known_value_adds_nothing(folder):
    torch.manual_seed(1)
    method = MeanField(Plants(), prior_std=1.0, seed=3)
    with Loader(folder, serial(), batch=16, dtype=torch.float64) as loader:
        batch = next(iter(loader))
    y = {"kind": batch.y["kind"].clone(), "size": batch.y["size"].clone()}
    none = {name: torch.zeros_like(mask) for name, mask in batch.mask.items()}
    loss = ELBO(loss_of(), N)
    loss(method, batch.x, y, samples=2, mask=none)
    assert loss.parts.data == 0.0


def test_batches_in_parts_have_the_same_loss(folder):
    torch.manual_seed(1)
    method = MeanField(Plants(), prior_std=1.0, seed=3)
    with Loader(folder, serial(), batch=16, dtype=torch.float64) as loader:
        batch = next(iter(loader))
    found = []
    for accumulate, kind in itertools.product((1, 3), (ExpectedNLL, PredictiveNLL)):
        loss = ELBO(loss_of(kind), N, accumulate=accumulate)
        loss(method, batch.x, batch.y, samples=3, mask=batch.mask, weight=batch.weight).backward()
        found.append((loss.parts.data, method.mean.grad.clone()))
        method.zero_grad()
    for one, other in zip(found[:2], found[2:], strict=True):
        assert one[0] == pytest.approx(other[0], rel=1e-12)
        assert torch.allclose(one[1], other[1], rtol=1e-10, atol=1e-14)


@pytest.mark.mpi(ranks=[4], timeout=90, unit="s")
def test_training_is_the_same_on_every_grid(mpi_ranks, comm):
    from mpi4py import MPI

    from hpcsamp.collectives import choose, distribute
    from hpcsamp.grid import init

    path = Path(comm.bcast(tempfile.mkdtemp() if comm.rank == 0 else None))
    if comm.rank == 0:
        make_plants(path / "plants")
        ids, labels = sentences()
        source = from_named(
            {"train": ({"ids": ids}, labels)},
            name="sentences",
            kinds={"ids": "ids"},
            masks={"ids": "src_key_padding_mask"},
            fractions={},
        )
        build(source, path / "sentences")
    comm.Barrier()

    def trained(topology, name, kind):
        torch.manual_seed(5)
        network, data_loss = (
            (Plants(), loss_of(kind))
            if name == "plants"
            else (Reader().double(), kind(Categorical()))
        )
        c = choose(topology, "mpi")
        method = MeanField(network, prior_std=1.0, initial_std=0.1, seed=2)
        optimizer = distribute(torch.optim.SGD(method.parameters(), lr=0.1), c, method)
        losses = []
        with Loader(path / name, topology, batch=12, dtype=torch.float64) as loader:
            loss = ELBO(data_loss, loader.dataset.count, c)
            for batch in loader.epoch(0):
                value = loss(
                    method, batch.x, batch.y, samples=5, weight=batch.weight,
                    count=batch.count / topology.data_size, mask=batch.mask,
                    index=torch.from_numpy(batch.index),
                )  # fmt: skip
                value.backward()
                optimizer.step()
                optimizer.zero_grad()
                losses.append(topology.data_comm.allreduce(value.item()) / topology.data_size)
        return np.asarray(losses), method.mean.detach().numpy().copy()

    three = comm.Split(0 if comm.rank < 3 else 1, comm.rank)
    grids = {
        "2 x 2": init(2, device="cpu"),
        "4 uneven": init("world", device="cpu"),
        "4 data groups": init("none", device="cpu"),
        "3 uneven": init("world", comm=three, device="cpu"),
    }
    alone = init("none", comm=MPI.COMM_SELF, device="cpu")
    cases = itertools.product(("plants", "sentences"), (ExpectedNLL, PredictiveNLL))
    for name, kind in cases:
        truth = trained(alone, name, kind)
        for grid, topology in grids.items():
            found = trained(topology, name, kind)
            for one, other in zip(truth, found, strict=True):
                assert np.allclose(one, other, rtol=1e-10, atol=1e-13), (name, kind, grid)
    comm.Barrier()
    if comm.rank == 0:
        shutil.rmtree(path)


def test_the_amount_of_padding_does_not_matter(tmp_path):
    ids, labels = sentences()
    found = []
    for longest in (7, 12):
        lists = [*ids[1:], np.resize(ids[0], longest)]  # the longest comes last, in a batch alone
        source = from_named(
            {"train": ({"ids": lists}, np.roll(labels, -1))},
            name="sentences",
            kinds={"ids": "ids"},
            masks={"ids": "src_key_padding_mask"},
            fractions={},
        )
        build(source, tmp_path / str(longest))
        torch.manual_seed(4)
        method = MeanField(Reader().double(), prior_std=1.0, seed=1)
        with Loader(tmp_path / str(longest), serial(), batch=12, shuffle=False) as loader:
            batch = next(iter(loader))
        assert batch.x["src_key_padding_mask"].dtype == torch.bool
        assert batch.x["ids"].shape == (12, longest)
        loss = ELBO(ExpectedNLL(Categorical()), 24)
        loss(method, batch.x, batch.y, samples=2).backward()
        found.append((loss.parts.data, method.mean.grad))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-9, atol=1e-13)


def test_targets_of_each_step_are_missing_beyond_the_end(tmp_path):
    ids, _ = sentences()
    tags = [i % CLASSES for i in ids]
    source = from_named(
        {"train": ({"ids": ids}, {"tags": tags})},
        name="tags",
        kinds={"ids": "ids"},
        masks={"ids": "attention_mask"},
        fractions={},
    )
    build(source, tmp_path / "tags")
    with Loader(
        tmp_path / "tags", serial(), batch=24, shuffle=False, dtype=torch.float64
    ) as loader:
        batch = next(iter(loader))
    assert batch.x["attention_mask"].dtype == torch.int64
    assert batch.y.shape == (24, 7)
    assert torch.equal(batch.mask, batch.x["attention_mask"] > 0)
    torch.manual_seed(1)
    table = torch.randn(11, CLASSES, dtype=torch.float64)

    class Tagger(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding.from_pretrained(table.clone(), freeze=False)

        def forward(self, ids, attention_mask):
            return self.embed(ids)

    method = Ensemble(Tagger(), 1)
    loss = ELBO(ExpectedNLL(Categorical()), 24)
    loss(method, batch.x, batch.y, samples=1, mask=batch.mask)
    truth = sum(
        -float(F.log_softmax(table[torch.from_numpy(i)], -1)[range(len(i)), t].sum())
        for i, t in zip(ids, tags, strict=True)
    )
    assert loss.parts.data == pytest.approx(truth / 24, rel=1e-12)


# Modules -----------------------------------------------------------------------------------------

G = torch.Generator().manual_seed(0)
IMAGE = torch.randn(6, 2, 4, 5, generator=G, dtype=torch.float64)
AGE = torch.randn(6, 3, generator=G, dtype=torch.float64)


@pytest.mark.parametrize("strategy", ["loop", "vmap", "batched"])
def test_every_strategy_takes_several_inputs(strategy):
    torch.manual_seed(1)
    method = MeanField(Plants(), seed=1, samples_per_pass=3)
    truth = method({"image": IMAGE, "age": AGE}, range(3), 0)
    method.strategy = strategy
    found = method({"image": IMAGE, "age": AGE}, range(3), 0)
    assert torch.allclose(truth, found, rtol=1e-12, atol=1e-14)
    views = {name: torch.stack([t, 2 * t, 3 * t]) for name, t in (("image", IMAGE), ("age", AGE))}
    stacked = method(views, range(3), 0, stacked=True)
    for s in range(3):
        own = {name: t[s] for name, t in views.items()}
        assert torch.allclose(stacked[s], method(own, range(s, s + 1), 0)[0], atol=1e-13)
    assert {n: tuple(t.shape) for n, t in method.split(found).items()} == {
        "size": (3, 6, 2), "kind": (3, 6, CLASSES)
    }  # fmt: skip


@pytest.mark.parametrize("make", [
    lambda: MCDropout(Plants(), seed=1),
    lambda: Ensemble(lambda s: (torch.manual_seed(s), Plants())[1], 2),
    lambda: hs.methods.Flipout(Plants(), seed=1),
])  # fmt: skip
def test_methods_take_several_inputs(make):
    method = make()
    found = method.split(method({"image": IMAGE, "age": AGE}, range(2), 0))
    assert found["kind"].shape == (2, 6, CLASSES)


@pytest.mark.parametrize(
    ("x", "line"),
    [
        ({"image": IMAGE}, "the inputs are image, but Plants.forward takes age, image"),
        ({"picture": IMAGE, "age": AGE}, "inputs are picture, age, but .*takes age, image"),
        ({"image": IMAGE, "age": AGE[:4]}, "must have the same items"),
        ({"image": IMAGE, "age": AGE.long()}, "takes numbers, not ids for age"),
        ({}, "an empty dictionary"),
        ([IMAGE], "a tensor, or a dictionary of tensors"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(x, line):
    with pytest.raises(UsageError, match=line):
        MeanField(Plants(), seed=1)(x, range(2), 0)


def test_other_names_go_by_position():
    torch.manual_seed(1)
    method = MeanField(Plants(), seed=1)
    named = method({"image": IMAGE, "age": AGE}, range(2), 0)
    assert torch.equal(named, method({"a": AGE, "b": IMAGE}, range(2), 0))


def test_a_loss_of_one_output_refuses_several():
    method, y = MeanField(Plants(), seed=1), torch.zeros(6, dtype=torch.int64)
    with pytest.raises(
        UsageError, match="ExpectedNLL takes one output, the network returns size, kind"
    ):
        ELBO(ExpectedNLL(Categorical()), 6)(method, {"image": IMAGE, "age": AGE}, y, samples=2)
    targets = {"kind": y, "height": AGE}
    with pytest.raises(UsageError, match="for kind, size, but the targets are kind, height"):
        ELBO(loss_of(), 6)(method, {"image": IMAGE, "age": AGE}, targets, samples=2)


class Half(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(3, 4)

    def forward(self, x):
        y = self.head(x)
        return y[:, :1].half(), (y[:, 1:], None, x.argmax(1))


def test_half_precision_is_widened_and_whole_numbers_are_left_out():
    method = MeanField(Half(), seed=1)
    y = method(AGE.float(), range(2), 0)
    assert y.dtype == torch.float32
    assert {n: tuple(t.shape) for n, t in method.split(y).items()} == {
        "0": (2, 6, 1), "1.0": (2, 6, 3)
    }  # fmt: skip


class Letters(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.age = torch.nn.Embedding(11, 4), torch.nn.Linear(1, 4)
        self.kind, self.size = torch.nn.Linear(4, CLASSES), torch.nn.Linear(4, 1)

    def forward(self, input_ids, attention_mask, age):
        there = attention_mask.to(age.dtype)[..., None]
        z = (self.embed(input_ids) * there).sum(1) / there.sum(1) + self.age(age[:, None])
        return {"kind": self.kind(z), "size": self.size(z)[:, 0]}


def test_the_guide_to_several_inputs(tmp_path):
    readme = (Path(__file__).parent.parent / "docs" / "guides" / "several.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    make = next(code for code in blocks if "from_named(" in code)
    learn = blocks[blocks.index(make) + 1]
    sentences_, labels = sentences()
    sizes = np.linspace(0, 1, 24)
    sizes[3], labels[5] = np.nan, -1
    given = {
        "sentences": sentences_, "labels": labels, "sizes": sizes, "ages": np.arange(24.0),
        "weights": np.ones(24), "hs": hs, "N": 24, "collectives": None,
    }  # fmt: skip
    exec(make.replace("data/letters", str(tmp_path / "letters")), given)
    torch.manual_seed(0)
    given["method"] = MeanField(Letters(), seed=1)
    with Loader(tmp_path / "letters", serial(), batch=8) as loader:
        given["batch"] = next(iter(loader))
        assert list(given["batch"].x) == ["input_ids", "age", "attention_mask"]
        exec(learn, given)
    assert np.isfinite(given["loss"].parts.data)


def test_fit_takes_inputs_by_name():
    items = plants()
    x = {name: items[name] for name in ("image", "age")}
    y = items["kind"].clip(0)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.plants = Plants(double=False)

        def forward(self, age, image):
            return self.plants(age, image)["kind"]

    options = {"epochs": 2, "samples": 2, "quiet": True, "valid": None}
    source = from_named({"train": (x, y)}, name="arrays", fractions={})
    found = [
        hs.fit(Net(), data, **options).predict({n: v[:5] for n, v in x.items()}, samples=4)
        for data in ((x, y), {"x": x, "y": y}, source)
    ]
    for other in found[1:]:
        assert np.array_equal(found[0].probabilities, other.probabilities)


def test_a_file_of_named_arrays_is_ingested(tmp_path):
    from hpcsamp.ingest.npz_named import named

    items = plants()
    file = tmp_path / "plants.npz"
    np.savez(file, **items, image_test=items["image"][:9], age_test=items["age"][:9],
             kind_test=items["kind"][:9], size_test=items["size"][:9],
             weight_test=items["weight"][:9])  # fmt: skip
    options = {"weight": "weight", "missing_label": -1, "keep_missing": True, "fractions": {}}
    made = build(named(file, ["kind", "size"], normalize=["size"], **options), tmp_path / "set")
    assert made.splits == {"train": N, "test": 9}
    assert made.targets["kind"].missing == -1
    assert made.targets["size"].missing == "nan"
    x, y = Dataset.open(tmp_path / "set", "test").read(range(9))
    for name, found in (x | y).items():
        assert np.array_equal(found, items[name][:9], equal_nan=found.dtype.kind == "f"), name
    with pytest.raises(UsageError, match="--ids tokens is not one of its arrays image, age"):
        named(file, ["kind"], ids=["tokens"], **options)
    with pytest.raises(UsageError, match="give the arrays that are targets"):
        named(file, **options)
    one = {k: v for k, v in items.items() if k != "size"}
    np.savez(tmp_path / "one.npz", **one)
    only = named(tmp_path / "one.npz", ["kind"], weight="weight", missing_label=-1)
    assert (only.task, only.classes, only.missing) == ("classification", CLASSES, -1)
