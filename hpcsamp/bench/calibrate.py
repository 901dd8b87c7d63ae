"""``hpcsamp bench calibrate``: the constants of the performance model, measured on this machine.

Everything takes turns in rounds, so that a machine whose speed drifts does so for all, and medians
count. Where a rank is measured alone, the others sleep; where all are, they begin together. Whole
training steps, which nothing is fitted to, are measured in the same rounds to check the model.
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
from hpcsamp.bench.constants import VECTOR, Feed, Measure, constants, records
from hpcsamp.bench.step import wait_for
from hpcsamp.bench.subjects import Step, Subject
from hpcsamp.collectives import SMALL, Alone, Collectives, MpiCollectives
from hpcsamp.data import Dataset, Loader
from hpcsamp.data.augment import Augmentation
from hpcsamp.grid import Topology, init
from hpcsamp.ingest import build as build_dataset
from hpcsamp.ingest.synthetic import synthetic
from hpcsamp.planning.calibration import Calibration

MODELS = ("vit-cifar10:small", "mlp-entsoe:small")
"""Configurations and presets that are measured if none are named."""

SAMPLES = (1, 2, 5)
SIZES = (16, 4096, 65_536, 1 << 20, 4 << 20, 16 << 20)
"""Bytes of the allreduces."""

MORE = 3
"""Times as many rounds as asked for, where others disturb."""

FEED_ITEMS, FEED_BATCH = 4096, 256


def rounds(measures: Sequence[Measure], topology: Topology, repeat: int) -> None:
    """Time everything in turn; the first round warms up. Collective over the world.

    Where all work, the slowest rank's time counts; the mean of the ranks' where they do not meet
    (``crowd``): the model adds the waiting by itself. What was disturbed by other processes is
    timed again, in at most ``MORE`` times as many rounds.
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
    """Seconds of a call, and the part of them that a thread of this rank waited for a core."""
    waited, began = _waited(), time.perf_counter()
    for _ in range(measure.times):
        measure.run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    whole = time.perf_counter() - began
    return whole / measure.times, (_waited() - waited) / whole


def _waited() -> float:
    """Seconds that this rank's threads were ready to run and had no core, as Linux counts them."""
    total = 0
    for thread in Path("/proc/self/task").glob("*/schedstat"):
        try:
            total += int(thread.read_text().split()[1])
        except (OSError, IndexError, ValueError):
            continue  # it has ended, or this system does not count
    return total * 1e-9


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

    # Horovod's thread, once started, disturbs whatever does not need it: what does comes last
    later: list[Callable[[], None]] = []
    transport.step_seconds = 0.05
    for subject in subjects:
        large = transport.name == "horovod" and subject.work.trained * 4 >= SMALL
        for samples in SAMPLES:
            step = Step(subject, samples, alone, topology)
            for items in batches:
                x, y = subject.batch(items, device)
                run = _bound(step.whole, x, y)
                add(run, "alone", subject.name, samples, items)
                if topology.size > 1 and samples == SAMPLES[-1]:
                    add(run, "crowd", subject.name, samples, items, together=True)
        _small_parts(subject, step, add)
        for samples, items in checked:
            x, y = subject.batch(items, device)
            whole = Step(subject, samples, alone, topology)
            add(_bound(whole.whole, x, y), "step", subject.name, samples, items, 1)
            if 1 < topology.size <= samples:
                whole = Step(subject, samples, transport, topology)
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


def _small_parts(subject: Subject, step: Step, add: Callable[..., None]) -> None:
    """Draws, penalty and optimiser of a model, on their own."""
    method: Any = step.method  # of a kind that draws
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
    """Allreduces of all ranks, by MPI alone; returned: how to add the transport's own."""
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
    """An image set as large as the cache of a core, read by all ranks."""

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
        self.size = Feed(self.loader.steps_per_epoch, FEED_BATCH * each, views)
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
