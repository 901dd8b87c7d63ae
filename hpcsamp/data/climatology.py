"""Climatology of a training split: the mean of each value by season and time of day.

    mean(t) = c_0 + sum_(k = 1, 2) (a_k cos(k s) + b_k sin(k s)) + a cos(h) + b sin(h)

``s`` is the angle of the day in the year and ``h`` that of the time in the day (UTC). The
coefficients are fitted by least squares (a harmonic climatology, Narapusetty et al. 2009), so that
every training item counts at all seasons, and sums over items are enough. Seasons are fitted if the
training items cover a year.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from hpcsamp.errors import DataError
from hpcsamp.files import whole

NAME = "climatology.h5"
TERMS = ("1", "cos s", "sin s", "cos 2s", "sin 2s", "cos h", "sin h")
SEASONAL = (1, 2, 3, 4)
YEAR = np.timedelta64(365, "D")
PAIRS = np.triu_indices(len(TERMS))
SPAN = "first_time", "last_time"
#: Relative size of singular values that count as 0, e.g. of terms that are alike at all times.
ALIKE = 1e-10


def terms_at(times: np.ndarray | None, count: int) -> np.ndarray:
    """Return the terms of the mean at some times, ``(count, len(TERMS))``.

    Parameters
    ----------
    times
        ``(count,)`` datetime64; None if they are unknown: then the mean is constant.
    """
    found = np.zeros((count, len(TERMS)))
    found[:, 0] = 1
    if times is not None:
        year, day = times.astype("datetime64[Y]"), times.astype("datetime64[D]")
        length = (year + 1).astype("datetime64[s]") - year.astype("datetime64[s]")
        s = 2 * np.pi * ((times - year.astype("datetime64[s]")) / length)
        h = 2 * np.pi * ((times - day) / np.timedelta64(1, "D"))
        found[:, 1:] = np.stack(
            [np.cos(s), np.sin(s), np.cos(2 * s), np.sin(2 * s), np.cos(h), np.sin(h)], 1
        )
    return found


@dataclass(frozen=True)
class Climatology:
    """Mean as a function of time, and deviation from it.

    Attributes
    ----------
    coefficients
        ``(len(TERMS), *item shape)`` in the units of the data; NaN where nothing was observed.
    std
        ``(*item shape)`` standard deviation around the mean.
    """

    coefficients: np.ndarray
    std: np.ndarray

    def mean(self, times: np.ndarray | None, count: int, rows: range) -> np.ndarray:
        """Return the mean at ``count`` times of the rows of all variables, ``(count, V, h, W)``."""
        part = self.coefficients[:, :, rows.start : rows.stop]
        found: np.ndarray = np.tensordot(terms_at(times, count), part, 1)
        return found


@dataclass
class ClimatologySums:
    """Sums over items from which a climatology follows; those of parts of a split add up.

    Parameters
    ----------
    shape
        Shape of an item.
    """

    shape: tuple[int, ...]
    gram: np.ndarray = field(init=False)
    first: np.ndarray = field(init=False)
    square: np.ndarray = field(init=False)
    count: np.ndarray = field(init=False)
    #: What missing values lack in ``gram``, by pair of terms; allocated when there are any.
    missing: np.ndarray | None = None
    #: First and last time.
    span: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        terms = len(TERMS)
        self.gram, self.first = np.zeros((terms, terms)), np.zeros((terms, *self.shape))
        self.square, self.count = np.zeros(self.shape), np.zeros(self.shape)
        self.span = np.full(2, np.datetime64("NaT"), "datetime64[s]")

    def add(self, times: np.ndarray | None, y: np.ndarray) -> None:
        """Add items ``(n, *shape)``, NaN where a value is missing, and their times ``(n,)``."""
        terms, known = terms_at(times, len(y)), np.isfinite(y)
        y = np.where(known, y, 0.0).astype(float)
        self.gram += terms.T @ terms
        self.first += np.tensordot(terms.T, y, 1)
        self.square += (y**2).sum(0)
        self.count += known.sum(0)
        if not known.all():
            pairs = terms[:, PAIRS[0]] * terms[:, PAIRS[1]]
            self._lack(np.tensordot(pairs.T, (~known).astype(float), 1))
        if times is not None and len(times):
            self._reach(np.array([times.min(), times.max()]).astype("datetime64[s]"))

    def merge(self, other: ClimatologySums) -> None:
        """Add the sums of other items."""
        for name in ("gram", "first", "square", "count"):
            getattr(self, name)[...] += getattr(other, name)
        if other.missing is not None:
            self._lack(other.missing)
        self._reach(other.span)

    def _lack(self, missing: np.ndarray) -> None:
        self.missing = missing if self.missing is None else self.missing + missing

    def _reach(self, span: np.ndarray) -> None:
        # fmin and fmax leave out times that are unknown
        self.span = np.array([np.fmin(self.span[0], span[0]), np.fmax(self.span[1], span[1])])

    def solve(self) -> Climatology:
        """Fit the climatology; NaN where nothing was observed."""
        year = self.span[1] - self.span[0] >= YEAR
        used = [k for k in range(len(TERMS)) if year or k not in SEASONAL]
        flat = self.first[used].reshape(len(used), -1).T[..., None]
        gram = self.gram[np.ix_(used, used)]
        if self.missing is not None:
            lack = np.zeros((len(TERMS), len(TERMS), flat.shape[0]))
            lack[PAIRS] = self.missing.reshape(len(PAIRS[0]), -1)
            lack[PAIRS[::-1]] = lack[PAIRS]
            gram = gram - np.moveaxis(lack[np.ix_(used, used)], -1, 0)
        fitted = np.zeros_like(self.first)
        found = np.linalg.pinv(gram, rcond=ALIKE, hermitian=True) @ flat
        fitted[used] = found[..., 0].T.reshape(len(used), *self.shape)
        rest = self.square - (fitted * self.first).sum(0)
        with np.errstate(invalid="ignore"):
            std = np.sqrt(np.maximum(rest, 0) / self.count)
        fitted[:, self.count == 0] = np.nan
        return Climatology(fitted, std)

    def save(self, path: Path) -> None:
        """Write the sums to a file."""
        arrays = {n: getattr(self, n) for n in ("gram", "first", "square", "count")}
        if self.missing is not None:
            arrays["missing"] = self.missing
        with whole(path) as part, part.open("wb") as f:
            np.savez(f, span=self.span.astype("<i8"), **arrays)

    @classmethod
    def load(cls, path: Path) -> ClimatologySums:
        """Read sums from a file."""
        with np.load(path, allow_pickle=False) as read:
            made = cls(read["square"].shape)
            for name in set(read) - {"span"}:
                setattr(made, name, read[name])
            made.span = read["span"].astype("datetime64[s]")
        return made


def write_climatology(
    folder: Path, of: Climatology, uid: str, variables: list[str], span: np.ndarray
) -> None:
    """Write the climatology of a dataset to its folder.

    Parameters
    ----------
    uid
        Identifier of the dataset.
    variables
        Names of the variables.
    span
        First and last time of the training items.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    with whole(folder / NAME) as part, h5py.File(part, "w") as f:
        f["coefficients"], f["std"] = of.coefficients, of.std
        f["coefficients"].attrs["terms"] = list(TERMS)
        f.attrs.update(dataset_uid=uid, variables=variables)
        f.attrs.update(zip(SPAN, map(str, span), strict=True))


def read_climatology(folder: Path, uid: str, variables: list[str]) -> Climatology | None:
    """Read the climatology of a dataset; None if there is none, or an older one without seasons.

    Raises
    ------
    DataError
        If the file cannot be read, or is of other years or variables.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        with h5py.File(path, "r", locking=False) as f:
            if "coefficients" not in f:
                return None
            if f.attrs["dataset_uid"] != uid:
                names, years = list(f.attrs["variables"]), " to ".join(f.attrs[n] for n in SPAN)
                raise DataError(
                    f"{path} is the climatology of another dataset, of {', '.join(names[:4])}"
                    f"{', ...' * (len(names) > 4)} from {years}; this dataset has "
                    f"{', '.join(variables[:4])}{', ...' * (len(variables) > 4)}: remove the file, "
                    f"and it is computed again"
                )
            return Climatology(f["coefficients"][:], f["std"][:])
    except (OSError, KeyError, RuntimeError) as e:
        raise DataError(f"{path} cannot be read: {e}; remove it, to compute it again") from None
