"""Files that are read back are what was written, or are refused."""

from __future__ import annotations

import random

import pytest
import torch

from hpcsamp.errors import CheckpointError
from hpcsamp.run import checkpoint, retention


def test_no_bit_of_a_checkpoint_may_change(tmp_path):
    path = checkpoint.step_path(tmp_path, 7)
    content = {"step": 7, "method": {"mean": torch.randn(40, generator=torch.manual_seed(1))}}
    checkpoint.save(path, content)
    assert torch.equal(checkpoint.read(path)["method"]["mean"], content["method"]["mean"])
    whole, draw = path.read_bytes(), random.Random(1)
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match="is damaged"):
            checkpoint.read(path)
    for changed in (whole[:-1], whole + b"x", b"x" + whole, whole[:-77], whole + whole, b""):
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match="is damaged"):
            checkpoint.read(path)


def test_a_run_goes_on_from_the_newest_whole_checkpoint(tmp_path, monkeypatch):
    assert retention.newest_whole(tmp_path) == (None, {})
    paths = [checkpoint.step_path(tmp_path, step) for step in (1, 2, 3)]
    for path in paths:
        checkpoint.save(path, {"step": 1})
    assert retention.newest_whole(tmp_path) == (paths[2], {})
    for path in paths[1:]:
        path.write_bytes(path.read_bytes()[:-9])
    found, damaged = retention.newest_whole(tmp_path)
    assert found == paths[0]
    assert list(damaged) == [paths[2], paths[1]]
    torch.save({"version": 1, "step": 1}, paths[0])
    with pytest.raises(CheckpointError, match="format version 1, which has no seal"):
        retention.newest_whole(tmp_path)
    with monkeypatch.context() as older:
        older.setattr(checkpoint, "VERSION", 2)
        checkpoint.save(paths[0], {"step": 1})
    assert checkpoint.read(paths[0]) == {"version": 2, "step": 1}
    with pytest.raises(CheckpointError, match="version 2; the draws of weights have ch"):
        retention.newest_whole(tmp_path)
    paths[0].unlink()
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints is whole"):
        retention.newest_whole(tmp_path)
