"""Which calls are routed; a route is one line in its file."""

from __future__ import annotations

from typing import Any

from hpcsamp.weights.routing import (
    attention,
    dropout,
    embedding,
    gumbel,
    normalisation,
    random,
    recurrent,
)
from hpcsamp.weights.routing.now import Route

#: Routes that a module needs in every form of pass.
ROUTES: dict[Any, Route] = {
    **attention.ROUTES,
    **dropout.ROUTES,
    **embedding.ROUTES,
    **gumbel.ROUTES,
    **normalisation.ROUTES,
    **random.ROUTES,
    **recurrent.ROUTES,
}
#: Routes for what ``torch.func.vmap`` has no good rule for.
OF_VMAP: dict[Any, Route] = {**attention.OF_VMAP, **embedding.OF_VMAP}
