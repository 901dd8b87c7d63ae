"""Route calls that a module makes to functions that handle samples and items.

The random numbers that a module draws itself (dropout of any kind, noise, stochastic depth) come
from counter-based streams that are identified by seed, step, sample, number of the call, and item,
so they are the same on any grid, whether samples are looped, vmapped or folded. A route is a
function and one line in :data:`.table.ROUTES`.
"""

from hpcsamp.weights.routing.draw_plan import Call, OtherCallsError, Plan
from hpcsamp.weights.routing.now import Now, Numbers, Route
from hpcsamp.weights.routing.passes import alone, known_plan, probed, routed

__all__ = [
    "Call", "Now", "Numbers", "OtherCallsError", "Plan", "Route", "alone", "known_plan",
    "probed", "routed",
]  # fmt: skip
