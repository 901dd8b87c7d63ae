"""Networks of other packages: the same on any grid by every method, equal to torch, or refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from conftest import launch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from hpcsamp.methods import MeanField
from hpcsamp.weights import Put, evaluate
from hpcsamp.weights.complex_parts import complex_of
from hpcsamp.weights.place import Place

SCRIPT = Path(__file__).parent / "zoo_cases.py"
#: Ranks of each job, and its grids by what their sample axis spans. Shares of 3 ranks are uneven.
JOBS = {1: {"none": "1"}, 2: {"2": "2 sample ranks", "none": "2 data groups"}, 3: {"3": "3"}}
METHODS = ("mean_field", "ensemble", "swag", "mc_dropout")

#: Networks that drop nothing and have a single linear layer: nothing for mc_dropout to do.
NOTHING_TO_DROP = (
    "resnet18", "gru", "embeddings", "tied_weights", "frozen_body",
    "frozen_weights_and_moving_statistics", "fourier_features", "instance_norm",
    "timm_efficientnet", "timm_efficientnet_evos", "timm_efficientnet_gn", "timm_resnet",
)  # fmt: skip

#: What cannot be had, and the words of the refusal: everything else has to work.
REFUSED: dict[tuple[str, str], str] = {
    **{(name, "mc_dropout"): "has no dropout" for name in NOTHING_TO_DROP},
    **{("batch_norm_without_statistics", kind): "1, a BatchNorm1d, makes an item's outputs depend"
       for kind in METHODS},
    **{(name, kind): "torch_blue" for name in ("mixture_of_torch_blue", "torch_blue_layers")
       for kind in ("ensemble", "swag", "mc_dropout")},
}  # fmt: skip

Results = dict[tuple[str, str], Any]


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, Results]:
    root, found = tmp_path_factory.mktemp("zoo"), {}
    for ranks, grids in JOBS.items():
        file = root / f"{ranks}.pt"
        done = launch(ranks, str(SCRIPT), ",".join(grids), str(file), timeout=180 * len(grids))
        assert done.code == 0, done.out[-2000:] + done.err[-2000:]
        results = torch.load(file, weights_only=True)
        found |= {grid: results[span] for span, grid in grids.items()}
    return found


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_every_grid_gives_the_same_or_refuses(name, kind, results):
    truth = results["1"][name, kind]
    refusal = REFUSED.get((name, kind))
    if refusal is not None:
        for grid, found in results.items():
            assert isinstance(found[name, kind], str), grid
            assert refusal in found[name, kind], grid
        return
    for grid, found in results.items():
        other = found[name, kind]
        assert not isinstance(other, str), f"{grid}: {other}"
        assert other["losses"] == pytest.approx(truth["losses"], rel=1e-8), grid
        assert apart(other["outputs"], truth["outputs"]) < 1e-8, grid
        assert other["state"].keys() == truth["state"].keys()
        for key, value in truth["state"].items():
            if isinstance(value, Tensor):
                assert same(other["state"][key], value), (grid, key)
        assert other["resumed"], f"{grid}: went on to other bits"
    assert truth["of_batch"] < 1e-12, "outputs depend on the batch"


def same(one: Tensor, other: Tensor) -> bool:
    """Whether state agrees, to 1e-8 of its largest number. A mean that is 0 but for rounding (after
    a normalisation, or a gradient that is 0 in truth) has no digits to agree in."""
    return apart(one, other) < 1e-8 or float((one - other).abs().max()) < 1e-12


def apart(one: Tensor, other: Tensor) -> float:
    if not other.is_floating_point() and not other.is_complex():
        return float(not torch.equal(one, other))
    assert one.shape == other.shape
    scale = float(other.abs().max()) if other.numel() else 0.0
    return float((one - other).abs().max()) / scale if scale else 0.0


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_gradients_are_those_of_plain_torch(name):
    """A pass for each sample by plain torch, with the weights that were drawn.

    A network's own random numbers are compared with Python integers in test_routing.
    """
    if (name, "mean_field") in REFUSED or "torch_blue" in name:
        pytest.skip("refused, or no plain network")
    module, x = zoo.make(name)
    y = torch.arange(len(x)) % zoo.OUTPUTS
    plain, _ = zoo.make(name)
    samples = 2
    method = MeanField(module, prior_std=1.0, initial_std=0.05, seed=1)
    outputs = method(x, samples=range(samples), step=0)
    sum(F.cross_entropy(o, y) / samples for o in outputs).backward()
    layout = method.variables.random
    weights = method.draw(0, range(samples)).detach()
    mean, log_std = torch.zeros_like(method.mean), torch.zeros_like(method.log_std)
    rest = {n: torch.zeros_like(p) for n, p in plain.named_parameters()}
    own = dict(plain.named_parameters())
    start = {n: b.clone() for n, b in plain.named_buffers()}
    for s, row in enumerate(weights):
        with torch.no_grad():
            for n, b in plain.named_buffers():
                b.copy_(start[n])
            for n, value in layout.named(row[None]).items():
                own[n].copy_(complex_of(value[0]) if own[n].is_complex() else value[0])
        plain.zero_grad()
        (F.cross_entropy(passed(plain, x, s), y) / samples).backward()
        gradients = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in own.items()}
        flat = layout.flatten(gradients)
        mean += flat
        log_std += flat * (row - method.mean.detach())
        rest = {n: value + gradients[n] for n, value in rest.items()}
    assert apart(method.mean.grad, mean) < 1e-10
    assert apart(method.log_std.grad, log_std) < 1e-10
    if method.fixed is not None:
        fixed = method.variables.deterministic.flatten(rest)
        assert apart(method.fixed.grad, fixed) < 1e-10


def passed(plain: nn.Module, x: Tensor, sample: int) -> Tensor:
    """Outputs of a plain pass; a network's own random numbers are those of a sample's pass."""
    before = torch.random.get_rng_state()
    state = copy.deepcopy(plain.state_dict())
    y = plain(x)
    if torch.equal(before, torch.random.get_rng_state()):
        return y
    torch.random.set_rng_state(before)
    plain.load_state_dict(state)
    place = Place(1, 0, [sample])
    return evaluate(Put(plain), plain, {}, {}, x, samples=1, place=place)[0]
