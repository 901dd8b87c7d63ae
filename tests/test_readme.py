"""What the README says is true."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from hpcsamp import config
from hpcsamp.cli import app

README = (Path(__file__).parent.parent / "README.md").read_text()


def block(language):
    return re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)[1]


def test_the_shortest_configuration_is_one():
    assert config.check(tomllib.loads(block("toml"))).method.samples == 16


def test_a_loop_of_ones_own_trains(script, digits):
    code = block("python").replace("data/digits", str(digits)).replace("range(10)", "range(2)")
    net = "from hpcsamp.models import MLP\ndef Net(): return MLP((1, 8, 8), 10, hidden=(16,))\n"
    end = "\nimport sys; sys.stdout.write(f'at {loss.parts.data:.3f}\\n')"
    done = script(2, net + code + end)
    assert done.code == 0, done.err
    values = [float(v) for v in re.findall(r"at ([\d.]+)", done.out)]
    assert len(values) == 2
    assert values[0] == values[1]  # the group's loss, on every rank
    assert values[0] < 2.25  # log 10 at the start


def test_every_command_it_names_exists():
    known = {c.name for c in app.registered_commands} | {g.name for g in app.registered_groups}
    named = set(re.findall(r"(?:`|^ +|-n \d )hpcsamp ([a-z]+)", README, re.MULTILINE))
    assert {"train", "evaluate", "ingest", "inspect", "report", "doctor"} <= known
    assert named <= known


@pytest.mark.parametrize("path", re.findall(r"\]\(((?!http)[^)]+)\)", README))
def test_links_lead_somewhere(path):
    assert (Path(__file__).parent.parent / path).exists()
