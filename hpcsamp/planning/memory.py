"""Predict the memory of a training step, part by part, before the step.

All sizes are bytes of one rank. Flat vectors are counted from the number of parameters, forward
and backward passes are run on tensors without values (:mod:`.dry_run`), and windows of shared
memory follow from the longest messages of such a pass. A window counts once on its node, divided
among the ranks that use it. The memory of Python, MPI and the allocator is an estimate.
``hpcsamp bench memory`` measures the memory of real ranks.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch

from hpcsamp.arguments import accepted
from hpcsamp.config import RunConfig
from hpcsamp.errors import UsageError
from hpcsamp.explain import more
from hpcsamp.grid import Topology, together
from hpcsamp.layers.imagined import ImaginedGroup
from hpcsamp.layers.mailbox import SLOTS, slot_of
from hpcsamp.methods.eager import eager
from hpcsamp.methods.observe import GROUPS
from hpcsamp.methods.sharing import STRETCH
from hpcsamp.models import MODELS
from hpcsamp.planning import dry_run
from hpcsamp.planning.node_memory import available, held
from hpcsamp.planning.parted import Held, blank, inputs, network
from hpcsamp.run.assemble import Run

PROCESS = 450 * 2**20
"""Resident memory of Python, torch, HDF5 and MPI; the smallest run takes 446 MiB."""

KEPT_FREE = 0.15
"""Fraction of the temporary memory that the allocator keeps in free blocks of the wrong size."""

MARGIN = 0.9
"""Fraction of the available memory that a run may need, because other processes need some too."""

STRETCHES = 8
"""Number of sections of gathered vectors that are in memory at the same time: two each of means and
deviations, one that arrives, one of noise, and one of sums."""

DIRECTED = 4
"""Copies of the weights in a step of a method that replaces gradients by directions."""

EXAMINED = 3
"""Copies of the drawn weights while a network is examined: the weights, and two gradients."""

OUTPUT_COPIES = 4
"""Number of copies of the outputs in a loss: outputs, their gradient, and intermediate results."""


@dataclass(frozen=True)
class Part:
    """A part of the memory that a rank needs in a step.

    Attributes
    ----------
    name
        Description of its use.
    bytes
        Bytes of one rank.
    knob
        Setting that reduces it; empty if there is none.
    """

    name: str
    bytes: int
    knob: str = ""


@dataclass(frozen=True)
class Grid:
    """The ranks of a run.

    The number of model ranks is a property of the run, see
    :class:`~hpcsamp.planning.parted.Held`.

    Attributes
    ----------
    sample_size, data_size
        ``P`` and ``D``.
    per_node
        Ranks that share the memory of a node.
    """

    sample_size: int = 1
    data_size: int = 1
    per_node: int = 1


def estimate(run: Run, grid: Grid, *, rough: bool = False, copies: bool = True) -> list[Part]:
    """Return the memory of a rank in training, by part; the first part is the process itself.

    Parameters
    ----------
    run
        Run on any device; a blank run is enough.
    grid
        Ranks of the run.
    rough
        Whether upper bounds are enough, see :func:`~hpcsamp.planning.dry_run.pass_bytes`.
    copies
        Whether to count the copy in host memory from which a checkpoint is written during the
        next steps.
    """
    config, shapes, method = run.config, run.shapes, run.method
    parted = Held.of(run)
    item = 8 if config.training.precision == "float64" else 4
    trained = item * method.numbers
    drawn = item * method.drawn_numbers
    mine = -(-config.method.samples // grid.sample_size)
    batch = -(-config.data.batch // grid.data_size)
    memory = _mode(run)
    stacked = config.augment.active and config.augment.share != "all"
    first = next(iter(method.chunks(range(mine), stacked)))  # no other is larger
    together = mine if memory == "keep" else len(first)
    part = -(-batch // config.data.accumulate)
    # sums over samples that become the gradient, see hpcsamp.methods.flat_sums
    kept = config.parallel.buckets > 1 or bool(config.optimizer.groups)
    in_one = method.sums_in_one and memory != "keep" and not kept
    alone = in_one and together == 1
    found = _pass(run, part, rough, freed=alone)
    leads = config.training.longest_rollout  # a pass keeps the activations of all its steps
    state = item * _state_numbers(run)
    sharded = bool(config.optimizer.sharded)
    shares = grid.sample_size if config.optimizer.sharded == "weights" else 1
    of = f", 1/{shares}" * (shares > 1)
    views = mine if stacked else 1
    x = round(shapes.batch_bytes(item) * parted.inputs)
    y = round(shapes.target_values * item * parted.targets) * leads
    stored = round(parted.stored(shapes)) + y * (leads - 1) // leads
    outputs = OUTPUT_COPIES * round(run.outputs * parted.outputs) * batch * item * leads
    parts = [
        Part("Python, torch, MPI", PROCESS, "fewer ranks per node"),
        Part(("means and log standard deviations" if drawn else "parameters") + of,
             trained // shares),
        Part(
            "their gradient" + " and moving average" * bool(config.training.ema) + of,
            trained * (2 if config.training.ema else 1) // shares,
        ),
        Part(
            f"state of {config.optimizer.name}" + (f", 1/{grid.sample_size}" * sharded),
            round(state / (grid.sample_size if sharded else 1)),
            _state_knob(config, grid, sharded) if state else "",
        ),
    ]  # fmt: skip
    if not in_one:
        name = "gradients of the data term and of the KL" if drawn else "sum over samples"
        parts.append(Part(name + of, (trained + 2 * drawn) // shares))
    if drawn and shares > 1:
        fixed = trained - 2 * drawn  # gathered as a whole, with its gradient
        parts.append(
            Part(
                "drawn weights, and sections of gathered vectors",
                drawn * together + drawn // shares + 2 * fixed + STRETCHES * STRETCH * item,
                _together_knob(run, memory) if together > 1 else "",
            )
        )
    elif in_one:  # the first sample is drawn in the memory of the sums
        once = alone and mine * config.data.accumulate == 1
        others = 0 if once else 2 * together * drawn
        knob = _together_knob(run, memory) if together > 1 else ""
        parts.append(Part("drawn weights and their noise", others, knob))
        observed = EXAMINED * drawn - others - trained
        if observed > 0:
            parts.append(Part("examining the network, in a few steps", observed))
    elif drawn:
        parts.append(
            Part(
                "standard deviations, drawn weights and their noise",
                drawn * (1 + 2 * together),
                _together_knob(run, memory) if together > 1 else "",
            )
        )
    parts += [
        Part(
            "a forward and backward pass"
            + f", {together} samples at once" * (together > 1)
            + f" (unknown: {found.unknown})" * bool(found.unknown),
            found.bytes * together * leads,
            _pass_knob(run, memory, together, part),
        ),
        Part(
            "outputs in the loss",
            outputs * (mine if memory != "stream" else together),
            "data.batch" if batch > 1 else "",
        ),
        Part(
            f"batch and {config.data.slots} slots of the ring",
            batch * (x * views + y) + config.data.slots * batch * stored
            // max(1, min(grid.sample_size, grid.per_node // parted.size)),
            'augment.share = "all"' if views > 1 else "data.slots = 2",
        ),
    ]  # fmt: skip
    if drawn and config.parallel.buckets > 1:
        vectors = 4 if mine == 1 else 2  # a first sample's sums would be its gradients otherwise
        parts.append(Part("sums that are sent in buckets", vectors * drawn, "parallel.buckets = 1"))
    if run.method.directs:
        parts.append(Part("particles by columns, and their directions", DIRECTED * trained))
    if grid.sample_size * grid.data_size > 1:
        size = grid.sample_size * grid.data_size
        parts.append(Part("exchange of the gradient (estimate)", 2 * trained // size))
    passing = sum(p.bytes for p in parts[4:])  # allocated and freed within a step
    parts.append(Part("kept free by the allocator (estimate)", round(KEPT_FREE * passing)))
    if parted.size > 1:
        # examine the network with at least two items, and with those of several data groups
        items = max(part * together, 2, part * min(grid.data_size, GROUPS))
        windows = sum(SLOTS * slot_of(-(-most * items // part)) for most in found.messages)
        name = f"{SLOTS} slots for each exchange of model ranks, in shared memory"
        parts.append(Part(name, windows, "data.accumulate" if part > 1 else ""))
    if copies and config.training.checkpoint_behind:
        parts.append(copied(run, grid))
    return parts


def copied(run: Run, grid: Grid) -> Part:
    """Return the part for the copy, in host memory, of the tensors a rank writes to a checkpoint.

    Ranks that hold the same tensors divide them, except tensors smaller than
    :data:`hpcsamp.run.taken.LARGE`, which are not counted here.
    """
    config, apart = run.config, run.method.placement.replicas == "data"
    item = 8 if config.training.precision == "float64" else 4
    sharded, trained = config.optimizer.sharded, item * run.method.numbers
    shares = grid.sample_size if sharded == "weights" else 1
    weights = trained * (2 if config.training.ema else 1) // shares
    state = round(item * _state_numbers(run) / (grid.sample_size if sharded else 1))
    alike = [grid.data_size * (1 if own else grid.sample_size)
             for own in (apart or shares > 1, apart or bool(sharded))]  # fmt: skip
    return Part(
        "copy from which a checkpoint is written",
        weights // alike[0] + state // alike[1],
        "training.checkpoint_behind = false",
    )


def check(run: Run, topology: Topology) -> str | None:
    """Refuse a run that needs more memory than its machine has, before the first step. Collective.

    ``training.memory_check`` selects whether such a run is refused or only leads to a
    warning, or whether nothing is checked.

    Returns
    -------
    str or None
        On rank 0, a line for the user: needed and available memory, and the settings that save
        memory; None if the run needs little.

    Raises
    ------
    UsageError
        On every rank, if it is refused; the message gives needed and available memory, the largest
        parts, and the settings that reduce them.
    """
    mode = run.config.training.memory_check
    if mode == "off":
        return None
    shared = topology.device.type != "cuda"  # the ranks of a node share its memory
    ranks = topology.node_comm.Get_size() if shared else 1
    own = held(topology.device)
    there = available(topology.device)
    if shared:
        there = topology.node_comm.bcast(there) + topology.node_comm.allreduce(own)
    least, ranks = min(topology.world.allgather((there / ranks, ranks)))
    note = told = None
    with together(topology.world):
        if topology.is_root:
            note, told = _look(run, topology, least, ranks)
            if told and mode == "warn":
                sys.stderr.write(f"hpcsamp: {told}\n")
    told = topology.world.bcast(told)
    if told and mode == "refuse":
        with together(topology.world):
            raise UsageError(told)
    return note


def _look(run: Run, topology: Topology, least: float, ranks: int) -> tuple[str | None, str | None]:
    """Return a line on the memory of a step unless it is small, and an error if it is too large.

    ``least`` is the number of bytes available to a rank, of ``ranks`` that share them. A rough
    estimate is made first, because an exact one takes seconds.
    """
    grid = Grid(topology.sample_size, topology.data_size, topology.node_comm.Get_size())
    if topology.model_size > 1:  # the largest part; this rank holds the first one
        run = blank(run.config, run.shapes, topology.sample_size, topology.model_size)
    for rough in (True, False):
        parts = estimate(run, grid, rough=rough, copies=topology.device.type != "cuda")
        needed = sum(p.bytes for p in parts)
        if rough and needed <= least / 4:
            return None, None
    where = f"the {ranks} ranks of a node" if ranks > 1 else "a rank"
    note = (
        f"a step needs {needed * ranks / 1e9:.1f} GB of memory for {where}, of "
        f"{least * ranks / 1e9:.1f} GB available; {saving(run)}"
    )
    if needed <= MARGIN * least:
        return note, None
    knobs = "; ".join(
        f"{p.name} {p.bytes / 1e9:.1f} GB" + (f" (lower it by {p.knob})" if p.knob else "")
        for p in sorted(parts, key=lambda p: -p.bytes)
        if p.bytes > 0.02 * needed
    )
    return note, (
        f'{note}. Each rank: {knobs}. training.memory_check = "warn" runs it nevertheless. '
        "A resumed run keeps its batch, precision and optimiser" + more("memory")
    )


def saving(run: Run) -> str:
    """Return a line with the settings of a run that save memory."""
    config = run.config
    used = {
        'training.precision = "bfloat16"': config.training.precision == "bfloat16",
        "model.checkpoint = true": bool(config.model.arguments.get("checkpoint")),
        f'loss.memory = "{_mode(run)}"': _mode(run) != "keep",
        f"optimizer.sharded = {_written(config)}": config.optimizer.sharded,
        f"data.accumulate = {config.data.accumulate}": config.data.accumulate > 1,
    }
    names = [name for name, on in used.items() if on]
    return f"memory is saved by {', '.join(names)}" if names else "no setting saves memory"


def _written(config: RunConfig) -> str:
    return '"weights"' if config.optimizer.sharded == "weights" else "true"


def _mode(run: Run) -> str:
    if run.config.loss.memory != "auto":
        return run.config.loss.memory
    return "stream" if run.data_loss.linear else "keep"


@dataclass(frozen=True)
class _Pass:
    """Memory of a forward and backward pass of one sample.

    Attributes
    ----------
    bytes
        Largest number of bytes in use, without messages of model ranks in shared memory.
    messages
        Largest number of bytes that a rank sends in an exchange, for each group of model ranks.
    unknown
        Reason why a network cannot be run without values; empty if it can.
    """

    bytes: int
    messages: tuple[int, ...] = ()
    unknown: str = ""


def _pass(run: Run, batch: int, rough: bool, freed: bool) -> _Pass:
    config, shapes = run.config, run.shapes
    spread = run.method.spread
    made, axis = network(config, shapes, Held.of(run).size)
    try:
        found = dry_run.pass_bytes(
            made,
            inputs(shapes, spread, run.dtype),
            batch,
            dtype=run.dtype,
            autocast=torch.bfloat16 if config.training.precision == "bfloat16" else None,
            rough=rough,
            axis=axis,
            freed=freed,
        )
    except Exception as e:  # a user-defined model may depend on values
        return _Pass(0, unknown=f"{type(e).__name__}: {e}".splitlines()[0][:80])
    groups = (g for g in axis.groups if isinstance(g, ImaginedGroup) and g.most)
    return _Pass(found, tuple(g.most for g in groups))


def _state_numbers(run: Run) -> float:
    """Return how many values the optimiser keeps."""
    own = run.method.optimizer_numbers(run.config.optimizer.name)
    return _state_factor(run.config) * run.method.numbers if own is None else own


def _state_factor(config: RunConfig) -> float:
    """Return how many values an optimiser keeps per parameter, seen in a step of 1,024 of them."""
    make: Any = getattr(torch.optim, config.optimizer.name, None)
    if make is None:
        return 0
    probe = torch.nn.Parameter(torch.zeros(32, 32))
    try:
        optimizer = eager(make)([probe], **config.optimizer.arguments)
        probe.grad = torch.ones_like(probe)
        optimizer.step()
    except Exception:  # arguments it does not accept are reported where it is built
        return 0
    kept = (v for v in optimizer.state[probe].values() if isinstance(v, torch.Tensor))
    return sum(v.numel() for v in kept if v.dim()) / probe.numel()


def _state_knob(config: RunConfig, grid: Grid, sharded: bool) -> str:
    if not sharded and grid.sample_size > 1:
        return "optimizer.sharded = true"
    return 'optimizer.name = "SGD"' if config.optimizer.name != "SGD" else "optimizer.momentum = 0"


def _together_knob(run: Run, memory: str) -> str:
    if memory == "keep":
        return 'loss.memory = "recompute"' if not run.data_loss.linear else 'loss.memory = "stream"'
    return "method.samples_per_pass = 1"


def _pass_knob(run: Run, memory: str, together: int, batch: int) -> str:
    config = run.config
    if together > 1:
        return _together_knob(run, memory)
    arguments = accepted(MODELS.find(config.model.name))
    if "checkpoint" in arguments and not config.model.arguments.get("checkpoint"):
        return "model.checkpoint = true"
    if config.training.precision != "bfloat16":
        return 'training.precision = "bfloat16"'
    return "data.accumulate" if batch > 1 else ""
