"""Layers that are torch's own on one rank, and ViT and SWIN split over ranks, against the whole."""

from __future__ import annotations

import pytest
import torch
from layer_cases import ITEM, numbers
from test_layers import close, samples_of_networks_are_carried
from torch import nn

from hpcsamp import layers
from hpcsamp.errors import UsageError
from hpcsamp.layers.axis import layouts
from hpcsamp.models import Swin, ViT

IMAGE, FIELDS = (2, 8, 4), (9, 5, 32)


def vit(heads=4, **options):
    torch.manual_seed(1)
    sizes = {"patch": 2, "width": 12, "layers": 1, "hidden": 11}
    return ViT(IMAGE, 5, heads=heads, **sizes, **options).double()


def swin(**options):
    torch.manual_seed(1)
    sizes = {"width": 16, "heads": (4, 8), "blocks": (2, 1, 1), "window": (2, 2)}
    return Swin(FIELDS, 8 * 5 * 32, **sizes, **options).double()


# within torch.func.vmap plain attention is evaluated sample by sample
@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.mpi(ranks=[2, 4], timeout=60, unit="s")
def test_networks_on_ranks(mpi_ranks, comm):
    axis = layers.ModelAxis(comm)
    for layout in layouts(mpi_ranks):
        rolls_are_those_of_the_whole(axis.laid_out(layout).space)
        for make in (vit, swin):
            network_is_the_whole_one(comm, axis.laid_out(layout), make)
    network_is_the_whole_one(comm, axis, vit, checkpoint=True)
    network_is_the_whole_one(comm, axis, swin, checkpoint=True)
    network_is_the_whole_one(comm, axis, swin, relative_bias=True)
    three = {2: (2, 1), 4: (4, 1)}[mpi_ranks]  # heads that do not divide: rows do
    assert network_is_the_whole_one(comm, axis, vit, heads=3).axis.layout == three


def network_is_the_whole_one(comm, axis, make, **options):
    whole = make(**options)
    with layers.along(axis):
        network = make(**options)
    parts, own = layers.parts_of(network), dict(network.named_parameters())
    assert list(own) == [name for name, _ in whole.named_parameters()]
    held = comm.allreduce(sum(p.numel() for p in own.values()))
    assert held == sum(p.numel() for p in whole.parameters())  # nothing is held twice
    for name, p in whole.named_parameters():
        assert torch.equal(own[name], parts[name].cut(p)), name
        assert own[name].shape == parts[name].local, name
    # buffers are not parted: they belong to the state of a run, which any ranks go on with
    pairs = zip(network.named_buffers(), whole.named_buffers(), strict=True)
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)
    at, to = network.input_part(whole.in_shape), network.output_part(whole.out_shape)
    x = numbers(3, *whole.in_shape).requires_grad_()
    mine = at.cut(x.detach()).clone().requires_grad_()
    y, truth = network(mine), whole(x)
    torch.testing.assert_close(y, to.cut(truth), rtol=1e-10, atol=1e-10)
    weights = numbers(*truth.shape, seed=4)
    (y * to.cut(weights)).sin().sum().backward()
    (truth * weights).sin().sum().backward()
    for name, p in whole.named_parameters():
        close(own[name].grad, parts[name].cut(p.grad), p.grad, name)
    of_x = mine.grad
    if at.local[0] == len(x[0]):  # ranks of channels see the same of the image
        of_x = layers.total(of_x, network.axis.channels)
    close(of_x, at.cut(x.grad), x.grad)
    if options:
        samples_of_networks_are_carried(network, mine.detach())
    return network


def rolls_are_those_of_the_whole(group):
    whole = numbers(2, 4 * group.size, 3)
    own = slice(4 * group.rank, 4 * group.rank + 4)
    for shift in (-4, -1, 0, 3):
        found = layers.rolled(whole[:, own], -2, shift, group)
        assert torch.equal(found, whole.roll(shift, 1)[:, own])


def test_on_one_rank_they_are_those_of_torch():
    kinds = {type(m).__module__ for net in (vit(), swin()) for m in net.modules()}
    assert not any(kind.startswith("hpcsamp.layers") for kind in kinds)
    assert type(layers.linear(3, 4)) is nn.Linear
    assert type(layers.layer_norm(3)) is nn.LayerNorm


@pytest.mark.parametrize("size", [2, 3, 4, 6])
def test_exchanges_of_a_linear_layer_are_counted(size):
    for layout in layouts(size):
        for rank in (0, size - 1):
            axis = layers.imagined(size, rank).laid_out(layout)
            with layers.along(axis):
                layer = layers.linear(24, 36, out_blocks=3).double()
            r, g = axis.channels.size, axis.space.size
            n, own_in, own_out = 10, 24 // r, 36 // r
            share = len(layer.weight)
            x = numbers(2, n // 2, own_in).requires_grad_()
            layer(x).square().sum().backward()
            gathered = n * own_in * (r - 1) + share * 24 * (g - 1)
            back = n * (24 - own_in) + (own_out - share) * (24 + 1)
            assert axis.counted.bytes == ITEM * (2 * gathered + share * (g - 1) + back)
            assert axis.counted.exchanges == 3 * (r > 1) + 5 * (g > 1)


@pytest.mark.parametrize(
    ("make", "size", "told"),
    [
        (vit, 3, "vit: parallel.model = 3: no grid of 3 ranks, .* 4 rows of patches x its 4 heads"),
        (swin, 3, r"swin: parallel.model = 3: .* its 4 columns of windows at half resolution x "
                  r"its 4 heads of the first stage and 8 of the second, .* 8 fields"),
    ],
)  # fmt: skip
def test_what_does_not_divide_is_refused(make, size, told):
    with layers.along(layers.imagined(8)):
        assert make().axis.layout == (2, 4)
    with layers.along(layers.imagined(size)), pytest.raises(UsageError, match=told):
        make()
