"""Build networks by name: those of this package, or any class as ``package.module:Class``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from hpcsamp import arguments as free
from hpcsamp.config import ModelSection
from hpcsamp.errors import UsageError
from hpcsamp.generators import lent
from hpcsamp.models import factory, given, head, pretrained, trial
from hpcsamp.models.blank import blank
from hpcsamp.models.factory import BuiltNetwork, Data, Shape
from hpcsamp.models.learned_noise import LearnedNoise, Wrapping
from hpcsamp.models.mixer import Mixer
from hpcsamp.models.mlp import MLP
from hpcsamp.models.norms import to_groups
from hpcsamp.models.options import Options
from hpcsamp.models.options import of as options_of
from hpcsamp.models.several_outputs import Parted
from hpcsamp.models.swin import Swin
from hpcsamp.models.vit import ViT
from hpcsamp.names import MODELS
from hpcsamp.streams import Purpose, key
from hpcsamp.weights.outputs import Chosen
from hpcsamp.weights.patterns import Which, matches

__all__ = [
    "MLP", "MODELS", "Data", "LearnedNoise", "Mixer", "Options", "Parted", "Swin", "ViT",
    "Wrapping", "blank", "build", "freeze", "options_of", "pretrained", "to_groups",
]  # fmt: skip

LAYERS = 5000
"""Largest number of layers of a network, including nested ones."""


def build(
    name: str,
    arguments: Mapping[str, Any],
    in_shape: Shape,
    outputs: int,
    seed: int,
    member: int | None = None,
    *,
    ids: bool = False,
    kinds: Mapping[str, str] | None = None,
    classes: int | None = None,
    parts: Mapping[str, int] | None = None,
    options: Options | None = None,
    notes: dict[str, None] | None = None,
) -> nn.Module:
    """Build a network with initial parameters drawn from the seed.

    Parameters
    ----------
    name
        A registered name, or ``package.module:Class`` for any class or function that makes a
        module, see :mod:`.factory`.
    arguments
        Arguments of the class.
    in_shape
        Shape of an input item; with several inputs, their shapes by name.
    outputs
        Number of outputs per item: classes, or target values.
    seed
        Seed of the run.
    member
        Index of the member of an ensemble: each has its own initial parameters.
    ids, kinds
        Whether inputs are ids; with several inputs, the kind of each.
    classes
        Number of classes of each pixel or time step, if these have labels: the outputs that
        ``@outputs``, a guessed argument and the last layer refer to.
    parts
        Outputs per item for each of several targets, by name.
    options
        Other options of ``[model]``, such as the layer to replace and the output to use.
    notes
        Dictionary whose keys are lines about choices that the user did not make; added in place.

    Raises
    ------
    UsageError
        If a name or an argument is unknown, or sizes do not fit.
    """
    kind = MODELS.find(name)
    data = _data(in_shape, outputs, ids, kinds)._replace(classes=classes, parts=dict(parts or {}))
    asked = options or Options()

    def make() -> BuiltNetwork:
        # torch's initialisers draw from the global generator; those of users may use others
        with (
            lent(key(seed, Purpose.INITIAL, *([] if member is None else [member])) & 0xFFFF_FFFF),
            _few_layers(name),
        ):
            made = factory.make(name, kind, arguments, data, asked.head is not None)
            if asked.head is not None:
                head.replace(made.network, asked.head, data.channels)
            trial.initialise(name, made.network, data)
        return made

    chooses = False
    if not _checks_itself(name):
        chooses = _tried(name, make, data, asked, repr(arguments))
    made = make()
    if made.guess and notes is not None:
        notes[f"model.{made.guess} = {data.channels}: the number of outputs the data need"] = None
    if chooses:
        made.network.register_forward_hook(Chosen(f"model {name!r}", asked.output))
    return made.network


def _data(in_shape: Shape, outputs: int, ids: bool, kinds: Mapping[str, str] | None) -> Data:
    if isinstance(in_shape, Mapping):
        return Data({n: tuple(s) for n, s in in_shape.items()}, outputs, ids, dict(kinds or {}))
    return Data(tuple(in_shape), outputs, ids)


def freeze(network: nn.Module, which: Which) -> None:
    """Freeze parameters, so that they are not trained and have no uncertainty.

    Parameters
    ----------
    network
        Any module.
    which
        Patterns of names, such as ``layer1.*``, or a function of the name.

    Raises
    ------
    UsageError
        If a pattern matches no parameter.
    """
    own = dict(network.named_parameters(remove_duplicate=False))
    for name in matches("model.freeze", which, own):
        own[name].requires_grad_(False)


def _checks_itself(name: str) -> bool:
    """Whether a network belongs to this package, whose networks check their inputs."""
    return name != given.NAME and name in MODELS and MODELS.place(name).startswith("hpcsamp.")


_verdicts: dict[tuple[str, ...], bool] = {}


def _tried(
    name: str, make: Callable[[], BuiltNetwork], data: Data, asked: Options, arguments: str
) -> bool:
    """Call :func:`.trial.check`; its result is reused, except for networks passed from Python."""
    key = (name, arguments, repr(data), repr(asked))
    if key not in _verdicts or name == given.NAME:
        _verdicts[key] = trial.check(name, make, data, asked.output)
    return _verdicts[key]


@contextmanager
def _few_layers(name: str) -> Iterator[None]:
    """Context that stops building a network that has more layers than :data:`LAYERS`."""
    count = 0

    def look(module: nn.Module, of: str, layer: nn.Module | None) -> None:
        nonlocal count
        count += 1
        if count > LAYERS:
            raise UsageError(
                f"model.name = {name!r} has more than {LAYERS} layers with these sizes"
            )

    handle = register_module_module_registration_hook(look)
    try:
        yield
    finally:
        handle.remove()


def defaults(section: ModelSection) -> dict[str, Any]:
    """Return the default values of the arguments of a configuration's model.

    Arguments that may be set from the data, and options of ``[model]``, are left out.
    """
    kind = MODELS.find(section.name)
    left_out = {"in_shape", "outputs", *factory.guesses(kind), *section.SHARED}
    return free.defaults(kind, left_out)
