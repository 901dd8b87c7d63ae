"""Plot a predicted scaling curve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hpcsamp.errors import UsageError


def draw(plan: dict[str, Any], path: Path) -> None:
    """Plot speed-up and efficiency over ranks, with the ideal line.

    Parameters
    ----------
    plan
        Output of ``hpcsamp plan --json`` with a ``curve``.
    path
        Image file to write; its suffix determines the format.

    Raises
    ------
    UsageError
        If the file cannot be written.
    """
    import matplotlib as mpl

    mpl.use("agg", force=False)
    from matplotlib import pyplot as plt

    from hpcsamp.report import style

    points = plan["curve"]
    ranks = [p["ranks"] for p in points]
    with style.styled():
        figure, (above, below) = plt.subplots(2, 1, figsize=(6, 6), sharex=True, dpi=120)
        above.plot(ranks, ranks, color=style.GREY, linestyle="--", label="ideal")
        above.plot(
            ranks, [p["speed_up"] for p in points], marker="o", color=style.BLUE, label="predicted"
        )
        above.set(xscale="log", yscale="log", ylabel="speed-up", title="Speed-up over one rank")
        above.legend()
        below.axhline(1.0, color=style.GREY, linestyle="--")
        below.plot(ranks, [p["efficiency"] for p in points], marker="o", color=style.BLUE)
        below.set(xscale="log", xlabel="ranks", ylabel="efficiency", ylim=(0, 1.1))
        figure.text(
            0.01,
            0.005,
            f"{plan['model']}, S = {points[0]['samples_per_rank'] * points[0]['sample_ranks']}, "
            f"{plan['site']}, compute {plan['origin']}",
            fontsize=8,
            color=style.GREY,
        )
        try:
            figure.savefig(path)
        except (OSError, ValueError) as e:
            raise UsageError(f"cannot write {path}: {e}") from e
        finally:
            plt.close(figure)
