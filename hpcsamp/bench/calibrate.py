"""``hpcsamp bench calibrate``: the constants of the performance model, measured on this machine.

Everything takes turns in rounds, so that a machine whose speed drifts does so for all, and medians
count. Where a rank is measured alone, the others sleep; where all are, they begin together. Whole
training steps, which nothing is fitted to, are measured in the same rounds to check the model.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hpcsamp import choose, losses, methods, models
from hpcsamp import config as configuration
from hpcsamp.bench.step import wait_for
from hpcsamp.collectives import Alone, Collectives, MpiCollectives, distribute
from hpcsamp.config import RunConfig
from hpcsamp.data import Dataset, Loader
from hpcsamp.data.augment import Augmentation
from hpcsamp.ingest import build as build_dataset
from hpcsamp.ingest.synthetic import synthetic
from hpcsamp.losses import ELBO
from hpcsamp.planning import calibration, fit, machine
from hpcsamp.planning.calibration import Calibration, Measured
from hpcsamp.planning.machine import Wire
from hpcsamp.planning.model import Layout, predict
from hpcsamp.planning.workload import Workload
from hpcsamp.streams import Purpose, torch_generator
from hpcsamp.topology import Topology, init
from hpcsamp.training import build, health
from hpcsamp.training.memory import Shapes
from hpcsamp.training.prepare import source_of

if TYPE_CHECKING:
    from hpcsamp.methods import Method

MODELS = ("vit-cifar10:small", "mlp-entsoe:small")
"""Configurations and presets that are measured if none are named."""

SAMPLES = (1, 2, 5)
ITEMS = 45_000
SIZES = (16, 4096, 65_536, 1 << 20, 4 << 20, 16 << 20)
"""Bytes of the allreduces."""

FEED_ITEMS, FEED_BATCH = 4096, 256
VECTOR = 1 << 16
"""Numbers of the second optimiser step, beside the model's."""


