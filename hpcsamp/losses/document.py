"""The table of losses in the README, built from the ``about`` attribute of each class."""

from __future__ import annotations

from collections.abc import Mapping

from hpcsamp.losses.base import DataLoss

_HEAD = """\
`y_s` are the outputs of sample s of S and `t` is the target; losses are in nats, summed over the
values of an item, or, for `mean_mse`, `crps` and `energy_score`, in units of the target. Bytes are
those that a rank exchanges in a step in float32, for B items of V values (plus 16 for the value of
the loss). On P = 2 ranks, `crps` and `energy_score` gather all samples instead, which are as many
bytes; so does `energy_score` for few small items (4·S·B·V). For few large items, its ranks have the
samples of 1/P of the values of each item, and exchange 4·S·(S + 1)·B bytes of squares in addition.
`loss.exact = false` averages the ranks' own losses instead, which gives the same result for linear
losses only; `hpcsamp bench exactness` measures the error for the others.

"""
_COLUMNS = ("name", "formula per item", "class", "shared over the group", "bytes", "cost", "source")


def render(losses: Mapping[str, type[DataLoss]]) -> str:
    """Return a table in Markdown: an introduction and one row per loss.

    Parameters
    ----------
    losses
        Loss classes by name.
    """
    rows = []
    for name, loss in losses.items():
        about = loss.about
        assert about is not None, f"{loss.__name__} has no description (about)"
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
