"""The training loop: everything that happens between a configuration and a summary."""

from __future__ import annotations

import os
import resource
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hpcsamp import collectives as exchange
from hpcsamp import losses
from hpcsamp.config import RunConfig, seconds
from hpcsamp.data import Batch, Dataset, Loader
from hpcsamp.data.augment import Augmentation
from hpcsamp.data.staged import staged
from hpcsamp.grid import Topology, together
from hpcsamp.methods import Method
from hpcsamp.planning import memory, network_memory
from hpcsamp.prediction import noise
from hpcsamp.prediction.evaluator import Evaluator
from hpcsamp.run import health, provenance
from hpcsamp.run.assemble import Run
from hpcsamp.run.folder import RunFolder
from hpcsamp.run.keeper import Keeper
from hpcsamp.run.optimisation import Optimisation
from hpcsamp.run.resolve import resolved
from hpcsamp.training import heap, preemption
from hpcsamp.training.agreement import Agreement
from hpcsamp.training.progress import Reporter
from hpcsamp.watchdog import Phase, here


class Trainer:
    """One run on one grid.

    Collective over the world, as are all methods.

    Parameters
    ----------
    config
        The checked configuration, the same on every rank.
    topology
        The grid.
    output
        Run folder.
    resume
        Go on from the newest checkpoint, if there is one.
    """

    def __init__(
        self, config: RunConfig, topology: Topology, output: str | Path, resume: bool = False
    ) -> None:
        self.config = config
        self.topology = topology
        self.folder = RunFolder(output)
        self._resume = resume

    def run(self) -> dict[str, Any]:
        """Train to the end; returns the summary.

        Raises
        ------
        PreemptedError
            On all ranks, if a signal or the time limit asked for an early end; a checkpoint is
            written then.
        """
        topology = self.topology
        with together(topology.world):
            self.config = config = resolved(self.config)
            self._mine = topology.samples(config.method.samples)
        limit = config.training.time_limit
        end = preemption.deadline(seconds(limit) if limit is not None else None, os.environ)
        with ExitStack() as stack:
            self.watch = preemption.Watch(end, config.training.time_margin)
            stack.enter_context(self.watch)
            self._build(stack)
            with together(topology.world):
                if topology.is_root:
                    stack.enter_context(self.folder.writing())
            # before anything is written: a run that is refused leaves its folder as it was
            step = self.keeper.restore() if self._resume else 0
            with together(topology.world):
                if topology.is_root:
                    self.folder.prepare(config, self._resume)
            start = provenance.collect(topology, config.seed)
            with together(topology.world):
                if topology.is_root:
                    self.folder.forget_after(step)
                    self.folder.add_start({**start, "step": step})
            self.reporter = Reporter(topology.is_root, self.steps, step)
            stack.callback(self.reporter.close)
            self._announce(step)
            self._train(step)
            return self._finish()

    # Setting up -------------------------------------------------------------------------------

    def _build(self, stack: ExitStack) -> None:
        config, topology = self.config, self.topology
        heap.keep()
        with together(topology.world):
            folder = staged(config.data.path)
            dataset = Dataset.open(folder, "train")
            network_memory.check(config, dataset, topology)
            made = Run.of(config, dataset, topology)
            self.method: Method = made.method
            self.prediction_samples = self.method.prediction_samples(config.evaluation.samples)
            has_valid = "valid" in dataset.manifest.splits
            valid = Dataset.open(folder, "valid") if has_valid else None
            self.augmentation = Augmentation.of(config.augment, dataset, topology, seed=config.seed)
        self.dataset = dataset
        self.loader = Loader(
            dataset,
            topology,
            batch=config.data.batch,
            seed=config.seed,
            shuffle=config.data.shuffle,
            reader=config.data.reader,
            verify=config.data.verify,
            slots=config.data.slots,
            dtype=made.dtype,
        )
        stack.callback(self.loader.close)
        self.steps_per_epoch = self.loader.steps_per_epoch
        self.steps = config.training.epochs * self.steps_per_epoch
        self.steps = min(self.steps, config.training.steps or self.steps)
        self.collectives = exchange.choose(topology, config.parallel.collectives)
        self.optimisation = Optimisation(
            made,
            topology,
            self.collectives,
            items=dataset.count,
            steps_per_epoch=self.steps_per_epoch,
        )
        self.loss, self.optimizer = self.optimisation.loss, self.optimisation.optimizer
        self.schedule = self.optimisation.schedule
        self._memory = memory.check(made, topology)
        self.keeper = Keeper(
            self.folder,
            config,
            topology,
            dataset.uid,
            self.method,
            self.optimizer,
            self.schedule,
            self.optimisation.updates,
            self.watch.saving,
        )
        self.evaluator: Evaluator | None = None
        if valid is not None:
            self.evaluator = Evaluator(
                made,
                valid,
                topology,
                self.collectives,
                made.likelihood,
                samples=self.prediction_samples,
            )
            stack.callback(self.evaluator.close)

    def _announce(self, step: int) -> None:
        c, r = self.config, self.reporter
        r.say(f"{self.topology.describe()}; {self.collectives.name} exchanges gradients")
        weights = sum(p.numel() for p in self.method.parameters())
        r.say(
            f"{c.model.name}, {c.method.name}, S = {c.method.samples}, {weights:,} variational "
            f"parameters; {c.loss.name}{'' if c.loss.exact else ' (per rank: approximate)'}, "
            f"memory {self.loss.memory}"
        )
        if self._memory:
            r.say(self._memory)
        if c.loss.temperature != 1:
            r.say(f"temperature {c.loss.temperature}: not the Bayes posterior")
        r.say(
            f"{self.dataset.count} items, batch {c.data.batch}, {self.steps_per_epoch} steps an "
            f"epoch, {c.training.epochs} epochs; in {self.folder.path}"
            + (f"; resumed after step {step}" if step else "")
        )

    # Training ---------------------------------------------------------------------------------

    def _train(self, done: int) -> None:
        config = self.config
        self.times: list[float] = []
        self._wishes = preemption.Wish.NONE
        self.parts = losses.Parts()  # of the loss of the last step
        if done and done % self.steps_per_epoch == 0:  # it may have been stopped before this
            self._evaluate(done // self.steps_per_epoch - 1)
        first = done // self.steps_per_epoch
        last_epoch = -(-self.steps // self.steps_per_epoch) if done < self.steps else first
        for epoch in range(first, last_epoch):
            start = done - epoch * self.steps_per_epoch if epoch == first else 0
            for batch in self._batches(epoch, start):
                self._step(epoch, batch)
                last = self.method.step == (epoch + 1) * self.steps_per_epoch
                every = config.training.checkpoint_every
                if (every and self.method.step % every == 0) or (last and not every):
                    self.keeper.keep()
                if self.method.step >= self.steps:
                    break
                if self._wishes:
                    self._stop()
            if self.method.step < (epoch + 1) * self.steps_per_epoch:
                break  # stopped in mid-epoch
            self._evaluate(epoch)
        self.keeper.keep()

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        here.at(Phase.STEP, self.method.step + 1)
        for batch in self.loader.epoch(epoch, start):
            if self.collectives.step_seconds is None:
                self.collectives.step_seconds = self._settle(epoch, batch)
            yield batch
            here.at(Phase.STEP, self.method.step + 1)

    def _settle(self, epoch: int, batch: Batch) -> float:
        """Look at the module, choose how samples are evaluated; seconds of compute in a step."""
        world, method = self.topology.world, self.method
        x, stacked, _ = self._augmented(epoch, batch)
        index = torch.from_numpy(batch.index).to(batch.x.device)
        with together(world):
            method.observe(batch.x, self._mine, index=index)
            method.check_passes(x, self._mine, stacked=stacked, index=index)
        most, known = max(world.allgather(len(self._mine))), method.settled
        seconds = method.choose(
            x, self._mine, most, stacked=stacked, index=index,
            largest=lambda value: max(world.allgather(value)),
        )  # fmt: skip
        if not known or method.passes.chunk > 1:
            self.reporter.say(f"training: {method.passes}")
        return seconds

    def _step(self, epoch: int, batch: Batch) -> None:
        config, step = self.config, self.method.step
        began = time.perf_counter()
        x, stacked, undo = self._augmented(epoch, batch)
        index = torch.from_numpy(batch.index).to(x.device)
        loss = self.loss(
            self.method,
            x,
            batch.y,
            samples=config.method.samples,
            stacked=stacked,
            weight=batch.weight,
            count=batch.count / self.topology.data_size,
            index=index,
            undo=undo,
            whole=False,
        )
        agreement = Agreement(self.topology, self.loss.parts, self.watch.wishes())
        loss.backward()
        self.parts, self._wishes = agreement.end(
            f"step {step} (epoch {epoch})",
            ((s, self._outputs_of_sample(s, x, index, step, stacked)) for s in self._mine),
        )
        self.optimizer.step()
        self.optimizer.zero_grad()
        rate = self.optimizer.param_groups[0]["lr"]
        if self.schedule is not None:
            self.schedule.step()
        seconds = time.perf_counter() - began
        self.times.append(seconds)
        logged = step % config.training.log_every == 0 or self.method.step == self.steps
        if logged and self.topology.is_root:
            self.folder.log(
                "train",
                step=self.method.step,
                epoch=epoch,
                loss=self.parts.total,
                data=self.parts.data,
                penalty=self.parts.penalty,
                lr=rate,
                seconds=seconds,
            )
        self.reporter.step(self.method.step, epoch, self.parts.total)

    def _outputs_of_sample(
        self, sample: int, x: torch.Tensor, index: torch.Tensor, step: int, stacked: bool
    ) -> torch.Tensor:
        """Numbers of one of this rank's samples, to find the one that broke."""
        place = sample - self._mine.start
        x = x[place : place + 1] if stacked else x
        with torch.no_grad():
            one = range(sample, sample + 1)
            return self.method(x, samples=one, step=step, stacked=stacked, index=index)

    def _augmented(self, epoch: int, batch: Batch) -> tuple[torch.Tensor, bool, Any]:
        """Inputs, whether they have a sample axis, and how outputs come back to the targets."""
        if self.augmentation is None:
            return batch.x, False, None
        x = self.augmentation(batch.x, batch.index, epoch=epoch, samples=self._mine)
        undo = None
        if self.augmentation.shift and len(self.dataset.y_shape) > 1:
            width = self.dataset.y_shape[-1]
            undo = partial(self.augmentation.undo, index=batch.index, epoch=epoch, width=width)
        return x, self.config.augment.share != "all", undo

    # Now and then -----------------------------------------------------------------------------

    def _evaluate(self, epoch: int) -> None:
        """After an epoch, if it is one to evaluate after."""
        if (epoch + 1) % self.config.training.evaluate_every:
            return
        health.check_replicas(self.method, self.topology)
        if self.evaluator is None:
            return
        asked = self.config.evaluation.samples
        self.evaluator.samples = self.method.prediction_samples(asked)  # chains: it grows
        if isinstance(self.evaluator.likelihood, losses.FittedGaussian):
            self.evaluator.likelihood = noise.fit(self.evaluator, self.method)
        found = self.evaluator.run(self.method)
        best = self.config.training.best
        if best == "nll" and isinstance(self.evaluator.likelihood, losses.Samples):  # no density
            best = "rmse"
        self.keeper.keep_best(-found.metrics[best] if best == "accuracy" else found.metrics[best])
        first = not hasattr(self, "metrics")
        self.metrics = found.metrics
        if self.topology.is_root:
            self.folder.log("valid", step=self.method.step, epoch=epoch, **found.metrics)
        self.reporter.evaluated("valid", epoch, self.method.step, found.metrics)
        if first and found.doubt:
            self.reporter.say(f"warning: valid: {found.doubt}")

    def _stop(self) -> None:
        """The ranks have agreed to stop after this step."""
        step, path = self.method.step, self.keeper.keep()
        if self.topology.is_root:
            self.folder.log("stopped", step=step, reason=preemption.reason(self._wishes))
        raise preemption.stopped(self._wishes, step, self.steps, path)

    def _finish(self) -> dict[str, Any]:
        here.at(Phase.END)
        health.check_replicas(self.method, self.topology)
        c, t = self.config, self.topology
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        seconds = statistics.median(self.times) if self.times else None
        summary = {
            "steps": self.method.step,
            "planned_steps": self.steps,
            "samples": c.method.samples,
            "world_size": t.size,
            "sample_group_size": t.sample_size,
            "data_group_size": t.data_size,
            "collectives": self.collectives.settings(),
            "method": c.method.name,
            "passes": self.method.choice(),
            "loss": c.loss.name,
            "exact": c.loss.exact,
            "temperature": c.loss.temperature,
            "metrics": getattr(self, "metrics", {}),
            "seconds_per_step": seconds,
            "items_per_second": c.data.batch / seconds if seconds else None,
            "peak_rss_mb": max(t.world.allgather(peak)),
            "parameters_sha256": health.parameters_sha256(self.method, t),
        }
        with together(t.world):
            if t.is_root:
                self.folder.write_summary(summary)
        return summary
