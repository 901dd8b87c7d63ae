"""Explain whether a pass of a module fails because of its inputs or of the sampled weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hpcsamp.errors import HpcsampError, UsageError
from hpcsamp.generators import Generators
from hpcsamp.methods.kept import called
from hpcsamp.weights import Caller, Inputs, inputs_of
from hpcsamp.weights.layers import ModuleLayer, followed


class DependsError(UsageError):
    """Error raised if an item's results depend, or seem to depend, on other items of its batch.

    Parameters
    ----------
    apart
        Relative size of the dependence, which may be due to rounding.
    """

    def __init__(self, text: str, apart: float) -> None:
        super().__init__(text)
        self.apart = apart


@contextmanager
def explained(
    network: nn.Module, x: Tensor, evaluate: Callable[[Tensor], object]
) -> Iterator[None]:
    """Context that explains the error of a failing pass by trying other inputs and weights.

    A module that needs ids fails with floats and runs with ids, and vice versa; a module that
    writes to its parameters runs with its own weights but not with those of a sample.

    Parameters
    ----------
    network, x
        The module, and ``(B, ...)`` inputs.
    evaluate
        Evaluates the module as its method does.

    Raises
    ------
    UsageError
        If the pass fails and the cause is found; the message names the inputs or the submodule.
    """
    try:
        yield
    except HpcsampError:
        raise
    except Exception as e:
        kinds = [p.dtype for p in network.parameters() if p.is_floating_point()]
        named = x.named if isinstance(x, Inputs) else {"": x}
        for name, t in named.items():
            numbers = t.is_floating_point()
            other = torch.int64 if numbers else (*kinds, torch.get_default_dtype())[0]
            zeros = torch.zeros_like(t, dtype=other)
            try:
                with torch.no_grad():
                    evaluate(inputs_of({**named, name: zeros}) if name else zeros)
            except Exception:
                continue
            takes, given = ("ids", "numbers") if numbers else ("numbers", "ids")
            of, how = f" for {name}" * bool(name), f"--inputs {takes}"
            how = f"{name} as {takes}" if name else f"the inputs with {how}"
            raise UsageError(
                f"the network takes {takes}, not {given}{of} (of {t.dtype}: {line_of(e)}); ingest "
                f"{how}, or name another network"
            ) from e
        if (where := _fails_replaced(network, x, evaluate)) is not None:
            raise UsageError(
                f"{called(network, where)} fails with the weights of a sample in place of its own "
                f"({line_of(e)}); a forward pass must not write to its parameters, freeze them or "
                f"inspect their type"
            ) from e
        raise


def _fails_replaced(
    network: nn.Module, x: Tensor, evaluate: Callable[[Tensor], object]
) -> str | None:
    """Name of the submodule that fails with the weights of a sample; None if the module also fails
    with its own weights, or does not fail with these inputs."""
    layers: list[ModuleLayer] = []
    generators = Generators.now()
    try:
        with torch.no_grad():
            Caller(copy.deepcopy(network))(x)
    except Exception:
        return None
    finally:
        generators.put_back()
    try:
        with torch.enable_grad(), followed(network, layers):
            evaluate(x)
    except Exception:
        return layers[-1].name if layers else ""
    return None  # the pass failed with other inputs


def line_of(error: BaseException) -> str:
    """First line of an error's message."""
    return (str(error).splitlines() or [""])[0][:120] or type(error).__name__
