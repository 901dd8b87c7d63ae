"""Time a training step of a model-parallel network against 1/M of its matrix products alone.

The step is that of the training loop, including the feed, on M model ranks. The floor is the time
of its arithmetic: every rank computes 1/M of the matrix products of the sequential network's
forward and backward passes, all ranks at the same time, with operands that already exist. Step and
floor alternate in one job, so that a drift in the speed of the machine affects both equally.
"""

from __future__ import annotations

import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hpcsamp import config as configuration
from hpcsamp.bench.stepper import Stepper
from hpcsamp.errors import UsageError
from hpcsamp.grid import Topology, init, together
from hpcsamp.models import Mixer
from hpcsamp.models.mixer import MixerBlock
from hpcsamp.run.assemble import Run, network
from hpcsamp.run.prepare import prepare
from hpcsamp.runtime import mpi

CONFIG = "mixer-era5"
WARM = 6
"""Number of warm-up steps, which include the steps in which the module is observed."""

SETTINGS = (
    "method.samples_per_pass=1",
    "model.strip=4",
    "model.width=1024",
    "model.blocks=2",
    "data.batch=2",
    "data.synthetic.items=20",
    "data.synthetic.grid=[64, 256]",
    "training.steps=1000000",
    "training.epochs=1000000",
    "training.log_every=1000000",
)
"""Settings of the benchmark: 4,096 tokens of 1,024 channels, with the 4:1 ratio of the full size.
On two cores a step takes seconds, most of them in matrix products."""


@dataclass(frozen=True)
class Product:
    """A matrix product that was computed: its function, and shapes and strides of its operands."""

    function: Callable[..., Tensor]
    operands: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    dtype: torch.dtype

    @property
    def work(self) -> int:
        """Number of multiply-add operations."""
        (a, _), (b, _) = self.operands[-2:]
        count = b[-1]
        for n in a:
            count *= n
        return count


