"""Read the sections of the Troubleshooting page, to which error messages refer.

The page is a file of the package, so that ``hpcsamp explain NAME`` also works on a compute node
without a network; the documentation includes the same file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hpcsamp.errors import UsageError
from hpcsamp.spelling import shown, suggest

PAGE = Path(__file__).with_name("troubleshooting.md")
_SECTION = re.compile(r"^\((?P<name>[a-z-]+)\)=\n### (?P<title>.+)\n", re.MULTILINE)
_LINK = re.compile(r"\[([^\]]+)\]\(([^)#]+\.md)(#[^)]*)?\)")


@dataclass(frozen=True)
class Section:
    """A section of the Troubleshooting page.

    Attributes
    ----------
    name
        Name of the section, as printed in messages.
    title
        The symptom, or the part of the message that it explains.
    text
        The explanation and how to fix the cause, in Markdown.
    """

    name: str
    title: str
    text: str


def more(name: str) -> str:
    """Return the reference to a section for a message: ``" (more: hpcsamp explain NAME)"``."""
    return f" (more: hpcsamp explain {name})"


@contextmanager
def pointing_to(name: str) -> Iterator[None]:
    """Add a reference to a section to the usage errors raised in the block."""
    try:
        yield
    except UsageError as e:
        if not str(e.args[0]).endswith(more(name)):
            e.args = (f"{e.args[0]}{more(name)}", *e.args[1:])
        raise


def sections() -> dict[str, Section]:
    """Read the sections of the page by name, in its order."""
    page = PAGE.read_text("utf-8")
    found = list(_SECTION.finditer(page))
    ends = [*(m.start() for m in found[1:]), len(page)]
    bodies = [page[m.end() : end] for m, end in zip(found, ends, strict=True)]
    texts = [re.split(r"^## ", body, flags=re.MULTILINE)[0] for body in bodies]
    return {
        m["name"]: Section(m["name"], m["title"].replace("`", ""), _readable(text))
        for m, text in zip(found, texts, strict=True)
    }


def section(name: str) -> Section:
    """Return the section of the page with this name.

    Raises
    ------
    UsageError
        If there is no such section.
    """
    found = sections()
    if name not in found:
        raise UsageError(
            f"explain {shown(name)}: there is no such section{suggest(name, found)}; hpcsamp "
            f"explain lists all"
        )
    return found[name]


def _readable(text: str) -> str:
    """Replace links with their text and target, because a terminal cannot follow them."""
    return _LINK.sub(r"\1 (docs/\2)", text).replace("`", "").strip()
