"""The README and the pages of the documentation: their code blocks, and what runs one.

A block is run by its language: ``python`` in the page's one namespace, ``bash`` line by line, and
``toml`` is read as a configuration or a campaign. A block whose first line is a comment with the
name of a file (``# nets.py``) is written to that file first; a ``.py`` file is then imported by
others, not run. ``text`` is output. All blocks of a page run in order, in a folder that holds
``data/digits``, ``runs/four`` and ``load.csv`` (``prepared`` in ``tests/conftest.py``).

A comment before a block says what the reader need not see:

``<!-- not run: reason -->``
    The block cannot be run here.
``<!-- run: --set method.samples=2 -->``
    Words that are added to each ``hpcsamp train`` of the block; those in ``SHORT`` are always.
``<!-- before: code -->``
    Python code that is run first, in the page's namespace.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parent.parent
GENERATED = ROOT / "docs" / "reference" / "generated"

#: The files at the top, and all pages that people have written.
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *(p for p in sorted((ROOT / "docs").rglob("*.md")) if not p.is_relative_to(GENERATED)),
]
#: Languages of blocks that are run, and of those that are not code of the reader's.
RUN = {"python", "bash", "toml"}
SHOWN = {"text", "diff"}


#: A run of a page takes one step and evaluates with few samples.
SHORT = ("--set", "training.steps=1", "--set", "evaluation.samples=4")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    code: str
    #: The comment before it, without its marks.
    comment: str

    @property
    def not_run(self) -> str:
        """Why it is not run; empty if it is."""
        return _after("not run:", self.comment)

    @property
    def added(self) -> list[str]:
        """Words for each ``hpcsamp train``."""
        return [*SHORT, *_after("run:", self.comment).split()]

    @property
    def before(self) -> str:
        """Python code that comes first."""
        found = re.match(r"before:\s*\n?(.*)", self.comment, re.DOTALL)
        return found.group(1) if found else ""

    @property
    def file(self) -> str:
        """The file that it is to be written to; empty if none."""
        found = re.match(r"# ([\w./-]+\.(?:py|toml|csv))\n", self.code)
        return found.group(1) if found else ""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def _after(word: str, comment: str) -> str:
    return comment.removeprefix(word).strip() if comment.startswith(word) else ""


def blocks(page: Path) -> list[Block]:
    """Blocks of a page in order; an indented one has the language ``indented``."""
    found, comment = [], ""
    for token in MarkdownIt("commonmark").parse(page.read_text()):
        if token.type == "html_block":
            inside = re.fullmatch(r"\s*<!--(.*?)-->\s*", token.content, re.DOTALL)
            comment = inside.group(1).strip() if inside else ""
            continue
        if token.type in ("fence", "code_block"):
            assert token.map is not None
            language = token.info.strip() if token.type == "fence" else "indented"
            found.append(Block(page, token.map[0] + 1, language, token.content, comment))
        comment = ""
    return found


def links(page: Path) -> list[str]:
    """Where links and pictures of a page lead that are in this repository."""
    found = []
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text()):
        for inner in token.children or []:
            target = inner.attrGet("href" if inner.type == "link_open" else "src")
            if target and not re.match(r"[a-z]+:|#", str(target)):
                found.append(str(target))
    return found
