"""Read the evaluation of a mixture of runs for the page that compares them.

``hpcsamp evaluate RUN RUN... --json FILE`` writes it. It has tables of the whole split, but no
predictions of single items, and the mixture has no learning curve of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hpcsamp.errors import UsageError
from hpcsamp.report.records import DoesNotApplyError, EvaluationRecord, RunRecord

SHARED = ("task", "data")
"""Sections of the configuration that the runs have in common."""


class MixtureEvaluation(EvaluationRecord):
    """The evaluation of a mixture of runs; figures of single items do not apply to it."""

    @contextmanager
    def open(self) -> Iterator[Any]:
        """Raise :class:`DoesNotApplyError`."""
        raise DoesNotApplyError("a mixture keeps no predictions of single items")
        yield  # makes this a generator, as a context manager must be


def read_mixture(
    file: str | Path, runs: Sequence[RunRecord], split: str
) -> tuple[RunRecord, MixtureEvaluation]:
    """Read the evaluation of the mixture of some runs, as a further column next to them.

    Parameters
    ----------
    file
        JSON file of ``hpcsamp evaluate RUN RUN... --json FILE``.
    runs
        The runs of the page, in any order.
    split
        Split of the page.

    Raises
    ------
    UsageError
        If the file cannot be read, or is not the evaluation of these runs on this split.
    """
    try:
        table = json.loads(Path(file).read_text())
        members = [of["run"] for of in table["runs"]]
        found = MixtureEvaluation(
            split=table["split"],
            samples=int(table["samples"]),
            metrics=table["metrics"],
            reliability=table["reliability"],
            items=None,
            units=table["units"],
            definitions=table["definitions"],
            rows=table["rows"],
        )
    except OSError as e:
        raise UsageError(f"cannot read {file}: {e.strerror or e}") from e
    except (KeyError, TypeError, ValueError) as e:
        raise UsageError(
            f"{file} is not the evaluation of a mixture ({type(e).__name__}: {e}): write it with "
            f"hpcsamp evaluate RUN RUN... --json {file}"
        ) from e
    if found.split != split:
        raise UsageError(f"{file} is an evaluation on {found.split}, but the page is on {split}")
    if sorted(members) != sorted(run.owner for run in runs):
        raise UsageError(
            f"{file} is a mixture of other runs ({len(members)}) than those of the page "
            f"({len(runs)}): {', '.join(str(run.path) for run in runs)}"
        )
    names = {"model": {"name": f"{len(runs)} runs"}, "method": {"name": "mixture"}}
    shared = {key: value for key, value in runs[0].config.items() if key in SHARED}
    return RunRecord(Path("mixture"), shared | names, [], {}), found
