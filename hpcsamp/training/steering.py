"""Create the callbacks of a configuration, and check that they get their evaluations."""

from __future__ import annotations

from hpcsamp import arguments
from hpcsamp.config import RunConfig
from hpcsamp.data import Dataset
from hpcsamp.errors import UsageError
from hpcsamp.names import CALLBACKS
from hpcsamp.run.schedule import Schedule
from hpcsamp.training.callbacks import Callback
from hpcsamp.training.patience import Patience


def callbacks_of(config: RunConfig) -> list[Callback]:
    """Create the callbacks of a configuration: early stopping, those named by the user, trackers.

    Raises
    ------
    UsageError
        If a class is not a callback, or its arguments are wrong; or a tracker is not installed.
    """
    c = config.training
    found: list[Callback] = [] if c.patience is None else [Patience(c.patience, c.min_delta)]
    for entry in c.callbacks:
        table = {"name": entry} if isinstance(entry, str) else dict(entry)
        name = table.pop("name", None)
        kind = CALLBACKS.find(name)
        made: Callback = arguments.construct("training.callbacks", str(name), kind, table)
        found.append(made)
    if config.record.to:  # last, so that it is called after what the others do
        from hpcsamp.training.recording import Recording  # which imports plots

        found.append(Recording(config.record.to))
    return found


def check_watched(config: RunConfig, schedule: Schedule, dataset: Dataset) -> None:
    """Check that a ``valid`` split exists if evaluations control the run.

    Raises
    ------
    UsageError
        If there is none; the message contains the key that needs it and the existing splits.
    """
    needs = {
        f"training.patience = {config.training.patience}": config.training.patience is not None,
        f"schedule.name = {config.schedule.name!r}": schedule.needs_metric,
    }
    splits = dataset.manifest.splits
    for key, needed in needs.items():
        if needed and "valid" not in splits:
            raise UsageError(
                f"{key} needs evaluations, but {dataset.path} has no valid split, only "
                f"{', '.join(splits)}"
            )
