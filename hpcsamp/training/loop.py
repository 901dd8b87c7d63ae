"""The training loop, from a configuration to a summary."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from hpcsamp import collectives as exchange
from hpcsamp import heap
from hpcsamp.config import RunConfig, seconds
from hpcsamp.data import Batch, Dataset
from hpcsamp.data.staged import staged
from hpcsamp.devices import on_device
from hpcsamp.grid import Topology, together
from hpcsamp.losses import Parts
from hpcsamp.methods.compiling import compile_passes
from hpcsamp.planning import memory, network_memory
from hpcsamp.run import health, initial
from hpcsamp.run.assemble import Run, in_turn
from hpcsamp.run.balance import balance
from hpcsamp.run.folder import RunFolder
from hpcsamp.run.foreign import check_values
from hpcsamp.run.keeper import Keeper
from hpcsamp.run.optimisation import Optimisation
from hpcsamp.run.resolve import resolved
from hpcsamp.run.trained import Trained
from hpcsamp.training import preemption, summary, width
from hpcsamp.training.batches import TrainingFeed
from hpcsamp.training.callbacks import Callback, Callbacks, Moment
from hpcsamp.training.progress import Reporter
from hpcsamp.training.steering import callbacks_of, check_watched
from hpcsamp.training.step_agreement import Agreement
from hpcsamp.training.validation import Validation
from hpcsamp.watchdog import Phase, here
from hpcsamp.weights import inputs_of


def train(
    config: RunConfig, topology: Topology, output: str | Path, resume: bool = False, **options: Any
) -> dict[str, Any]:
    """Train a run to its end and return its summary. See :class:`Trainer`. Collective."""
    with Trainer(config, topology, output, resume, **options) as trainer:
        return trainer.run()


class Trainer:
    """Trains one run on one grid.

    The constructor and all methods are collective over the world. Use it in a ``with`` block, at
    whose end all resources are closed.

    Parameters
    ----------
    config
        Checked configuration, the same on every rank.
    topology
        Grid of ranks.
    output
        Run folder.
    resume
        Whether to resume from the newest checkpoint, if there is one.
    quiet
        Whether to print nothing but warnings during the run.
    verbose
        Whether a batch log has a line for each step.
    callbacks
        Further callbacks, called after those of the configuration.

    Attributes
    ----------
    config
        Configuration with every default written out.
    steps, steps_per_epoch, done
        Steps of the whole run; of an epoch; and before this start.
    times
        Seconds of each step since this start.
    ended
        Why the run ended before its last step; empty if it did not.
    """

    def __init__(
        self,
        config: RunConfig,
        topology: Topology,
        output: str | Path,
        resume: bool = False,
        *,
        quiet: bool = False,
        verbose: bool = False,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        world = topology.world
        self.topology = topology
        self.folder = RunFolder(output)
        check_values(config, world)
        config = balance(config, world)
        with together(world):
            config = resolved(config)
        config, weights = initial.identified(config, topology, self.folder, resume)
        self.config = config
        self.times: list[float] = []
        self.ended = ""
        self._wishes = preemption.Wish.NONE
        self._written = False  # whether all ranks wrote the checkpoint, as agreed in the last step
        self._parts = Parts()  # loss of the last step
        limit = config.training.time_limit
        end = preemption.deadline(seconds(limit) if limit is not None else None, os.environ)
        with ExitStack() as stack:
            watch = preemption.Watch(end, config.training.time_margin)
            self.watch = stack.enter_context(watch)
            heap.keep()
            with together(world):
                folder = staged(config.data.path)
                self.dataset = Dataset.open(folder, "train")
            # one rank of a node downloads pretrained weights, and the others find them in the cache
            with together(world), in_turn(topology):
                network_memory.check(config, self.dataset, topology)
                values = None if weights is None else initial.read(weights)
                self.assembled = Run.of(config, self.dataset, topology, values)
            stack.push(self._free)
            with together(world):
                if topology.is_root and not quiet:
                    sys.stderr.writelines(f"hpcsamp: {line}\n" for line in self.assembled.notes)
                self.method = self.assembled.method
                asked = self.method.prediction_samples(config.evaluation.samples)
                has_valid = "valid" in self.dataset.manifest.splits
                if has_valid:  # fail now rather than after an epoch if these ranks cannot evaluate
                    self.method.prediction_share(asked, topology.sample_size, topology.sample_rank)
                valid = Dataset.open(folder, "valid") if has_valid else None
            self.feed = TrainingFeed(self.assembled, self.dataset, topology)
            stack.callback(self.feed.close)
            self.steps_per_epoch = self.feed.steps_per_epoch
            steps = config.training.epochs * self.steps_per_epoch
            self.steps = min(steps, config.training.steps or steps)
            self.collectives = exchange.choose(topology, config.parallel.collectives)
            self.optimisation = Optimisation(
                self.assembled,
                topology,
                self.collectives,
                items=self.dataset.count,
                steps_per_epoch=self.steps_per_epoch,
            )
            self.memory = memory.check(self.assembled, topology)
            with together(world):
                check_watched(config, self.optimisation.schedule, self.dataset)
                self.callbacks = Callbacks([*callbacks_of(config), *callbacks], topology)
            self.moment = Moment(
                config, self.method, self.folder.path, topology.rank, self.steps,
                self.steps_per_epoch, metric=config.training.best,
            )  # fmt: skip
            self.keeper = Keeper(
                self.folder, self.assembled, self.optimisation, topology, self.dataset.uid,
                self.watch, self.callbacks,
            )  # fmt: skip
            self.validation: Validation | None = None
            if valid is not None:
                self.validation = Validation(self.assembled, valid, topology, self.collectives)
                stack.callback(self.validation.close)
            self.done = self.keeper.claim(stack, resume, self.steps)
            with together(world):
                if topology.is_root and self.keeper.finished is None:
                    Trained.of(self.dataset.path, self.dataset.manifest).keep(self.folder)
            root = topology.is_root
            self.reporter = Reporter(
                root and not quiet, self.steps, self.done, each=verbose, warns=root
            )
            stack.callback(self.reporter.close)
            self._open = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        with self._open:
            if error is None or getattr(error, "agreed", False):  # then all ranks arrive here
                self.keeper.finish()
            else:
                self.keeper.give_up()

    def _free(self, kind: type[BaseException] | None, *_: object) -> None:
        """Free shared memory, which is collective; skipped if some ranks have failed."""
        if kind is None:
            self.assembled.free()

    def run(self) -> dict[str, Any]:
        """Train to the end and return the summary; that of a finished run is returned unchanged.

        Raises
        ------
        PreemptedError
            If a signal or the time limit requested an early end; a checkpoint was written then. On
            all ranks.
        """
        if self.keeper.finished is not None:
            self.reporter.say(
                f"the run in {self.folder.path} is finished: there is nothing left to train"
            )
            self.ended = str(self.keeper.finished.get("ended", ""))
            for line in summary.ending(self):
                self.reporter.say(line)
            return self.keeper.finished
        for line in summary.opening(self):
            self.reporter.say(line)
        done, per_epoch = self.done, self.steps_per_epoch
        self.moment.step, self.moment.epoch = done, max(0, done - 1) // per_epoch
        self._call("begin")
        if done and done % per_epoch == 0:  # the run may have been stopped before this evaluation
            self._validate(done // per_epoch - 1)
        first = done // per_epoch
        last = -(-self.steps // per_epoch) if done < self.steps and not self.ended else first
        for epoch in range(first, last):
            for batch in self.batches(epoch, done - epoch * per_epoch if epoch == first else 0):
                self.step(epoch, batch)
                self._call("after_step")
                self._keep(epoch)
                if self.method.step >= self.steps or self.ended:
                    break
                if self._wishes:
                    self._stop()
            if self.method.step < (epoch + 1) * per_epoch:
                break  # the run was stopped within the epoch
            self._validate(epoch)
            if self.ended:
                break
        self.keeper.keep()
        self.keeper.finish()
        self._call("end")
        return self._finish()

    # Steps --------------------------------------------------------------------------------------

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from a given step; before the first batch, time a step."""
        here.at(Phase.STEP, self.method.step + 1)
        for batch in self.feed.batches(epoch, start):
            if self.collectives.step_seconds is None:
                self.collectives.step_seconds = self._settle(epoch, batch)
                heap.give_back()
            yield batch
            here.at(Phase.STEP, self.method.step + 1)

    def _settle(self, epoch: int, batch: Batch) -> float:
        """Inspect the module, choose how to evaluate samples; return the compute time of a step."""
        world, method, own = self.topology.world, self.method, self.assembled.own
        x, stacked, _ = self.feed.augmented(epoch, batch)
        # in chunked evaluation, a pass covers a part of the batch
        first = slice(-(-len(batch.index) // self.config.data.accumulate))
        x = x[:, first] if stacked else x[first]
        index = torch.from_numpy(batch.index[first]).to(batch.device)
        with together(world):
            method.observe(inputs_of(batch.x)[first], own, index=index)
            method.check_passes(x, own, stacked=stacked, index=index)
        most, known = max(world.allgather(len(own))), method.settled
        seconds = method.choose(
            x, own, most, stacked=stacked, index=index,
            largest=lambda value: max(world.allgather(value)),
        )  # fmt: skip
        compiled = ""
        if self.config.training.compile:
            with together(world):
                compile_passes(method, x, own, stacked=stacked, index=index)
            compiled = ", compiled"
        if not known or method.passes.chunk > 1 or compiled:
            self.reporter.say(f"training: {method.passes}{compiled}")
        twice = self.optimisation.loss.memory == "recompute"
        for line in (
            *summary.normalising(method, self.topology, most),
            *summary.gathering(method, self.topology, most, twice),
        ):
            self.reporter.say(line)
        return seconds

    def step(self, epoch: int, batch: Batch) -> None:
        """Take one training step with a batch of an epoch."""
        config, method, made = self.config, self.method, self.optimisation
        step = method.step
        began = time.perf_counter()
        x, stacked, undo = self.feed.augmented(epoch, batch)
        index = on_device(batch.index, batch.device)
        loss = made.loss(
            method,
            x,
            batch.y,
            samples=config.method.samples,
            stacked=stacked,
            weight=batch.weight,
            count=batch.count / self.topology.data_size,
            mask=batch.mask,
            index=index,
            undo=undo,
            leads=batch.leads,
            whole=False,
        )
        with here.part("agreement"):
            wishes = self.watch.wishes()
            if self.keeper.writing:
                wishes |= preemption.Wish.WRITING
            agreement = Agreement(self.topology, lambda: made.loss.parts, wishes)
        with here.part("backward"):
            loss.backward()
        outputs = self._outputs_by_sample(x, index, step, stacked)
        with here.part("agreement"):
            self._parts, wishes = agreement.end(f"step {step} (epoch {epoch})", outputs)
            self._written = preemption.Wish.WRITING not in wishes
            self._wishes = wishes & ~preemption.Wish.WRITING
        rate = made.optimizer.param_groups[0]["lr"]
        with here.part("optimiser"):
            made.optimizer.step()
            made.average.update()
            made.optimizer.zero_grad()
            made.schedule.step()
        self.times.append(time.perf_counter() - began)
        self._report(epoch, rate)

    def _report(self, epoch: int, rate: float) -> None:
        step, loss, moment = self.method.step, self._parts, self.moment
        moment.step, moment.epoch, moment.lr = step, epoch, rate
        moment.loss, moment.data, moment.penalty = loss.total, loss.data, loss.penalty
        logged = (step - 1) % self.config.training.log_every == 0 or step == self.steps
        if logged and self.topology.is_root:
            parts = {"loss": loss.total, "data": loss.data, "penalty": loss.penalty, "lr": rate}
            self.folder.log("train", step=step, epoch=epoch, **parts, seconds=self.times[-1])
        self.reporter.step(step, epoch, loss.total)

    def _outputs_by_sample(
        self, x: torch.Tensor, index: torch.Tensor, step: int, stacked: bool
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield the outputs of each of this rank's samples, to find the one that is not finite.

        They are evaluated in one call, in which the ranks of a group may wait for each other.
        """
        own = self.assembled.own
        with torch.no_grad(), self.method.trying(made_up=False):
            found = self.method(x, samples=own, step=step, stacked=stacked, index=index)
        yield from zip(own, found, strict=True)

    # Checkpoints and evaluations ----------------------------------------------------------------

    def _keep(self, epoch: int) -> None:
        """Begin a checkpoint if it is due; the previous one is complete once all ranks wrote it."""
        if self._written:
            self.keeper.finish()
        step, every = self.method.step, self.config.training.checkpoint_every
        last = step == (epoch + 1) * self.steps_per_epoch
        if (every and step % every == 0) or (last and not every):
            self.keeper.keep()

    def _validate(self, epoch: int) -> None:
        """Evaluate after an epoch, if an evaluation is due."""
        if (epoch + 1) % self.config.training.evaluate_every:
            return
        health.check_replicas(self.method, self.topology)
        if self.validation is None:
            return
        first, step = not self.validation.metrics, self.method.step
        with self.optimisation.average.in_place():
            found, score = self.validation.run()
        score = self.topology.world.bcast(score)  # decisions must be the same on all ranks
        self.keeper.keep_best(score)
        width.of_best(self)
        if self.topology.is_root:
            self.folder.log("valid", step=step, epoch=epoch, **found.metrics)
        self.reporter.evaluated("valid", epoch, step, found.metrics)
        if first and found.doubt:
            self.reporter.warn(f"valid: {found.doubt}")
        self.moment.metrics, self.moment.score = found.metrics, score
        self.moment.metric = self.validation.watched
        if self.keeper.told != step:
            self.keeper.told = step
            self.optimisation.schedule.evaluated(score)
            self._call("after_evaluation")

    # Callbacks ----------------------------------------------------------------------------------

    def _call(self, verb: str) -> None:
        self.ended = self.callbacks.call(verb, self.moment) or self.ended

    # The end ------------------------------------------------------------------------------------

    def _stop(self) -> None:
        """Stop after this step, because the ranks have agreed to stop."""
        step, path = self.method.step, self.keeper.keep()
        self.keeper.finish()
        if self.topology.is_root:
            self.folder.log("stopped", step=step, reason=preemption.reason(self._wishes))
        raise preemption.stopped(self._wishes, step, self.steps, path)

    def _finish(self) -> dict[str, Any]:
        here.at(Phase.END)
        health.check_replicas(self.method, self.topology)
        width.of_last(self)
        found = summary.closing(self)
        for line in summary.ending(self):
            self.reporter.say(line)
        with together(self.topology.world):
            if self.topology.is_root:
                self.folder.write_summary(found)
        return found
