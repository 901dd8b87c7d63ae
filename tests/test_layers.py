"""Layers split over a model axis: exchanges and their adjoints, and networks against the whole."""

from __future__ import annotations

import copy

import pytest
import torch
from layer_cases import IN, ITEM, OUT, mixer, numbers, sent
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from hpcsamp import layers
from hpcsamp.errors import UsageError
from hpcsamp.grid.parts import bounds
from hpcsamp.layers.exchange import gather, scatter_sum, shared, total
from hpcsamp.layers.halo import halo
from hpcsamp.layers.product import Kind, Split, product
from hpcsamp.models import Mixer


@pytest.mark.mpi(ranks=[2, 3, 4, 8], timeout=300, unit="s")
def test_layers_on_ranks(mpi_ranks, comm):
    axis = layers.ModelAxis(comm)
    assert axis.layout == {2: (1, 2), 3: (1, 3), 4: (2, 2), 8: (1, 8)}[mpi_ranks]
    group = layers.Group(comm.Dup(), axis.counted)
    exchanges_are_what_they_say(group)
    adjoints_are_exact(comm, group)
    products_are_the_whole_ones(comm, mpi_ranks)
    samples_are_carried(group)
    tensors_are_used_twice(group)
    others = [(2, 4), (4, 2), (8, 1)] if mpi_ranks == 8 else [(mpi_ranks, 1)]
    for layout in (axis.layout, *others):
        networks_are_the_whole_one(comm, axis.laid_out(layout))
        exchanges_are_counted(axis.laid_out(layout))
        attention_is_the_whole_one(axis.laid_out(layout))
    what_does_not_divide_is_refused(axis)


def lengths_of(group, n):
    return tuple(b - a for a, b in bounds(n, group.size))


def exchanges_are_what_they_say(group):
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        whole = numbers(2, 11, 3).to(dtype)
        parts = whole.split(lengths_of(group, 11), -2)
        own = parts[group.rank]
        assert torch.equal(gather(own, -2, group, lengths_of(group, 11)), whole)
        back = scatter_sum(whole, -2, group, lengths_of(group, 11))
        torch.testing.assert_close(back, group.size * own)
    mine = numbers(4, seed=group.rank)
    everyone = group.comm.allgather(mine)
    summed = total(mine, group)
    torch.testing.assert_close(summed, sum(everyone))
    assert all(torch.equal(summed, other) for other in group.comm.allgather(summed))
    ring = numbers(2, 4 * group.size)
    for before, after in ((1, 3), (4, 0), (2, 2)):
        own = 4 * group.rank + torch.arange(-before, 4 + after)
        expected = ring[:, own % (4 * group.size)]
        mine = ring[:, 4 * group.rank : 4 * group.rank + 4]
        assert torch.equal(halo(mine, -1, before, after, group), expected)
    assert torch.equal(
        halo(ring, -1, 2, 1, layers.ALONE.space), torch.cat([ring[:, -2:], ring, ring[:, :1]], -1)
    )
    with pytest.raises(
        ValueError, match="halo of 5 values before and 0 after is longer than a part, which has 4"
    ):
        halo(mine, -1, 5, 0, group)
    with pytest.raises(ValueError, match="counted from the end"):
        gather(mine, 0, group)
    with pytest.raises(ValueError, match="parts of lengths"):
        gather(mine, -1, group, [3] * group.size)


def adjoints_are_exact(comm, group):
    """<A x, y> = <x, A' y>, both summed over the ranks."""
    lengths, rank = lengths_of(group, 11), group.rank
    functions = {
        "gather": (lambda x: gather(x, -2, group, lengths), (2, lengths[rank], 3)),
        "scatter_sum": (lambda x: scatter_sum(x, -2, group, lengths), (2, 11, 3)),
        "total": (lambda x: total(x, group), (3, 2)),
        "shared": (lambda x: shared(x, group), (3, 2)),
        "halo": (lambda x: halo(x, -2, 3, 2, group), (2, 3 + rank, 4)),
    }
    for name, (f, shape) in functions.items():
        x = numbers(*shape, seed=rank).requires_grad_()
        if name == "shared":  # a linear map of parameters that are the same on all ranks
            x = numbers(*shape).requires_grad_()
        y = f(x)
        v = numbers(*y.shape, seed=50 + rank)
        (y * v).sum().backward()
        left = comm.allreduce(float((y * v).sum().detach()))
        one = group.size if name == "shared" else 1
        right = comm.allreduce(float((x * x.grad).sum().detach())) / one
        assert left == pytest.approx(right, rel=1e-12), name


