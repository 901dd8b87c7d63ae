"""What somebody tries first: a network in a file of the folder, a table with dates and words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from patience import patient

from hpcsamp import config
from hpcsamp.errors import DataError
from hpcsamp.ingest.numbers import Notation, NumberParser

PROGRAM = Path(sys.executable).with_name("hpcsamp")

NET = """
import torch


class Settings:
    def __init__(self, n_heads=1): ...


class Net(torch.nn.Linear):
    config_class = Settings

    def __init__(self, config): ...
"""


def test_a_network_in_a_file_of_the_folder_is_found(tmp_path):
    """By the program that pip installs, whose own folder Python would look into instead."""
    (tmp_path / "newcomers_net.py").write_text(NET)
    done = subprocess.run(
        [PROGRAM, "models", "newcomers_net"],
        cwd=tmp_path, capture_output=True, text=True, timeout=patient(60), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "newcomers_net:Net" in done.stdout


def test_keys_of_a_configuration_object_are_no_misspelt_keys(tmp_path, monkeypatch):
    (tmp_path / "newcomers_net.py").write_text(NET)
    monkeypatch.syspath_prepend(str(tmp_path))
    model = {"name": "newcomers_net:Net", "n_heads": 2}  # not model.head
    assert config.check({"data": {"path": "d"}, "model": model}).model.arguments == {"n_heads": 2}


@pytest.mark.parametrize(
    ("cell", "hint"),
    [
        ("01.01.2023 00:00", "--date 'when=cyclical'"),
        ("2023-01-01", "--date 'when=cyclical'"),
        ("Nord", "--onehot 'when' or --ids 'when'"),
        ("4,01", "--decimal"),
        ("", "--missing"),
    ],
)
def test_a_cell_that_is_no_number_is_told_with_the_option_that_reads_it(cell, hint):
    numbers = NumberParser(Path("t.csv"), ["when"], Notation(), ())
    with pytest.raises(DataError, match=f"line 2, column 'when': '{cell}' is not.*{hint}"):
        numbers.read([[cell]], [2])