class Recorded(TorchDispatchMode):
    """Context manager that records the matrix products that are computed within it."""

    def __init__(self) -> None:
        super().__init__()
        self.products: list[Product] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and record it if it is a matrix product."""
        aten = torch.ops.aten
        plain = {
            aten.mm.default: (torch.mm, args),
            aten.bmm.default: (torch.bmm, args),
            aten.addmm.default: (torch.mm, args[1:]),
            aten.baddbmm.default: (torch.bmm, args[1:]),
        }
        if func in plain:
            function, operands = plain[func]
            layouts = tuple((tuple(t.shape), t.stride()) for t in operands)
            self.products.append(Product(function, layouts, operands[0].dtype))
        return func(*args, **(kwargs or {}))


def products(run: Run) -> list[Product]:
    """Return the matrix products of the sequential network for one sample, forward and backward."""
    shape = run.shapes.x
    assert isinstance(shape, tuple)
    whole = network(run.config, run.shapes).to(run.dtype)
    x = torch.randn(run.config.data.batch, *shape, dtype=run.dtype)
    with Recorded() as recorded:
        whole(x).square().sum().backward()
    return recorded.products


def arithmetic(net: Mixer, items: int) -> tuple[int, int]:
    """Return the number of exchanges in a pass and the number of elements a rank sends in them.

    Computed by formula for a rank of the channel axis, see :class:`Mixer`.
    """
    over, blocks = net.axis.channels, len(net.blocks)
    others, n = over.size - 1, items
    (fields, latitudes, longitudes), own = net.out_shape, net.output_part(net.out_shape).local[0]
    tokens, c = latitudes * longitudes // net.embed.strip, net.norm.channels // over.size
    first = net.blocks[0]
    assert isinstance(first, MixerBlock)
    t, wide = n * tokens, first.down.weight.shape[0]
    sent = others * 2 * t * c
    sent += blocks * others * (5 * t * c + 2 * tokens // over.size)
    sent += blocks * others * 2 * t * (wide + c)
    sent += (2 * blocks + 1) * others * 4 * t
    sent += 2 * n * latitudes * longitudes * (fields - own + others * own)
    return 15 * blocks + 8, sent


class Floor:
    """The matrix products of a number of passes, with operands that already exist.

    Parameters
    ----------
    products
        Matrix products of one pass.
    passes
        Number of passes.
    """

    def __init__(self, products: list[Product], passes: int) -> None:
        made: dict[tuple[Any, torch.dtype], Tensor] = {}

        def operand(layout: tuple[tuple[int, ...], tuple[int, ...]], dtype: torch.dtype) -> Tensor:
            if (layout, dtype) not in made:
                shape, stride = layout
                last = sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
                made[layout, dtype] = torch.randn(last + 1, dtype=dtype).as_strided(shape, stride)
            return made[layout, dtype]

        self._calls: list[tuple[Callable[..., Tensor], Tensor, Tensor, Tensor]] = []
        outs: dict[tuple[int, ...], Tensor] = {}
        for product in products:
            operands = [operand(layout, product.dtype) for layout in product.operands]
            shape = (*operands[0].shape[:-1], operands[1].shape[-1])
            out = outs.setdefault(shape, torch.zeros(shape, dtype=product.dtype))
            self._calls.append((product.function, operands[0], operands[1], out))
        self._passes = passes

    def take(self) -> None:
        """Compute the products once."""
        for _ in range(self._passes):
            for function, a, b, out in self._calls:
                function(a, b, out=out)


def compare(samples: int, rounds: int, settings: Sequence[str]) -> dict[str, Any] | None:
    """Time step and floor in turn. Collective over all ranks of the job.

    Parameters
    ----------
    samples
        ``S``, a multiple of the ranks.
    rounds
        Number of timed rounds.
    settings
        Further keys of the configuration.

    Returns
    -------
    dict or None
        Seconds of the slowest rank and mean CPU time of the ranks by variant, ratios by round,
        phases of a step, and the exchanges and bytes sent; None on all ranks but the first.

    Raises
    ------
    UsageError
        If the number of samples is not a multiple of the number of ranks.
    """
    world = mpi().COMM_WORLD
    ranks = world.Get_size()
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory())
        with together(world):
            if samples % ranks:
                raise UsageError(
                    f"--samples {samples}: the floor is 1/{ranks} of the matrix products, so "
                    f"a multiple of {ranks} samples is needed"
                )
            fixed = (
                f"method.samples={samples}",
                f"parallel.model={ranks}",
                "parallel.samples=1",
                f"data.path={json.dumps(str(Path(folder) / 'data'))}",
            )
            config = configuration.load(CONFIG, [*SETTINGS, *settings, *fixed])
        # all ranks use the folder of rank 0
        section = config.data.model_copy(update={"path": world.bcast(config.data.path)})
        config = prepare(config.model_copy(update={"data": section}), "synthetic", world)
        topology = init(1, model=ranks, device="cpu")
        return _compared(Stepper(config, topology, stack), rounds)


def _compared(stepper: Stepper, rounds: int) -> dict[str, Any] | None:
    topology, run = stepper.topology, stepper.trainer.assembled
    world, ranks, samples = topology.world, topology.size, run.config.method.samples
    net, items = run.method.networks[0], run.config.data.batch
    assert isinstance(net, Mixer)
    one = products(run)
    floor = Floor(one, samples // ranks)
    stepper.take(WARM)
    seconds: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for _ in range(rounds):
        for name, take in (("floor", floor.take), ("step", lambda: stepper.take(1))):
            seconds[name].append(_timed(take, topology))
    counted = run.axis.counted
    before = (counted.exchanges, counted.bytes)
    phases = world.gather(stepper.take_watched(1))
    exchanges, sent = counted.exchanges - before[0], counted.bytes - before[1]
    each, numbers = arithmetic(net, items)
    width = torch.empty(0, dtype=run.dtype).element_size()
    told = world.gather((exchanges, sent, samples * each, samples * numbers * width))
    if told is None or phases is None:
        return None
    pairs = list(zip(seconds["step"], seconds["floor"], strict=True))
    names = ("exchanges", "bytes", "expected_exchanges", "expected_bytes")
    return {
        "ranks": ranks,
        "samples": samples,
        "batch": items,
        "how": run.axis.describe(),
        "products": sum(p.work for p in one) * 2 * samples,
        "seconds": {k: statistics.median(wall for wall, _ in v) for k, v in seconds.items()},
        "cpu_seconds": {k: statistics.median(cpu for _, cpu in v) for k, v in seconds.items()},
        "ratio": _spread([a[0] / b[0] for a, b in pairs]),
        "cpu_ratio": _spread([a[1] / b[1] for a, b in pairs]),
        "phases": phases,
        **{name: [row[i] for row in told] for i, name in enumerate(names)},
    }


def _timed(take: Callable[[], Any], topology: Topology) -> tuple[float, float]:
    """Return the seconds of the slowest rank, and the mean CPU time of the ranks."""
    topology.world.Barrier()
    began, cpu = time.perf_counter(), time.process_time()
    take()
    spent, cpu = time.perf_counter() - began, time.process_time() - cpu
    walls, cpus = zip(*topology.world.allgather((spent, cpu)), strict=True)
    return max(walls), sum(cpus) / len(cpus)


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
