"""Everything that a user can write wrongly ends in one line, with exit code 1 or 2."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path

import pytest
from conftest import launch

from hpcsamp import config, models, spelling
from hpcsamp.errors import HpcsampError, UsageError, one_line

PROGRAM = Path(__file__).parent / "hostile.py"


def test_every_command_ends_hostile_input_in_one_line(tmp_path):
    """The cases are those of ``hostile.py``: each command, with each argument and option."""
    done = launch(1, str(PROGRAM), str(tmp_path), timeout=280)
    count, found, slowest, _ = json.loads(done.out)
    assert count > 400
    assert found == [], slowest


def test_without_a_command_the_help_is_shown(hpcsamp):
    done = hpcsamp(1)
    assert done.code == 0
    assert "Usage: " in done.out
    assert done.err == ""


def test_an_error_is_one_line_that_a_terminal_shows_as_it_is():
    text = "a\x1b[31mb\nc\r\nd\u2028e\u0085f\x00\udcff é ß \U0001f600"
    shown = str(UsageError(text))
    assert shown == one_line(text)
    assert shown.isprintable()
    assert "é ß \U0001f600" in shown
    assert str(HpcsampError("as it is: 'x' \\n")) == "as it is: 'x' \\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(36, "File name too long", "nnn\x1b"), "nnn\\x1b: File name too long"),
        (PermissionError(13, "Permission denied", b"run"), "run: Permission denied"),
        (MemoryError(), "there is not enough memory"),
    ],
)
def test_errors_of_files_and_of_memory_are_one_line(capsys, error, line):
    from hpcsamp.runtime import end_job

    assert end_job(error) == 1
    assert capsys.readouterr().err == f"hpcsamp: error: {line}\n"


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("data.batch_size", "did you mean 'data.batch'"),
        ("optimizer.learning_rate", "unknown"),
        ("data.colour", "choose from data.path, data.batch"),
        ("training.quux", "choose from training.epochs"),
        ("zzz", "choose from seed, task, data"),
        ("evaluation.samplse", "did you mean 'evaluation.samples'"),
    ],
)
def test_keys_of_near_meaning_or_spelling_are_suggested_or_else_listed(key, words):
    if key.startswith("optimizer"):
        assert spelling.hint(key, ["optimizer.lr"]) == "; did you mean 'optimizer.lr'?"
        return
    table: dict = {"data": {"path": "d"}, "model": {"name": "mlp"}}
    config.put(table, key, 1)
    with pytest.raises(UsageError) as e:
        config.check(table)
    assert words in str(e.value)
    assert "did you mean" in words or "did you mean" not in str(e.value)


@pytest.mark.parametrize(
    "setting",
    ["method.samples=1000000000", "method.samples_per_pass=1000000000", "data.batch=1000000000000",
     "training.epochs=1000000000000", "evaluation.bins=1000000000", "evaluation.samples=1000000000",
     "augment.crop=1000000000", "training.keep=1e300", "evaluation.batch=10000000000000"],
)  # fmt: skip
def test_sizes_that_no_run_can_have_are_refused(setting):
    with pytest.raises(UsageError) as e:
        config.load("vit-digits", [setting])
    assert setting.split("=")[0] in str(e.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"hidden": [8] * 20_000}, "more than 5000 layers"),
        ({"hidden": [10**12, 10**12]}, "overflow"),
    ],
)
def test_networks_without_end_are_refused(arguments, words):
    import torch

    with torch.device("meta"), pytest.raises(UsageError, match=words):
        models.build("mlp", arguments, (4,), 3, 0)


def test_the_memory_of_many_samples_is_counted_without_a_loop():
    from hpcsamp.planning import memory
    from hpcsamp.run.assemble import Run
    from hpcsamp.run.shapes import DataShapes
    from hpcsamp.tasks import Targets

    run = config.check({"data": {"path": "d"}, "model": {"name": "mlp", "hidden": [4]}})
    many = run.model_copy(update={"method": run.method.model_copy(update={"samples": 10**9})})
    shapes = DataShapes((4,), (), 20, Targets("classification", (), 3))
    began = time.process_time()
    parts = memory.estimate(Run.blank(many, shapes), memory.Grid(), rough=True)
    assert time.process_time() - began < 10
    assert sum(p.bytes for p in parts) > 0


def test_wrong_types_given_to_a_method_are_one_line():
    import torch
    from torch import nn

    from hpcsamp.methods import Ensemble, MeanField

    for given in (nn.Linear, "mlp", None, 3):
        with pytest.raises(UsageError, match=r"MeanField takes a network, an instance of .*, not"):
            MeanField(given, seed=1)
    with pytest.raises(UsageError, match="Ensemble takes a network"):
        Ensemble("mlp", samples=2, seed=1)
    method = MeanField(nn.Linear(2, 1), seed=1)
    x = torch.zeros(3, 2)
    for samples in (4, "4", [0, 1], None, range(0, 4, 2), range(-2, 2)):
        with pytest.raises(UsageError, match="must be a range, "):
            method(x, samples=samples)
    with pytest.raises(UsageError, match=r"inputs are a tensor, or .*, not a list"):
        method([[0.0, 1.0]], samples=range(2))
    assert method(x, samples=range(2)).shape == (2, 3, 1)
    assert copy.deepcopy(method)(x, range(2)).shape == (2, 3, 1)
