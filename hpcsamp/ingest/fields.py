"""Weather task of the paper (section 5.4): channels, coordinates and derived features.

The input of an item has 76 channels on the 1.5 degree grid (121 latitudes, 240 longitudes): the 69
variables of Pangu-Weather (Bi et al. 2023), its three constant masks, and four features that encode
place and time. The target is the 69 variables six hours later.
"""

from __future__ import annotations

import numpy as np

from hpcsamp.data.shard_writer import Coordinate
from hpcsamp.errors import DataError, UsageError

LEVELS = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)
"""Pressure levels in hPa."""

UPPER = (
    "geopotential",
    "specific_humidity",
    "temperature",
    "u_component_of_wind",
    "v_component_of_wind",
)
SURFACE = (
    "mean_sea_level_pressure",
    "10m_u_component_of_wind",
    "10m_v_component_of_wind",
    "2m_temperature",
)
MASKS = ("land_sea_mask", "soil_type", "geopotential_at_surface")
FEATURES = ("solar_time_cos", "solar_time_sin", "season_cos", "season_sin")

UNITS = {
    "geopotential": "m**2 s**-2",
    "specific_humidity": "kg kg**-1",
    "temperature": "K",
    "u_component_of_wind": "m s**-1",
    "v_component_of_wind": "m s**-1",
    "mean_sea_level_pressure": "Pa",
    "10m_u_component_of_wind": "m s**-1",
    "10m_v_component_of_wind": "m s**-1",
    "2m_temperature": "K",
    "land_sea_mask": "1",
    "soil_type": "1",
    "geopotential_at_surface": "m**2 s**-2",
}

SPELLINGS = {
    "K": ("K", "kelvin", "Kelvin"),
    "Pa": ("Pa", "pascal", "Pascal"),
    "m s**-1": ("m s**-1", "m s-1", "m s^-1", "m/s"),
    "m**2 s**-2": ("m**2 s**-2", "m2 s-2", "m^2 s^-2", "m2/s2", "m^2/s^2", "J kg**-1", "J kg-1"),
    "kg kg**-1": ("kg kg**-1", "kg kg-1", "kg kg^-1", "kg/kg", "1"),
    "1": ("1", "", "~", "(0 - 1)", "0 - 1", "dimensionless", "Dimensionless", "fraction"),
}
"""Spellings of each unit in files."""

CONVERSIONS: dict[str, dict[str, tuple[float, float]]] = {
    "K": dict.fromkeys(("degC", "deg_C", "°C", "C", "celsius", "Celsius"), (1.0, 273.15)),
    "Pa": {
        **dict.fromkeys(("hPa", "mbar", "mb", "millibar", "millibars"), (100.0, 0.0)),
        "kPa": (1000.0, 0.0),
    },
    "kg kg**-1": dict.fromkeys(("g kg**-1", "g kg-1", "g kg^-1", "g/kg"), (1e-3, 0.0)),
    "m s**-1": dict.fromkeys(("km h**-1", "km h-1", "km/h"), (1 / 3.6, 0.0)),
    "1": {"%": (0.01, 0.0), "percent": (0.01, 0.0)},
}
"""Factor and shift that convert other units."""

VARIABLES = (*SURFACE, *(f"{name}@{level}" for name in UPPER for level in LEVELS))
"""The 69 predicted channels, ``name@hPa`` on pressure levels."""

CHANNELS = (*VARIABLES, *MASKS, *FEATURES)
"""The 76 channels of an input."""

EPOCH = np.datetime64("1900-01-01T00", "h")
TIME_UNITS = "hours since 1900-01-01"


def units_of(names: tuple[str, ...]) -> str:
    """Return the units of channels in one line."""
    seen = dict.fromkeys(name.split("@")[0] for name in names)
    return ", ".join(f"{name} [{UNITS.get(name, '1')}]" for name in seen)


def check_unit(text: str) -> None:
    """Refuse a unit ``VARIABLE=UNIT`` that is not that of the set.

    Raises
    ------
    UsageError
        If there is no such variable, or it has another unit; the message lists all.
    """
    name, _, unit = (part.strip() for part in text.partition("="))
    if name in UNITS and unit in SPELLINGS[UNITS[name]]:
        return
    raise UsageError(
        f"--units {text}: the set always has the units of ERA5: {units_of(tuple(UNITS))}; hpcsamp "
        f"ingest zarr converts to others"
    )


def conversion(name: str, unit: str) -> tuple[float, float]:
    """Return factor and shift that convert the units of a file to :data:`UNITS`.

    Raises
    ------
    DataError
        If the units are unknown for this variable.
    """
    wanted = UNITS[name]
    plain = unit.strip()
    if plain in SPELLINGS[wanted] or (name == "soil_type" and plain in SPELLINGS["1"]):
        return 1.0, 0.0
    known = CONVERSIONS.get(wanted, {})
    if name == "soil_type" or plain not in known:
        others = f" (or {', '.join(known)}, which are converted)" if known else ""
        raise DataError(f"{name} has units {unit!r}, but {wanted} is needed{others}")
    return known[plain]


def field_coordinates(latitude: np.ndarray, longitude: np.ndarray) -> dict[str, Coordinate]:
    """Return the coordinates of the weather set: channels, latitude, longitude and time."""
    both = ("x", "y")
    return {
        "channel": Coordinate(np.asarray(CHANNELS), axis=0),
        "target_channel": Coordinate(np.asarray(VARIABLES), axis=0, arrays=("y",)),
        "latitude": Coordinate(np.asarray(latitude, "<f8"), "degrees_north", 1, both),
        "longitude": Coordinate(np.asarray(longitude, "<f8"), "degrees_east", 2, both),
        "time": Coordinate(np.empty(0), TIME_UNITS),
    }


def features(latitude: np.ndarray, longitude: np.ndarray, time: np.datetime64) -> np.ndarray:
    """Encode place and time as smooth fields, float64 of shape ``(4, latitudes, longitudes)``.

    Longitude and time of day are encoded as cosine and sine of the local solar time; latitude and
    day of the year as sine of the latitude times cosine and sine of the season.

    Parameters
    ----------
    latitude, longitude
        Degrees.
    time
        UTC.
    """
    hour = (time - time.astype("datetime64[D]")) / np.timedelta64(1, "h")
    year = time.astype("datetime64[Y]")
    days = (time - year.astype("datetime64[h]")) / np.timedelta64(24, "h")
    length = ((year + 1).astype("datetime64[D]") - year.astype("datetime64[D]")).astype(int)
    solar = 2 * np.pi * hour / 24 + np.deg2rad(longitude)[None, :]
    season = 2 * np.pi * days / float(length)
    tilt = np.sin(np.deg2rad(latitude))[:, None]
    flat = np.ones((len(latitude), len(longitude)))
    return np.stack(
        [
            flat * np.cos(solar),
            flat * np.sin(solar),
            flat * tilt * np.cos(season),
            flat * tilt * np.sin(season),
        ]
    )
