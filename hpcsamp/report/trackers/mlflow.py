"""Write runs to an MLflow file store: a folder of text files, without a database or a server."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from hpcsamp.report.trackers import Identity

_STEPS = "hpcsamp_steps"
"""Tag that keeps the last step written for each event, so that no step is written twice."""


class Run:
    """A run of the experiment ``hpcsamp``, found by its identity; only missing steps are added."""

    def __init__(self, run: Identity, out: Path) -> None:
        # recent versions prefer databases and refuse a file store without this variable
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(out.as_uri())
        found = self._client.get_experiment_by_name("hpcsamp")
        experiment = found.experiment_id if found else self._client.create_experiment("hpcsamp")
        same = self._client.search_runs([experiment], f"tags.`hpcsamp.run` = '{run.identity}'")
        self._steps: dict[str, int] = {}
        if same:
            self._run = same[0].info.run_id
            self._steps = json.loads(same[0].data.tags.get(_STEPS, "{}"))
            return
        tags = {"hpcsamp.run": run.identity}
        self._run = self._client.create_run(experiment, tags=tags, run_name=run.name).info.run_id
        settings = [Param(k, str(v)[:500]) for k, v in run.settings.items()]
        for first in range(0, len(settings), 100):  # MLflow accepts at most this number in one call
            self._client.log_batch(self._run, params=settings[first : first + 100])

    def add(self, event: str, step: int, numbers: Mapping[str, float]) -> None:
        """Write the numbers of one line, unless an earlier start has written this step."""
        from mlflow.entities import Metric, RunTag

        if step <= self._steps.get(event, -1):
            return
        self._steps[event] = step
        metrics = [Metric(k, v, 0, step) for k, v in numbers.items()]
        self._client.log_batch(self._run, metrics, tags=[RunTag(_STEPS, json.dumps(self._steps))])

    def close(self) -> None:
        """Do nothing: nothing is buffered, and MLflow does not show whether a run has ended."""
