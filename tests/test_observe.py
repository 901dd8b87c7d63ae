"""A module that is not a function of weights and items is refused for what it does; others run."""

from __future__ import annotations

import itertools
import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from hpcsamp.errors import UsageError
from hpcsamp.generators import Generators
from hpcsamp.methods import METHODS, Ensemble, MCDropout, MeanField
from hpcsamp.methods.traces import Traces


class Does(nn.Module):
    """A layer whose forward pass is a given function."""

    def __init__(self, do, **attributes):
        super().__init__()
        self.do = do
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.do(self, x)


class First(nn.Module):
    """Of a layer's outputs, the first."""

    def __init__(self, layer, copies=1):
        super().__init__()
        self.layer, self.copies = layer, copies

    def forward(self, x):
        return self.layer(*[x[:, None]] * self.copies)[0][:, 0]


def drawing(value):
    def forward(self, x):
        return x + value(self, x)

    return forward


def buffered(update, start=0.0):
    layer = Does(lambda self, x: (self.training and update(self, x)) or x)
    layer.register_buffer("seen", torch.tensor(start))
    return layer


class Counting(nn.Linear):
    """Counts its calls, also in prediction."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


def count_up(self, x):
    self.calls += 1
    return x * self.calls


def first_batch(self, x):
    """Scale by the first batch, like data-dependent initialisation."""
    if self.scale is None:
        self.scale = x.detach().abs().mean()
    return x / self.scale


REFUSED = {
    # draws of a global generator
    "poisson": (
        lambda: Does(drawing(lambda _, x: torch.poisson(torch.ones(3)))),
        "1, a Does, draws random numbers from torch's global",
    ),
    "gamma": (
        lambda: Does(drawing(lambda _, x: torch.distributions.Gamma(1.0, 1.0).rsample((3,)))),
        "1, a Does, draws random numbers",
    ),
    "numpy": (lambda: Does(drawing(lambda _, x: np.random.rand())), "from NumPy's global"),
    "python": (lambda: Does(drawing(lambda _, x: random.random())), "from Python's global"),
    # draws that have no meaning for single items
    "items in another order": (
        lambda: Does(lambda _, x: x + x[torch.randperm(len(x))]),
        "1, a Does draws by randperm over the items of a batch",
    ),
    "one for each pair": (
        lambda: Does(lambda _, x: x + (torch.rand(len(x), len(x)) @ x)),
        r"1, a Does draws by rand numbers of shape \(2, 2\) for 2 items and",
    ),
    "an item less": (
        lambda: Does(lambda _, x: x + torch.rand(len(x) - 1, 3).sum(0)), "1, a Does draws by rand"
    ),
    # state
    "running maximum": (
        lambda: buffered(lambda s, x: s.seen.copy_(x.detach().abs().max()) and None),
        "1, a Does, changes its seen in the forward pass to a value that for a batch is not",
    ),
    "slow running variance": (
        lambda: buffered(lambda s, x: s.seen.lerp_(x.detach().var(), 1e-3) is None, 1.0),
        "1, a Does, changes its seen in the forward pass to a value that for a batch is not",
    ),
    "items seen": (
        lambda: buffered(lambda s, x: s.seen.add_(len(x)) and None), "is not the mean over its"
    ),
    "a buffer that grows": (
        lambda: buffered(lambda s, x: setattr(s, "seen", torch.cat([s.seen, x[:, 0]])), (0.0,)),
        "is not the mean over its halves",
    ),
    "a frozen parameter": (
        lambda: Does(
            lambda s, x: s.w.data.add_(1) is None or x, w=nn.Parameter(torch.ones(1), False)
        ),
        "changes its w in the forward pass.*only buffers",
    ),
    "counter": (lambda: Does(count_up, calls=0), "changes its attribute calls .*then"),
    "iterator": (
        lambda: Does(lambda s, x: x * next(s.steps), steps=itertools.count(1)),
        "changes its attribute steps",
    ),
    "history": (
        lambda: Does(lambda s, x: s.history.append(1) or x * len(s.history), history=[]),
        "1, a Does, returns different outputs when it is evaluated again",
    ),
    "tensor attribute": (
        lambda: Does(lambda s, x: x + s.mean.add_(x.detach().mean()), mean=torch.zeros(())),
        "changes its attribute mean",
    ),
    "own generator": (
        lambda: Does(
            drawing(lambda s, x: torch.randn(3, generator=s.own)), own=torch.Generator()
        ),
        "changes its attribute own",
    ),
    "own NumPy generator": (
        lambda: Does(drawing(lambda s, x: s.own.random()), own=np.random.default_rng(1)),
        "changes its attribute own",
    ),
    "of the system": (
        lambda: Does(drawing(lambda _, x: np.random.default_rng().random())),
        "1, a Does, returns different outputs when it is evaluated again",
    ),
    # items that influence each other
    "no running statistics": (
        lambda: nn.BatchNorm1d(3, track_running_stats=False),
        "1, a BatchNorm1d, makes an item's outputs depend",
    ),
    "of one's own": (lambda: Does(lambda _, x: x - x.mean(0)), "1, a Does, makes an item's"),
    "largest": (lambda: Does(lambda _, x: x / x.abs().max()), "1, a Does, makes an item's"),
    "attention over the batch": (
        lambda: Does(lambda s, x: s.a(x, x, x)[0], a=nn.MultiheadAttention(3, 1)),
        "makes an item's",
    ),
    "first batch": (lambda: Does(first_batch, scale=None), "1, a Does, makes an item's"),
    "number of items": (lambda: Does(lambda _, x: x * len(x)), "1, a Does, makes an item's"),
    "fixed number of items": (
        lambda: Does(lambda _, x: x.reshape(4, 3)), "accepts 4 items but not 2"
    ),
    "axis": (lambda: Does(lambda _, x: x.T @ x), r"outputs of shape \(3, 2\) for 4 items"),
}  # fmt: skip


class Backward(torch.autograd.Function):
    """Identity in the forward pass, a given function in the backward pass."""

    @staticmethod
    def forward(ctx, x, change):
        ctx.change = change
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        return ctx.change(g), None


def backwards(change):
    return lambda: Does(lambda _, x: Backward.apply(x, change))


def hooked_weight():
    layer = nn.Linear(3, 3)
    layer.weight.register_hook(lambda g: g.clamp(-1, 1))
    return layer


def hooked_layer():
    layer = nn.Linear(3, 3)
    layer.register_full_backward_hook(lambda _, g, __: (g[0] / g[0].norm(),))
    return layer


def hooked_tensor(_, x):
    if x.requires_grad:
        x.register_hook(torch.sign)
    return x.tanh()


def renewed():
    """Bounded in its data, as in some generative networks."""

    def bounded(s, x):
        s.w.data = s.w.data.clamp(-0.1, 0.1)
        return x * s.w

    return Does(bounded, w=nn.Parameter(torch.ones(3)))


def listed_layer():
    held = nn.Linear(3, 3)
    return Does(lambda s, x: s.parts[0](x), parts=[held])


def most_at_first(_, x):
    """A layer with a capacity of six items per batch."""
    return torch.cat([x[:6], 0 * x[6:]])


REFUSED |= {
    # what works with weights of its own alone
    "weights shrunk in place": (
        lambda: Does(lambda s, x: x * s.w.data.mul_(0.9), w=nn.Parameter(torch.ones(3))),
        r"1\.w writes to parameters|1, a Does, changes its w in the forward pass",
    ),
    "weights that are replaced": (renewed, "writes to parameters in the forward pass"),
    "frozen on the way": (
        lambda: Does(lambda s, x: x * s.w.requires_grad_(False), w=nn.Parameter(torch.ones(3))),
        "1, a Does, fails with the weights of a sample in place of its own",
    ),
    "rows of bounded length": (
        lambda: Does(lambda s, x: x + s.rows(torch.arange(3))[:, 0],
                     rows=nn.Embedding(3, 2, max_norm=0.5)),
        "1.rows, a Embedding, (writes to parameters|fails with the weights of a sample)",
    ),
    # gradients
    "frequent rows": (
        lambda: Does(lambda s, x: x + s.rows(torch.arange(len(x)) % 2),
                     rows=nn.Embedding(2, 3, scale_grad_by_freq=True)),
        "lets the items of a batch influence each other's gradients",
    ),
    "normalised gradient": (
        backwards(lambda g: g / g.norm()), "1, a Does, has a backward pass that is not linear in"
    ),
    "clipped gradient": (backwards(lambda g: g.clamp(-1e-3, 1e-3)), "not linear in the gradient"),
    "gradient clipped far out": (backwards(lambda g: g.clamp(-1e4, 1e4)), "not linear in the"),
    "noise on a gradient": (backwards(lambda g: g + torch.randn_like(g)), "linear.*, or that dr"),
    "gradient of a tensor's hook": (
        lambda: Does(hooked_tensor), "Sequential has a backward pass that is not linear in"
    ),
    "gradient of a layer's hook": (hooked_layer, "1, a Linear, has a backward pass that is not"),
    "gradients of other items": (
        backwards(lambda g: g - g.mean(0)),
        "1, a Does, lets the items of a batch influence each other's gradients",
    ),
    "a weight's hook": (hooked_weight, r"hook on the gradient of its parameter 1\.weight"),
    "a layer in a list": (
        listed_layer, r"uses 1\.parts, a tensor of shape \(3, 3\) that requires gradients"
    ),
    # only where gradients are on
    "with gradients": (
        lambda: Does(lambda _, x: x - x.mean(0) if torch.is_grad_enabled() else x),
        "1, a Does, makes an item's",
    ),
    "of what has gradients": (
        lambda: Does(lambda _, x: x - x.mean(0) if x.requires_grad else x), "1, a Does, makes an"
    ),
    # only with many items
    "room for six": (lambda: Does(most_at_first), "1, a Does, makes an item's"),
    "six of a batch": (
        lambda: Does(lambda _, x: x * (x[:, :1] >= x[:, 0].topk(min(6, len(x))).values[-1])),
        "1, a Does, makes an item's",
    ),
}  # fmt: skip


def around(layer):
    return nn.Sequential(nn.Linear(3, 3), layer, nn.Linear(3, 2))


@pytest.fixture
def x():
    return torch.randn(9, 3, generator=torch.Generator().manual_seed(1)) * 2 + 1


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("method", [MeanField, "ensemble"])
def test_what_depends_on_more_than_weights_and_items_is_refused_and_left_as_it_was(x, name, method):
    make, words = REFUSED[name]
    module = around(make())
    made = MeanField(module) if method is MeanField else Ensemble(module, 2)
    # on a rank with other samples the same is found
    before, generators = Traces(module), Generators.now()
    for _ in range(2):
        with pytest.raises(UsageError, match=words):
            made(x, samples=range(2))
    assert not generators.moved(Generators.now())
    # which only goes forwards, is not copied, is written to before it fails
    if name not in (
        "iterator",
        "a frozen parameter",
        "rows of bounded length",
        "weights shrunk in place",
    ):
        assert before.values == Traces(module).values


class Tied(nn.Module):
    """Tokens whose embedding is also the last layer."""

    def __init__(self):
        super().__init__()
        self.tokens, self.head = nn.Embedding(7, 3), nn.Linear(3, 7, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, x):
        return self.head(self.tokens(x).mean(1))


def cached(self, x):
    if self.cache is None:
        self.cache = torch.arange(3.0)
    return x + self.cache


def inner_gradient(_, x):
    """A force, as the gradient of an energy."""
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        return torch.autograd.grad(x.pow(3).sum(), x, create_graph=True)[0]


def reordered(_, x):
    """Moves the items to the last axis in between."""
    return x.T.contiguous()


ALLOWED = {
    "sparse gradient": lambda: Does(
        lambda s, x: x + s.rows((x > 0).long()).mean(1), rows=nn.Embedding(2, 3, sparse=True)
    ),
    "sparse gradient of bags": lambda: Does(
        lambda s, x: x + s.rows((x > 0).long()), rows=nn.EmbeddingBag(2, 3, sparse=True)
    ),
    "reversed gradient": backwards(torch.neg),
    "scaled gradient": backwards(lambda g: g * torch.tensor([1.0, 2.0, 3.0])),
    "straight through": lambda: Does(lambda _, x: x + (x.sign() - x).detach()),
    "gradient within": lambda: Does(inner_gradient),
    "half precision within": lambda: Does(lambda _, x: x.half().float()),
    "nested": lambda: Does(lambda _, x: torch.nested.as_nested_tensor(x).to_padded_tensor(0.0)),
    "batch norm": lambda: nn.BatchNorm1d(3),
    "batch norm without momentum": lambda: nn.BatchNorm1d(3, momentum=None),
    "instance norm": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 3)), nn.InstanceNorm1d(1, track_running_stats=True), nn.Flatten()
    ),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)),
    "old spectral norm": lambda: nn.utils.spectral_norm(nn.Linear(3, 3)),
    "running mean": lambda: buffered(
        lambda s, x: s.seen.mul_(0.9).add_(x.detach().mean() * 0.1) and None
    ),
    "the same again": lambda: buffered(lambda s, x: s.seen.fill_(0.0) and None),
    "rebound buffer": lambda: buffered(lambda s, x: setattr(s, "seen", s.seen + 1)),
    "data": lambda: buffered(lambda s, x: s.seen.data.add_(1) and None),
    "dropout": lambda: nn.Dropout(0.1),
    "functional dropout": lambda: Does(lambda _, x: F.dropout(x, 0.1)),
    "recurrent dropout": lambda: First(nn.LSTM(3, 3, 2, dropout=0.1, batch_first=True)),
    "attention dropout": lambda: First(nn.MultiheadAttention(3, 1, 0.1, batch_first=True), 3),
    "encoder": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 3)),
        nn.TransformerEncoderLayer(3, 1, 4, batch_first=True),
        nn.Flatten(),
    ),
    "noise": lambda: Does(drawing(lambda _, x: torch.randn(3))),
    "noise of items": lambda: Does(drawing(lambda _, x: torch.randn_like(x))),
    "cache": lambda: Does(cached, cache=None),
    "cache in a dictionary": lambda: Does(
        lambda s, x: x + s.cache.setdefault(x.shape[1:], torch.ones(3)), cache={}
    ),
    "notes": lambda: Does(lambda s, x: s.seen.append(len(x)) or x, seen=[]),
    "what is looked at later": lambda: Does(lambda s, x: setattr(s, "seen", x) or x),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)),
    "old weight norm": lambda: nn.utils.weight_norm(nn.Linear(3, 3)),
    "orthogonal": lambda: nn.utils.parametrizations.orthogonal(nn.Linear(3, 3)),
    "lstm": lambda: First(nn.LSTM(3, 3, batch_first=True)),
    "attention": lambda: First(nn.MultiheadAttention(3, 1, batch_first=True), 3),
    "items last": lambda: nn.Sequential(Does(reordered), Does(reordered)),
    "by value": lambda: Does(lambda _, x: torch.where(x.sum(1, True) > 0, x, -x)),
    "frozen batch norm": lambda: nn.BatchNorm1d(3).eval(),
    "not a number": lambda: Does(lambda _, x: torch.where(x > 0, x, float("nan"))),
    "parallel": lambda: nn.DataParallel(nn.Linear(3, 3)),
    "complex buffer": lambda: Does(
        lambda s, x: (x * s.c).real, c=torch.ones(3, dtype=torch.cfloat)
    ),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype")
@pytest.mark.parametrize("name", ALLOWED)
def test_functions_of_weights_and_items_run_and_nothing_is_changed_by_watching(x, name):
    first = around(ALLOWED[name]())
    torch.manual_seed(3)
    state = {k: v.clone() for k, v in first.state_dict().items()}
    before, generators = Traces(first), Generators.now()
    method = MeanField(first)
    method.observe(x, range(2))
    assert not generators.moved(Generators.now())
    assert before.values == Traces(first).values
    assert all(torch.equal(v, first.state_dict()[k]) for k, v in state.items())
    assert method(x, samples=range(2)).shape == (2, 9, 2)


METHOD_NAMES = ["ensemble", "flipout", "ivon", "last_layer", "local_reparameterisation",
                "mc_dropout", "mean_field", "sgld", "svgd", "swag"]  # fmt: skip


def made(name, module):
    return METHODS[name].create(lambda _: module, 2, range(2))


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_every_method_looks_at_its_module_in_training_and_in_prediction(x, name):
    only_then = {
        True: Does(lambda s, x: x - x.mean(0) if s.training else x),
        False: Does(lambda s, x: x if s.training else x + np.random.rand()),
    }
    for training, layer in only_then.items():
        words = "1, a Does, makes an item" if training else "1, a Does, draws random numbers"
        with pytest.raises(UsageError, match=words):
            made(name, around(layer))(x, samples=range(2))
    alone = made(name, around(only_then[True]))  # a run that is only evaluated
    with alone.predicting():
        assert alone(x, samples=range(2)).shape == (2, 9, 2)
    with pytest.raises(UsageError, match="makes an item"):
        alone(x, samples=range(2))


@pytest.mark.parametrize("masks", ["sample", "item"])
def test_masks_of_dropout_layers_are_the_methods_own_draws(x, masks):
    fine = MCDropout(around(nn.Dropout(0.3)), masks=masks)
    assert fine(x, samples=range(3)).shape == (3, 9, 2)


def test_a_layer_stays_in_evaluation_mode_through_a_prediction_and_is_watched_when_it_leaves(x):
    module = around(nn.BatchNorm1d(3).eval())
    method = MeanField(module)
    method(x, samples=range(2))
    with method.predicting():
        method(x, samples=range(2))
    assert (module.training, module[1].training) == (True, False)
    module.train()
    method(x, samples=range(2))
    assert "1.num_batches_tracked" in method.state.changing


def test_items_that_influence_each_other_are_found_before_a_last_layer_of_zeros(x):
    module = around(Does(lambda _, x: x - x.mean(0)))
    for p in module[2].parameters():
        nn.init.zeros_(p)
    with pytest.raises(UsageError, match="1, a Does, makes an item's"):
        Ensemble(module, 2)(x, samples=range(2))


@pytest.mark.parametrize("how", ["list", "view"])
def test_weights_that_are_reached_past_their_names_are_refused(x, how):
    module = around(nn.Identity())
    seen = [module[0].weight] if how == "list" else [module[0].weight.T]
    module[1] = Does(lambda s, x: x @ seen[0])
    for method in (MeanField(module), Ensemble(module, 2)):
        with pytest.raises(UsageError, match=r"uses its parameter 0\.weight under another name"):
            method(x, samples=range(2))
    assert MCDropout(around(nn.Dropout(0.1)))(x, samples=range(2)).shape == (2, 9, 2)


@pytest.mark.parametrize("items", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", ["double", "autocast", "tokens", "stacked"])
def test_inputs_of_any_kind_and_number_are_looked_at(x, items, kind):
    """A module is refused whose items influence each other, whatever the precision."""
    for layer in (nn.Identity(), Does(lambda _, x: x - x.mean(0))):
        module, inputs = around(layer), x[:items]
        if kind == "double":
            module, inputs = module.double(), inputs.double()
        elif kind == "tokens":
            module = nn.Sequential(nn.Embedding(9, 3), module)
            inputs = torch.arange(9)[:items]
        elif kind == "stacked":
            inputs = torch.stack([x, x + 1])[:, :items]
        autocast = torch.bfloat16 if kind == "autocast" else None
        method = MeanField(module, autocast=autocast, samples_per_pass=2)
        if isinstance(layer, nn.Identity):
            y = method(inputs, samples=range(2), stacked=kind == "stacked")
            assert y.shape == (2, items, 2)
        elif items == 1 and kind == "tokens":
            continue  # one number alone is the same backwards: there is nothing to compare
        else:
            with pytest.raises(UsageError, match="makes an item's outputs depend"):
                method(inputs, samples=range(2), stacked=kind == "stacked")


def test_watching_changes_no_number(x):
    outputs = []
    for watched in (True, False):
        torch.manual_seed(1)
        method = MeanField(around(nn.ReLU()), initial_std=0.3, seed=4)
        if not watched:
            method._observer.look = lambda *_: None
        outputs.append(method(x, samples=range(3), step=5))
        outputs.append(torch.rand(2))
    assert torch.equal(outputs[0], outputs[2])
    assert torch.equal(outputs[1], outputs[3])


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("method", [MeanField, lambda m: Ensemble(m, 2), MCDropout])
def test_a_part_that_is_compiled_by_torchscript_is_refused(method):
    with pytest.raises(UsageError, match="1, a RecursiveScriptModule, is compiled"):
        method(around(torch.jit.script(nn.Linear(3, 3))))


def test_an_address_of_a_module_is_no_number_of_it():
    """As what torch.compile returns holds one; ranks compare all numbers but those."""
    method = MeanField(torch.compile(around(nn.Identity()), backend="eager"))
    method.module.count = 3
    kept = method.attributes()
    assert kept["attribute 'count' of _orig_mod (0)"] == "3"
    assert id(method.module) in vars(method.module).values()
    assert repr(id(method.module)) not in kept.values()


class Later(nn.Module):
    """Counts steps, and changes its behaviour from one on."""

    def __init__(self, do, start):
        super().__init__()
        self.do, self.start = do, start
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        if self.training:
            self.steps += 1
        return self.do(x) if self.training and self.steps > self.start else x


@pytest.mark.parametrize("start", [1, 2, 3, 6])
@pytest.mark.parametrize(
    ("do", "words"),
    [
        (lambda x: x - x.mean(0), "1, a Later, makes an item's"),
        (lambda x: x + float(np.random.rand()), "1, a Later, draws random numbers from NumPy's"),
        (lambda x: F.dropout(x, 0.3), "1, a Later, draws random numbers from torch's"),
    ],
)
def test_what_a_module_does_later_is_looked_at_again(x, do, words, start):
    """At a step that is a power of four; the prediction does nothing of it."""
    method = MeanField(around(Later(do, start)))

    def train():
        for step in range(17):
            method.module[1].steps.fill_(step)
            method.step = step
            with torch.no_grad():
                method(x, samples=range(2))

    with pytest.raises(UsageError, match=words):
        train()
    assert method.step == next(s for s in (1, 4, 16) if s >= start)


@pytest.mark.parametrize("memory", [False, True])
def test_a_backward_pass_is_looked_at_however_gradients_are_summed(x, memory):
    """Also where a method begins graphs of its own with the draws of a chunk."""
    method = MeanField(around(backwards(torch.sign)()))
    around_it = method.accumulating() if memory else nullcontext()
    with around_it, pytest.raises(UsageError, match="not linear in the gradient"):
        method(x, samples=range(2))


@pytest.mark.parametrize(
    ("amplified", "coupled", "fault"),
    [
        (1e4, 1e-7, None),
        (1e4, 3e-3, "depend on the other items"),
        (1e7, 1e-6, "amplifies rounding: inputs of shape (3,) that differ in their last digit"),
    ],
)
def test_what_only_amplifies_rounding_depends_on_no_other_item(amplified, coupled, fault):
    """Items depend on the size of their batch, in one case by as little as rounding."""
    torch.manual_seed(0)
    chaotic = Does(lambda self, x: torch.sin(amplified * (x + coupled * (len(x) > 5))))
    method = MeanField(nn.Sequential(nn.Linear(3, 4), chaotic, nn.Linear(4, 2)), initial_std=1e-3)
    x = torch.randn(8, 3)
    if fault is None:
        method.observe(x, range(1))
        return
    with pytest.raises(UsageError) as error:
        method.observe(x, range(1))
    assert fault in str(error.value)


def test_where_rounding_is_amplified_everything_else_is_still_checked():
    def clipped(self, x):
        if x.requires_grad:
            x.register_hook(lambda g: g.clamp(-0.1, 0.1))
        return x * 1.0

    torch.manual_seed(0)
    chaotic = Does(lambda self, x: torch.sin(1e4 * (x + 1e-7 * (len(x) > 3))))
    layers = nn.Linear(3, 4), chaotic, Does(clipped), nn.Linear(4, 2)
    method = MeanField(nn.Sequential(*layers), initial_std=1e-3)
    with pytest.raises(UsageError, match="a backward pass that is not linear"):
        method.observe(torch.randn(8, 3), range(1))
