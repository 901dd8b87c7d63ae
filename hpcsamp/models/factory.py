"""Build a network by calling a class or function of any package, with arguments of its own.

``in_shape`` and ``outputs`` are passed if its signature takes them by name. Other arguments that
depend on the data are written as words that begin with ``@``:

    num_classes = "@outputs"      in_chans = "@channels"      act_layer = "@torch.nn:GELU"

With several inputs, a word is preceded by the name of an input: ``@image.channels``.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hpcsamp import arguments as free
from hpcsamp.errors import UsageError
from hpcsamp.registry import opened, public
from hpcsamp.spelling import shown, suggest
from hpcsamp.weights import inputs_of

SIZES = (
    "num_classes", "num_labels", "n_classes", "num_outputs", "n_outputs", "out_features",
    "output_size", "output_dim", "out_dim", "d_out",
)  # fmt: skip
"""Usual names of the argument that sets the number of outputs."""


Shape = tuple[int, ...] | Mapping[str, tuple[int, ...]]


class Data(NamedTuple):
    """What the data require of a network: shapes of inputs and numbers of outputs.

    Attributes
    ----------
    in_shape
        Shape of an input item; by name if there are several inputs.
    outputs
        Number of outputs per item.
    ids
        Whether inputs are ids.
    kinds
        With several inputs, the kind of each: ``numbers``, ``ids`` or ``flags``.
    classes
        Number of classes of each pixel or time step, if these have labels; else None.
    parts
        Outputs per item for each of several targets, by name; empty if there is one target.
    """

    in_shape: Shape
    outputs: int
    ids: bool = False
    kinds: Mapping[str, str] = {}
    classes: int | None = None
    parts: Mapping[str, int] = {}

    @property
    def channels(self) -> int:
        """Number of channels of the last layer: ``classes`` for labels per pixel or step."""
        return self.outputs if self.classes is None else self.classes

    def batch(self, items: int, dtype: torch.dtype, device: torch.device | None) -> Tensor:
        """Return a batch of zeros: numeric inputs of the given dtype, ids, and flags."""
        types = {"ids": torch.int64, "flags": torch.bool}

        def zeros(shape: tuple[int, ...], kind: str) -> Tensor:
            return torch.zeros(items, *shape, dtype=types.get(kind, dtype), device=device)

        if isinstance(self.in_shape, Mapping):
            named = {n: zeros(s, self.kinds.get(n, "numbers")) for n, s in self.in_shape.items()}
            return inputs_of(named)
        return zeros(self.in_shape, "ids" if self.ids else "numbers")


class BuiltNetwork(NamedTuple):
    """A network, and the argument that was set to the number of outputs by guess.

    Attributes
    ----------
    network
        The module.
    guess
        Name of this argument; empty if there is none.
    """

    network: nn.Module
    guess: str = ""


def make(
    name: str, kind: Callable[..., Any], given: Mapping[str, Any], data: Data, head: bool
) -> BuiltNetwork:
    """Return the network that a class or function makes.

    Parameters
    ----------
    name
        Name of the class, for messages.
    kind
        The class or function.
    given
        Its arguments in the configuration.
    data
        Requirements of the data.
    head
        Whether the last layer will be replaced, so that the number of outputs need not be set.

    Raises
    ------
    UsageError
        If it does not take the arguments or refuses them, or if it does not make a network.
    """
    if isinstance(kind, nn.Module):
        raise UsageError(
            f"model.name = {name!r} is a network that was built when its module was imported, with "
            f"weights that do not come from the seed; name the class or function that makes it"
        )
    words = Words(data)
    arguments = {key: words.put(f"model.{key}", value) for key, value in given.items()}
    program = {
        key: value
        for key, value in {"in_shape": data.in_shape, "outputs": data.outputs}.items()
        if key in free.accepted(kind) and key not in given
    }
    is_set = head or "outputs" in program or words.outputs or any(k in given for k in SIZES)
    for guess in () if is_set else guesses(kind):
        try:
            return BuiltNetwork(
                _call(name, kind, {**arguments, guess: data.channels}, program), guess
            )
        except UsageError:
            if guess in _named(kind):  # it takes the argument, so something else is wrong
                raise
    return BuiltNetwork(_call(name, kind, arguments, program))


def guesses(kind: Callable[..., Any]) -> list[str]:
    """Arguments that may set the number of outputs, most likely first."""
    named = [size for size in SIZES if size in _named(kind)]
    return named or (["num_classes"] if free.open_ended(kind) else [])


def _named(kind: Callable[..., Any]) -> set[str]:
    """Arguments that a class takes by name, including those of its configuration object."""
    config = configured(kind)
    own = set(free.accepted(kind))
    return own if config is None else own | set(free.accepted(config)) | set(public(config()))


def configured(kind: Any) -> Any:
    """Return the class of the configuration object that a network is made from (transformers).

    None if a class takes its arguments itself.
    """
    config = getattr(kind, "config_class", None)
    first = next(iter(free.accepted(kind)), None) if inspect.isclass(kind) else None
    return config if inspect.isclass(config) and first == "config" else None


def _call(
    name: str, kind: Callable[..., Any], given: Mapping[str, Any], program: Mapping[str, Any]
) -> nn.Module:
    config = configured(kind)
    first: tuple[Any, ...] = ()
    if config is not None and "config" not in given:
        own = free.accepted(kind)
        theirs = {key: value for key, value in given.items() if key not in own}
        _check_configuration(name, config, theirs)
        first = (free.called("model", f"{config.__name__} of {name}", config, **theirs),)
        given = {key: value for key, value in given.items() if key in own}
    made = free.construct("model", name, kind, given, *first, **program)
    if not isinstance(made, nn.Module):
        raise UsageError(
            f"model.name = {name!r} makes a {type(made).__name__}, not a torch.nn.Module"
        )
    return made


def _check_configuration(name: str, config: Any, given: Mapping[str, Any]) -> None:
    """Refuse arguments that a configuration object would store as unknown attributes."""
    named = free.accepted(config)
    known = {*named, *public(config())}
    for key in given:
        if key not in known:
            near = suggest(key, known) or f"; choose from {', '.join(sorted(named))}"
            raise UsageError(f"unknown key 'model.{key}' for {name}{near}")


class Words:
    """Replaces words that begin with ``@`` by values of the data.

    Parameters
    ----------
    data
        Requirements of the data.

    Attributes
    ----------
    outputs
        Whether ``@outputs`` was among the words.
    """

    def __init__(self, data: Data) -> None:
        self.data = data
        self.outputs = False

    def put(self, key: str, value: Any) -> Any:
        """Return a value of the configuration with its words replaced, also in nested values.

        Raises
        ------
        UsageError
            If a word is unknown, or has no value for these data.
        """
        if isinstance(value, list):
            return [self.put(key, v) for v in value]
        if isinstance(value, dict):
            return {k: self.put(f"{key}.{k}", v) for k, v in value.items()}
        if not isinstance(value, str) or not value.startswith("@"):
            return value
        word = value[1:]
        if ":" in word:  # a class or function of any package
            try:
                return opened(word)
            except (ImportError, AttributeError) as e:
                raise UsageError(f"{key} = {shown(value)}: {e}") from e
        known = self._known()
        if word not in known:
            there = ", ".join(f"@{k}" for k in known)
            raise UsageError(
                f"{key} = {shown(value)}: choose from {there} and @package.module:Name"
                f"{suggest(value, [f'@{k}' for k in known])}"
            )
        found, shape = known[word]
        if found is None:
            last = word.rpartition(".")[2]
            raise UsageError(
                f"{key} = {shown(value)}: items have the shape {shape}; @{word} is for items of "
                f"shape {WORDS[last]}{layout_hint(shape)}"
            )
        self.outputs |= word == "outputs"
        return found

    def _known(self) -> dict[str, tuple[Any, Any]]:
        """Values by word, each with the shape of an item; None if an item has no such value."""
        shape = self.data.in_shape
        if isinstance(shape, Mapping):
            found: dict[str, Any] = {
                "in_shape": ({name: list(s) for name, s in shape.items()}, shape)
            }
            for name, one in shape.items():
                found |= {f"{name}.{word}": value for word, value in _sizes(one).items()}
                found |= {f"{name}.in_shape": (list(one), one)}
        else:
            found = {"in_shape": (list(shape), shape), **_sizes(shape)}
        return {"outputs": (self.data.channels, shape), **found}


def _sizes(shape: tuple[int, ...]) -> dict[str, tuple[int | None, tuple[int, ...]]]:
    image = len(shape) == 3 and not layout_hint(shape)
    found = {
        "features": math.prod(shape),
        "channels": shape[0] if len(shape) > 1 and (image or len(shape) != 3) else None,
        "height": shape[1] if image else None,
        "width": shape[2] if image else None,
        "length": shape[-1] if len(shape) in (1, 2) else None,
    }
    return {word: (value, shape) for word, value in found.items()}


WORDS = {
    "channels": "(channels, ...)",
    "height": "(channels, height, width)",
    "width": "(channels, height, width)",
    "length": "(length,) or (channels, length)",
}
"""Shapes of the items that the words are defined for."""


def layout_hint(shape: Shape) -> str:
    """Hint at a wrong layout of items that are images, for messages; empty if there is none."""
    if isinstance(shape, Mapping):
        return ""
    if len(shape) == 2 and min(shape) > 4:
        return f"; images need an axis of channels: store them as (1, {shape[0]}, {shape[1]})"
    if len(shape) == 3 and shape[-1] <= 4 < min(shape[:2]):
        first = (shape[-1], *shape[:2])
        return f"; images have their channels first: store them as {first}, not as {shape}"
    return ""
