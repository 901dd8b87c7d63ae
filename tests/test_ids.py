"""Ids, such as tokens of a text, reach a network as they are: integers, not standardised."""

import json
import tomllib

import numpy as np
import pytest
import torch
from torch import nn

from hpcsamp.config import check
from hpcsamp.data import Dataset, Loader
from hpcsamp.data.augment import Augmentation
from hpcsamp.data.manifest import NAME
from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest import build
from hpcsamp.ingest.npz import npz
from hpcsamp.methods import METHODS, MeanField, make
from hpcsamp.models import MLP

MANY = 50

# the last id of an item follows from the others: ids that were changed end in a loss of NaN
NET = f"""
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, in_shape, outputs):
        super().__init__()
        self.table, self.drop = nn.Embedding({MANY}, 4), nn.Dropout(0.1)
        self.last = nn.Linear(4, outputs)

    def forward(self, x):
        y = self.last(self.drop(self.table(x).mean(1)))
        if x.dtype != torch.int64:
            raise TypeError(f"ids of type {{x.dtype}}")
        return y.masked_fill((x[:, :-1].sum(1) % {MANY} != x[:, -1])[:, None], float("nan"))
"""

CONFIG = """task = "regression"
seed = 5
[data]
path = "{data}"
batch = 20
[model]
name = "idnet:Net"
[method]
name = "mc_dropout"
samples = 4
[loss]
name = "expected_nll"
[training]
epochs = 2
precision = "float64"
"""


@pytest.fixture(scope="module")
def alone():
    """The grid of one rank."""
    from hpcsamp.grid import AXES, RankAxis, Topology, plan_grid
    from hpcsamp.runtime import mpi

    comm = mpi().COMM_SELF
    return Topology(
        plan_grid(["node"], "node"), comm, comm, tuple(RankAxis(n, comm) for n in AXES), comm,
        torch.device("cpu"),
    )  # fmt: skip


def sets(folder):
    """The same whole numbers as ids and as numbers."""
    g = np.random.default_rng(0)
    x = g.integers(0, MANY, (100, 5)).astype("i4")
    x = np.c_[x, x.sum(1) % MANY].astype("i4")
    np.savez(folder / "a.npz", x=x, y=x[:, :1] / MANY + 0.1 * g.normal(size=(100, 1)))
    ids = npz(folder / "a.npz", inputs="ids")
    largest = f"the largest id of x is {MANY - 1}"
    assert ids.report == [f"{largest}: an embedding needs at least {MANY} rows"]
    for inputs in ("ids", "numbers"):
        build(npz(folder / "a.npz", inputs=inputs), folder / inputs)
    return folder / "ids", folder / "numbers"


def test_a_loader_gives_ids_as_they_are(tmp_path, alone):
    ids, numbers = (Dataset.open(folder) for folder in sets(tmp_path))
    assert ids.uid != numbers.uid
    assert set(ids.manifest.stats) == {"y"}
    assert "inputs" not in json.loads((tmp_path / "numbers" / NAME).read_text())
    for options in ({}, {"normalize": False}, {"dtype": torch.float64, "reader": "serial"}):
        with Loader(Dataset.open(ids.path), alone, batch=10, **options) as loader:
            for batch in loader.epoch(0):
                assert batch.x.dtype == torch.int64
                assert np.array_equal(batch.x.numpy(), ids.read(batch.index)[0])
                assert batch.y.dtype == batch.weight.dtype == options.get("dtype", torch.float32)
    with Loader(numbers, alone, batch=70) as loader:
        (batch,) = loader.epoch(0)
        assert float(batch.x.mean()) == pytest.approx(0, abs=1e-5)
    with pytest.raises(DataError, match="ids, which have no mean"):
        _ = ids.stats
    section = check(tomllib.loads(CONFIG.format(data="d") + "[augment]\nflip = true")).augment
    with pytest.raises(UsageError, match="are ids, which cannot be cropped"):
        Augmentation.of(section, ids, alone, seed=1)


