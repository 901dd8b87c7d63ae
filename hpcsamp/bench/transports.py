"""Time the all-reduce of a gradient with each transport, as separate jobs in alternating rounds.

Run as ``python -m hpcsamp.bench.transports NAME SIZES TIMES``, this module is one of these jobs.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

from hpcsamp.bench import records
from hpcsamp.bench.turns import Turns, VariantJob
from hpcsamp.errors import HpcsampError

#: Seconds of a step from which Horovod's cycle time is derived.
STEP = 0.05


class Exchanges:
    """Time exchanges of gradients of several sizes by one transport. Collective over the world.

    Parameters
    ----------
    name
        Name of the transport, as in ``parallel.collectives``.
    sizes
        Numbers of elements of the gradients, float32.
    times
        Number of exchanges of each size in a round.
    """

    def __init__(self, name: str, sizes: Sequence[int], times: int) -> None:
        import torch

        from hpcsamp.collectives import choose
        from hpcsamp.grid import init

        self.topology = init("world")
        self.transport = choose(self.topology, name)
        self.transport.step_seconds = STEP
        self.times = times
        self.gradients = [torch.empty(size, device=self.topology.device) for size in sizes]

    def round(self) -> dict[str, Any]:
        """Return for each size the median seconds of an exchange on the slowest rank."""
        from hpcsamp.devices import synchronise

        world, rank = self.topology.world, self.topology.rank
        found = []
        for gradient in self.gradients:
            seconds = []
            for number in range(self.times):
                gradient.fill_(rank + number)
                synchronise(gradient.device)
                world.Barrier()
                began = time.perf_counter()
                self.transport.sum_gradient_(gradient, "world")
                synchronise(gradient.device)
                seconds.append(time.perf_counter() - began)
                expected = sum(r + number for r in range(world.Get_size()))
                if not bool((gradient == expected).all()):
                    raise HpcsampError(
                        f"{self.transport.name}: a sum over the ranks is {float(gradient[0]):g}, "
                        f"not {expected}"
                    )
            found.append(max(world.allgather(statistics.median(seconds))))
        return {"seconds": found}

    watch = round

    def about(self) -> dict[str, Any]:
        """Return the fields of a record that describe the transport."""
        return {
            "collectives": self.transport.settings(),
            "device": self.topology.device.type,
        }


def measure(
    names: Sequence[str], ranks: int, sizes: Sequence[int], times: int, rounds: int
) -> list[dict[str, Any]]:
    """Measure all transports in alternating rounds; return a record for each and each size.

    A record contains the median seconds of its rounds, and ratios to the first transport's times in
    the same rounds.
    """
    program = ("-m", "hpcsamp.bench.transports")
    told = (",".join(map(str, sizes)), str(times))
    with Turns(
        VariantJob(name, ranks, (*program, name, *told), {"OMP_NUM_THREADS": "1"}) for name in names
    ) as turns:
        found = turns.rounds("round", rounds, warm=1)
        ends = turns.end()
    where = records.surroundings()
    made = []
    for name, own, end in zip(names, found, ends, strict=True):
        for place, size in enumerate(sizes):
            seconds, first = ([a["seconds"][place] for a in each] for each in (own, found[0]))
            ratios = [a / b for a, b in zip(seconds, first, strict=True)]
            made.append(
                {
                    "event": "exchange",
                    "transport": name,
                    "world_size": ranks,
                    "numbers": size,
                    "seconds": statistics.median(seconds),
                    "rounds": seconds,
                    "ratio": statistics.median(ratios),
                    "ratios": ratios,
                    "collectives": end["collectives"],
                    "device": end["device"],
                    **where,
                }
            )
    return made


def main(name: str, sizes: str, times: str) -> None:
    """Execute the commands of the process that controls the rounds."""
    from hpcsamp.bench.worker import serve
    from hpcsamp.runtime import mpi

    exchanges = Exchanges(name, [int(size) for size in sizes.split(",")], int(times))
    serve(mpi().COMM_WORLD, exchanges, exchanges.about())


if __name__ == "__main__":
    from hpcsamp.runtime import end_job

    try:
        main(*sys.argv[1:])
    except Exception as e:
        sys.exit(end_job(e))