@dataclass
class Subject:
    """A configuration whose step is measured, with inputs made up in the shapes of its data."""

    name: str
    config: RunConfig
    shapes: Shapes
    work: Workload

    @classmethod
    def of(cls, name: str) -> Subject:
        """``CONFIG`` or ``CONFIG:PRESET``.

        Raises
        ------
        UsageError
            If there is no such configuration, or it does not say what its data look like.
        """
        path, _, preset = name.partition(":")
        config = configuration.load(path, preset=preset or None)
        section = config.data.synthetic
        if section is not None:
            shapes = Shapes.of(config, source_of(section))
        else:
            with Dataset.open(config.data.path) as dataset:
                shapes = Shapes.of(config, dataset)
        return cls(name, config, shapes, Workload.of(config, shapes))

    def method(self, own: range, samples: int, device: torch.device) -> Method:
        """The method of this rank, with parameters of its own."""
        c = self.config
        made = methods.make(
            c.method.name,
            lambda member: models.build(
                c.model.name, c.model.arguments, self.shapes.x, self.shapes.outputs, c.seed, member
            ),
            c.method.arguments,
            samples=samples,
            own=own,
            seed=c.seed,
            samples_per_pass=c.method.samples_per_pass,
            autocast=torch.bfloat16 if c.training.precision == "bfloat16" else None,
        )
        made = made.to(device=device, dtype=build.DTYPES[c.training.precision])
        made.begin(ITEMS, 1000, 100)
        return made

    def batch(self, items: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Inputs and targets."""
        generator = torch_generator("cpu", 1, Purpose.SYNTHETIC)
        kind = build.DTYPES[self.config.training.precision]
        x = torch.randn(items, *self.shapes.x, generator=generator).to(device, kind)
        if self.config.task == "classification":
            y = torch.randint(0, self.shapes.outputs, (items,), generator=generator)
            return x, y.to(device)
        return x, torch.randn(items, *self.shapes.y, generator=generator).to(device, kind)


class Step:
    """A training step without its feed, on one rank or on all."""

    def __init__(
        self, subject: Subject, samples: int, collectives: Collectives, topology: Topology
    ) -> None:
        c = subject.config
        self.samples, self.topology = samples, topology
        self.many = collectives.sample_size > 1
        own = topology.samples(samples) if self.many else range(samples)
        self.method = subject.method(own, samples, topology.device)
        arguments = {k: v for k, v in c.loss.arguments.items() if k != "latitudes"}
        self.loss = ELBO(
            losses.make(c.loss.name, c.task, arguments), ITEMS, collectives, memory=c.loss.memory,
            kl=c.loss.kl,
        )  # fmt: skip
        self.optimizer = distribute(
            build.optimizer(c, self.method, list(self.method.parameters())),
            collectives,
            self.method,
        )

    def gradient(self, x: Tensor, y: Tensor) -> None:
        """Loss and gradient."""
        self._loss(x, y).backward()
        self.optimizer.zero_grad()

    def whole(self, x: Tensor, y: Tensor) -> None:
        """All that the training loop does between two batches."""
        loss = self._loss(x, y)
        if self.many:
            health.agree(float(loss.detach()), self.topology, "a measured step", ())
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def update(self) -> None:
        """The optimiser alone."""
        self.optimizer.step()

    def _loss(self, x: Tensor, y: Tensor) -> Tensor:
        index = torch.arange(len(x))
        return self.loss(self.method, x, y, samples=self.samples, index=index)


@dataclass
class Measure:
    """Something to time.

    Attributes
    ----------
    what
        Its kind and numbers, e.g. ``("gradient", "vit", 4, 32)``.
    run
        Does it; on all ranks if ``together``, else on rank 0 alone.
    times
        Calls in a row that one time is of (the mean), for what is short.
    """

    what: tuple[Any, ...]
    run: Callable[[], Any]
    together: bool = False
    times: int = 1
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)


def rounds(measures: Sequence[Measure], topology: Topology, repeat: int) -> None:
    """Time everything in turn; the first round warms up. Collective over the world.

    The slowest rank's time counts where all work.
    """
    for number in range(repeat + 1):
        for measure in measures:
            wait_for(topology.world.Ibarrier())
            if not measure.together and not topology.is_root:
                continue
            if measure.together:
                topology.world.Barrier()
            began = time.perf_counter()
            for _ in range(measure.times):
                measure.run()
            if topology.device.type == "cuda":
                torch.cuda.synchronize()
            took = (time.perf_counter() - began) / measure.times
            if measure.together:
                took = max(topology.world.allgather(took))
            if number:
                measure.seconds.append(took)
    wait_for(topology.world.Ibarrier())


def often(seconds: float, topology: Topology) -> int:
    """Calls that take about 20 ms, the same on all ranks."""
    return int(topology.world.bcast(max(1, min(200, round(0.02 / max(seconds, 1e-6))))))


def measure(
    names: Sequence[str],
    batches: Sequence[int],
    checked: Sequence[tuple[int, int]],
    repeat: int,
    *,
    collectives_name: str = "auto",
) -> tuple[Calibration | None, list[dict[str, Any]]]:
    """Measure the constants, and whole steps to check them by. Collective over the world.

    Parameters
    ----------
    names
        ``CONFIG`` or ``CONFIG:PRESET``.
    batches
        Items of the passes that constants are fitted to.
    checked
        ``(S, batch)`` of the whole steps, each on one rank and on all.
    repeat
        Rounds that count.

    Returns
    -------
    tuple
        On rank 0 the calibration and a record of every checked step; None and nothing elsewhere.
    """
    topology = init("world")
    subjects = [Subject.of(name) for name in names]
    alone, transport = Alone(), choose(topology, collectives_name)
    device = topology.device
    measures: list[Measure] = []

    def add(run: Callable[[], Any], *what: Any, together: bool = False) -> None:
        began = time.perf_counter()
        if together or topology.is_root:
            run()  # the first call may set up
            began = time.perf_counter()
            run()
        times = often(time.perf_counter() - began, topology)
        measures.append(Measure(what, run, together, times))

    transport.step_seconds = 0.05
    for subject in subjects:
        for samples in SAMPLES:
            step = Step(subject, samples, alone, topology)
            for items in batches:
                x, y = subject.batch(items, device)
                run = _bound(step.gradient, x, y)
                add(run, "gradient", subject.name, samples, items)
                if topology.size > 1 and samples == SAMPLES[-1]:
                    add(run, "crowd", subject.name, samples, items, together=True)
        _small_parts(subject, step, add)
        for samples, items in checked:
            x, y = subject.batch(items, device)
            whole = Step(subject, samples, alone, topology)
            add(_bound(whole.whole, x, y), "step", subject.name, samples, items, 1)
            if 1 < topology.size <= samples:
                whole = Step(subject, samples, transport, topology)
                add(
                    _bound(whole.whole, x, y),
                    "step", subject.name, samples, items, topology.size, together=True,
                )  # fmt: skip
    _exchanges(topology, transport, add)
    with tempfile.TemporaryDirectory() as scratch:
        feed = _Feed(Path(topology.world.bcast(scratch)), topology)
        add(feed.read, "read", together=True)
        add(feed.copy, "copy", together=True)
        add(feed.augment, "augment", together=True)
        rounds(measures, topology, repeat)
        feed.close()
    if not topology.is_root:
        return None, []
    found = _calibration(subjects, measures, topology, feed, transport)
    return found, _records(subjects, measures, found, transport)


def _bound(function: Callable[[Tensor, Tensor], None], x: Tensor, y: Tensor) -> Callable[[], None]:
    return lambda: function(x, y)


def _small_parts(subject: Subject, step: Step, add: Callable[..., None]) -> None:
    """Draws, penalty and optimiser of a model, on their own."""
    method: Any = step.method  # of a kind that draws
    if subject.work.drawn:
        std = method.std()

        def draw() -> None:
            with torch.no_grad():
                method.draw(0, 0, std)

        def penalty() -> None:
            method.penalty().backward()

        add(draw, "draw", subject.name)
        add(penalty, "penalty", subject.name)
    add(step.update, "update", subject.name)


def _exchanges(topology: Topology, transport: Collectives, add: Callable[..., None]) -> None:
    """Allreduces of all ranks, by MPI alone; the transport's own for a small gradient."""
    if topology.size < 2:
        return
    plain = MpiCollectives(topology)
    for size in SIZES:
        values = torch.zeros(size // 4)
        add(lambda v=values: plain.world_sum_(v), "allreduce", size, together=True)
    if transport.name == "horovod":
        values = torch.zeros(VECTOR)
        add(lambda: transport.world_sum_(values), "transport", VECTOR * 4, together=True)
        add(lambda: plain.world_sum_(values), "plain", VECTOR * 4, together=True)


class _Feed:
    """An image set as large as the cache of a core, read by all ranks."""

    def __init__(self, folder: Path, topology: Topology) -> None:
        target = folder / "feed"
        source = synthetic("cifar10", FEED_ITEMS)
        source.splits = {"train": FEED_ITEMS}
        build_dataset(source, target, comm=topology.world)
        self.topology = topology
        self.dataset = Dataset.open(target)
        self.loader = Loader(self.dataset, topology, batch=FEED_BATCH, seed=1)
        self.steps = self.loader.steps_per_epoch
        batch = next(iter(self.loader.epoch(0)))
        self.x, self.index = batch.x, batch.index
        self.slot = self.x.cpu().numpy().copy()
        self.augmentation = Augmentation(crop=1, flip=True, share="all")
        self.bytes = FEED_BATCH * sum(a.item_bytes for a in self.dataset.manifest.arrays.values())
        self._epoch = 1

    def read(self) -> None:
        """An epoch."""
        for _ in self.loader.epoch(self._epoch):
            pass
        self._epoch += 1

    def copy(self) -> None:
        """A batch out of shared memory onto the device, converted."""
        torch.from_numpy(self.slot).to(self.x.device, copy=True).mul_(1.0)

    def augment(self) -> None:
        """Views of a batch."""
        self.augmentation(self.x, self.index, epoch=0, samples=range(1))

    def close(self) -> None:
        """Collective."""
        self.loader.close()


def _calibration(
    subjects: Sequence[Subject],
    measures: Sequence[Measure],
    topology: Topology,
    feed: _Feed,
    transport: Collectives,
) -> Calibration:
    found = {m.what: m for m in measures}
    draw = _per(subjects, found, "draw", lambda w: w.drawn)
    penalty = _per(subjects, found, "penalty", lambda w: w.drawn)
    update, fixed = _slope([(s.work.trained, found["update", s.name].median) for s in subjects])
    table = []
    for s in subjects:
        mine = [m for m in measures if m.what[:2] == ("gradient", s.name)]
        rows = np.array([[1.0, m.what[2], m.what[2] * m.what[3]] for m in mine])
        seconds = np.array([m.median for m in mine])
        values, _ = fit.robust(rows, seconds)
        crowds = [
            m.median / found["gradient", *m.what[1:]].median
            for m in measures
            if m.what[:2] == ("crowd", s.name)
        ]
        table.append(
            Measured(
                key=s.work.key,
                name=s.name,
                base=max(0.0, values[1] - s.work.drawn * draw),
                per_item=values[2],
                overhead=max(0.0, values[0] - s.work.drawn * penalty) + fixed,
                crowd=max(1.0, statistics.median(crowds)) if crowds else 1.0,
                flops=s.work.counts.flops[1],
                operations=s.work.counts.operations,
                error=float(np.median(np.abs(rows @ values / seconds - 1))),
            )
        )
    reduced = [m for m in measures if m.what[0] == "allreduce"]
    link = None
    if reduced:
        sizes = [float(m.what[1]) for m in reduced]
        alpha, beta = fit.link(topology.size, sizes, [m.median for m in reduced])
        link = Wire(alpha=alpha, bandwidth=1 / max(beta, 1e-15))
    cycles = 0.0
    if ("transport", VECTOR * 4) in found:
        extra = found["transport", VECTOR * 4].median - found["plain", VECTOR * 4].median
        cycles = max(0.0, extra / _cycle(transport))
    read = found["read",].median / feed.steps / feed.bytes
    copy = found["copy",].median / feed.bytes
    return Calibration(
        created=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        machine=calibration.fingerprint(topology.device.type),
        ranks=topology.size,
        models=table,
        draw=draw,
        penalty=penalty,
        update=update,
        augment=found["augment",].median / (feed.x.numel() * feed.x.element_size()),
        read=max(0.0, read - copy) * topology.size,
        copy=copy,
        agreement=reduced[0].median if reduced else 0.0,
        link=link,
        cycles=cycles,
        jitter=_jitter([m for m in measures if m.what[0] in ("gradient", "crowd")]),
    )


def _per(
    subjects: Sequence[Subject],
    found: dict[tuple[Any, ...], Measure],
    what: str,
    numbers: Callable[[Workload], int],
) -> float:
    """Seconds per number, from the model that has the most of them."""
    having = [s for s in subjects if (what, s.name) in found]
    if not having:
        return 0.0
    largest = max(having, key=lambda s: numbers(s.work))
    return found[what, largest.name].median / numbers(largest.work)


def _slope(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Seconds per number and seconds without any, neither negative."""
    rows = np.array([[float(n), 1.0] for n, _ in points])
    if len({n for n, _ in points}) < 2:
        rows = rows[:, :1]
    values, _ = fit.robust(rows, np.array([t for _, t in points]))
    return float(values[0]), float(values[1]) if len(values) > 1 else 0.0


def _cycle(transport: Collectives) -> float:
    """Seconds of Horovod's cycle."""
    return float(transport.settings().get("cycle_milliseconds") or 0.0) / 1e3


def _jitter(measures: Sequence[Measure]) -> float:
    """Standard deviation of a time over its median, from absolute deviations (robust)."""
    off = [abs(t / m.median - 1) for m in measures for t in m.seconds if len(m.seconds) > 2]
    return 1.4826 * statistics.median(off) if off else 0.0


def _records(
    subjects: Sequence[Subject],
    measures: Sequence[Measure],
    found: Calibration,
    transport: Collectives,
) -> list[dict[str, Any]]:
    """Every whole step with what the constants say of it."""
    site = machine.load("local")
    site = site.model_copy(
        update={"network": site.network.model_copy(update={"cycle": _cycle(transport)})}
    )
    place = found.machine_of(site)
    by_name = {s.name: s for s in subjects}
    records = []
    for m in measures:
        if m.what[0] != "step":
            continue
        _, name, samples, batch, ranks = m.what
        work = by_name[name].work.scaled(samples=samples, batch=batch).without_feed()
        work = work.scaled(horovod=transport.name == "horovod")
        layout = Layout(ranks, 1, ranks)
        told = predict(work, layout, place, found.rates(site, work))
        records.append(
            {
                "event": "step",
                "model": name,
                "samples": samples,
                "batch": batch,
                "world_size": ranks,
                "sample_group_size": ranks,
                "data_group_size": 1,
                "trained": work.trained,
                "collectives": transport.settings(),
                "seconds_per_step": m.median,
                "seconds": m.seconds,
                "predicted": told.seconds,
                "phases": {p.name: p.seconds for p in told.phases},
            }
        )
    return records


def write_records(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """One object a line."""
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
