"""Every code block of the README and of the documentation works as it stands there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pages
import pytest
from conftest import environment
from pages import Block, blocks
from patience import patient

from hpcsamp import config
from hpcsamp.campaign.points import Campaign

WITH_CODE = [p for p in pages.PAGES if any(b.language in pages.RUN for b in blocks(p))]
#: Tables of a campaign file.
CAMPAIGN = {"product", "zip", "list", "derived", "resources", "site", "search"}


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda p: str(p.relative_to(pages.ROOT)))
def test_a_block_is_run_or_says_why_not(page):
    for block in blocks(page):
        known = block.language in pages.RUN | pages.SHOWN or block.language.startswith("{")
        assert known, f"{block}: a block of {block.language!r}"


@pytest.fixture
def here(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the prepared data, which a page may change."""
    folder = tmp_path / "page"
    shutil.copytree(prepared, folder)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    there = set(sys.modules)
    yield folder
    for name in set(sys.modules) - there:  # another page may have a nets.py of its own
        origin = getattr(sys.modules[name], "__file__", None) or ""
        if origin.startswith(str(folder)):
            del sys.modules[name]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda p: str(p.relative_to(pages.ROOT)))
def test_examples(page, here, hpcsamp):
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        if block.language not in pages.RUN or block.not_run:
            continue
        try:
            run(block, here, names, hpcsamp)
        except BaseException as e:
            e.add_note(f"in the block of {block}")
            raise


def run(block: Block, here: Path, names: dict[str, Any], hpcsamp: Any) -> None:
    if block.before:
        exec(compile(block.before, f"{block} before", "exec"), names)
    if block.file:
        (here / block.file).parent.mkdir(parents=True, exist_ok=True)
        (here / block.file).write_text(block.code)
    if block.language == "toml":
        read(block, here)
    elif block.language == "bash":
        for line in lines(block.code):
            command(line, block, here, hpcsamp)
    elif not block.file:
        exec(compile("\n" * block.line + block.code, str(block.page), "exec"), names)


def read(block: Block, here: Path) -> None:
    """A configuration, or the part of one that is in question; or a campaign."""
    found = tomllib.loads(block.code)
    if CAMPAIGN & found.keys():
        path = here / (block.file or "campaign.toml")
        path.write_text(block.code)
        campaign = Campaign(path)
        assert campaign.spec.search or campaign.points  # a search asks for its points when it runs
        return
    whole: dict[str, Any] = {"data": {"path": "data/digits"}, "model": {"name": "mlp"}}
    for table, value in found.items():
        whole[table] = {**whole.get(table, {}), **value} if isinstance(value, dict) else value
    whole.pop("preset", None)
    config.check(whole)


def lines(code: str) -> list[str]:
    """Commands of a block, without comments."""
    joined = code.replace("\\\n", " ")
    return [line for line in joined.splitlines() if shlex.split(line, comments=True)]


def command(line: str, block: Block, here: Path, hpcsamp: Any) -> None:
    words = shlex.split(line, comments=True)
    ranks = 1
    if words[:2] == ["mpirun", "-n"] and words[3] == "hpcsamp":
        ranks, words = int(words[2]), words[3:]
    if words[0] == "hpcsamp" and not re.search(r"[|><*$]", line.split(" #")[0]):
        added = block.added if words[1:2] == ["train"] else []
        done = hpcsamp(ranks, *words[1:], *added, cwd=here, timeout=120)
        assert done.code == 0, f"{line}\n{done.out}\n{done.err}"
        return
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", line],
        cwd=here, env=environment(), capture_output=True, text=True, timeout=patient(120),
    )  # fmt: skip
    assert ended.returncode == 0, f"{line}\n{ended.stdout}\n{ended.stderr}"
