"""Metrics of a run in the files of trackers, read back as these read them."""

from __future__ import annotations

import json
import struct
import sys

import pytest

from hpcsamp.errors import UsageError
from hpcsamp.report import trackers
from hpcsamp.training.recording import Recording

EVENTS = [
    {"event": "train", "step": 1, "epoch": 0, "loss": 2.5, "seconds": 0.1},
    {"event": "valid", "step": 4, "epoch": 0, "nll": 0.75, "accuracy": 0.5},
    {"event": "train", "step": 5, "epoch": 1, "loss": 1.5, "seconds": 0.1},
]
LOSS = [(1, 2.5), (5, 1.5)]


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "config.toml").write_text('seed = 3\n[model]\nname = "mlp"\n')
    write(folder, EVENTS[:2])
    return folder


def write(folder, events):
    (folder / "metrics.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))


class At:
    """What a moment of a run says of its folder."""

    is_root = True

    def __init__(self, folder):
        self.folder = folder


def recorded(run, name):
    """Write in two starts, the second of which repeats a step; files are those of the last."""
    for number in (2, 3):
        recording = Recording([name])
        write(run, EVENTS[:1])
        recording.begin(At(run))
        write(run, EVENTS[:number])
        recording.after_evaluation(At(run))
        if number == 3:  # the first start was killed
            recording.end(At(run))


def exported(run, name):
    for number in (2, 3, 3):
        write(run, EVENTS[:number])
        trackers.export(run, name, run / name)


WAYS = pytest.mark.parametrize("written", [recorded, exported])


@WAYS
def test_tensorboard_reads_every_value_once(written, run):
    pytest.importorskip("tensorboard", reason="hpcsamp[tensorboard] is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    written(run, "tensorboard")
    found = EventAccumulator(str(run / "tensorboard" / "a-a"))
    found.Reload()
    assert [(s.step, s.value) for s in found.Scalars("train/loss")] == LOSS
    assert [(s.step, s.value) for s in found.Scalars("valid/nll")] == [(4, 0.75)]
    assert len(found.Tags()["scalars"]) == 6


@WAYS
def test_mlflow_reads_every_value_once(written, run):
    tracking = pytest.importorskip("mlflow.tracking", reason="hpcsamp[mlflow] is not installed")
    written(run, "mlflow")
    client = tracking.MlflowClient((run / "mlflow").as_uri())
    [found] = client.search_runs([client.get_experiment_by_name("hpcsamp").experiment_id])
    assert found.data.params["model.name"] == "mlp"
    assert found.info.run_name == "a"
    history = client.get_metric_history(found.info.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == LOSS


def records(file):
    """The records of an offline run: LevelDB's log, blocks of 32 KiB with parts of records."""
    content, place, record = file.read_bytes(), 7, b""  # after the head of the file
    while place < len(content):
        if 32768 - place % 32768 < 7:  # too short for the head of a part
            place += 32768 - place % 32768
            continue
        size, kind = struct.unpack_from("<HB", content, place + 4)  # after the checksum
        record += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def test_wandb_parses_its_offline_run(run, tmp_path):
    pytest.importorskip("wandb", reason="hpcsamp[wandb] is not installed")
    from wandb.proto.wandb_internal_pb2 import Record

    trackers.export(run, "wandb", tmp_path / "out")
    [file] = (tmp_path / "out" / "wandb").glob("offline-run-*/run-a.wandb")
    found = []
    for data in records(file):
        record = Record.FromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            found.append({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items})
    assert [(f["_step"], f.get("train/loss"), f.get("valid/nll")) for f in found] == [
        (1, 2.5, None),
        (4, None, 0.75),
    ]


def test_the_trackers_of_a_job_start_no_process(run):
    """A fork under MPI may corrupt the memory of its network."""
    started = []

    def hook(event, arguments):
        if event in ("os.fork", "os.forkpty", "os.posix_spawn", "subprocess.Popen", "os.system"):
            started.append((event, arguments))

    names = []
    for name in ("tensorboard", "mlflow"):
        try:
            trackers.installed(name)
        except UsageError:
            continue
        names.append(name)
    sys.addaudithook(hook)
    for name in names:
        recorded(run, name)
    assert started == []
    assert names, "no tracker is installed"


def test_what_cannot_be_exported(run, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"has no metrics\.jsonl: is it the folder of a run\?"):
        trackers.export(tmp_path, "tensorboard", tmp_path / "out")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'hpcsamp\[tensorboard\]'"):
        trackers.export(run, "tensorboard", tmp_path / "out")
    with pytest.raises(UsageError, match=r"pip install 'hpcsamp\[mlflow\]'"):
        Recording(["mlflow"])
