"""Calls that a module makes, routed to functions that know about samples and items.

What a module draws by itself (dropout wherever it is, noise, stochastic depth) comes from counted
streams that are named by seed, step, sample, number of the call and item, so that it is the same on
any grid and in any form of pass. A route is a file and one line in :data:`.table.ROUTES`.
"""

from hpcsamp.weights.routing.now import Now, Numbers, Route
from hpcsamp.weights.routing.passes import alone, known_plan, probed, routed
from hpcsamp.weights.routing.plan import Call, OtherCallsError, Plan

__all__ = [
    "Call", "Now", "Numbers", "OtherCallsError", "Plan", "Route", "alone", "known_plan",
    "probed", "routed",
]  # fmt: skip
