"""A module's own random numbers: from counted streams, the same in any form of pass and batch."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from conftest import launch
from draw_cases import CASES as CASES_ON_A_GRID
from draws_by_hand import mask
from torch import nn
from torch.distributions import Bernoulli, Categorical, Exponential, Laplace, Normal
from torch.nn import functional as F  # noqa: N812
from torch.nn.modules import module as hooks
from torchvision.ops import StochasticDepth

from hpcsamp.generators import Generators
from hpcsamp.methods import METHODS, Ensemble, MeanField
from hpcsamp.weights import refusals
from hpcsamp.weights.attention import multi_head_attention

SCRIPT = Path(__file__).parent / "draw_cases.py"
WIDTH, ITEMS, SAMPLES = 4, 5, 3


class Does(nn.Module):
    """A layer that applies a given function to tokens ``(B, 3, 4)``."""

    def __init__(self, do, **parts):
        super().__init__()
        self.do = do
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.do(self, x)


def drop_path(_, x):
    """As timm does it."""
    mask = x.new_empty((x.shape[0], 1, 1)).bernoulli_(0.6)
    mask.div_(0.6)
    return x * mask


def filled(_, x):
    """What the method returns is not looked at."""
    noise = torch.empty_like(x)
    noise.normal_()
    return x + noise


def time_first(layer):
    return lambda s, x: layer(s, x.transpose(0, 1)).transpose(0, 1)


def attention(**named):
    return nn.MultiheadAttention(WIDTH, 2, 0.3, **named)


class Layers(nn.Module):
    """Drops some layers at random, so that passes differ in their calls."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x):
        for layer in self.layers:
            if torch.rand([]) < 0.5:
                x = x + F.dropout(layer(x), 0.2)
        return x