def products_are_the_whole_ones(comm, ranks):
    """Both kinds on all grids: values and gradients of both operands."""
    for rows, columns in [(1, ranks), (ranks, 1), *([(2, ranks // 2)] if ranks > 3 else [])]:
        axis = layers.ModelAxis(comm, (rows, columns))
        first, second = axis.space, axis.channels
        for kind in Kind:
            m, r, n = 9, 10, 11
            a, b, v = numbers(2, m, r).requires_grad_(), numbers(2, r, n).requires_grad_(), None
            y = a @ b
            v = numbers(*y.shape, seed=7)
            (y * v).sum().backward()
            if kind is Kind.INNER:  # contracted over second (sums), b gathered over first
                own = bounds(r, second.size)[second.rank]
                held = bounds(own[1] - own[0], first.size)
                gathered = Split(first, tuple(q - p for p, q in held))
                kept = Split(second, lengths_of(second, n))
                at = slice(own[0] + held[first.rank][0], own[0] + held[first.rank][1])
                in_a, in_b = (..., slice(*own)), (..., at, slice(None))
                in_y = (..., slice(*bounds(n, second.size)[second.rank]))
            else:  # columns gathered over second; contracted over first
                own = slice(*bounds(r, first.size)[first.rank])
                gathered, kept = (
                    Split(second, lengths_of(second, n)),
                    Split(first, lengths_of(first, m)),
                )
                in_a = (..., slice(None), own)
                in_b = (..., own, slice(*bounds(n, second.size)[second.rank]))
                in_y = (..., slice(*bounds(m, first.size)[first.rank]), slice(None))
            mine = (
                a.detach()[in_a].clone().requires_grad_(),
                b.detach()[in_b].clone().requires_grad_(),
            )
            found = product(*mine, gathered, kept, kind)
            torch.testing.assert_close(found, y[in_y], rtol=1e-12, atol=1e-12)
            (found * v[in_y]).sum().backward()
            torch.testing.assert_close(mine[0].grad, a.grad[in_a], rtol=1e-12, atol=1e-12)
            # those among which b is gathered have all computed the same of y here
            alike = gathered.over.size * b.grad[in_b]
            torch.testing.assert_close(mine[1].grad, alike, rtol=1e-12, atol=1e-12)


def samples_are_carried(group):
    """vmap over samples is the loop over them, and so are the gradients."""
    lengths, k = lengths_of(group, 11), 3
    alone = Split(layers.ALONE.alone, (11,))
    kept = Split(group, lengths)
    w = numbers(1, 11, 11, seed=5)
    functions = {
        "gather": (lambda x: gather(x, -1, group, lengths), (4, lengths[group.rank])),
        "scatter_sum": (lambda x: scatter_sum(x, -2, group, lengths), (11, 2)),
        "total": (lambda x: total(x, group), (5,)),
        "shared": (lambda x: shared(x, group), (5,)),
        "halo": (lambda x: halo(x, -1, 1, 2, group), (4, 3)),
        "a": (lambda x: product(x, w, alone, kept, Kind.INNER), (1, 4, 11)),
        "b": (lambda x: product(w, x, alone, kept, Kind.INNER), (1, 11, 11)),
    }
    for name, (f, shape) in functions.items():
        for axis in (0, len(shape)):
            x = numbers(k, *shape, seed=group.rank).movedim(0, axis).requires_grad_()
            several = torch.func.vmap(f, axis)(x)
            loop = torch.stack([f(one) for one in x.unbind(axis)])
            assert torch.equal(several, loop) or name in "ab", name
            torch.testing.assert_close(several, loop)
            v = numbers(*several.shape, seed=9 + group.rank)
            found, truth = (torch.autograd.grad((y * v).sum(), x)[0] for y in (several, loop))
            torch.testing.assert_close(found, truth, msg=name)


def tensors_are_used_twice(group):
    """Twice in a graph, in a recomputed block, and without gradients."""
    lengths = lengths_of(group, 11)
    whole = numbers(4, 11).requires_grad_()
    own = whole.detach().split(lengths, -1)[group.rank].clone().requires_grad_()

    def block(x):
        y = gather(x, -1, group, lengths)
        z = (gather(x.square(), -1, group, lengths) * y).tanh()
        return scatter_sum(z, -1, group, lengths) + x * total(x.sum(), group)

    truth = group.size * (whole.square() * whole).tanh() + whole * whole.sum()
    truth.square().sum().backward()
    for run in (block, lambda x: checkpoint(block, x, use_reentrant=False)):
        own.grad = None
        run(own).square().sum().backward()
        expected = whole.grad.split(lengths, -1)[group.rank]
        torch.testing.assert_close(own.grad, expected, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(block(own), truth.split(lengths, -1)[group.rank])


def networks_are_the_whole_one(comm, axis):
    for options in ({}, {"checkpoint": True, "channels": 2.0}):
        whole = mixer(**options)
        with layers.along(axis):
            network = copy.deepcopy(mixer(**options))
        assert network.axis.layout == axis.layout
        parts = layers.parts_of(network)
        own = dict(network.named_parameters())
        assert parts.keys() == own.keys()
        for name, p in whole.named_parameters():
            assert torch.equal(own[name], parts[name].cut(p)), name
        assert comm.allreduce(sum(p.numel() for p in own.values())) == sum(
            p.numel() for p in whole.parameters()
        )
        x, t = numbers(2, *IN), numbers(2, *OUT, seed=1)
        at, to = network.input_part(IN), network.output_part(OUT)
        mine, x = at.cut(x).clone().requires_grad_(), x.requires_grad_()
        y, truth = network(mine), whole(x)
        torch.testing.assert_close(y, to.cut(truth), rtol=1e-10, atol=1e-10)
        (y - to.cut(t)).square().sum().backward()
        (truth - t).square().sum().backward()
        close(mine.grad, at.cut(x.grad), x.grad)
        largest = max(p.grad.abs().max() for p in whole.parameters())
        for name, p in whole.named_parameters():
            # biases of tokens do nothing: the norms after them take them away
            scale = largest if name.endswith("tokens.down.bias") else p.grad
            close(own[name].grad, parts[name].cut(p.grad), scale, name)
        samples_of_networks_are_carried(network, mine.detach())


def close(found, truth, scale, name=""):
    """Whether values agree to 1e-10, relative to the largest of the whole."""
    assert found.shape == truth.shape, name
    if truth.numel():
        assert (found - truth).abs().max() <= 1e-10 * scale.abs().max(), name


def samples_of_networks_are_carried(network, x):
    if network.checkpoint:
        return
    own = {name: p.detach() for name, p in network.named_parameters()}
    draws = {
        name: torch.stack([p, p + 0.1 * p.sin() + 0.01]).requires_grad_() for name, p in own.items()
    }
    several = torch.func.vmap(lambda w: torch.func.functional_call(network, w, x))(draws)
    loop = torch.stack(
        [
            torch.func.functional_call(network, {n: w[i] for n, w in draws.items()}, x)
            for i in (0, 1)
        ]
    )
    torch.testing.assert_close(several, loop, rtol=1e-10, atol=1e-10)
    grads = [torch.autograd.grad(y.sin().sum(), draws.values()) for y in (several, loop)]
    for name, a, b in zip(draws, *grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=name)


def exchanges_are_counted(axis):
    """Exchanges have the number and size that the docstrings state, and each is begun once."""
    items = 2
    with layers.along(axis):
        network = mixer()
    block, counted = network.blocks[0], axis.counted
    tokens = sum(b - a for a, b in [block.tokens.up._tokens.own])
    channels = block.tokens._channels.lengths[axis.channels.rank]
    wide = block.up._out.own[1] - block.up._out.own[0]
    for layer, width, rows in (
        (block.norm1, channels, items * tokens),
        (block.tokens, channels, items),
        (block.up, channels, items * tokens),
        (block.down, wide, items * tokens),
    ):
        x = numbers(items, tokens, width).requires_grad_()
        before = (counted.exchanges, counted.bytes)
        layer(x).square().sum().backward()
        found = (counted.exchanges - before[0], counted.bytes - before[1])
        exchanges, values = sent(layer, rows)
        assert found == (exchanges, ITEM * values), type(layer)


@pytest.mark.parametrize("size", [2, 3, 4, 8])
def test_exchanges_of_an_imagined_rank_are_counted(size):
    for rank in (0, size - 1):
        exchanges_are_counted(layers.imagined(size, rank))


def attention_is_the_whole_one(axis):
    """Against torch's, and in parts."""
    width, heads, tokens, d = 24, 8, 9, 3

    def make():
        torch.manual_seed(4)
        return layers.Attention(tokens, width, heads).double()

    whole, x = make(), numbers(2, tokens, width).requires_grad_()
    with layers.along(axis):
        network = make()
    y = whole(x)
    w, b = (p.unflatten(-1, (heads, 3, d)) for p in (whole.inputs.weight, whole.inputs.bias))
    truth = F.multi_head_attention_forward(
        *[x.transpose(0, 1)] * 3, width, heads,
        w.permute(2, 1, 3, 0).flatten(0, 2), b.transpose(0, 1).flatten(), None, None, False, 0.0,
        whole.outputs.weight.T, whole.outputs.bias, need_weights=False,
    )[0]  # fmt: skip
    torch.testing.assert_close(y, truth.transpose(0, 1), rtol=1e-12, atol=1e-12)
    at = (slice(None), network._tokens.slices()[axis.space.rank], slice(*network.inputs._in.own))
    mine = x.detach()[at].clone().requires_grad_()
    found = network(mine)
    torch.testing.assert_close(found, y[at], rtol=1e-10, atol=1e-10)
    for one in (found, y):
        one.sin().sum().backward()
    close(mine.grad, x.grad[at], x.grad)
    parts = layers.parts_of(network)
    for (name, p), q in zip(network.named_parameters(), whole.parameters(), strict=True):
        close(p.grad, parts[name].cut(q.grad), q.grad, name)


def what_does_not_divide_is_refused(axis):
    if axis.size == 3:
        told = "mixer: parallel.model = 3: .* 16 strips x its 32 channels and 32 hidden channels"
        with layers.along(axis), pytest.raises(UsageError, match=told):
            mixer(width=32, strip=3)
        with layers.along(axis):  # space is parted where channels do not divide
            assert mixer(width=32, strip=4).axis.layout == (3, 1)
    if axis.size == 8:
        with layers.along(axis):
            assert mixer(width=20).axis.layout == (2, 4)
            four = Mixer((4, 6, 48), 9 * 6 * 48, strip=2, width=24)  # fields for four ranks
            assert four.axis.layout == (2, 4)
            with pytest.raises(
                UsageError, match=r"gate has 4 inputs, which cannot be split over 8 model ranks"
            ):
                layers.Linear(4, 16, name="gate")
            with pytest.raises(UsageError, match=r"^1, a Conv1d, holds its weights whole"):
                layers.parts_of(torch.nn.Sequential(layers.Linear(8, 8), torch.nn.Conv1d(3, 3, 1)))


def test_a_rank_that_fails_ends_the_job(script):
    code = """
import torch, hpcsamp as hs
from hpcsamp import layers
axis = layers.ModelAxis.of(hs.init(1, model=2).axis("model"))
with layers.along(axis):
    layer = layers.Linear(4, 4)
x = torch.ones(1, 2)
layer(x)
if axis.rank:
    {}
layer(x).sum().backward()
"""
    done = script(2, code.format("raise RuntimeError('of rank 1')"), timeout=60)
    assert done.code != 0
    assert "of rank 1" in done.err
    done = script(2, code.format("x = torch.ones(3, 2)"), timeout=60)
    assert done.code != 0
    assert "networks or inputs differ" in done.err or "MPI_ERR_TRUNCATE" in done.err
