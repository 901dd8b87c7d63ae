"""Replace batch normalisation by group normalisation."""

from __future__ import annotations

from torch import nn

from hpcsamp.errors import UsageError

#: Classes that only normalise: subclasses do more.
PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
MOST_GROUPS, LEAST_CHANNELS = 32, 4


def to_groups(module: nn.Module) -> nn.Module:
    """Replace batch normalisation by :class:`torch.nn.GroupNorm` (Wu and He 2018).

    It has at most 32 groups of at least 4 channels, or a single group of all channels; scale, shift
    and eps are those of the layer.

    Raises
    ------
    UsageError
        If there is no such layer, or a layer does more than normalise.
    """
    kind = nn.modules.batchnorm._BatchNorm
    found = [(n, m) for n, m in module.named_modules() if isinstance(m, kind)]
    if not found:
        raise UsageError(
            f'model.batch_norm = "group", but {type(module).__name__} has no batch normalisation'
        )
    made: dict[nn.Module, nn.GroupNorm] = {}
    for name, part in found:
        if type(part) not in PLAIN:
            raise UsageError(
                f'model.batch_norm = "group": {name or "the network"}, a {type(part).__name__}, '
                f"does more than nn.BatchNorm; select another normalisation by an argument of the "
                f"model, or set model.batch_norm to batch or frozen"
            )
        made[part] = _group_norm(part)
    if module in made:
        return made[module]
    for owner in list(module.modules()):
        for key, child in list(owner._modules.items()):
            if child is not None and child in made:
                setattr(owner, key, made[child])
    return module


def groups_of(channels: int) -> int:
    """Return the number of groups for this number of channels."""
    return max(
        (
            g
            for g in range(1, MOST_GROUPS + 1)
            if channels % g == 0 and channels // g >= LEAST_CHANNELS
        ),
        default=1,
    )


def _group_norm(part: nn.modules.batchnorm._BatchNorm) -> nn.GroupNorm:
    channels = part.num_features
    made = nn.GroupNorm(groups_of(channels), channels, part.eps, part.affine)
    if part.affine:
        made.weight, made.bias = part.weight, part.bias
    return made.train(part.training)
