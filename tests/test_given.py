"""Networks that are passed from Python: copied within the context, refused outside of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hpcsamp import models
from hpcsamp.errors import UsageError
from hpcsamp.models.given import layout_of, offered


class Net(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, width), nn.Tanh())
        self.head = nn.Linear(width, 2)
        self.register_buffer("scale", torch.ones(1))
        self.head.weight.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x)) * self.scale


def build(table: dict[str, str]) -> nn.Module:
    arguments = {k: v for k, v in table.items() if k != "name"}
    return models.build(table["name"], arguments, (4,), 2, 1)


def test_a_module_is_copied_with_its_numbers_and_without_them_where_none_are_wanted():
    net = Net()
    with offered(net) as table:
        made = build(table)
        with models.blank():
            empty = build(table)
    assert made is not net
    for name, value in net.state_dict().items():
        assert torch.equal(made.state_dict()[name], value)
        assert empty.state_dict()[name].device.type == "meta"
    made.head.weight.data.zero_()
    assert net.head.weight.abs().sum() > 0
    assert not made.head.weight.requires_grad
    assert not empty.head.weight.requires_grad
    assert empty(torch.empty(5, 4, device="meta")).shape == (5, 2)


def test_a_function_draws_from_the_seed_of_the_run():
    sizes = []

    def make(outputs: int) -> nn.Module:
        sizes.append(outputs)
        return nn.Linear(4, outputs)

    with offered(make) as table:
        weights = [build(table).weight for _ in range(2)]
    assert torch.equal(*weights)
    assert set(sizes) == {2}


def test_what_is_not_offered_is_refused_with_what_it_was():
    with offered(Net()) as table:
        pass
    with pytest.raises(UsageError, match=r"given.*of this run, Net .*was passed.*resume=True"):
        build(table)
    with offered(Net(5)) as other, pytest.raises(UsageError, match="this one is Net "):
        build(table)
    assert other != table
    with pytest.raises(UsageError, match="makes a int, not a network"), offered(int) as table:
        build(table)
    with pytest.raises(UsageError, match="not a str"), offered("mlp"):
        pass
    broken = Net()
    broken.kept = broken.head.bias * 2  # a tensor with a history
    with offered(broken) as table, pytest.raises(UsageError, match=r"Net cannot be copied \(Run"):
        build(table)


def test_the_layout_is_of_layers_and_shapes_not_of_numbers():
    assert layout_of(Net()) == layout_of(Net())
    assert layout_of(Net()) != layout_of(Net(5))
    relu = Net()
    relu.body[1] = nn.ReLU()
    assert layout_of(relu) != layout_of(Net())
