"""Search for the best values of keys with Optuna: request trials, submit them, report results.

Optuna's journal is a file in the folder of the campaign; there is no server. Trials are points like
all others, and their results are in their folders and marks. Nothing is lost if the search is
killed, and a second search continues it: it reports the trials that have ended since to Optuna and
requests the remaining ones. The scheduler runs the points, and they continue while no search runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpcsamp.campaign import best, mending, products, space, submit
from hpcsamp.campaign.collect import collect
from hpcsamp.campaign.points import Campaign
from hpcsamp.campaign.selection import Selection
from hpcsamp.campaign.status import PointStatus, Survey
from hpcsamp.errors import DataError, UsageError
from hpcsamp.locks import locked
from hpcsamp.sealing import text
from hpcsamp.spelling import shown

JOURNAL = "optuna.log"

STARTS = 3
"""Number of submissions after which a point that was interrupted counts as failed."""


class Searcher:
    """Search for the best points of a campaign.

    Parameters
    ----------
    file, site
        The campaign file, and a site to use in place of the file's.
    report
        Called with a line for each trial that ends.

    Raises
    ------
    UsageError
        If the campaign has no ``[search]``, or Optuna is not installed.
    """

    def __init__(self, file: Path, site: str | None, report: Callable[[str], object]) -> None:
        self.file, self.site, self.report = file, site, report
        campaign = Campaign(file, site)
        if campaign.spec.search is None:
            raise UsageError(f"{file} has no [search]")
        self.search = campaign.spec.search
        self.folder = campaign.folder
        self.up = (
            best.is_highest(self.search.metric)
            if self.search.highest is None
            else self.search.highest
        )
        self.study = self._open()

    def run(self, every: float) -> None:
        """Search until all trials have ended; check them every ``every`` seconds.

        Raises
        ------
        HpcsampError
            If points cannot be submitted, or another search of this campaign runs.
        """
        with locked(self.folder / ".search.lock", f"the search in {self.folder}"):
            while self.step():
                time.sleep(every)

    def step(self) -> bool:
        """Report ended trials to Optuna and submit new ones; return whether any trial is left."""
        self._write()
        if space.read_trials(self.folder):
            self._tell()
        running = self._running()
        wanted = min(self.search.at_once - len(running), self.search.trials - len(self._trials()))
        for _ in range(wanted):
            self.study.ask(self._distributions())
        if wanted > 0:
            self._write()
            self._submit("missing")
        return bool(self._running()) or len(self._trials()) < self.search.trials

    def best(self) -> tuple[int, float] | None:
        """Return the number and the value of the best trial; None if no trial has a value."""
        ended = [t for t in self._trials() if t.state.name == "COMPLETE"]
        if not ended:
            return None
        found = (max if self.up else min)(ended, key=lambda t: t.value)
        return found.number, float(found.value)

    # Optuna -----------------------------------------------------------------------------------

    def _open(self) -> Any:
        try:
            import optuna
            from optuna.storages import JournalStorage
            from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
        except ImportError:
            raise UsageError(
                "hpcsamp campaign search needs optuna: pip install 'hpcsamp[search]'"
            ) from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = str(self.folder / JOURNAL)
        storage = JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))
        study = optuna.create_study(
            storage=storage,
            study_name="campaign",
            direction="maximize" if self.up else "minimize",
            load_if_exists=True,
        )
        # a sampler with the same seed would begin with the same values again
        seed = self.search.seed + len(study.get_trials(deepcopy=False))
        study.sampler = {
            "tpe": lambda: optuna.samplers.TPESampler(seed=seed, constant_liar=True),
            "random": lambda: optuna.samplers.RandomSampler(seed=seed),
            "quasi_random": lambda: optuna.samplers.QMCSampler(seed=self.search.seed),
            "gp": lambda: optuna.samplers.GPSampler(seed=seed),
        }[self.search.sampler]()
        study.pruner = {
            "none": optuna.pruners.NopPruner,
            "median": optuna.pruners.MedianPruner,
            "successive_halving": optuna.pruners.SuccessiveHalvingPruner,
            "hyperband": optuna.pruners.HyperbandPruner,
        }[self.search.pruner]()
        return study

    def _distributions(self) -> dict[str, Any]:
        from optuna import distributions

        found: dict[str, Any] = {}
        for key, domain in self.search.space.items():
            if isinstance(domain, list):  # by index: Optuna takes no lists and tables as values
                found[key] = distributions.CategoricalDistribution(tuple(range(len(domain))))
                continue
            whole = all(isinstance(domain[k], int) for k in ("low", "high", "step") if k in domain)
            kind = distributions.IntDistribution if whole else distributions.FloatDistribution
            found[key] = kind(**domain)
        return found

    def _trials(self) -> list[Any]:
        return list(self.study.get_trials(deepcopy=False))

    def _running(self) -> list[Any]:
        return [t for t in self._trials() if t.state.name == "RUNNING"]

    def _values(self, trial: Any) -> dict[str, Any]:
        """Return the values of a trial by key."""
        return {
            key: domain[trial.params[key]] if isinstance(domain, list) else trial.params[key]
            for key, domain in self.search.space.items()
        }

    # Points -----------------------------------------------------------------------------------

    def _write(self) -> None:
        """Record the trials whose values are all known, before any of them is submitted."""
        known: list[dict[str, Any]] = []
        for trial in self._trials():
            if trial.params.keys() >= self.search.space.keys():
                values = self._values(trial)
                if values not in known:  # equal trials are one point
                    known.append(values)
        if known != space.read_trials(self.folder):
            space.write_trials(self.folder, known)

    def _submit(self, word: Any, names: tuple[str, ...] = ()) -> None:
        selection = Selection(points=names)
        submit.submit(Campaign(self.file, self.site), [word], selection=selection)

    def _tell(self) -> None:
        """Report the results of ended trials; prune others, and restart interrupted ones."""
        from optuna.trial import TrialState

        campaign = Campaign(self.file, self.site)
        survey = Survey(campaign, mending.load(campaign))
        points = {_key(self._values_of(s)): s for s in survey.points}
        again: list[str] = []
        for trial in self._running():
            if (
                trial.params.keys() < self.search.space.keys()
            ):  # the search was killed while requesting it
                self.study.tell(trial.number, state=TrialState.FAIL)
                continue
            status = points[_key(self._values(trial))]
            number, name = status.point.number, status.point.name
            if status.word == "done":
                value = self._value(campaign, name)
                if value is None:
                    self.study.tell(trial.number, state=TrialState.FAIL)
                    self.report(f"point {number}: no finite {self.search.metric}")
                else:
                    self.study.tell(trial.number, value)
                    self.report(f"point {number}: {self.search.metric} = {value:.6g}")
            elif status.word == "failed":
                self.study.tell(trial.number, state=TrialState.FAIL)
                why = survey.reasons([status])[name]
                self.report(f"point {number}: failed: {why}")
            elif status.word == "running" and self.search.pruner != "none":
                if self._is_hopeless(trial, self.folder / "points" / name):
                    pruned = space.read_pruned(self.folder) | {name}
                    space.write_trials(self.folder, space.read_trials(self.folder), pruned)
                    submit.cancel(campaign, Selection(points=(name,)))
                    self.study.tell(trial.number, state=TrialState.PRUNED)
                    self.report(f"point {number}: pruned")
            elif status.word == "pruned":  # killed before Optuna knew
                self.study.tell(trial.number, state=TrialState.PRUNED)
            elif status.word == "interrupted":
                if len(survey.elements_of(status.point)) >= STARTS:
                    self.study.tell(trial.number, state=TrialState.FAIL)
                    self.report(f"point {number}: failed: interrupted {STARTS} times")
                else:
                    again.append(name)
            elif (
                status.word == "missing"
            ):  # the search was killed before submitting it, or it was cancelled
                self._submit("missing", (name,))
        if again:
            self._submit("interrupted", tuple(again))

    def _values_of(self, status: PointStatus) -> dict[str, Any]:
        return {key: status.point.values[key] for key in self.search.space}

    def _value(self, campaign: Campaign, name: str) -> float | None:
        results = collect(campaign, False, Selection(points=(name,)))
        if not results.rows:
            return None
        value = results.rows[0].get(best.column(results, self.search.metric))
        return value if best.is_number(value) else None

    def _is_hopeless(self, trial: Any, folder: Path) -> bool:
        """Whether the pruner ends a trial, given its validation metrics so far."""
        import optuna

        file = folder / "metrics.jsonl"
        if not file.exists():
            return False
        try:
            owner = products.owner(folder)
            lines = text.read_lines(file, owner, unsealed=not owner)[0]
        except DataError:  # the file is being written
            return False
        name = self.search.metric.rpartition(".")[2]
        live = optuna.trial.Trial(self.study, trial._trial_id)
        for line in lines:
            step, value = line.get("step"), line.get(name)
            known = step in trial.intermediate_values or line.get("event") != "valid"
            if not known and isinstance(step, int) and best.is_number(value):
                live.report(value, step)
        return bool(live.should_prune())


def _key(values: dict[str, Any]) -> str:
    return shown(values)
