"""``training.compile``: the same steps as without it, and refusals in one line."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from test_training import losses
from torch import nn

from hpcsamp.errors import UsageError
from hpcsamp.methods import MeanField
from hpcsamp.methods.compiling import compile_passes

COMPILER = os.environ.get("CXX", "g++")


@pytest.mark.skipif(
    shutil.which(COMPILER) is None, reason=f"torch.compile needs a C++ compiler: no {COMPILER}"
)
def test_compiled_steps_are_those_of_a_plain_run_on_two_ranks(commands, small, tmp_path):
    """Each rank compiles for itself; the ranks have different numbers of samples."""
    short = ("--set=training.steps=3", "--set=training.epochs=1", "--set=method.samples=3")
    done = commands(
        2,
        ["train", small, "--output", tmp_path / "plain", *short],
        ["train", small, "--output", tmp_path / "compiled", *short, "--set=training.compile=true"],
        timeout=240,
    )
    assert done.code == 0, done.err
    assert (done.out + done.err).count("training: one sample at a time, compiled") == 1
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), rel=1e-10)


def test_a_network_that_draws_is_refused():
    method = MeanField(nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2)), seed=1)
    with pytest.raises(UsageError, match=r"^training\.compile is not possible: .* random numbers"):
        compile_passes(method, torch.randn(4, 3), range(2))


def test_a_machine_without_a_compiler_is_refused(monkeypatch):
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    def none() -> str:
        raise InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    with pytest.raises(UsageError, match="needs a C\\+\\+ compiler, but there is none: install"):
        compile_passes(MeanField(nn.Linear(3, 2), seed=1), torch.randn(4, 3), range(2))
