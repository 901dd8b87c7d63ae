"""The keeper of a run: holds its folder, writes its checkpoints, puts the newest back in place."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, Protocol

from hpcsamp.errors import CheckpointError
from hpcsamp.grid import Topology, together
from hpcsamp.run import checkpoint, chosen, noise, provenance, resolve, width
from hpcsamp.run.assemble import Run
from hpcsamp.run.folder import RunFolder
from hpcsamp.run.optimisation import Optimisation
from hpcsamp.run.parted import Parted
from hpcsamp.streams.noise import form
from hpcsamp.watchdog import Phase, here


class Stateful(Protocol):
    """What has a state to be kept."""

    def state_dict(self) -> dict[str, Any]:
        """Tables, lists, tensors, numbers and strings."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""


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
    saving
        Makes a context in which no signal interrupts the writing of a checkpoint.
    callbacks
        What else has a state.

    Attributes
    ----------
    saved
        Step of the newest checkpoint, -1 if there is none. Known, not looked up: a shared file
        system shows ranks the folder as it was at different times.
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
        saving: Callable[[], AbstractContextManager[object]],
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
        self.parted = Parted(self.method, topology)
        self.dataset = dataset
        self.saving = saving
        self.callbacks = callbacks
        self.saved = -1
        self.best = math.inf
        self.best_step = -1
        self.told = -1

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
        # One rank looks: a shared file system may show others an older folder.
        with together(self.topology.world):
            found: tuple[Path | None, dict[Path, str]] = (None, {})
            if self.topology.is_root:
                found = checkpoint.newest_whole(self.folder.checkpoints)
        path, damaged = self.topology.world.bcast(found)
        if path is None:
            return 0
        with together(self.topology.world):
            content = checkpoint.read(path, self.topology.device)
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
            self.average.load(content.get("average"), self.parted)
            self._load(content["method"], content["optimizer"])
            chosen.take(content, self.method, self.topology)
            self.schedule.load_state_dict(content["schedule"])
            self.told = content.get("told", -1)
            self.callbacks.load_state_dict(content.get("callbacks", {}))
            self.best, self.best_step = content["best"], content.get("best_step", -1)
            self.method.step = self.saved = content["step"]
            if self.topology.is_root:
                for newer, reason in damaged.items():
                    aside = checkpoint.put_aside(newer)
                    sys.stderr.write(
                        f"hpcsamp: {reason}; it is now {aside.name}, going on from {path.name}\n"
                    )
        return self.saved

    def keep(self) -> Path:
        """The checkpoint of this step, written unless it is there; old ones go."""
        step = self.method.step
        path = checkpoint.step_path(self.folder.checkpoints, step)
        if self.saved != step:
            self._save(path)
            self.saved = step
            if self.topology.is_root:
                self.folder.check()
                checkpoint.prune(self.folder.checkpoints, self.config.training.keep)
        return path

    def keep_best(self, score: float) -> None:
        """Keep this step's state apart if its score is the least so far."""
        if score < self.best:
            self.best, self.best_step = score, self.method.step
            self._save(self.folder.checkpoints / "best.pt")

    def _load(self, method: dict[str, Any], optimizer: dict[str, Any]) -> None:
        """Take this rank's part of the whole state."""
        own = self.parted.cut(method)
        self.method.load_state_dict(self.method.placement.part(own))
        state = self.parted.cut_of(self.updates.stepped, optimizer["state"])
        self.updates.load_state(self.optimizer, {**optimizer, "state": state})

    def _whole(self) -> dict[str, Any]:
        """The states of method and optimiser, whole on rank 0. Collective over the world."""
        average = self.average.whole_state(self.parted, self.topology)
        state = self.method.placement.gather(self.method.state_dict(), self.topology)
        table = self.updates.whole_state(self.optimizer, self.topology)
        return {
            "method": self.parted.whole(state),
            "optimizer": {
                **table,
                "state": self.parted.whole_of(self.updates.stepped, table["state"]),
            },
            **({} if average is None else {"average": average}),
        }

    def _content(self, whole: dict[str, Any]) -> dict[str, Any]:
        return {
            **whole,
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

    def _save(self, path: Path) -> None:
        here.at(Phase.CHECKPOINT, self.method.step)
        whole = self._whole()
        with self.saving(), together(self.topology.world):
            if self.topology.is_root:
                self.folder.check()
                checkpoint.save(path, self._content(whole))
