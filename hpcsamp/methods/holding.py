"""Tensors that a method and its modules hold, for checkpoints, comparisons and moves."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hpcsamp.methods.passing import Passing
from hpcsamp.methods.traces import Traces, content_of
from hpcsamp.weights.complex_parts import in_parts
from hpcsamp.weights.pieces import Pieces, parts_in


class Holding(Passing):
    """A method with wrapped modules, whose frozen parameters and buffers it also manages."""

    @property
    def networks(self) -> Sequence[nn.Module]:
        """The wrapped modules: one, or one per member on this rank."""
        return ()

    def constants(self) -> dict[str, Tensor]:
        """Frozen parameters and buffers of the wrapped module, by name.

        Tensors that are registered with the method itself are not included.
        """
        return {}

    def held(self) -> dict[str, Tensor]:
        """Every tensor that the outputs depend on, by name.

        These are the trained tensors, the method's own state, and the constants of the module.
        Replicas have the same names in the same order and must have the same values; a tensor may
        be written to in place.
        """
        own = itertools.chain(self.named_parameters(), self.named_buffers())
        constants = {f"constants.{name}": value for name, value in self.constants().items()}
        return {name: value.detach() for name, value in own} | constants

    def constants_to_keep(self) -> dict[str, Tensor]:
        """The constants for checkpoints, not copied; with members, these are the first axis."""
        return self.constants()

    def constant_pieces(self) -> dict[str, Pieces]:
        """Positions of the constants in those of the whole network, if it is split."""
        parts = parts_in(self.networks[0])
        return {f"constants.{n}": parts[n] for n in self.constants_to_keep() if n in parts}

    def take_constants(self, kept: Mapping[str, Tensor]) -> None:
        """Load the constants of a checkpoint into the module."""
        for name, value in self.constants().items():
            value.copy_(kept[name])

    def extra_to_keep(self) -> dict[str, Any]:
        """State of submodules other than tensors (``get_extra_state``), by the submodule's name.

        This includes only modules that are not registered with the method; torch saves the state of
        the others.
        """
        return {}

    def take_extra(self, kept: Mapping[str, Any]) -> None:
        """Load the extra state of a checkpoint into the submodules."""

    def extra_as_tensors(self) -> dict[str, Tensor]:
        """The extra state as bytes, for comparison."""
        found = {}
        for name, kept in self.extra_to_keep().items():
            for row, text in enumerate([kept] if isinstance(kept, str) else kept):
                content = torch.frombuffer(bytearray(text, "ascii"), dtype=torch.uint8)
                found[f"extra.{name}.{row}"] = content
        return found

    def attributes(self) -> dict[str, Any]:
        """Numeric values and arrays that are attributes of the modules but not buffers, by name.

        Checkpoints do not contain them, so replicas must have the same ones from the start.
        """
        found: dict[str, Any] = {}
        for i, network in enumerate(self.networks):
            for (name, key), value in Traces(network).numbers().items():
                found[f"attribute {key!r} of {name or 'the network'} ({i})"] = value
        found |= {n: content_of(x) for n, x in self.extra_as_tensors().items()}
        return found

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, value in self.constants_to_keep().items():
            destination[f"{prefix}constants.{name}"] = value
        if extra := self.extra_to_keep():
            destination[f"{prefix}extra"] = extra

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, metadata: Any, strict: bool, missing_keys: list[str],
        *others: Any,
    ) -> None:  # fmt: skip
        start = f"{prefix}constants."
        keys = [key for key in state_dict if key.startswith(start)]
        kept = {key.removeprefix(start): state_dict.pop(key) for key in keys}
        missing = [name for name in self.constants_to_keep() if name not in kept]
        missing_keys += [start + name for name in missing]
        if not missing:
            self.take_constants(kept)
        self.take_extra(state_dict.pop(f"{prefix}extra", {}))
        arguments = (state_dict, prefix, metadata, strict, missing_keys, *others)
        super()._load_from_state_dict(*arguments)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move a tensor or convert its type; a complex tensor stays complex."""
        return super()._apply(in_parts(fn), recurse)
