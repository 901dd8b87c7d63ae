"""Groups of parameters: any optimiser of torch treats them as it treats separate tensors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from hpcsamp import config as configuration
from hpcsamp.collectives import Alone, Divided, Group, distribute, updates_of
from hpcsamp.errors import UsageError
from hpcsamp.grid import init
from hpcsamp.methods import MeanField
from hpcsamp.methods.ensemble import Ensemble
from hpcsamp.methods.mc_dropout import MCDropout
from hpcsamp.training.loop import Trainer


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Tanh())
    return nn.Sequential(body, nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)).double()


METHODS = {
    "mean_field": lambda: MeanField(net(), samples_per_pass=1),
    "ensemble": lambda: Ensemble(lambda s: net(s), 3, samples_per_pass=1),
    "mc_dropout": lambda: MCDropout(net(), samples_per_pass=1),
}
OPTIMIZERS = {
    "AdamW": (torch.optim.AdamW, {"lr": 1e-2, "weight_decay": 0.1}),
    "SGD": (torch.optim.SGD, {"lr": 1e-2, "momentum": 0.9, "nesterov": True}),
    "Adagrad": (torch.optim.Adagrad, {"lr": 1e-2, "lr_decay": 0.1}),
}


def group_of(name: str) -> int:
    """What the groups below say, written down by itself."""
    if name.startswith("3."):
        return 1
    return 2 if ".bias" in name else 0


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("name", METHODS)
def test_groups_are_those_of_separate_tensors(name, kind):
    method, (optimizer, common) = METHODS[name](), OPTIMIZERS[kind]
    options = ({}, {"lr": 1e-3, "weight_decay": 0.0}, {"lr": 0.1})
    groups = [Group("3.*", None, options[1]), Group("[01].*bias*", None, options[2])]
    parts = Divided(updates_of(method, Alone()), method, groups)
    made = optimizer(parts.parts, **common)
    assert len(made.param_groups) == 3
    distribute(made, Alone(), method, updates=parts, clip=0.5)
    named = dict(method.named_variational())
    apart = {n: nn.Parameter(t.clone()) for n, t in named.items()}
    tables = [{"params": [p for n, p in apart.items() if group_of(n) == g], **options[g]}
              for g in (0, 1, 2)]  # fmt: skip
    reference = optimizer(tables, **common)
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(1)).double()
    for _ in range(4):
        outputs = method(x, samples=range(3))
        (outputs.square().sum() + method.penalty() / 10).backward()
        # the gradient of all together is clipped (of each member's, where there are members)
        rows = torch.cat([p.grad.flatten(1) if name == "ensemble" else p.grad.reshape(1, -1)
                          for p in method.parameters()], 1)  # fmt: skip
        factors = (0.5 / (rows.norm(dim=1) + 1e-6)).clamp(max=1)
        gradients = {n: method_gradient(method, t) for n, t in named.items()}
        for n, p in apart.items():
            scale = factors.view(-1, *[1] * (p.dim() - 1)) if name == "ensemble" else factors
            p.grad = gradients[n] * scale
        made.step()
        made.zero_grad()
        reference.step()
        for n, p in apart.items():
            assert torch.allclose(named[n], p, rtol=1e-12, atol=1e-14), n
    state = made.state_dict()
    assert len(state["state"]) == len([p for g in made.param_groups for p in g["params"]])


def method_gradient(method, tensor):
    """The gradient of a named tensor: of the parameter in whose memory it lies."""
    for p in method.parameters():
        start = tensor.storage_offset() - p.storage_offset()
        same = p.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
        if same and 0 <= start < p.numel():
            flat = p.grad.contiguous()
            return flat.as_strided(tensor.shape, tensor.stride(), flat.storage_offset() + start)
    raise AssertionError


def test_standard_deviations_have_a_rate_of_their_own():
    method = METHODS["mean_field"]()
    parts = Divided(updates_of(method, Alone()), method, [Group("*", "log_std", {"lr": 0.0})])
    made = torch.optim.Adam(parts.parts, lr=0.1)
    distribute(made, Alone(), method, updates=parts)
    before = method.log_std.clone(), method.mean.clone(), method.fixed.clone()
    method(torch.ones(2, 3).double(), samples=range(2)).sum().backward()
    made.step()
    assert torch.equal(method.log_std, before[0])
    assert (method.mean != before[1]).sum() > 30
    assert (method.fixed != before[2]).any()  # what is not random has no spread


def set_to_none(optimizer):
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = None


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("zero", [torch.optim.Optimizer.zero_grad, set_to_none])
def test_gradients_that_other_code_sets_to_none_are_zero(zero, sharded):
    def trained(zero):
        method = METHODS["mean_field"]()
        updates = updates_of(method, Alone(), sharded)
        if not sharded:
            updates = Divided(updates, method, [Group("*", "log_std", {"lr": 0.01})])
        made = torch.optim.SGD(updates.parts, lr=0.1)
        distribute(made, Alone(), method, updates=updates)
        for _ in range(3):
            method(torch.ones(2, 3).double(), samples=range(2)).sum().backward()
            made.step()
            zero(made)
        return method.mean.detach().clone()

    assert torch.equal(trained(zero), trained(lambda made: made.zero_grad()))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            [Group("head.*")],
            "pattern = 'head.*' matches no parameter; the parameters are 0.0.weight",
        ),
        ([Group("0.1.*", "log_std")], "pattern = '0.1.*', of = 'log_std' matches no parameter"),
        ([Group("0.*"), Group("*.bias")], "0.0.bias.mean is matched by pattern = '0.*' and by"),
    ],
)
def test_patterns_that_match_nothing_or_the_same_are_refused(groups, message):
    method = METHODS["mean_field"]()
    with pytest.raises(UsageError) as error:
        Divided(updates_of(method, Alone()), method, groups)
    assert message in str(error.value)


GROUPS = """[
    {pattern = "layers.1.*", lr = 1e-2, weight_decay = 0.01},
    {of = "log_std", pattern = "layers.3.*", lr = 0.0},
]"""


def test_a_run_with_groups_is_one_on_any_grid_and_goes_on(commands, hpcsamp, small, tmp_path):
    given = ["--set=optimizer.name=AdamW", "--set=optimizer.groups=" + GROUPS.replace("\n", "")]
    axis = "--set=parallel.samples=none"
    done = commands(
        2,
        ["train", small, "-o", tmp_path / "samples", *given],
        ["train", small, "-o", tmp_path / "data", *given, axis, "--set=training.steps=20"],
        ["train", small, "-o", tmp_path / "data", *given, axis, "--resume"],
        ["train", small, "-o", tmp_path / "straight", *given, axis],
    )
    assert done.code == 0, done.err
    assert hpcsamp(1, "train", small, "-o", tmp_path / "one", *given).code == 0
    losses = [trained(tmp_path / run) for run in ("samples", "data", "one")]
    assert losses[0] == pytest.approx(losses[2], rel=1e-10)
    assert losses[1] == pytest.approx(losses[2], rel=1e-10)
    assert trained(tmp_path / "straight") == losses[1]


def trained(run: Path) -> list[float]:
    events = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [e["loss"] for e in events if e["event"] == "train"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["optimizer.groups=[{pattern='layers.1.*', weight_decy=0.1}]"],
         "unknown key 'optimizer.groups.weight_decy' for Adam; did you mean 'weight_decay'"),
        (["optimizer.groups=[{pattern='layers.1.*', lr='high'}]"], "optimizer.groups"),
        (["optimizer.groups=[{pattern='layers.1.*'}]", "optimizer.sharded=true"], "sharded"),
        (["optimizer.groups=[{pattern='layers.1.*'}]", "method.name=sgld",
          "optimizer.name=SGLD", "method.prior_std=1.0", "schedule.name=none"],
         "updates all weights with one rate"),
        (["optimizer.groups=[{pattern='layers.1.*', lr=0.1}]", "schedule.name=OneCycleLR",
          "schedule.max_lr=0.1"], "sets the rates of all groups to 0.004, but they are 0.005, 0.1"),
    ],
)  # fmt: skip
def test_groups_that_cannot_be_are_refused(settings, message, small, tmp_path):
    with pytest.raises(UsageError) as error:
        Trainer(configuration.load(small, settings), init(), tmp_path / "run")
    assert message in str(error.value)