@pytest.mark.parametrize("kind", ["i1", "i2", "u2", "u4", "u8", "u1", "<i8"])
def test_ids_of_every_integer_type(tmp_path, alone, kind):
    x = np.arange(60).reshape(30, 2).astype(kind)
    split = {"x_test": x[:3].astype("i8"), "y_test": np.zeros(3, int)}  # with u8: float64 at NumPy
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(30) % 2, **split)
    build(npz(tmp_path / "a.npz", inputs="ids", fractions={}), tmp_path / "set")
    with Loader(tmp_path / "set", alone, batch=30, shuffle=False) as loader:
        (batch,) = loader.epoch(0)
        assert batch.x.dtype == torch.int64
        assert batch.x.tolist() == x.astype(int).tolist()


def network(kind, member):
    """Each member has different initial values."""
    torch.manual_seed(member or 0)
    return kind((6,), 2)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_ids(name):
    """Samples one by one and two at once, in training and in prediction."""
    space = {}
    rate = "0.1" if name == "mc_dropout" else "0.0"
    exec(NET.replace("Dropout(0.1)", f"Dropout({rate})"), space)
    x = torch.randint(0, MANY, (6, 5))
    x = torch.cat([x, x.sum(1, keepdim=True) % MANY], 1)
    found = []
    for together in (1, 2):
        method = make(
            name,
            lambda member: network(space["Net"], member),
            {},
            samples=4,
            own=range(4),
            seed=1,
            samples_per_pass=together,
        ).double()
        method.begin(6, 1000, 100)
        y = method(x, range(4), 0)
        assert y.dtype == torch.float64
        assert y.isfinite().all()
        found.append(y.detach())
    assert torch.allclose(*found, rtol=0, atol=1e-12)


def test_a_network_for_the_other_kind_of_inputs_is_refused():
    ids, linear = torch.randint(0, MANY, (6, 5)), nn.Sequential(nn.Linear(5, 2))
    with pytest.raises(UsageError, match=r"takes numbers, not ids .* --inputs numbers"):
        MeanField(linear, prior_std=1, seed=1)(ids, range(2))
    with pytest.raises(UsageError, match=r"integers \(torch.int64\).* --inputs numbers"):
        MeanField(MLP((5,), 2), prior_std=1, seed=1)(ids, range(2))
    table = nn.Sequential(nn.Embedding(MANY, 1), nn.Flatten())
    with pytest.raises(UsageError, match=r"takes ids, not numbers .* --inputs ids"):
        MeanField(table, prior_std=1, seed=1)(ids.float(), range(2))
    with pytest.raises(IndexError, match="out of range"):  # not for its kind
        MeanField(table, prior_std=1, seed=1)(ids + MANY, range(2))


def test_what_is_counted_without_values_knows_ids(tmp_path, monkeypatch):
    from hpcsamp.planning import memory
    from hpcsamp.planning.workload import Workload
    from hpcsamp.run.assemble import Run
    from hpcsamp.run.shapes import DataShapes

    (tmp_path / "idnet.py").write_text(NET)
    monkeypatch.syspath_prepend(tmp_path)
    folder, _ = sets(tmp_path)
    config = check(tomllib.loads(CONFIG.format(data=folder)))
    shapes = DataShapes.of(Dataset.open(folder))
    assert Workload.of(config, shapes).counts.flops_of(1) > 0
    found = memory._pass(Run.blank(config, shapes), 20, True, freed=False)
    assert found.bytes > 0
    assert not found.unknown


def test_a_network_trains_on_ids_the_same_on_any_grid(tmp_path, commands, monkeypatch):
    (tmp_path / "idnet.py").write_text(NET)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    ids, numbers = sets(tmp_path)
    config = tmp_path / "run.toml"
    config.write_text(CONFIG.format(data=ids))
    one, two = tmp_path / "one", tmp_path / "two"
    train = ["train", config, "--output"]
    predict = ["predict", one, "--data", numbers, "--out", tmp_path / "p.h5"]
    done = commands(1, [*train, one], ["evaluate", one], predict)
    assert done.code == 1, done.err
    assert "x holds numbers, but the run was trained on ids" in done.err, done.err
    other = [*train, tmp_path / "bad", "--set", f"data.path={numbers}"]
    done = commands(2, [*train, two], other)
    assert done.code == 2, done.err
    (line,) = (line for line in done.errors if "the network takes ids, not numbers" in line)
    assert "--inputs ids" in line
    ends = [json.loads((run / "summary.json").read_text()) for run in (one, two)]
    assert ends[0]["metrics"] == pytest.approx(ends[1]["metrics"], rel=1e-10)