CASES = {
    "dropout": lambda: nn.Dropout(0.3),
    "inplace": lambda: nn.Dropout(0.3, inplace=True),
    "functional": lambda: Does(lambda _, x: F.dropout(x, 0.3)),
    "torch.dropout": lambda: Does(lambda _, x: torch.dropout(x, 0.3, True)),
    "of weights": lambda: Does(
        lambda s, x: F.linear(x, F.dropout(s.a.weight, 0.3)), a=nn.Linear(WIDTH, WIDTH)
    ),
    "1d": lambda: nn.Dropout1d(0.4),
    "2d": lambda: Does(lambda s, x: s.d(x[..., None])[..., 0], d=nn.Dropout2d(0.4)),
    "3d": lambda: Does(lambda s, x: s.d(x[..., None, None])[..., 0, 0], d=nn.Dropout3d(0.4)),
    "alpha": lambda: nn.AlphaDropout(0.3),
    "feature alpha": lambda: nn.FeatureAlphaDropout(0.3),
    "rrelu": lambda: nn.RReLU(),
    "time first": lambda: Does(time_first(lambda s, x: F.dropout(x, 0.3))),
    "attention": lambda: Does(lambda s, x: s.a(x, x, x)[0], a=attention(batch_first=True)),
    "attention alone": lambda: Does(
        lambda s, x: s.a(x, x, x, need_weights=False)[0], a=attention(batch_first=True)
    ),
    "attention, time first": lambda: Does(
        time_first(lambda s, x: s.a(x, x + 1, x, need_weights=False)[0]), a=attention()
    ),
    "attention with more keys": lambda: Does(
        lambda s, x: s.a(x, x, x)[0],
        a=attention(batch_first=True, add_bias_kv=True, add_zero_attn=True),
    ),
    "dot product": lambda: Does(
        lambda _, x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.3, is_causal=True)
    ),
    "encoder": lambda: nn.TransformerEncoderLayer(WIDTH, 2, 8, 0.2, batch_first=True),
    "decoder": lambda: Does(
        lambda s, x: s.d(x, x + 1), d=nn.TransformerDecoderLayer(WIDTH, 2, 8, 0.2, batch_first=True)
    ),
    "lstm": lambda: Does(
        lambda s, x: s.r(x)[0], r=nn.LSTM(WIDTH, 2, 3, dropout=0.3, bidirectional=True,
                                          batch_first=True),
    ),
    "lstm, projected": lambda: Does(
        lambda s, x: s.r(x)[1][1][-1][:, None] + x,
        r=nn.LSTM(WIDTH, WIDTH, 2, dropout=0.3, proj_size=2, batch_first=True),
    ),
    "gru": lambda: Does(
        time_first(lambda s, x: s.r(x)[0]), r=nn.GRU(WIDTH, WIDTH, 2, dropout=0.3, bias=False)
    ),
    "rnn": lambda: Does(
        lambda s, x: s.r(x)[0], r=nn.RNN(WIDTH, WIDTH, 2, dropout=0.3, batch_first=True)
    ),
    "drop path": lambda: Does(drop_path),
    "stochastic depth": lambda: StochasticDepth(0.4, "row"),
    "of the batch": lambda: StochasticDepth(0.4, "batch"),
    "filled": lambda: Does(filled),
    "randn": lambda: Does(lambda _, x: x + torch.randn(3, 1)),
    "randn of items": lambda: Does(lambda _, x: x + torch.randn(len(x), 3, 1)),
    "rand": lambda: Does(lambda _, x: x * torch.rand(x.shape, dtype=x.dtype)),
    "like": lambda: Does(lambda _, x: x + torch.randn_like(x) + torch.rand_like(x)),
    "normal": lambda: Does(lambda _, x: torch.normal(x, 0.1 + x.abs())),
    "bernoulli": lambda: Does(lambda _, x: x * torch.bernoulli(x.sigmoid())),
    "uniform_": lambda: Does(lambda _, x: x + torch.empty_like(x).uniform_(-1, 1)),
    "exponential_": lambda: Does(lambda _, x: x + torch.empty_like(x).exponential_(2.0)),
    "randint": lambda: Does(lambda _, x: x * torch.randint(1, 4, (len(x), 1, 1))),
    "one place": lambda: Does(lambda _, x: x + torch.randn([])),
    "shuffled": lambda: Does(lambda _, x: x[:, torch.randperm(3)]),
    "multinomial": lambda: Does(
        lambda _, x: x + torch.multinomial(x[:, 0].sigmoid(), 2, True).sum(1)[:, None, None]
    ),
    "chosen": lambda: Does(
        lambda _, x: x * torch.multinomial(x[:, 0].sigmoid(), 3)[..., None].to(x.dtype)
    ),
    "gumbel": lambda: Does(lambda _, x: F.gumbel_softmax(x)),
    "hard gumbel": lambda: Does(lambda _, x: F.gumbel_softmax(x, hard=True)),
    "reparameterised": lambda: Does(lambda _, x: Normal(x, 1 + x.square()).rsample()),
    "categorical": lambda: Does(lambda _, x: x + Categorical(logits=x).sample()[..., None]),
    "other distributions": lambda: Does(
        lambda _, x: x * Bernoulli(logits=x).sample()
        + Laplace(x, 1.0).rsample() + Exponential(x.exp()).rsample()
    ),
    "layers by chance": Layers,
}  # fmt: skip
#: Strategies that a case does not allow: vmap knows no recurrent layers, and no strategy but the
#: loop knows passes that go one way or the other.
REFUSED = {
    "lstm": {"vmap"},
    "lstm, projected": {"vmap", "batched"},
    "gru": {"vmap"},
    "rnn": {"vmap"},
    "layers by chance": {"vmap", "batched"},
}


def network(name):
    torch.manual_seed(1)
    first = nn.Sequential(nn.Linear(2, 3 * WIDTH), nn.Unflatten(1, (3, WIDTH)))
    return nn.Sequential(first, CASES[name](), nn.Flatten(), nn.Linear(3 * WIDTH, 2)).double()


