"""``hpcsamp explain``."""

from __future__ import annotations

from typing import Annotated

import typer


def explain(
    name: Annotated[
        str | None,
        typer.Argument(help="A name that a message printed; without one, all names are listed."),
    ] = None,
) -> None:
    """Print what an error message or a symptom means and how to mend it.

    The text is that of the page Troubleshooting of the documentation. It is part of the package, so
    that it can be read on a compute node.

    Examples:

        hpcsamp explain

        hpcsamp explain memory
    """
    from hpcsamp import explain as page
    from hpcsamp.cli.output import show

    if name is None:
        found = page.sections().values()
        show("", ["name", "message or symptom"], [[s.name, s.title] for s in found])
        return
    section = page.section(name)
    typer.echo(f"{section.title}\n\n{section.text}")
