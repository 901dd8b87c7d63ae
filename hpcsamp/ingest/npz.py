"""Ingest ``.npz`` files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np

from hpcsamp.data.manifest import Inputs
from hpcsamp.data.shard import sha256
from hpcsamp.errors import DataError, UsageError
from hpcsamp.ingest.arrays import DEFAULT_FRACTIONS, from_arrays
from hpcsamp.ingest.asked import Asked, NormalizeY, Part, SplitSeed
from hpcsamp.ingest.division import Rule
from hpcsamp.ingest.pictures import Layout, channels_first
from hpcsamp.ingest.source import ArraySource
from hpcsamp.names import Task

ENDINGS = {"train": "", "valid": "_valid", "test": "_test"}
NAMES = [f"{array}{ending}" for ending in ENDINGS.values() for array in "xy"]

_KINDS = {
    b"\x93NUMPY": "an .npy file, which hpcsamp ingest npy reads",
    b"\x89HDF": "an HDF5 or netCDF file; hpcsamp ingest netcdf reads those that xarray can open",
    b"CDF": "a netCDF file, which hpcsamp ingest netcdf reads",
    b"PAR1": "a parquet file, which hpcsamp ingest parquet reads",
    b"ARROW1": "an arrow file, which hpcsamp ingest arrow reads",
}
_ZIP = b"PK"


def npz(
    path: Annotated[str | Path, Asked("File to read.", "file", kind=Path)],
    *,
    task: Annotated[Task | None, Asked("Task; by default it follows from the type of y.")] = None,
    layout: Annotated[
        Layout | None, Asked("Axes of an image in x: channels first, last, or none.")
    ] = None,
    inputs: Annotated[
        Inputs | None, Asked("Kind of whole numbers in x; numbers are standardised.")
    ] = None,
    fractions: Mapping[str, Part] = DEFAULT_FRACTIONS,
    seed: SplitSeed = 0,
    rule: Rule | None = None,
    normalize_y: NormalizeY = False,
) -> ArraySource:
    """Read an ``.npz`` file with ``x`` and ``y``, optionally also ``x_valid``, ``y_valid``, ...

    Parameters
    ----------
    path
        The file. ``x`` has shape ``(n, ...)``, ``y`` shape ``(n,)`` or ``(n, ...)``.
    task
        ``None``: classification if ``y`` is one-dimensional and has an integer type.
    layout
        Axes of images in ``x``, which are stored with channels first.
    inputs
        Kind of whole numbers in ``x``: ids, which are not standardised, or numbers, which are.
        ``None``: numbers if the type (``uint8``, ``bool``, floats) is unambiguous.
    fractions
        Fractions of ``x`` that become the splits that the file does not have.
    seed
        Seed of the random split.
    rule
        Rule that splits the items, if not at random; its columns are other arrays of the file.
    normalize_y
        Standardise targets in training.

    Raises
    ------
    DataError
        If the file cannot be read, lacks an array or has an unknown one, or arrays do not fit
        together.
    UsageError
        If ``layout`` or ``inputs`` must be given, or ``layout`` does not fit.

    Examples
    --------
    hpcsamp ingest npz arrays.npz --out data/arrays

    hpcsamp ingest npz images.npz --layout hwc --valid 0.1 --test 0.1 --out data/images
    """
    path = Path(path)
    held = read_arrays(path)
    columns = rule.columns if rule is not None else []
    for name in held:
        if name not in NAMES and name not in columns:
            raise DataError(
                f"{path} has an unknown array {name!r}; arrays may be called "
                f"{', '.join(NAMES)} (for several inputs or targets use hpcsamp ingest named)"
            )
    pairs: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for split, end in ENDINGS.items():
        x, y = held.get(f"x{end}"), held.get(f"y{end}")
        if x is None and y is None and end:
            continue
        if x is None or y is None:
            raise DataError(f"{path} has {sorted(held)}, but no {'x' if x is None else 'y'}{end}")
        if x.ndim < 1 or y.ndim < 1 or len(x) != len(y) or not x.size or not y.size:
            raise DataError(
                f"{path}: x{end} has shape {x.shape}, y{end} has shape {y.shape}; "
                "both need the same number of items, at least 1"
            )
        if inputs is None and x.dtype.kind in "iu" and x.dtype != np.uint8:
            raise UsageError(
                f"{path}: x{end} has whole numbers ({x.dtype}): ids, such as tokens of a text, "
                "or numbers, such as counts? Give --inputs ids (not standardised) or "
                "--inputs numbers (standardised)"
            )
        pairs[split] = (channels_first(x, layout, f"{path}: x{end}"), y)
    made = from_arrays(
        pairs,
        name=path.stem,
        task=task,
        inputs=inputs or "numbers",
        fractions={name: part for name, part in fractions.items() if name not in pairs},
        seed=seed,
        normalize_y=normalize_y,
        source={"file": path.name, "sha256": sha256(path)},
        rule=rule,
        columns={name: held[name] for name in columns if name in held},
    )
    if layout in ("hwc", "hw"):
        made.transforms.append(f"images of layout {layout} stored with their channels first")
    return made


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of an ``.npz`` file by name.

    Raises
    ------
    DataError
        If it is not an ``.npz`` file, or has anything but plain arrays.
    """
    try:
        with path.open("rb") as raw:
            head = raw.read(8)
            kind = next((kind for magic, kind in _KINDS.items() if head.startswith(magic)), None)
            if kind is not None:
                raise DataError(f"{path}: is {kind}")
            if not head.startswith(_ZIP):
                raise DataError(f"{path}: not an .npz file of plain arrays")
            raw.seek(0)
            with np.load(raw, allow_pickle=False) as f:
                return {name: np.asarray(f[name]) for name in f.files}
    except DataError:
        raise
    except MemoryError as e:
        raise DataError(f"{path}: an array does not fit in memory: {e}") from None
    except OSError as e:
        raise DataError(f"{path}: cannot be read: {e.strerror or e}") from None
    except Exception as e:  # zipfile, zlib and NumPy raise many kinds of errors for damaged files
        raise DataError(f"{path}: not an .npz file of plain arrays: {e}") from None
