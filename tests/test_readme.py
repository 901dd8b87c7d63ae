"""Statements of the README and of the pages of the documentation are true."""

from __future__ import annotations

import re
import runpy
import tomllib

import pages
import pytest
import torch

from hpcsamp import config
from hpcsamp.cli import COMMANDS

TEXTS = {str(page.relative_to(pages.ROOT)): page.read_text() for page in pages.PAGES}


def block(page, language, having=""):
    """The first block of a language with some text in it."""
    found = pages.blocks(pages.ROOT / page)
    return next(b.code for b in found if b.language == language and having in b.code)


def test_the_shortest_configuration_is_one():
    assert config.check(tomllib.loads(block("docs/quickstart.md", "toml"))).method.samples == 16


def test_a_loop_of_ones_own_trains_the_same_network_on_any_ranks(script, digits, tmp_path):
    """Each process makes its network from a generator of its own, as people do."""
    code = (
        block("docs/guides/own-loop.md", "python", "hs.distribute")
        .replace("from nets import Net\n", "")
        .replace("data/digits", str(digits))
        .replace("range(10)", "range(2)")
    )
    code = code.replace("batch=64, seed=1", "batch=64, seed=1, dtype=torch.float64")
    net = (
        "from hpcsamp.models import MLP\n"
        "def Net():\n"
        "    torch.manual_seed(topology.rank)\n"
        "    return MLP((1, 8, 8), 10, hidden=(16,)).double()\n"
    )
    end = (
        f"\ntorch.save(method.state_dict(), f'{tmp_path}/{{topology.size}}-{{topology.rank}}')\n"
        "import sys; sys.stdout.write(f'at {loss.parts.data:.3f}\\n')\n"
    )
    for ranks in (1, 2):
        done = script(ranks, net + code + end)
        assert done.code == 0, done.err
        values = {float(v) for v in re.findall(r"at ([\d.]+)", done.out)}
        assert len(values) == 1  # the group's loss, on every rank
        assert values.pop() < 2.25  # log 10 at the start
    alone, *both = (torch.load(tmp_path / name) for name in ("1-0", "2-0", "2-1"))
    assert alone
    for name, x in alone.items():
        assert torch.equal(both[0][name], both[1][name]), name
        assert torch.allclose(both[0][name], x, rtol=1e-10, atol=1e-12), name


@pytest.mark.parametrize("page", TEXTS)
def test_every_command_it_names_exists(page):
    known = set(COMMANDS)
    found = pages.blocks(pages.ROOT / page)
    code = [re.sub(r"#.*", "", b.code) for b in found if b.language == "bash"]
    code += re.findall(r"`[^`\n]+`", TEXTS[page])
    named = {
        name for text in code for name in re.findall(r"(?:^|[` ])hpcsamp ([a-z]+)\b", text, re.M)
    }
    assert named <= known


def test_the_front_page_is_short_and_names_what_matters():
    readme = TEXTS["README.md"]
    assert len(readme.splitlines()) <= 130
    assert {"train", "evaluate", "ingest", "report"} <= set(re.findall("hpcsamp ([a-z]+)", readme))


def test_the_network_in_parts_is_one():
    """On one of four imagined model ranks it takes and returns the parts that it states."""
    from hpcsamp import layers

    names: dict = {}
    exec(block("docs/guides/model-axis.md", "python", "input_part"), names)
    with layers.along(layers.imagined(4)):
        network = names["Points"]((7, 3, 8), 5 * 3 * 8)
    held = network.input_part((7, 3, 8)).local
    assert held == (4, 3, 4)
    assert network(torch.ones(2, *held)).shape == (2, *network.output_part((5, 3, 8)).local)
    layers.parts_of(network)


@pytest.mark.parametrize(
    ("page", "link"), [(name, link) for name in TEXTS for link in pages.links(pages.ROOT / name)]
)
def test_links_lead_somewhere(page, link):
    """Anchors and generated pages are checked when the site is built."""
    path = (pages.ROOT / page).parent / link.partition("#")[0]
    assert path.exists() or pages.GENERATED in path.resolve().parents


def test_the_drawings_are_those_of_their_script():
    folder = pages.ROOT / "docs" / "drawings"
    names = runpy.run_path(str(folder / "draw.py"))["DRAWINGS"]
    assert {path.stem for path in folder.glob("*.svg")} == set(names)
    for name, make in names.items():
        assert (folder / f"{name}.svg").read_text() == str(make()), "run docs/drawings/draw.py"