X = torch.randn(ITEMS, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
INDEX = torch.tensor([7, 0, 3, 12, 5])


def passed(call, method, rows=slice(None), samples=range(SAMPLES), step=4):
    y = call(X[rows], samples=samples, step=step, index=INDEX[rows])
    return y, torch.autograd.grad(y.square().sum(), list(method.parameters()), allow_unused=True)


@pytest.mark.filterwarnings("ignore:.*enable_nested_tensor")
@pytest.mark.parametrize("name", CASES)
def test_a_draw_is_the_same_in_any_form_of_pass_and_in_any_batch(name):
    method = MeanField(network(name), initial_std=0.1, seed=5)
    before = Generators.now()
    method.samples_per_pass = 1
    y, gradients = passed(method, method)
    assert not before.moved(Generators.now())
    for strategy in ("vmap", "batched"):
        method.samples_per_pass, method.strategy = SAMPLES, strategy
        with refusals() as reasons:
            other, also = passed(method.forward, method)
        assert bool(reasons) == (strategy in REFUSED.get(name, set())), reasons
        assert torch.allclose(other, y, rtol=1e-10, atol=1e-12)
        for one, two in zip(gradients, also, strict=True):
            assert torch.allclose(one, two, rtol=1e-9, atol=1e-11)
    method.samples_per_pass, method.strategy = 2, "auto"
    some = torch.tensor([3, 1])
    part, _ = passed(method, method, some, range(1, 3))
    assert torch.allclose(part, y[1:, some], rtol=1e-10, atol=1e-12)
    another_step, _ = passed(method, method, step=5)
    assert min((y[0] - other).abs().max() for other in (another_step[0], y[1])) > 1e-3


# Against formulas ------------------------------------------------------------------------------


@pytest.mark.parametrize("per_pass", [1, SAMPLES])
def test_outputs_and_gradients_are_those_of_a_plain_loop_that_multiplies_by_the_masks(per_pass):
    def member(s):
        torch.manual_seed(s)
        layers = [nn.Linear(2, 6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 3), nn.Dropout(0.1)]
        return nn.Sequential(*layers).double()

    method = Ensemble(member, SAMPLES, seed=8, samples_per_pass=per_pass)
    y, (gradient,) = passed(method, method)
    for s in range(SAMPLES):
        net = member(s)
        first = mask(0.3, (6,), 8, 4, s, 0, INDEX)
        last = mask(0.1, (3,), 8, 4, s, 1, INDEX)
        plain = net[3](torch.tanh(net[0](X)) * first) * last
        assert torch.allclose(y[s], plain, rtol=1e-10, atol=1e-12)
        own = torch.autograd.grad(plain.square().sum(), list(net.parameters()))
        own = torch.cat([g.flatten() for g in own])
        assert torch.allclose(gradient[s], own, rtol=1e-10, atol=1e-12)


class Shows(nn.Module):
    """What a function draws for 2000 numbers of ones an item."""

    def __init__(self, draw):
        super().__init__()
        self.scale, self.draw = nn.Parameter(torch.ones(())), draw

    def forward(self, x):
        return self.draw(torch.ones(len(x), 2000, dtype=x.dtype) * self.scale.detach()) * self.scale


MOMENTS = {
    "dropout": (lambda x: F.dropout(x, 0.3), 1.0, 0.3 / 0.7),
    "drop_path": (lambda x: x * torch.empty_like(x).bernoulli_(0.6) / 0.6, 1.0, 0.4 / 0.6),
    "rand": (torch.rand_like, 1 / 2, 1 / 12),
    "randn": (lambda x: torch.randn(x.shape, dtype=x.dtype), 0.0, 1.0),
    "normal": (lambda x: torch.normal(2 * x, x), 2.0, 1.0),
    "uniform": (lambda x: torch.empty_like(x).uniform_(-1, 3), 1.0, 16 / 12),
    "exponential": (lambda x: torch.empty_like(x).exponential_(2.0), 0.5, 0.25),
    "randint": (lambda x: torch.randint_like(x, 2, 6), 3.5, 15 / 12),
    "log normal": (
        lambda x: torch.empty_like(x).log_normal_(0.0, 0.5),
        math.exp(1 / 8), (math.exp(1 / 4) - 1) * math.exp(1 / 4),
    ),
    "rrelu": (lambda x: F.rrelu(-x, 0.1, 0.5, training=True), -0.3, 0.16 / 12),
    "multinomial": (
        lambda x: torch.multinomial(torch.tensor([0.2, 0.3, 0.5]).expand(len(x), 3), 2000, True).to(
            x.dtype
        ),
        1.3, 0.61,
    ),
    "gumbel": (
        lambda x: F.gumbel_softmax(
            torch.tensor([0.2, 0.8], dtype=x.dtype).log().expand(*x.shape, 2), hard=True
        )[..., 1],
        0.8, 0.16,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MOMENTS)
def test_draws_have_their_moments_and_items_samples_and_steps_are_independent(name):
    draw, mean, variance = MOMENTS[name]
    method = Ensemble(Shows(draw).double(), 3, seed=2, samples_per_pass=1)
    found = torch.cat([method(X[:3], samples=range(3), step=t).detach() for t in range(3)])
    z = (found - mean) / math.sqrt(variance)  # steps and samples, items, numbers
    count = z.numel()
    assert abs(z.mean()) < 4.5 / math.sqrt(count)
    spread = (z.square() - 1).std() / math.sqrt(count)
    assert abs(z.square().mean() - 1) < 4.5 * spread + 1e-9
    for axis in range(3):
        products = z.narrow(axis, 1, z.shape[axis] - 1) * z.narrow(axis, 0, z.shape[axis] - 1)
        assert abs(products.mean()) < 4.5 / math.sqrt(products.numel())


def test_alpha_dropout_keeps_mean_and_variance():
    x = torch.randn(2, 2000, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    net = Does(lambda s, y: F.alpha_dropout(y, 0.2, training=True) * s.w[0])
    net.w = nn.Parameter(torch.ones(1, dtype=torch.float64))
    y = Ensemble(net, 40, seed=1)(x, samples=range(40))
    assert abs(y.mean() - x.mean()) < 0.02
    assert abs(y.var() - x.var()) < 0.04
    assert torch.isclose(y[y < y.max()].min(), y.min())


def test_appended_keys_are_torchs():
    torch.manual_seed(2)
    layer = nn.MultiheadAttention(WIDTH, 2, add_bias_kv=True, add_zero_attn=True).double()
    x = torch.randn(3, 5, WIDTH, dtype=torch.float64)
    hidden = torch.rand(5, 3) < 0.4
    for padding in (None, hidden):
        arguments = (
            x, x + 1, x, WIDTH, 2, layer.in_proj_weight, layer.in_proj_bias, layer.bias_k,
            layer.bias_v, True, 0.0, layer.out_proj.weight, layer.out_proj.bias, True, padding,
        )  # fmt: skip
        ours, theirs = multi_head_attention(*arguments), F.multi_head_attention_forward(*arguments)
        for one, other in zip(ours, theirs, strict=True):
            assert torch.allclose(one, other, rtol=1e-12)


# Methods, prediction and what changes on the way -------------------------------------------------


METHOD_NAMES = ["ensemble", "flipout", "last_layer", "local_reparameterisation", "mean_field",
                "sgld", "swag"]  # fmt: skip


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_every_method_trains_with_dropout_and_predicts_without(name):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 2)).double()
    method = METHODS[name].create(lambda _: net, 2, range(2))
    y, _ = passed(method, method, samples=range(2))
    halves = [
        torch.cat([passed(method, method, rows, range(s, s + 1))[0] for s in range(2)])
        for rows in (slice(0, 2), slice(2, 5))
    ]
    assert torch.allclose(torch.cat(halves, 1), y, rtol=1e-10)
    assert not torch.allclose(passed(method, method, samples=range(2), step=5)[0], y)
    with method.predicting(), torch.no_grad():
        predicted = method(X, samples=range(2))
        assert torch.allclose(method(X, samples=range(2), step=9), predicted, rtol=1e-12)
        if name in ("ensemble", "sgld", "swag"):  # its weights are where they began
            assert torch.allclose(predicted[0], net(X), rtol=1e-10)


def test_draws_in_evaluation_mode_depend_neither_on_step_nor_on_batch():
    net = nn.Sequential(nn.Linear(2, 3), Does(lambda _, x: x + torch.randn_like(x))).double()
    method = MeanField(net, seed=3)
    with method.predicting(), torch.no_grad():
        whole = method(X, samples=range(8), step=1, index=INDEX)
        part = method(X[1:3], samples=range(2, 8), step=7, index=INDEX[1:3])
    assert torch.allclose(part, whole[2:, 1:3], rtol=1e-12)
    assert (whole[0] - whole[1]).abs().min() > 0


def test_a_rate_that_begins_at_0_and_layers_that_change_are_drawn_as_they_are():
    net = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.0), nn.Linear(8, 2)).double()
    method = MeanField(net, seed=3)
    before = Generators.now()
    plain = method(X, samples=range(2), step=0)
    net[1].p = 0.5
    dropped = method(X, samples=range(2), step=0)
    assert not torch.allclose(dropped, plain)
    method.samples_per_pass = 1
    assert torch.allclose(method(X, samples=range(2), step=0), dropped, rtol=1e-10)
    assert not before.moved(Generators.now())


def test_the_module_keeps_its_buffers_while_its_draws_are_looked_for():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x):
            self.seen.add_(1)
            return F.dropout(x, 0.5)

    net = nn.Sequential(nn.Linear(2, 3), Counts()).double()
    method = MeanField(net)
    method.forward(X, samples=range(1))
    assert net[1].seen == 1


def test_attention_whose_calls_are_routed_again_leaves_no_hook_behind():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, dropout=0.1, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x)[0]

    method, x = MeanField(Network(), seed=1), torch.ones(4, 3, 4)
    method(x, samples=range(2), step=0, index=torch.arange(4))
    assert not hooks._global_forward_pre_hooks


@pytest.mark.parametrize("grid", [(2, "none", "2"), (3, "3")], ids=["D=2, P=2", "P=3"])
def test_training_and_predictions_are_those_of_one_process(grid):
    ranks, *grids = grid
    done = launch(ranks, str(SCRIPT), *grids, timeout=240)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert len(found) == 3 * len(CASES_ON_A_GRID) * len(grids)
    assert {k: v for k, v in found.items() if v > 1e-10} == {}
