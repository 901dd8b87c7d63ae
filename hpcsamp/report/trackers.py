"""Export the metrics of a run to TensorBoard, MLflow or Weights & Biases: files only, no server.

Trackers are written from ``metrics.jsonl`` after or beside a job, never by it: they start threads
and processes, which MPI does not allow for. An export may be repeated while the run goes on, also
after requeues: it is always one run of the tracker, named by the random name of the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcsamp.config import flatten
from hpcsamp.errors import UsageError
from hpcsamp.run.folder import RunFolder
from hpcsamp.sealing import text

TRACKERS = ("tensorboard", "mlflow", "wandb")


@dataclass(frozen=True)
class Recorded:
    """What a tracker gets of a run.

    Attributes
    ----------
    name
        Name of the folder.
    identity
        Random name of the run, the same over all of its starts.
    settings
        Configuration by dotted key.
    lines
        For each line of ``metrics.jsonl`` the step, and the numbers by ``event/name``.
    """

    name: str
    identity: str
    settings: dict[str, Any]
    lines: list[tuple[int, dict[str, float]]]


def read(folder: Path) -> Recorded:
    """Read a run folder.

    Raises
    ------
    HpcsampError
        If it is not the folder of a run, or a file is damaged.
    """
    run = RunFolder(folder)
    if not (folder / "metrics.jsonl").is_file():
        raise UsageError(f"{folder} has no metrics.jsonl: is it the folder of a run?")
    settings = flatten(text.read_toml(folder / "config.toml", None))
    identity = str(settings.pop("run", "")) or folder.resolve().name
    return Recorded(folder.resolve().name, identity, settings, list(_lines(run)))


def _lines(run: RunFolder) -> Iterator[tuple[int, dict[str, float]]]:
    for line in run.events():
        numbers = {
            f"{line['event']}/{key}": float(value)
            for key, value in line.items()
            if key != "step" and isinstance(value, int | float) and not isinstance(value, bool)
        }
        if numbers and isinstance(line.get("step"), int):
            yield line["step"], numbers


def export(folder: Path, tracker: str, out: Path) -> Path:
    """Write the metrics of a run for a tracker; return the folder to open with it.

    Parameters
    ----------
    folder
        Folder of the run.
    tracker
        One of :data:`TRACKERS`.
    out
        Folder that holds the files of the tracker, of this and other runs.

    Raises
    ------
    HpcsampError
        If the run cannot be read, or the tracker is not installed.
    """
    recorded = read(folder)
    try:
        out.mkdir(parents=True, exist_ok=True)
        return {"tensorboard": _tensorboard, "mlflow": _mlflow, "wandb": _wandb}[tracker](
            recorded, out.resolve()
        )
    except ImportError:
        raise UsageError(
            f"hpcsamp export --to {tracker} needs a package: pip install 'hpcsamp[{tracker}]'"
        ) from None
    except OSError as e:
        raise UsageError(f"cannot write {e.filename or out}: {e.strerror or e}") from e


def _tensorboard(recorded: Recorded, out: Path) -> Path:
    """Write one event file, in place of that of an earlier export."""
    from tensorboardX import SummaryWriter

    folder = out / f"{recorded.name}-{recorded.identity}"
    before = list(folder.glob("events.out.tfevents.*"))
    with SummaryWriter(str(folder), filename_suffix=f".{len(before)}") as writer:
        table = "\n".join(f"    {k} = {v}" for k, v in recorded.settings.items())
        writer.add_text("configuration", table, 0)
        for step, numbers in recorded.lines:
            for name, value in numbers.items():
                writer.add_scalar(name, value, step)
    for file in before:
        file.unlink()
    return out


def _mlflow(recorded: Recorded, out: Path) -> Path:
    """Add to the run of an earlier export what it does not have yet."""
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    found = client.get_experiment_by_name("hpcsamp")
    experiment = (
        found.experiment_id
        if found
        else client.create_experiment("hpcsamp", artifact_location=(out / "artifacts").as_uri())
    )
    same = client.search_runs([experiment], f"tags.`hpcsamp.run` = '{recorded.identity}'")
    if same:
        run, known = same[0].info.run_id, int(same[0].data.tags["hpcsamp.lines"])
    else:
        tags = {"hpcsamp.run": recorded.identity, "hpcsamp.lines": "0"}
        run = client.create_run(experiment, run_name=recorded.name, tags=tags).info.run_id
        known = 0
        settings = [Param(k, str(v)[:500]) for k, v in recorded.settings.items()]
        for first in range(0, len(settings), 100):  # MLflow takes 100 at a time
            client.log_batch(run, params=settings[first : first + 100])
    for number, (step, numbers) in enumerate(recorded.lines[known:], start=known + 1):
        metrics = [Metric(k, v, 0, step) for k, v in numbers.items()]
        client.log_batch(run, metrics, tags=[RunTag("hpcsamp.lines", str(number))])
    return out


def _wandb(recorded: Recorded, out: Path) -> Path:
    """Write an offline run, which ``wandb sync`` uploads to the one run of this name."""
    import wandb

    with wandb.init(
        mode="offline",
        dir=str(out),
        project="hpcsamp",
        name=recorded.name,
        id=recorded.identity,
        resume="allow",
        config=recorded.settings,
        settings=wandb.Settings(console="off", silent=True),
    ) as run:
        for step, numbers in recorded.lines:
            run.log(numbers, step=step)
    return out / "wandb"
