"""What the README says is true."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import torch

from hpcsamp import config
from hpcsamp.cli import app

README = (Path(__file__).parent.parent / "README.md").read_text()


def block(language, having=""):
    """The first block of a language with some text in it."""
    found = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return next(text for text in found if having in text)


def test_the_shortest_configuration_is_one():
    assert config.check(tomllib.loads(block("toml"))).method.samples == 16


def test_a_loop_of_ones_own_trains_the_same_network_on_any_ranks(script, digits, tmp_path):
    """Each process makes its network from a generator of its own, as people do."""
    code = (
        block("python", "hs.distribute")
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


def test_every_command_it_names_exists():
    known = {c.name for c in app.registered_commands} | {g.name for g in app.registered_groups}
    named = set(re.findall(r"(?:`|^ +|-n \d )hpcsamp ([a-z]+)", README, re.MULTILINE))
    assert {"train", "evaluate", "ingest", "inspect", "report", "doctor"} <= known
    assert named <= known


@pytest.mark.parametrize("path", re.findall(r"\]\(((?!http)[^)]+)\)", README))
def test_links_lead_somewhere(path):
    assert (Path(__file__).parent.parent / path).exists()
