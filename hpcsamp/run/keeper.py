"""Manage the folder of a run: lock it, write its checkpoints, restore the newest one."""

from __future__ import annotations

import copy
import math
import sys
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from hpcsamp.errors import CheckpointError
from hpcsamp.grid import Topology, together
from hpcsamp.run import checkpoint, chosen, noise_form, provenance, resolve, retention, width
from hpcsamp.run.assemble import Run
from hpcsamp.run.finished import finished
from hpcsamp.run.folder import RunFolder
from hpcsamp.run.optimisation import Optimisation
from hpcsamp.run.places import Key, Places
from hpcsamp.run.saved import Saved
from hpcsamp.run.taken import Taken
from hpcsamp.run.writing import Writing
from hpcsamp.streams.noise import form
from hpcsamp.watchdog import Phase, here


class Stateful(Protocol):
    """An object with a state that is part of checkpoints."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state: tables, lists, tensors, numbers and strings."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state."""


class Timed(Protocol):
    """An object notified of checkpoints, which take time before a run can stop."""

    def saving(self) -> AbstractContextManager[object]:
        """Return a context in which signals do not interrupt the writing of a checkpoint."""

    def wrote(self, seconds: float) -> None:
        """Report the seconds from the start of a checkpoint until it was on disk."""


class Keeper:
    """Writes and restores everything that a checkpoint contains.

    The constructor and all methods are collective over the world.

    Parameters
    ----------
    folder
        Folder of the run.
    run, optimisation
        Objects whose state is saved. A checkpoint contains the whole state, whatever the grid.
    topology
        Grid of ranks.
    dataset
        Uid of the dataset to which the parameters belong.
    watch
        Object that is notified of checkpoints.
    callbacks
        Further object with a state.

    Attributes
    ----------
    saved
        Step of the newest checkpoint, which may not be complete yet; -1 if there is none. It is
        tracked and not read from the folder, because a shared file system may show different
        files to different ranks.
    best, best_step
        Score of the best evaluation so far (lower is better), and its step.
    told
        Last step whose evaluation was passed to the schedule and the callbacks; if a resumed run
        repeats an evaluation, they are not notified again.
    finished
        Summary of the run, if it was finished before this start.
    """

    def __init__(
        self,
        folder: RunFolder,
        run: Run,
        optimisation: Optimisation,
        topology: Topology,
        dataset: str,
        watch: Timed,
        callbacks: Stateful,
    ) -> None:
        self.folder = folder
        self.config = run.config
        self.method = run.method
        self.optimizer = optimisation.optimizer
        self.schedule = optimisation.schedule
        self.updates = optimisation.updates
        self.average = optimisation.average
        self.topology = topology
        self.places = Places(self.method, topology, self.updates)
        self.dataset = dataset
        self.watch = watch
        self.callbacks = callbacks
        self.saved = -1
        self.best = math.inf
        self.best_step = -1
        self.told = -1
        self.finished: dict[str, Any] | None = None
        self._writing: Writing | None = None
        self._buffers: dict[Key, Tensor] = {}

    def claim(self, stack: ExitStack, resume: bool, steps: int) -> int:
        """Lock the folder for this run until the stack is closed.

        The folder of a finished run remains unchanged.

        Parameters
        ----------
        resume
            Whether to resume from the newest checkpoint.
        steps
            Steps of the whole run.

        Returns
        -------
        int
            Number of steps that the run has already done.

        Raises
        ------
        CheckpointError, UsageError
            If the folder belongs to another run, or cannot be written; the same on all ranks.
        """
        world, root = self.topology.world, self.topology.is_root
        with together(world):
            if root:
                stack.enter_context(self.folder.writing())
        # before anything is written, so that a refused run leaves its folder unchanged
        step = self.restore() if resume else 0
        with together(world):
            if root and step:
                self.finished = finished(self.folder, self.config, step, steps)
        self.finished = world.bcast(self.finished)
        if self.finished is not None:
            return step
        with together(world):
            if root:
                self.folder.prepare(self.config, resume)
                retention.prune(self.folder.checkpoints, self.config.training.keep)
        start = provenance.collect(self.topology, self.config.seed)
        with together(world):
            if root:
                self.folder.forget_after(step)
                width.forget_after(self.folder, step)
                self.folder.add_start({**start, "step": step})
        return step

    def restore(self) -> int:
        """Restore the newest whole checkpoint; return its step, 0 if there is none.

        Newer checkpoints that are damaged are renamed and reported on standard error.

        Raises
        ------
        CheckpointError
            If none is whole, or its configuration would change the results; the same on all ranks.
        """
        world = self.topology.world
        with together(world):
            path, damaged = retention.newest_whole(self.folder.checkpoints, world)
        if path is None:
            return 0
        with together(world):
            saved = Saved(path)
            content = saved.content
            before, now = resolve.table_of(content["config"]), resolve.table_of(self.config)
            checkpoint.check_config(path, before, now)
            checkpoint.check_run(path, content, self.folder.run)
            if content["dataset"] != self.dataset:
                raise CheckpointError(
                    f"checkpoint {path} was trained on dataset {content['dataset']}, but "
                    f"{self.config.data.path} is {self.dataset}"
                )
            noise_form.check_draws(path, content, self.method)
            if self.method.trains_with_noise:
                noise_form.check(path, content, form(self.topology.device))
            if self.average.decay is not None and "average" in saved:
                self.average.load(saved.state("average", self.places))
            self.method.load_state_dict(saved.state("method", self.places))
            self.optimizer.load_state_dict(saved.state("optimizer", self.places))
            chosen.take(content, self.method, self.topology)
            self.schedule.load_state_dict(content["schedule"])
            self.told = content.get("told", -1)
            self.callbacks.load_state_dict(content.get("callbacks", {}))
            self.best, self.best_step = content["best"], content.get("best_step", -1)
            self.method.step = self.saved = content["step"]
            if self.topology.is_root:
                for newer, reason in damaged.items():
                    aside = retention.put_aside(newer)
                    sys.stderr.write(
                        f"hpcsamp: {reason}; it was renamed to {aside.name}, and the run resumes "
                        f"from {path.name}\n"
                    )
        return self.saved

    def keep(self) -> Path:
        """Begin a checkpoint of this step unless it exists; :meth:`finish` waits for it."""
        step = self.method.step
        path = checkpoint.step_path(self.folder.checkpoints, step)
        if self.saved != step:
            self._begin(path)
            self.saved = step
        return path

    def keep_best(self, score: float) -> None:
        """Save this step as the best state if its score is the lowest so far."""
        if score < self.best:
            self.best, self.best_step = score, self.method.step
            self._begin(self.folder.checkpoints / "best.pt")

    @property
    def writing(self) -> bool:
        """Whether this rank is still writing a checkpoint."""
        return self._writing is not None and self._writing.busy

    def finish(self) -> None:
        """Wait until the current checkpoint is on disk, then remove old ones.

        Raises
        ------
        CheckpointError
            If the checkpoint cannot be written; the same on all ranks.
        """
        writing, self._writing = self._writing, None
        if writing is None:
            return
        here.at(Phase.CHECKPOINT, self.saved)
        with self.watch.saving():
            writing.end(self.folder.check)
            self.watch.wrote(writing.seconds)
            with together(self.topology.world):
                if self.topology.is_root:
                    retention.prune(self.folder.checkpoints, self.config.training.keep)

    def give_up(self) -> None:
        """Abandon the current checkpoint after a failure of this rank alone. Not collective."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.give_up()

    def _begin(self, path: Path) -> None:
        """Copy the state of this step and begin to write it."""
        self.finish()
        here.at(Phase.CHECKPOINT, self.method.step)
        behind, root, world = self._behind, self.topology.is_root, self.topology.world
        with self.watch.saving():
            with together(world):
                if root:
                    self.folder.check()
                taken = self._taken(self._buffers if behind else None)
                content = copy.deepcopy(self._content()) if root else None
            self._writing = Writing(path, taken, content, world)
        if not behind:
            self.finish()

    @property
    def _behind(self) -> bool:
        return self.config.training.checkpoint_behind

    def _taken(self, buffers: dict[Key, Tensor] | None) -> Taken:
        """The part of the state that this rank writes. Not collective."""
        taken = Taken(self.places, buffers)
        taken.add("method", self.method.state_dict())
        taken.add("optimizer", self.optimizer.state_dict())
        if self.average.decay is not None:
            with self.average.in_place():
                taken.add("average", self.method.state_dict(), passing=True)
        return taken

    def _content(self) -> dict[str, Any]:
        """Content of a checkpoint except for the states."""
        return {
            "step": self.method.step,
            "best": self.best,
            "best_step": self.best_step,
            "config": resolve.table_of(self.config),
            "dataset": self.dataset,
            "run": self.folder.run,
            "noise": form(self.topology.device),
            "draws": self.method.draws,
            "passes": chosen.kept(self.method, self.topology),
            "schedule": self.schedule.state_dict(),
            "told": self.told,
            "callbacks": self.callbacks.state_dict(),
        }
