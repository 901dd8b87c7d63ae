"""Networks of other packages in a run: weights from files and runs, heads, frozen layers."""

from __future__ import annotations

import pytest
import torch
from data_sets import make
from safetensors.torch import save_file
from torch import nn

from hpcsamp import config as configuration
from hpcsamp import load
from hpcsamp.errors import CheckpointError, HpcsampError, UsageError
from hpcsamp.grid import one_process
from hpcsamp.models import pretrained
from hpcsamp.run import checkpoint
from hpcsamp.run.folder import RunFolder
from hpcsamp.training.loop import train

SMALL = {
    "image_size": "@height", "num_channels": "@channels", "patch_size": 8, "hidden_size": 16,
    "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
}  # fmt: skip
VIT = {"name": "transformers:ViTForImageClassification", **SMALL}


class Plain(nn.Module):
    """A body and a head."""

    def __init__(self, outputs: int, width: int = 6):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, width), nn.LayerNorm(width))
        self.head = nn.Linear(width, outputs)

    def forward(self, x):
        return self.head(self.body(x))


PLAIN = {"name": f"{__name__}:Plain"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "images"
    make(folder, count=24, shape=(3, 16, 16), classes=3, chunk_bytes=50_000, shard_bytes=500_000)
    return folder


def run(folder, data, model, *settings, resume=False, **tables):
    table = {
        "data": {"path": str(data), "batch": 8},
        "model": model,
        "method": {"samples": 2, "samples_per_pass": 1, **tables.pop("method", {})},
        "optimizer": {"lr": 1e-3},
        "training": {"epochs": 1, "precision": "float64", "memory_check": "off"},
        **tables,
    }
    config = configuration.check(configuration.apply_overrides(table, settings))
    train(config, one_process("cpu"), folder, resume)
    return RunFolder(folder)


def means(folder):
    saved = checkpoint.read(checkpoint.latest(folder.checkpoints))
    return saved["method"]


def module(folder):
    return load(folder.path).method.networks[0]


def test_a_transformer_of_hugging_face_trains_stops_and_goes_on(tmp_path, data, capsys):
    whole = run(tmp_path / "whole", data, VIT)
    assert "model.num_labels = 3" in capsys.readouterr().err
    run(tmp_path / "parts", data, VIT, "training.steps=2")
    parts = run(tmp_path / "parts", data, VIT, resume=True)
    for name, value in means(whole).items():
        assert torch.equal(value, means(parts)[name]), name
    predicted = load(whole.path).predict(torch.randn(5, 3, 16, 16).numpy(), samples=4)
    assert predicted["probabilities"].shape == (5, 3)


def test_weights_of_a_file_are_where_training_starts(tmp_path, data, capsys):
    state = {k: torch.randn_like(v) for k, v in Plain(7).state_dict().items()}
    files = {
        "a.safetensors": lambda p: save_file(state, p),
        "a.pt": lambda p: torch.save(state, p),
        "nested.pt": lambda p: torch.save({"epoch": 3, "state_dict": state}, p),
        "prefix.pth": lambda p: torch.save({f"module.{k}": v for k, v in state.items()}, p),
    }
    found = []
    for name, write in files.items():
        write(tmp_path / name)
        model = {**PLAIN, "weights": str(tmp_path / name), "head": "head",
                 "freeze": ["body.1.weight"]}  # fmt: skip
        folder = run(tmp_path / f"run-{name}", data, model, "optimizer.lr=1e-30")
        found.append(module(folder).state_dict())
        assert "head.weight, head.bias come from the seed" in capsys.readouterr().err
        kept = folder.config().model.weights_sha256
        assert kept == pretrained.digest(tmp_path / name)
    for other in found:
        for key, value in other.items():
            assert torch.equal(value, found[0][key])
            if not key.startswith("head"):
                assert torch.allclose(value, state[key].double(), atol=1e-12), key
        assert other["head.weight"].shape == (3, 6)


def test_the_file_is_not_needed_to_go_on_and_another_one_is_refused(tmp_path, data):
    state, path = Plain(3).state_dict(), tmp_path / "w.pt"
    torch.save(state, path)
    model = {**PLAIN, "weights": str(path)}
    whole = run(tmp_path / "whole", data, model)
    run(tmp_path / "a", data, model, "training.steps=2")
    content = path.read_bytes()
    torch.save({k: v + 1 for k, v in state.items()}, path)
    with pytest.raises(CheckpointError, match=r"model.weights_sha256 was"):
        run(tmp_path / "a", data, model, resume=True)
    with pytest.raises(UsageError, match=r"has the SHA-256 .*, but model.weights_sha256 is aaaa"):
        run(tmp_path / "b", data, {**model, "weights_sha256": "a" * 64})
    path.unlink()
    gone_on = run(tmp_path / "a", data, model, resume=True)
    for name, value in means(whole).items():
        assert torch.equal(value, means(gone_on)[name]), name
    assert load(gone_on.path).predict(torch.randn(2, 3, 16, 16).numpy(), samples=2) is not None
    with pytest.raises(UsageError, match="there is no such file"):
        run(tmp_path / "c", data, model)
    path.write_bytes(content)


def test_the_means_of_another_run_are_where_training_starts(tmp_path, data):
    first = run(tmp_path / "first", data, PLAIN)
    second = run(
        tmp_path / "second", data, {**PLAIN, "weights": str(first.path)}, "optimizer.lr=1e-30"
    )
    start, end = module(first).state_dict(), module(second).state_dict()
    for name, value in start.items():
        assert torch.allclose(value, end[name], atol=1e-12), name
    assert not torch.allclose(start["head.weight"], Plain(3).head.weight.double())
    several = run(tmp_path / "several", data, PLAIN, method={"name": "ensemble"})
    with pytest.raises(UsageError, match="2 networks and no mean"):
        run(tmp_path / "third", data, {**PLAIN, "weights": str(several.path)})


def test_frozen_layers_and_patterns_of_a_configuration(tmp_path, data):
    model = {**PLAIN, "freeze": ["body.*"]}
    rules = [{"pattern": "head.bias", "std": 3.0}]
    method = {"bayesian": ["head.*"], "priors": rules}
    folder = run(tmp_path / "a", data, model, "training.steps=2", method=method)
    state = means(folder)
    assert state["mean"].shape == (3 * 6 + 3,)
    fresh = run(tmp_path / "b", data, model, "optimizer.lr=1e-30", method=method)
    for name, value in module(folder).state_dict().items():
        same = torch.equal(value, module(fresh).state_dict()[name])
        assert same == name.startswith("body"), name
    again = run(tmp_path / "a", data, model, method=method, resume=True)
    assert again.config().method.arguments["priors"] == rules


def broken(path):
    path.write_bytes(b"no weights")


WRONG = [
    (lambda p: torch.save(Plain(4).state_dict(), p), {}, ["head.weight (4, 6) for (3, 6)"]),
    (lambda p: torch.save(Plain(3, 5).state_dict(), p), {"head": "head"}, ["body.1.bias (5,)"]),
    (
        lambda p: torch.save({"body.1.weight": Plain(3).body[1].weight.detach()}, p), {},
        ["missing: body.1.bias, body.2.bias", "weights_strict"],
    ),
    (lambda p: torch.save({**Plain(3).state_dict(), "more": torch.ones(2)}, p), {},
     ["unexpected: more"]),
    (lambda p: torch.save({"x": torch.ones(2)}, p), {"weights_strict": False}, ["of them fits"]),
    (lambda p: torch.save([1, 2], p), {}, ["holds a list instead of tensors by name"]),
    (lambda p: torch.save(Plain(3), p), {}, ["cannot be read as tensors"]),
    (broken, {}, ["cannot be read as tensors"]),
    (lambda p: p.mkdir(), {}, ["a folder, but contains no checkpoints"]),
]  # fmt: skip


@pytest.mark.parametrize(("write", "options", "words"), WRONG)
def test_weights_that_do_not_fit_are_listed(write, options, words, tmp_path, data):
    path = tmp_path / "w.pt"
    write(path)
    with pytest.raises(HpcsampError) as e:
        run(tmp_path / "a", data, {**PLAIN, "weights": str(path), **options})
    assert "\n" not in str(e.value)
    for word in words:
        assert word in str(e.value), str(e.value)


def test_what_fits_is_taken_where_not_all_must(tmp_path):
    network, other = Plain(3), Plain(4)
    line = pretrained.put(network, other.state_dict(), "w.pt", strict=False)
    assert line.startswith(
        "model.weights: head.weight, head.bias come from the seed, not from w.pt"
    )
    assert torch.equal(network.body[1].weight, other.body[1].weight)
    inner = pretrained.put(
        network, other.body.state_dict(), "w.pt", strict=False
    )  # without "body."
    assert "body" not in inner
