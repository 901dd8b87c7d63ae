"""Modules to try strategies on, each with the shape of an item."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from hpcsamp.models import MLP, ViT
from hpcsamp.models.swin import Swin


class Does(nn.Module):
    """A module with submodules and parameters whose forward pass is a given function."""

    def __init__(self, does: Callable, *parts: nn.Module, **values: torch.Tensor) -> None:
        super().__init__()
        self.does, self.parts = does, nn.ModuleList(parts)
        for name, value in values.items():
            if value.is_floating_point():
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)

    def forward(self, x):
        return self.does(self, x)


class Tied(nn.Module):
    """An embedding table that is also the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x):
        return self.head(torch.tanh(self.table(x)).mean(1))


def attends(batch_first, weights=False, **named):
    part = nn.MultiheadAttention(8, 2, batch_first=batch_first, **named)

    def does(module, x):
        x = x if batch_first else x.transpose(0, 1)
        y = module.parts[0](x, x, x, need_weights=weights)[0]
        return y if batch_first else y.transpose(0, 1)

    return Does(does, part)


def padded(module, x):
    """Attention that masks tokens below 0."""
    hidden = x.detach()[..., 0] < -1
    return module.parts[0](x, x.flip(1), x, key_padding_mask=hidden)[0]


def causal(module, x):
    mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
    return module.parts[0](x, x, x, attn_mask=mask, is_causal=True, need_weights=False)[0]


def biased(module, x):
    """Attention with a learnt bias for each pair of tokens."""
    q, k, v = module.parts[0](x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=module.bias[None]).flatten(1)


def queries(module, x):
    """Learnt queries of each item's tokens."""
    q = module.q.expand(len(x), -1, -1)
    return F.scaled_dot_product_attention(q, x, x)


def tokens_first(module, x):
    y = module.parts[1](torch.relu(module.parts[0](x.transpose(0, 1)) + module.w))
    return (y + module.token.expand(-1, y.shape[1], -1)).transpose(0, 1)


def recurrent(kind, **named):
    """All outputs of a recurrent layer."""
    part, first = kind(3, 4, **named), named.get("batch_first", False)

    def does(module, x):
        y, ends = module.parts[0](x if first else x.transpose(0, 1))
        ends = ends if isinstance(ends, tuple) else (ends,)
        y = y if first else y.transpose(0, 1)
        return torch.cat([y.flatten(1), *[end.transpose(0, 1).flatten(1) for end in ends]], 1)

    return Does(does, part)


def conv(kind, *args, **named):
    return nn.Sequential(kind(*args, **named), nn.GELU(), nn.Flatten())


def frozen_batch_norm():
    module = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten()).eval()
    module[1].running_var.fill_(2.0)
    module[1].running_mean.fill_(0.3)
    return module


def numbers(*shape):
    return torch.randn(*shape)


