"""Lines that a run prints before its first step, and its summary after the last one."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from hpcsamp.grid import Topology
from hpcsamp.methods import Method
from hpcsamp.processes import peak_rss_mb
from hpcsamp.run import digest
from hpcsamp.spelling import counted

if TYPE_CHECKING:
    from hpcsamp.training.loop import Trainer


def opening(trainer: Trainer) -> list[str]:
    """Lines about the grid, the model, the loss and the length of the run."""
    c, done = trainer.config, trainer.done
    weights = trainer.method.numbers
    m = trainer.topology.model_size
    held = f" on the first of {m} model ranks" if m > 1 else ""
    several = trainer.topology.size > 1
    lines = [
        trainer.topology.describe()
        + (f"; {trainer.collectives.name} exchanges gradients" if several else ""),
        f"{c.model.name}, {c.method.name}, S = {c.method.samples}, {weights:,} variational "
        f"parameters{held}; {c.loss.name}{'' if c.loss.exact else ' (per rank: approximate)'}, "
        f"memory {trainer.optimisation.loss.memory}",
    ]
    if trainer.memory:
        lines.append(trainer.memory)
    if m > 1:
        lines.append(trainer.assembled.axis.describe(trainer.topology.device.type))
    if c.loss.temperature != 1:
        lines.append(f"temperature {c.loss.temperature}: not the Bayesian posterior")
    if trainer.feed.rollout is not None:
        lines.append(trainer.feed.rollout.describe())
    lines.append(
        f"{counted(trainer.dataset.count, 'item')}, batch {c.data.batch}, "
        f"{counted(trainer.steps_per_epoch, 'step')} per epoch, "
        f"{counted(c.training.epochs, 'epoch')}; in {trainer.folder.path}"
        + (f"; resumed after step {done}" if done else "")
    )
    return lines


def gathering(method: Method, topology: Topology, most: int, twice: bool) -> list[str]:
    """Describe the exchanges of a step in one line, if ranks hold shares of the weights.

    Parameters
    ----------
    most
        Largest number of samples of a rank.
    twice
        Whether passes are computed twice, to save memory.
    """
    if not method.shared_out:
        return []
    rounds = len(list(method.chunks(range(most)))) * (2 if twice else 1)
    return [
        f"the weights are sharded over {topology.sample_size} ranks: each step gathers "
        f"{method.drawn_numbers:,} values {2 * rounds} times"
    ]


def normalising(method: Method, topology: Topology, most: int) -> list[str]:
    """Describe in one line the exchanges of a network that normalises over several ranks' batches.

    Parameters
    ----------
    most
        Largest number of samples of a rank.
    """
    calls, chunk = method.state.calls, method.passes.chunk
    if not method.state.exchanges:
        return []
    return [
        f"{calls} normalisations over the batch of {topology.data_size} data groups: "
        f"{2 * calls * -(-most // chunk)} exchanges per step in addition to the gradient"
    ]


def ending(trainer: Trainer) -> list[str]:
    """Lines about a run that ended before its last step: the reason, and the best state."""
    if not trainer.ended:
        return []
    line = f"ended after step {trainer.method.step} of {trainer.steps}: {trainer.ended}"
    if trainer.keeper.best_step >= 0:
        best = trainer.folder.checkpoints / "best.pt"
        line += f"; the best state, of step {trainer.keeper.best_step}, is in {best}"
    return [line]


def logged_times(trainer: Trainer) -> list[float]:
    """Seconds of the logged steps of earlier starts of this run; on rank 0 only."""
    if not trainer.topology.is_root:
        return []
    return [
        e["seconds"]
        for e in trainer.folder.events()
        if e.get("event") == "train" and "seconds" in e
    ]


def closing(trainer: Trainer) -> dict[str, Any]:
    """Return the summary for ``summary.json``. Collective over the world."""
    c, t, best = trainer.config, trainer.topology, trainer.keeper.best_step
    times = trainer.times or logged_times(trainer)
    seconds = statistics.median(times) if times else None
    return {
        "steps": trainer.method.step,
        "planned_steps": trainer.steps,
        "ended": trainer.ended,
        "best_step": best if best >= 0 else None,
        "samples": c.method.samples,
        "world_size": t.size,
        "sample_group_size": t.sample_size,
        "data_group_size": t.data_size,
        "model_group_size": t.model_size,
        "collectives": trainer.collectives.settings(),
        "method": c.method.name,
        "passes": trainer.method.choice(),
        "loss": c.loss.name,
        "exact": c.loss.exact,
        "temperature": c.loss.temperature,
        "metrics": trainer.validation.metrics if trainer.validation else {},
        "seconds_per_step": seconds,
        "items_per_second": c.data.batch / seconds if seconds else None,
        "peak_rss_mb": max(t.world.allgather(peak_rss_mb())),
        "parameters_sha256": digest.parameters_sha256(trainer.method, t),
    }
