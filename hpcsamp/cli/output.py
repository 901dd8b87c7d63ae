"""Output of commands: tables on the screen, and the same data as JSON for ``--json FILE``."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpcsamp.errors import UsageError
from hpcsamp.files import write_whole
from hpcsamp.runtime import on_terminal

Cell = str | int | float | bool | None


def show(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    json_file: Path | None = None,
    data: Any = None,
    styles: Sequence[str] | None = None,
) -> None:
    """Print a table, and write its data as JSON if a file is given.

    On a terminal it is a rich table that wraps long cells; elsewhere (a batch log, a pipe) it is
    plain aligned columns. No cell is ever truncated.

    Parameters
    ----------
    title
        One line above the table; empty for no title.
    columns
        Column headings.
    rows
        Cells. Columns that contain only numbers are aligned to the right.
    json_file
        File to write ``data`` to, see :func:`write_json`.
    data
        Data of the JSON file; by default one object per row with the columns as keys.
    styles
        A rich style per row, e.g. ``"red"``. Styles are used on terminals only, so no information
        may depend on a style alone.

    Raises
    ------
    UsageError
        If the JSON file cannot be written.
    """
    text = [[cell(value) for value in row] for row in rows]
    right = [all(_is_number(row[c]) for row in rows) and bool(rows) for c in range(len(columns))]
    if on_terminal():
        _print_rich(title, columns, text, right, styles)
    else:
        sys.stdout.write(plain(title, columns, text, right))
    sys.stdout.flush()
    if json_file is not None:
        write_json(
            json_file,
            data if data is not None else [dict(zip(columns, r, strict=True)) for r in rows],
        )


def cell(value: Cell) -> str:
    """Format a cell: four significant digits of a float, yes or no, empty text for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def plain(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]
) -> str:
    """Format a table as aligned columns; a cell with line breaks takes several lines."""
    blocks = [[c.splitlines() or [""] for c in row] for row in [columns, *rows]]
    widths = [max(len(line) for b in blocks for line in b[c]) for c in range(len(columns))]
    lines = [title] if title else []
    for block in blocks:
        for i in range(max(map(len, block))):
            cells = [part[i] if i < len(part) else "" for part in block]
            aligned = [
                c.rjust(w) if r else c.ljust(w)
                for c, w, r in zip(cells, widths, right, strict=True)
            ]
            lines.append("  ".join(aligned).rstrip())
    return "\n".join(lines) + "\n"


def write_json(path: Path, data: Any) -> None:
    """Write strict JSON; numbers that are not finite become null.

    Raises
    ------
    UsageError
        If the file cannot be written.
    """
    text = json.dumps(_finite(data), indent=1, allow_nan=False, default=str) + "\n"
    try:
        if path.exists() and not path.is_file():  # /dev/stdout, a pipe
            path.write_text(text)
        else:
            write_whole(path, text)
    except OSError as e:
        raise UsageError(f"cannot write {path}: {e.strerror}") from e


def _print_rich(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Sequence[bool],
    styles: Sequence[str] | None,
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title) if title else None, title_justify="left", box=box.SIMPLE_HEAD)
    for name, r in zip(columns, right, strict=True):
        table.add_column(Text(name), justify="right" if r else "left", overflow="fold")
    for row, style in zip(rows, styles or [""] * len(rows), strict=True):
        table.add_row(*map(Text, row), style=style or None)
    Console().print(table)


def _is_number(value: Cell) -> bool:
    """Whether a cell is empty or a number: ``3``, ``0.25``, ``"1.7e-3"``."""
    if value is None or value == "":
        return True
    try:
        float(value)
    except ValueError:
        return False
    return True


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {str(k): _finite(v) for k, v in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(v) for v in data]
    return data
