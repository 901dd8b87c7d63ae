"""``hpcsamp explain``: print the meaning of an error message and its fix."""

from __future__ import annotations

from typing import Annotated

import typer


def explain(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Name printed at the end of an error message; without it, all names are listed."
        ),
    ] = None,
) -> None:
    """Explain an error message or a symptom, and how to fix its cause.

    The text is the Troubleshooting page of the documentation. It is part of the package, so it can
    be read on a compute node.

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
