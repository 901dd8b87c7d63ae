"""Metrics of a run in the files of trackers, read back as these read them."""

from __future__ import annotations

import json
import struct

import pytest

from hpcsamp.errors import UsageError
from hpcsamp.report import trackers

EVENTS = [
    {"event": "train", "step": 1, "epoch": 0, "loss": 2.5, "seconds": 0.1},
    {"event": "valid", "step": 4, "epoch": 0, "nll": 0.75, "accuracy": 0.5},
    {"event": "train", "step": 5, "epoch": 1, "loss": 1.5, "seconds": 0.1},
]


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "config.toml").write_text('seed = 3\n[model]\nname = "mlp"\n')
    write(folder, EVENTS[:2])
    return folder


def write(folder, events):
    (folder / "metrics.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))


def scalars(file):
    """The scalars of a TensorBoard event file: records of length, checksum, event, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    content, found = file.read_bytes(), {}
    while content:
        [size] = struct.unpack("<Q", content[:8])
        event = Event.FromString(content[12 : 12 + size])
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                found[value.tag, event.step] = value.simple_value
        content = content[16 + size :]
    return found


def test_an_export_to_tensorboard_may_be_repeated(run, tmp_path):
    pytest.importorskip("tensorboardX", reason="hpcsamp[tensorboard] is not installed")
    for number in (2, 3):
        write(run, EVENTS[:number])
        trackers.export(run, "tensorboard", tmp_path / "out")
        [file] = (tmp_path / "out" / "a-a").iterdir()
        found = scalars(file)
        assert found["valid/nll", 4] == 0.75
        assert ("train/loss", 5) in found if number == 3 else ("train/loss", 5) not in found
        assert len(found) == {2: 6, 3: 9}[number]


def test_an_export_to_mlflow_may_be_repeated(run, tmp_path):
    tracking = pytest.importorskip("mlflow.tracking", reason="hpcsamp[mlflow] is not installed")
    for number in (2, 3, 3):
        write(run, EVENTS[:number])
        trackers.export(run, "mlflow", tmp_path / "out")
    client = tracking.MlflowClient(f"sqlite:///{tmp_path}/out/mlflow.db")
    experiment = client.get_experiment_by_name("hpcsamp").experiment_id
    [found] = client.search_runs([experiment])
    assert found.data.params["model.name"] == "mlp"
    history = client.get_metric_history(found.info.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(1, 2.5), (5, 1.5)]


def test_an_export_to_wandb_is_an_offline_run(run, tmp_path):
    pytest.importorskip("wandb", reason="hpcsamp[wandb] is not installed")
    folder = trackers.export(run, "wandb", tmp_path / "out")
    [offline] = folder.glob("offline-run-*")
    content = (offline / "run-a.wandb").read_bytes()
    assert b"valid/nll" in content
    assert b"0.75" in content


def test_what_cannot_be_exported(run, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"has no metrics\.jsonl: is it the folder of a run\?"):
        trackers.export(tmp_path, "tensorboard", tmp_path / "out")
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
    with pytest.raises(UsageError, match=r"pip install 'hpcsamp\[tensorboard\]'"):
        trackers.export(run, "tensorboard", tmp_path / "out")
