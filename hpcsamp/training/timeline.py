"""Record some steps of a rank: a Chrome trace for viewers, and the seconds of each phase.

It is inactive unless ``--profile`` is set.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hpcsamp.devices import synchronise
from hpcsamp.grid import Topology, together
from hpcsamp.training.callbacks import Callback, Moment
from hpcsamp.training.phases import NAMES, Phases
from hpcsamp.watchdog import Part, here

if TYPE_CHECKING:
    from torch.profiler import profile

#: Number of first steps that are left out, because they allocate memory and choose kernels, and
#: number of recorded steps.
WARM, STEPS = 2, 5
#: Phases in which a rank waits for other ranks or for its reading thread.
WAITS = ("feed", "agreement", "exchange")


class Timeline(Callback):
    """Timeline of some steps of this rank.

    In a run it is a callback. Your own loop calls :meth:`start`, :meth:`mark` after each step and
    :meth:`stop`. On a GPU each phase ends with a synchronisation, so that its time is that of its
    kernels, and phases are NVTX ranges as well.

    Parameters
    ----------
    topology
        The grid.

    Attributes
    ----------
    seconds
        Seconds of each phase, without nested phases, in each recorded step.
    """

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.seconds: dict[str, list[float]] = {name: [] for name in NAMES}
        self._phases = Phases(topology.device)
        self._open = ExitStack()
        self._trace: profile | None = None
        self._passed = 0
        self._step: ExitStack | None = None

    # As a callback ------------------------------------------------------------------------------

    def after_step(self, at: Moment) -> None:
        """Start recording after the first steps; afterwards end a recorded step."""
        self._passed += 1
        if self._step is not None:
            self.mark()
        elif self._passed == WARM:
            self.start()

    def end(self, at: Moment) -> None:
        """Stop recording if the run ended early."""
        self.stop()

    # As a recorder ------------------------------------------------------------------------------

    def start(self) -> None:
        """Start recording."""
        from torch.profiler import ProfilerActivity, profile

        kinds = [ProfilerActivity.CPU]
        if self.topology.device.type == "cuda":
            kinds.append(ProfilerActivity.CUDA)
        self._trace = self._open.enter_context(profile(activities=kinds))
        place = {"rank": self.topology.rank, "world_size": self.topology.size}
        self._trace.add_metadata("hpcsamp", str(place))
        self._open.enter_context(here.listening(self._listen))
        synchronise(self.topology.device)  # so that no earlier work counts as that of the step
        self._begin()

    def mark(self) -> None:
        """End a step and begin the next one, unless enough steps have been recorded."""
        assert self._step is not None
        synchronise(self.topology.device)
        self._step.close()
        took = time.perf_counter() - self._began
        found = self._phases.seconds
        for name in NAMES[:-1]:
            self.seconds[name].append(found.get(name, 0.0))
        self.seconds["other"].append(max(0.0, took - sum(found.values())))
        if len(self.seconds["other"]) < STEPS:
            self._begin()
        else:
            self.stop()

    def stop(self) -> None:
        """Stop recording; without effect if nothing is being recorded."""
        if self._step is not None:
            self._step.close()
            self._step = None
        self._open.close()

    def _begin(self) -> None:
        self._phases.seconds.clear()
        self._step = ExitStack()
        self._step.enter_context(self._range(f"step {len(self.seconds['other']) + 1}"))
        self._began = time.perf_counter()

    @contextmanager
    def _listen(self, part: Part) -> Iterator[None]:
        with self._range(part), self._phases.timed(part):
            yield

    @contextmanager
    def _range(self, name: str) -> Iterator[None]:
        with torch.profiler.record_function(name), ExitStack() as stack:
            if self.topology.device.type == "cuda":
                stack.enter_context(torch.cuda.nvtx.range(name))
            yield

    # The result ---------------------------------------------------------------------------------

    def write(self, folder: Path) -> list[dict[str, Any]]:
        """Write the trace of each rank to a folder; return the table of phases. Collective.

        Returns
        -------
        list
            See :func:`table`; empty if no step was recorded.
        """
        self.stop()
        with together(self.topology.world):
            if self._trace is not None and self.seconds["other"]:
                folder.mkdir(parents=True, exist_ok=True)
                self._trace.export_chrome_trace(str(folder / f"rank-{self.topology.rank}.json.gz"))
        return table(self.topology.world.allgather(self.seconds))


def table(ranks: Sequence[dict[str, list[float]]]) -> list[dict[str, Any]]:
    """Return for each phase the median and maximum over ranks, and the rank of the maximum.

    A slow rank makes the others wait: they spend more time in phases of :data:`WAITS` than the
    slow rank does. The last two rows are sums of all phases in which ranks work and wait.

    Parameters
    ----------
    ranks
        Seconds of each phase in each step, of all ranks in their order.
    """
    if not ranks[0]["other"]:
        return []
    own = [{name: statistics.median(found[name]) for name in NAMES} for found in ranks]
    for found in own:
        found["work"] = sum(found[name] for name in NAMES if name not in WAITS)
        found["waiting"] = sum(found[name] for name in WAITS)
    rows = []
    for name in (*NAMES, "work", "waiting"):
        seconds = [found[name] for found in own]
        rows.append(
            {
                "phase": name,
                "median": statistics.median(seconds),
                "max": max(seconds),
                "rank": seconds.index(max(seconds)),
            }
        )
    return rows


def straggler(rows: Sequence[dict[str, Any]], ranks: int) -> str:
    """Describe the rank for which the others wait; empty if no rank works much longer than others.

    Parameters
    ----------
    rows
        See :func:`table`.
    ranks
        Number of ranks.
    """
    by = {row["phase"]: row for row in rows}
    if ranks == 1 or not rows or by["work"]["max"] < 1.1 * by["work"]["median"]:
        return ""
    rank = by["work"]["rank"]
    own = [r for r in rows[:-2] if r["rank"] == rank and r["phase"] not in WAITS]
    phase = max(own, key=lambda row: row["max"] - row["median"])["phase"] if own else "other"
    return (
        f"rank {rank} is the straggler: it works {by['work']['max']:.3g} s per step, the median of "
        f"{ranks} ranks is {by['work']['median']:.3g} s; most of the difference is in {phase}"
    )
