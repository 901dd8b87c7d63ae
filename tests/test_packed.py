"""Dropout between recurrent layers of packed sequences: torch's layers, masks keyed by items."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from hpcsamp.errors import UsageError
from hpcsamp.methods import MCDropout, MeanField

WIDTH, LONGEST, ITEMS = 3, 6, 7
LENGTHS = torch.tensor([2, 6, 1, 4, 6, 3, 5])
INDEX = torch.tensor([12, 3, 5, 9, 30, 1, 2])


def sequences():
    x = torch.randn(ITEMS, LONGEST, WIDTH, generator=torch.Generator().manual_seed(1)).double()
    inside = torch.arange(LONGEST) < LENGTHS[:, None]
    return torch.cat([x * inside[..., None], inside[..., None].double()], -1)


class Packs(nn.Module):
    """Layers of packed sequences; the last input marks the existing steps."""

    def __init__(self, kind=nn.LSTM, sort=True, layers=3, **named):
        super().__init__()
        self.sort = sort
        self.layers = kind(WIDTH, 4, layers, batch_first=True, **named)
        self.double()

    def forward(self, x):
        lengths = x[..., -1].sum(1).long().clamp(min=1)
        if self.sort:
            packed = pack_padded_sequence(x[..., :-1], lengths, True, enforce_sorted=False)
            y = self.layers(packed)[0]
            return pad_packed_sequence(y, True, total_length=LONGEST)[0]
        order = lengths.argsort(descending=True)
        packed = pack_padded_sequence(x[order][..., :-1], lengths[order], True)
        y = pad_packed_sequence(self.layers(packed)[0], True, total_length=LONGEST)[0]
        return y[order.argsort()]


def copy(**named):
    """The mask of every step, if its inputs are 1: layers that hand on what they get."""
    network = Packs(nn.RNN, layers=2, nonlinearity="relu", bias=False, **named)
    with torch.no_grad():
        for name, value in network.layers.named_parameters():
            value.copy_(torch.eye(*value.shape) * ("ih" in name))
    return network


def outputs(network, x, index, kind=MeanField, **named):
    method = kind(network, seed=3, **named)
    return method(x, samples=range(3), step=2, index=index).detach()


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("both", [False, True])
def test_without_masks_layers_one_by_one_are_those_of_torch(kind, both):
    torch.manual_seed(0)
    network = Packs(kind, dropout=1e-7, bidirectional=both)  # too small for any unit
    x = sequences()
    found = outputs(network, x, INDEX, MCDropout, rate=1e-7)
    network.layers.dropout = 0.0
    assert torch.equal(found, network(x).detach().expand(3, -1, -1, -1))


@pytest.mark.parametrize("method", [MeanField, MCDropout])
def test_masks_are_those_of_the_item_in_any_batch(method):
    torch.manual_seed(0)
    network, x = Packs(dropout=0.4, bidirectional=True), sequences()
    whole = outputs(network, x, INDEX, method)
    assert (whole[0] - whole[1]).abs().max() > 1e-3
    for some in ([0, 1, 2], [6, 5, 2, 0], [2]):
        part = outputs(network, x[some], INDEX[some], method)
        torch.testing.assert_close(part, whole[:, some], rtol=1e-12, atol=1e-14)


def test_a_sorted_batch_has_the_masks_of_its_items_in_their_rows():
    """Rows that were sorted before they were packed are the items of the batch that is packed."""
    torch.manual_seed(0)
    network, x = Packs(dropout=0.4), sequences()
    order = LENGTHS.argsort(descending=True)
    expected = outputs(network, x[order], INDEX[order])
    network.sort = False
    found = outputs(network, x[order], INDEX[order])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_a_network_that_sorts_its_items_by_itself_is_refused():
    """Which row an item has then depends on the others, and nothing tells where it came from."""
    torch.manual_seed(0)
    with pytest.raises(UsageError, match="depend on the other items of its batch"):
        outputs(Packs(dropout=0.4, sort=False), sequences(), INDEX)


@pytest.mark.parametrize("shared", [False, True])
def test_units_are_dropped_at_the_rate(shared):
    x = torch.ones(400, LONGEST, WIDTH + 1).double()
    x[::2, 4:] = 0
    how = {"masks": "sample" if shared else "item"}
    found = outputs(copy(dropout=0.3), x, torch.arange(400), MCDropout, **how)[..., :WIDTH]
    inside = found[:, x[..., -1] > 0]
    assert set((inside * 0.7).unique().round(decimals=3).tolist()) <= {0.0, 1.0}
    if shared:
        assert (inside == inside[:, :1]).all()
        return
    assert abs(float((inside == 0).double().mean()) - 0.3) < 5 * (0.21 / inside.numel()) ** 0.5
    steps = found[0, 1::2, :, 0] > 0  # of long sequences: independent of each other
    both = (steps[:, 0] & steps[:, 1]).double().mean()
    assert abs(float(both) - 0.49) < 5 * (0.25 / 200) ** 0.5
