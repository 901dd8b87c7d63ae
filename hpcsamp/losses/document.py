"""The table of losses in the README, from what the classes say of themselves."""

from __future__ import annotations

from collections.abc import Mapping

from hpcsamp.losses.base import DataLoss

_HEAD = """\
`y_s` are the outputs of sample s of S and `t` is the target; losses are in nats, summed over the
values of an item, or, for `mean_mse`, `crps` and `energy_score`, in units of the target. Bytes are
what a rank has of the exchanges of a step in float32, for B items of V values (and 16 for the
value itself). `loss.exact = false` averages the ranks' own losses instead, which is the same for
linear losses alone; `hpcsamp bench exactness` shows how far it is off for the others.

"""
_COLUMNS = ("name", "formula per item", "class", "shared over the group", "bytes", "cost", "source")


def render(losses: Mapping[str, type[DataLoss]]) -> str:
    """Markdown: a sentence and a row per loss.

    Parameters
    ----------
    losses
        By name.
    """
    rows = []
    for name, loss in losses.items():
        about = loss.about
        assert about is not None, f"{loss.__name__} says nothing about itself"
        rows.append(
            (
                f"`{name}`",
                f"`{about.formula}`".replace("|", "\\|"),
                about.kind,
                about.shares,
                about.bytes,
                about.cost,
                about.source,
            )
        )
    lines = [_COLUMNS, tuple("---" for _ in _COLUMNS), *rows]
    return _HEAD + "".join(f"| {' | '.join(line)} |\n" for line in lines)
