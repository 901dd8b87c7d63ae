"""Convert fields to the units asked for by ``--units``, with pint."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcsamp.errors import DataError, UsageError

if TYPE_CHECKING:
    import xarray

SPELLINGS = {
    **dict.fromkeys(("(0 - 1)", "(0-1)", "0 - 1", "0-1", "~", "fraction"), "dimensionless"),
    **dict.fromkeys(("deg_C", "Celsius", "degrees_Celsius", "degrees_celsius"), "degC"),
    "Kelvin": "kelvin",
    "Pascal": "pascal",
    "mb": "mbar",  # millibarn in pint
    "gpm": "m",  # of a geopotential height; not a geopotential, which is in m2 s-2
    "m of water equivalent": "m",
}
"""Spellings in weather files that pint does not know, or knows as another unit."""

COMPASS = re.compile(r"degrees?_?(north|south|east|west|true|[NSEW])")
POWER = re.compile(r"(?<=[A-Za-zµ°])(?<![0-9][eE])([+-]?[0-9]+)(?![\w.])")
"""A power of CF conventions, such as those of ``m2 s-2``."""


@dataclass(frozen=True)
class Conversion:
    """Conversion of a variable.

    Attributes
    ----------
    old, new
        Unit of the file, and unit asked for.
    apply
        Function that converts values in float64.
    """

    old: str
    new: str
    apply: Callable[[np.ndarray], np.ndarray]


def conversions(
    opened: xarray.Dataset, variables: Sequence[str], given: Sequence[str], file: str
) -> dict[str, Conversion]:
    """Return how variables are converted to the units of ``--units``, by name.

    Parameters
    ----------
    opened
        Dataset of the file.
    variables
        Variables of the inputs and targets.
    given
        Texts such as ``t2m=degC``.

    Raises
    ------
    UsageError
        If a text is not ``VARIABLE=UNIT``, a variable is not among ``variables`` or given twice,
        a unit is unknown or of another dimension than that of the file, or pint is missing.
    DataError
        If the file has no unit of a variable, or an unknown one.
    """
    asked: dict[str, str] = {}
    for text in given:
        name, _, unit = (part.strip() for part in text.partition("="))
        if not name or not unit:
            raise UsageError(f"--units {text} must be VARIABLE=UNIT, such as t2m=degC")
        if name not in variables:
            raise UsageError(
                f"--units {text}: {name!r} is not a variable of --x or --y, which are "
                f"{', '.join(dict.fromkeys(variables))}"
            )
        if name in asked:
            raise UsageError(f"--units {text}: the unit of {name} is given twice")
        asked[name] = unit
    found: dict[str, Conversion] = {}
    for name, new in asked.items():
        old = str(opened[name].attrs.get("units", "")).strip()
        if not old:
            raise DataError(f"{file}: {name} has no unit, so it cannot be converted to {new!r}")
        if old != new:
            found[name] = _conversion(name, old, new, file, _registry())
    return found


def _conversion(name: str, old: str, new: str, file: str, registry: Any) -> Conversion:
    where = f"--units {name}={new}: {name} has the unit {old!r} in {file}, but"
    wanted, own = _parsed(new, registry), _parsed(old, registry)
    if wanted is None:
        raise UsageError(f"{where} {new!r} is not a unit that pint knows")
    if own is None:
        raise DataError(f"{where} pint does not know that unit")
    if own.dimensionality != wanted.dimensionality:
        raise UsageError(
            f"{where} its dimension {own.dimensionality} is not that of {new!r}, "
            f"{wanted.dimensionality}"
        )

    def apply(values: np.ndarray) -> np.ndarray:
        return np.asarray(registry.convert(np.asarray(values, np.float64), own, wanted))

    return Conversion(old, new, apply)


def _parsed(unit: str, registry: Any) -> Any:
    """Return a unit of pint, or None if it is unknown."""
    plain = COMPASS.sub("degree", unit) if COMPASS.fullmatch(unit) else SPELLINGS.get(unit, unit)
    try:
        return registry.parse_units(POWER.sub(r"**\1", plain))
    except Exception:  # pint raises many kinds of errors for texts that are not units
        return None


@cache
def _registry() -> Any:
    """Return one registry for all, since units of two cannot be converted into each other."""
    try:
        import pint
    except ImportError:
        raise UsageError("--units needs pint: pip install hpcsamp[units]") from None
    return pint.UnitRegistry()


def with_units(opened: xarray.Dataset, found: Mapping[str, Conversion]) -> xarray.Dataset:
    """Return a dataset whose variables have the attribute ``units`` after conversion.

    Values are those of the file; they are converted where items are read.
    """
    return opened.assign(
        {name: opened[name].assign_attrs(units=made.new) for name, made in found.items()}
    )
