"""The keeper of a run: holds its folder, writes its checkpoints, puts the newest back in place."""

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
from hpcsamp.run import checkpoint, chosen, noise, provenance, resolve, retention, width
from hpcsamp.run.assemble import Run
from hpcsamp.run.folder import RunFolder
from hpcsamp.run.optimisation import Optimisation
from hpcsamp.run.places import Key, Places
from hpcsamp.run.saved import Saved
from hpcsamp.run.taken import Taken
from hpcsamp.run.writing import Writing
from hpcsamp.streams.noise import form
from hpcsamp.watchdog import Phase, here


class Stateful(Protocol):
    """What has a state to be kept."""

    def state_dict(self) -> dict[str, Any]:
        """Tables, lists, tensors, numbers and strings."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""


class Timed(Protocol):
    """What is told of checkpoints, to stop a run in time."""

    def saving(self) -> AbstractContextManager[object]:
        """Makes a context in which no signal interrupts the writing of a checkpoint."""

    def wrote(self, seconds: float) -> None:
        """A checkpoint took so long, from its begin until it was on the disk."""


class Keeper:
    """Everything that a checkpoint holds, and where checkpoints lie.

    Collective over the world, as are all methods.

    Parameters
    ----------
    folder
        Of the run.
    run, optimisation
        Whose state is kept. A checkpoint holds it whole, whatever the grid.
    topology
        The grid.
    dataset
        Its uid: parameters are those of one dataset.
    watch
        Is told of checkpoints.
    callbacks
        What else has a state.

    Attributes
    ----------
    saved
        Step of the newest checkpoint, which may be on its way; -1 if there is none. Known, not
        looked up: a shared file system shows ranks the folder as it was at different times.
    best, best_step
        Score of the best evaluation so far, of which less is better, and its step.
    told
        Step whose evaluation schedule and callbacks have been told of; one that is done again when
        a run goes on is not told twice.
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
        self._writing: Writing | None = None
        self._buffers: dict[Key, Tensor] = {}

    def claim(self, stack: ExitStack, resume: bool) -> int:
        """Make the folder this run's until the stack is closed.

        Parameters
        ----------
        resume
            Whether to go on from the newest checkpoint.

        Returns
        -------
        int
            Steps that the run has done before.

        Raises
        ------
        CheckpointError, UsageError
            If the folder is another run's, or cannot be written; the same on all ranks.
        """
        world, root = self.topology.world, self.topology.is_root
        with together(world):
            if root:
                stack.enter_context(self.folder.writing())
        # before anything is written: a run that is refused leaves its folder as it was
        step = self.restore() if resume else 0
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
        """Put the newest whole checkpoint in place; returns its step, 0 if there is none.

        Newer ones that are damaged are renamed, and said on standard error.

        Raises
        ------
        CheckpointError
            If none is whole, or it is of a run that computes something else; the same on all ranks.
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
                    f"checkpoint {path} was trained on dataset {content['dataset']}, "
                    f"{self.config.data.path} is {self.dataset}"
                )
            noise.check_draws(path, content, self.method)
            if self.method.trains_with_noise:
                noise.check(path, content, form(self.topology.device))
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
                        f"hpcsamp: {reason}; it is now {aside.name}, going on from {path.name}\n"
                    )
        return self.saved

    def keep(self) -> Path:
        """The checkpoint of this step, begun unless it is there; :meth:`finish` waits for it."""
        step = self.method.step
        path = checkpoint.step_path(self.folder.checkpoints, step)
        if self.saved != step:
            self._begin(path)
            self.saved = step
        return path

    def keep_best(self, score: float) -> None:
        """Keep this step's state apart if its score is the least so far."""
        if score < self.best:
            self.best, self.best_step = score, self.method.step
            self._begin(self.folder.checkpoints / "best.pt")

    @property
    def writing(self) -> bool:
        """Whether this rank still writes a checkpoint."""
        return self._writing is not None and self._writing.busy

    def finish(self) -> None:
        """Wait for the checkpoint that is on its way; old ones go when it is there.

        Raises
        ------
        CheckpointError
            If it cannot be written; the same on all ranks.
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
        """Leave the checkpoint that is on its way. Not collective: for a rank that fails alone."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.give_up()

    def _begin(self, path: Path) -> None:
        """Take the state of this step, and begin to write it."""
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
        """What this rank writes. Not collective."""
        taken = Taken(self.places, buffers)
        taken.add("method", self.method.state_dict())
        taken.add("optimizer", self.optimizer.state_dict())
        if self.average.decay is not None:
            with self.average.in_place():
                taken.add("average", self.method.state_dict(), passing=True)
        return taken

    def _content(self) -> dict[str, Any]:
        """Everything but the states."""
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
