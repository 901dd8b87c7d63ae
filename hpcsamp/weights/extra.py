"""Extra state of a module (``get_extra_state``), written without pickle."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping

import torch
from torch import nn

from hpcsamp.errors import UsageError


def extra_of(module: nn.Module) -> dict[str, str]:
    """Return the extra state of each submodule that has one, by the submodule's name.

    Raises
    ------
    UsageError
        If reading a state back would need to run code from the file.
    """
    found = {}
    for name, part in module.named_modules():
        if type(part).get_extra_state is nn.Module.get_extra_state:
            continue
        state = part.get_extra_state()
        try:
            found[name] = _text(state)
            _value(found[name])
        except Exception as e:
            what = f"{name}, a {type(part).__name__}," if name else type(part).__name__
            raise UsageError(
                f"{what} has an extra state that no checkpoint can hold, a "
                f"{type(state).__name__} ({(str(e).splitlines() or [''])[0][:120]}); let "
                f"get_extra_state return tensors, numbers, text, and lists or dictionaries of them"
            ) from e
    return found


def put_extra(module: nn.Module, states: Mapping[str, str]) -> None:
    """Restore the extra state of each submodule."""
    parts = dict(module.named_modules())
    for name, text in states.items():
        parts[name].set_extra_state(_value(text))


def _text(state: object) -> str:
    stream = io.BytesIO()
    torch.save(state, stream)
    return base64.b64encode(stream.getvalue()).decode()


def _value(text: str) -> object:
    found: object = torch.load(
        io.BytesIO(base64.b64decode(text)), map_location="cpu", weights_only=True
    )
    return found
