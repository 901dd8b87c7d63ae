"""Tables of routed calls; a route is one line here and a function in its file."""

from __future__ import annotations

from typing import Any

from hpcsamp.weights.routing import (
    again,
    attention,
    dropout,
    embedding,
    gumbel,
    normalisation,
    random,
    recurrent,
)
from hpcsamp.weights.routing.now import Route

#: Routes that are needed whether samples are looped, vmapped or folded.
ROUTES: dict[Any, Route] = {
    **again.ROUTES,
    **attention.ROUTES,
    **dropout.ROUTES,
    **embedding.ROUTES,
    **gumbel.ROUTES,
    **normalisation.ROUTES,
    **random.ROUTES,
    **recurrent.ROUTES,
}
#: Routes for functions for which ``torch.func.vmap`` has no good rule.
OF_VMAP: dict[Any, Route] = {**attention.OF_VMAP, **embedding.OF_VMAP}
