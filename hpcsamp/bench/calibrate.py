"""``hpcsamp bench calibrate``: measure the constants of the performance model on this machine.

All measurements alternate in rounds, so that a drift in the speed of the machine affects all of
them equally, and medians are used. While one rank is measured, the others sleep; measurements on
all ranks start at the same time. Whole training steps, which no constant is fitted to, are measured
in the same rounds to check the model.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hpcsamp import choose
from hpcsamp.bench.constants import VECTOR, FeedSizes, Measure, constants, records
from hpcsamp.bench.step import wait_for
from hpcsamp.bench.subjects import BenchStep, Subject
from hpcsamp.collectives import SMALL, Alone, Collectives, MpiCollectives
from hpcsamp.data import Dataset, Loader
from hpcsamp.data.augment import Augmentation
from hpcsamp.devices import synchronise
from hpcsamp.grid import Topology, init
from hpcsamp.ingest import build as build_dataset
from hpcsamp.ingest.synthetic import synthetic
from hpcsamp.planning.calibration import Calibration

MODELS = ("vit-cifar10:small", "mlp-entsoe:small")
"""Configurations and presets that are measured by default."""

SAMPLES = (1, 2, 5)
SIZES = (16, 4096, 65_536, 1 << 20, 4 << 20, 16 << 20)
"""Sizes of the timed allreduces in bytes."""

MORE = 3
"""Largest number of rounds, as a multiple of the requested one, if other processes disturb."""

FEED_ITEMS, FEED_BATCH = 4096, 256


def rounds(measures: Sequence[Measure], topology: Topology, repeat: int) -> None:
    """Time all measurements in turn after a warm-up round. Collective over the world.

    If all ranks work, the time of the slowest rank counts, or the mean over the ranks if they do
    not synchronise (``crowd``), because the model adds the waiting time itself. Measurements that
    other processes have disturbed are repeated, in up to ``MORE`` times as many rounds.
    """
    missing = list(range(len(measures)))
    for number in range(MORE * repeat + 1):
        for measure in (measures[i] for i in missing):
            wait_for(topology.world.Ibarrier())
            if not measure.together and not topology.is_root:
                continue
            if measure.together:
                topology.world.Barrier()
            took, lost = _timed(measure, topology.device)
            if measure.together:
                pairs = topology.world.allgather((took, lost))
                each = [p[0] for p in pairs]
                took = statistics.fmean(each) if measure.what[0] == "crowd" else max(each)
                lost = max(p[1] for p in pairs)
            if number:
                measure.seconds.append(took)
                measure.lost.append(lost)
        if number >= repeat:
            missing = [i for i, m in enumerate(measures) if m.undisturbed < repeat]
            missing = topology.world.bcast(missing)
    wait_for(topology.world.Ibarrier())


def _timed(measure: Measure, device: torch.device) -> tuple[float, float]:
    """Return the seconds of a call, and the fraction in which this rank waited for a core."""
    synchronise(device)
    waited, began = _waited(), time.perf_counter()
    for _ in range(measure.times):
        measure.run()
    synchronise(device)
    whole = time.perf_counter() - began
    return whole / measure.times, (_waited() - waited) / whole


def _waited() -> float:
    """Return the seconds in which threads of this rank were ready but had no core (Linux)."""
    total = 0
    for thread in Path("/proc/self/task").glob("*/schedstat"):
        try:
            total += int(thread.read_text().split()[1])
        except (OSError, IndexError, ValueError):
            continue  # the thread has ended, or the system has no such counter
    return total * 1e-9


def often(seconds: float, topology: Topology) -> int:
    """Return the number of calls that take about 20 ms, the same on all ranks."""
    return int(topology.world.bcast(max(1, min(200, round(0.02 / max(seconds, 1e-6))))))


def measure(
    names: Sequence[str],
    batches: Sequence[int],
    checked: Sequence[tuple[int, int]],
    repeat: int,
    *,
    collectives_name: str = "auto",
) -> tuple[Calibration | None, list[dict[str, Any]]]:
    """Measure the constants, and whole steps to check them. Collective over the world.

    Parameters
    ----------
    names
        ``CONFIG`` or ``CONFIG:PRESET``.
    batches
        Batch sizes of the passes that the constants are fitted to.
    checked
        ``(S, batch)`` of the whole steps, each timed on one rank and on all ranks.
    repeat
        Number of timed rounds.

    Returns
    -------
    tuple
        On rank 0 the calibration and a record of each checked step; elsewhere None and an empty
        list.
    """
    topology = init("world")
    subjects = [Subject.of(name) for name in names]
    alone, transport = Alone(), choose(topology, collectives_name)
    device = topology.device
    measures: list[Measure] = []

    def add(run: Callable[[], Any], *what: Any, together: bool = False) -> None:
        began = time.perf_counter()
        if together or topology.is_root:
            run()  # the first call may include initialisation
            began = time.perf_counter()
            run()
        times = often(time.perf_counter() - began, topology)
        measures.append(Measure(what, run, together, times))

    # Horovod's thread, once started, disturbs other measurements: those that need it come last
    later: list[Callable[[], None]] = []
    transport.step_seconds = 0.05
    for subject in subjects:
        large = transport.name == "horovod" and subject.work.trained * 4 >= SMALL
        for samples in SAMPLES:
            step = BenchStep(subject, samples, alone, topology)
            for items in batches:
                x, y = subject.batch(items, device)
                run = _bound(step.whole, x, y)
                add(run, "alone", subject.name, samples, items)
                if topology.size > 1 and samples == SAMPLES[-1]:
                    add(run, "crowd", subject.name, samples, items, together=True)
        _small_parts(subject, step, add)
        for samples, items in checked:
            x, y = subject.batch(items, device)
            whole = BenchStep(subject, samples, alone, topology)
            add(_bound(whole.whole, x, y), "step", subject.name, samples, items, 1)
            if 1 < topology.size <= samples:
                whole = BenchStep(subject, samples, transport, topology)
                what = ("step", subject.name, samples, items, topology.size)
                adding = partial(add, _bound(whole.whole, x, y), *what, together=True)
                later.append(adding) if large else adding()
    later += _exchanges(topology, transport, add)
    with tempfile.TemporaryDirectory() as scratch:
        feed = _Feed(Path(topology.world.bcast(scratch)), topology)
        add(feed.read, "read", together=True)
        add(feed.copy, "copy", together=True)
        add(feed.augment, "augment", together=True)
        rounds(measures, topology, repeat)
        feed.close()
    before = len(measures)
    for add_it in later:
        add_it()
    rounds(measures[before:], topology, repeat)
    if not topology.is_root:
        return None, []
    found = constants(subjects, measures, topology, feed.size, transport)
    return found, records(subjects, measures, found, transport)


def _bound(function: Callable[[Tensor, Tensor], None], x: Tensor, y: Tensor) -> Callable[[], None]:
    return lambda: function(x, y)


def _small_parts(subject: Subject, step: BenchStep, add: Callable[..., None]) -> None:
    """Measure the draws, the penalty and the optimiser of a model separately."""
    method: Any = step.method  # a method that draws weights
    if subject.work.drawn:
        std, trained = method.std(), [p for p in method.parameters() if p.requires_grad]

        def draw() -> None:
            with torch.no_grad():
                method.draw(0, range(1), std)

        def penalty() -> None:
            torch.autograd.grad(method.penalty(), trained, allow_unused=True)

        add(draw, "draw", subject.name)
        add(penalty, "penalty", subject.name)
    add(step.update, "update", subject.name)


def _exchanges(
    topology: Topology, transport: Collectives, add: Callable[..., None]
) -> list[Callable[[], None]]:
    """Add measurements of allreduces with plain MPI; return functions that add the transport's."""
    if topology.size < 2:
        return []
    plain = MpiCollectives(topology)
    for size in SIZES:
        values = torch.zeros(size // 4)
        add(lambda v=values: plain.sum_(v, "world"), "allreduce", size, together=True)
    if transport.name != "horovod":
        return []
    values = torch.zeros(VECTOR)
    ways = {"transport": transport, "plain": plain}
    return [
        partial(add, partial(way.sum_gradient_, values, "world"), name, VECTOR * 4, together=True)
        for name, way in ways.items()
    ]


class _Feed:
    """Measure reading of an image set as large as the cache of a core, on all ranks."""

    def __init__(self, folder: Path, topology: Topology) -> None:
        target = folder / "feed"
        source = synthetic("cifar10", FEED_ITEMS)
        source.splits = {"train": FEED_ITEMS}
        build_dataset(source, target, comm=topology.world)
        self.topology = topology
        self.dataset = Dataset.open(target)
        self.loader = Loader(self.dataset, topology, batch=FEED_BATCH, seed=1)
        batch = next(iter(self.loader.epoch(0)))
        self.x, self.index = batch.x, batch.index
        self.slot = self.x.cpu().numpy().copy()
        self.augmentation = Augmentation(crop=1, flip=True, share="all")
        each = sum(a.item_bytes for a in self.dataset.manifest.arrays.values())
        views = self.x.numel() * self.x.element_size()
        self.size = FeedSizes(self.loader.steps_per_epoch, FEED_BATCH * each, views)
        self._epoch = 1

    def read(self) -> None:
        """Read an epoch."""
        for _ in self.loader.epoch(self._epoch):
            pass
        self._epoch += 1

    def copy(self) -> None:
        """Copy a batch from shared memory to the device and convert it."""
        torch.from_numpy(self.slot).to(self.x.device, copy=True).mul_(1.0)

    def augment(self) -> None:
        """Augment a batch."""
        self.augmentation(self.x, self.index, epoch=0, samples=range(1))

    def close(self) -> None:
        """Close the loader. Collective."""
        self.loader.close()