ANY = {
    "dense": (lambda: nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)), (3,)),
    "mlp": (lambda: MLP((3,), 2, hidden=[5, 5]), (3,)),
    "vit": (lambda: ViT((1, 8, 8), 10, patch=2, width=16, heads=2, layers=2, hidden=32), (1, 8, 8)),
    "checkpointed": (lambda: ViT((1, 8, 8), 10, patch=2, width=16, heads=2, layers=2, hidden=32,
                                 checkpoint=True), (1, 8, 8)),
    "swin": (lambda: Swin((2, 8, 16), 256, patch=2, width=8, heads=(2, 2), blocks=(2, 2, 2),
                          window=(2, 4), relative_bias=True), (2, 8, 16)),
    "conv1d": (lambda: conv(nn.Conv1d, 2, 4, 3, stride=2, padding=1), (2, 8)),
    "conv2d": (lambda: conv(nn.Conv2d, 2, 4, 3, padding="same", bias=False), (2, 6, 6)),
    "conv3d": (lambda: conv(nn.Conv3d, 2, 4, 2), (2, 4, 4, 4)),
    "groups": (lambda: conv(nn.Conv2d, 4, 8, 3, groups=2, dilation=2), (4, 6, 6)),
    "reflecting": (lambda: conv(nn.Conv2d, 2, 4, 3, padding=1, padding_mode="reflect"), (2, 6, 6)),
    "transposed": (lambda: conv(nn.ConvTranspose2d, 4, 6, 3, stride=2, padding=1, output_padding=1,
                                groups=2), (4, 5, 5)),
    "transposed 1d": (lambda: conv(nn.ConvTranspose1d, 2, 3, 3), (2, 5)),
    "two convolutions": (lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 2), nn.Flatten(),
        nn.Linear(4, 3)), (2, 6, 6)),
    "layer norm": (lambda: nn.Sequential(nn.LayerNorm((4, 3)), nn.Linear(3, 2)), (4, 3)),
    "group norm": (lambda: nn.Sequential(nn.Conv1d(2, 4, 1), nn.GroupNorm(2, 4)), (2, 5)),
    "rms norm": (lambda: nn.Sequential(nn.Linear(3, 4), nn.RMSNorm(4)), (3,)),
    "instance norm": (lambda: nn.Sequential(nn.Conv1d(2, 4, 1), nn.InstanceNorm1d(4, affine=True)),
                      (2, 5)),
    "frozen batch norm": (frozen_batch_norm, (2, 6, 6)),
    "attention": (lambda: attends(True), (5, 8)),
    "attention, tokens first": (lambda: attends(False), (5, 8)),
    "attention with its weights": (lambda: attends(True, True), (5, 8)),
    "attention without bias": (lambda: attends(False, bias=False), (5, 8)),
    "padded attention": (lambda: Does(padded, nn.MultiheadAttention(8, 2, batch_first=True)),
                         (5, 8)),
    "causal attention": (lambda: Does(causal, nn.MultiheadAttention(8, 2, batch_first=True)),
                         (5, 8)),
    "biased attention": (lambda: Does(biased, nn.Linear(8, 24), bias=numbers(2, 5, 5)), (5, 8)),
    "learnt queries": (lambda: Does(queries, q=numbers(1, 3, 8)), (5, 8)),
    "transformer": (lambda: nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), (5, 8)),
    "transformer, tokens first": (lambda: Does(
        lambda m, x: m.parts[0](x.transpose(0, 1)).transpose(0, 1),
        nn.TransformerEncoderLayer(8, 2, 16, 0.0, norm_first=True)), (5, 8)),
    "tokens first": (lambda: Does(tokens_first, nn.Linear(3, 4), nn.Linear(4, 4),
                                  w=numbers(5, 1, 4), token=numbers(1, 1, 4)), (5, 3)),
    "lstm": (lambda: recurrent(nn.LSTM, num_layers=2, bidirectional=True), (5, 3)),
    "lstm, batch first": (lambda: recurrent(nn.LSTM, batch_first=True, bias=False), (5, 3)),
    "gru": (lambda: recurrent(nn.GRU, num_layers=2, batch_first=True), (5, 3)),
    "rnn": (lambda: recurrent(nn.RNN, bidirectional=True), (5, 3)),
    "rectified rnn": (lambda: recurrent(nn.RNN, nonlinearity="relu"), (5, 3)),
    "residual": (lambda: Does(lambda m, x: x + m.parts[0](x), nn.Linear(3, 3)), (3,)),
    "residual inside": (lambda: Does(
        lambda m, x: m.parts[1]((y := torch.tanh(x)) + m.parts[0](y)), nn.Linear(3, 3),
        nn.Linear(3, 2)), (3,)),
    "class token": (lambda: Does(
        lambda m, x: torch.cat([m.token.expand(x.shape[0], -1, -1), m.parts[0](x)], 1) + m.places,
        nn.Linear(3, 4), token=numbers(1, 1, 4), places=numbers(6, 4)), (5, 3)),
    "repeated token": (lambda: Does(
        lambda m, x: torch.cat([x, m.token.repeat(len(x), 2, 1)], 1), token=numbers(1, 1, 3)),
        (5, 3)),
    "outer product": (lambda: Does(lambda m, x: (m.w[:, None] * x[:, None]).sum(1), w=numbers(4)),
                      (3,)),
    "items last": (lambda: Does(lambda m, x: (m.w[:, None] * x.sum(1)).T, w=numbers(4)), (3,)),
    "weights in front": (lambda: Does(lambda m, x: (m.w @ x.T).T, w=numbers(4, 3)), (3,)),
    "weights behind": (lambda: Does(lambda m, x: x @ m.w + m.b, w=numbers(3, 4), b=numbers(4)),
                       (3,)),
    "weights divided": (lambda: Does(
        lambda m, x: F.linear(x, F.softplus(m.w) / m.w.square().sum(-1, keepdim=True), m.b.exp()),
        w=numbers(4, 3), b=numbers(4)), (3,)),
    "einsum": (lambda: Does(lambda m, x: torch.einsum("bi,oi->bo", x, m.w), w=numbers(4, 3)), (3,)),
    "prelu": (lambda: nn.Sequential(nn.Conv1d(2, 4, 1), nn.PReLU(4)), (2, 5)),
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), (3,)),
    "in place": (lambda: Does(lambda m, x: m.parts[0](x).mul_(m.w), nn.Linear(3, 4), w=numbers(4)),
                 (3,)),
    "a weight alone": (lambda: Does(lambda m, x: m.w.expand(len(x), -1) * m.w.exp(), w=numbers(3)),
                       (3,)),
    "loop over rows": (lambda: Does(lambda m, x: sum(row * x for row in m.w), w=numbers(4, 3)),
                       (3,)),
    "by value": (lambda: Does(lambda m, x: torch.where(x > m.w, x, m.w), w=numbers(3)), (3,)),
}  # fmt: skip

IDS = {
    "embedding": (lambda: nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(20, 2)), (5,)),
    "padding": (lambda: nn.Sequential(nn.Embedding(7, 4, padding_idx=2), nn.Linear(4, 2)), (5,)),
    "positions": (lambda: Does(
        lambda m, x: m.parts[0](x) + m.parts[1](torch.arange(x.shape[1])), nn.Embedding(7, 4),
        nn.Embedding(5, 4)), (5,)),
    "tied": (Tied, (5,)),
}  # fmt: skip
