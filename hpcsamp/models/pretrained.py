"""Initial weights of a network from a file: safetensors, or tensors saved by torch."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hpcsamp.errors import UsageError
from hpcsamp.grid.parts import Part
from hpcsamp.weights.pieces import parts_in

LISTED = 5
"""Largest number of names of each kind in a message."""

WITHIN = ("state_dict", "model_state_dict", "model", "module")
"""Keys under which programs store the weights in files that also hold other data."""


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits.

    Raises
    ------
    UsageError
        If the file cannot be read.
    """
    try:
        with path.open("rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()
    except OSError as e:
        raise UsageError(f"model.weights = {str(path)!r} cannot be read: {e.strerror}") from e


def read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name.

    Raises
    ------
    UsageError
        If the file cannot be read, or does not hold tensors. Pickled objects are not loaded.
    """
    try:
        if path.suffix == ".safetensors":
            return _safetensors(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UsageError:
        raise
    except Exception as e:  # a damaged file can raise many kinds of errors
        line = (str(e).strip().splitlines() or [""])[0][:200]
        raise UsageError(
            f"model.weights = {str(path)!r} cannot be read as tensors: {type(e).__name__}: {line}"
        ) from e
    for key in WITHIN:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not any(isinstance(v, Tensor) for v in content.values()):
        raise UsageError(
            f"model.weights = {str(path)!r} holds a {type(content).__name__} instead of tensors by "
            f"name; pass a state_dict, or the folder of a run to use its weights"
        )
    return {str(name): v for name, v in content.items() if isinstance(v, Tensor)}


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as e:
        raise UsageError(
            f"model.weights = {str(path)!r}: safetensors is not installed; pip install "
            f"'hpcsamp[networks]'"
        ) from e
    tensors: dict[str, Tensor] = load_file(path)
    return tensors


def put(
    network: nn.Module,
    values: Mapping[str, Tensor],
    source: str,
    *,
    strict: bool = True,
    head: str | None = None,
) -> str:
    """Set the initial weights of a network.

    Parameters
    ----------
    network
        The network, whose parameters and buffers are changed in place.
    values
        Tensors of the whole network by name. All names may have a prefix such as ``module.``, or
        may lack the name of the part of the network that they belong to.
    source
        Origin of the values, for messages.
    strict
        Whether all names must be present and all shapes must match.
    head
        Name of a layer that may differ, see :func:`.head.replace`.

    Returns
    -------
    str
        A line about weights that were not used; empty if all were.

    Raises
    ------
    UsageError
        If they do not match; the message lists missing names, unknown names, and other shapes.
    """
    own = {n: v for n, v in network.state_dict().items() if isinstance(v, Tensor)}
    values = _in_parts(_aligned(values, own), network)
    fits = {
        n: v
        for n, v in values.items()
        if n in own and v.shape == own[n].shape and v.is_complex() == own[n].is_complex()
    }
    other = [
        f"{n} {tuple(values[n].shape)} for {tuple(own[n].shape)}"
        for n in values.keys() & own.keys() - fits.keys()
    ]
    # a counter that older files do not have
    missing = [n for n in own if n not in values and (own[n].dim() or own[n].is_floating_point())]
    kinds = {
        "missing": _apart(missing, head), "unexpected": _apart(values.keys() - own.keys(), head),
        "of another shape": _apart(other, head),
    }  # fmt: skip
    wrong = "; ".join(f"{what}: {_listed(found)}" for what, found in kinds.items() if found)
    if not fits:
        raise UsageError(f"model.weights = {source!r}: none of them fits the network; {wrong}")
    if wrong and strict:
        raise UsageError(
            f"model.weights = {source!r} does not fit the network; {wrong}; set "
            f"model.weights_strict = false to use those that fit"
        )
    network.load_state_dict(fits, strict=False)
    fresh = [n for n in own if n not in fits and own[n].is_floating_point()]
    return f"model.weights: {_listed(fresh)} come from the seed, not from {source}" if fresh else ""


def _in_parts(values: Mapping[str, Tensor], network: nn.Module) -> Mapping[str, Tensor]:
    """Cut values of a whole network to the parts that a split network holds on this rank."""
    parts = {n: p for n, p in parts_in(network).items() if not p.is_whole}
    return {
        n: parts[n].cut(v).clone() if n in parts and _is_whole(v, parts[n]) else v
        for n, v in values.items()
    }


def _is_whole(value: Tensor, part: Part) -> bool:
    return tuple(value.shape) == part.whole_of(part.local)


def _apart(names: Collection[str], head: str | None) -> list[str]:
    """Return the sorted names, without those of the layer that may differ."""
    return sorted(n for n in names if head is None or not n.startswith(f"{head}."))


def _listed(names: Collection[str]) -> str:
    names = list(names)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{', '.join(names[:LISTED])}{more}"


def _aligned(values: Mapping[str, Tensor], own: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """Rename values, by adding or removing a prefix, so that most names are the network's."""
    return max(_renamed(values, own), key=lambda named: len(named.keys() & own.keys()))


def _renamed(
    values: Mapping[str, Tensor], own: Mapping[str, Any]
) -> Iterator[Mapping[str, Tensor]]:
    yield values
    first = {name.partition(".")[0] for name in values}
    if len(first) == 1:
        start = f"{first.pop()}."
        yield {name.removeprefix(start): v for name, v in values.items()}
    for part in dict.fromkeys(name.partition(".")[0] for name in own):
        yield {f"{part}.{name}": v for name, v in values.items()}
