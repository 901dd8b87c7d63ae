"""Read arrays from ``.npz`` files."""

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
    b"\x89HDF": "an HDF5 or netCDF file; hpcsamp ingest netcdf reads those that xarray does",
    b"CDF": "a netCDF file, which hpcsamp ingest netcdf reads",
    b"PAR1": "a parquet file, which hpcsamp ingest parquet reads",
    b"ARROW1": "an arrow file, which hpcsamp ingest arrow reads",
}
_ZIP = b"PK"


def npz(
    path: Annotated[str | Path, Asked("File to read.", "file", kind=Path)],
    *,
    task: Annotated[Task | None, Asked("What y is; by default its type decides.")] = None,
    layout: Annotated[
        Layout | None, Asked("Axes of an image in x: channels first, last, or none.")
    ] = None,
    inputs: Annotated[
        Inputs | None, Asked("What whole numbers in x are; numbers are standardised.")
    ] = None,
    fractions: Mapping[str, Part] = DEFAULT_FRACTIONS,
    seed: SplitSeed = 0,
    rule: Rule | None = None,
    normalize_y: NormalizeY = False,
) -> ArraySource:
    """An ``.npz`` file with ``x`` and ``y``, and perhaps ``x_valid, y_valid, x_test, y_test``.

    Parameters
    ----------
    path
        The file. ``x`` has shape ``(n, ...)``, ``y`` shape ``(n,)`` or ``(n, ...)``.
    task
        ``None``: classification if ``y`` is a row of whole numbers in an integer type.
    layout
        Axes of an item of ``x`` that is an image; it is stored with its channels first.
    inputs
        What whole numbers in ``x`` are: ids, which networks get as they are, or numbers, which are
        standardised. ``None``: numbers, where the type (``uint8``, ``bool``, floats) leaves no
        doubt.
    fractions
        Parts of ``x`` that become the splits the file does not bring itself.
    seed
        Of that split.
    rule
        How items are dealt, where not at random; its columns are other arrays of the file.
    normalize_y
        Standardise targets in training.

    Raises
    ------
    DataError
        If the file is not readable, lacks an array or holds another one, or arrays do not fit
        together.
    UsageError
        If ``layout`` or ``inputs`` is needed, or ``layout`` does not fit.
    """
    path = Path(path)
    held = read_arrays(path)
    columns = rule.columns if rule is not None else []
    for name in held:
        if name not in NAMES and name not in columns:
            raise DataError(
                f"{path}: holds {name!r}, which has no meaning here; arrays may be called "
                f"{', '.join(NAMES)} (several inputs or targets: hpcsamp ingest named)"
            )
    pairs: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for split, end in ENDINGS.items():
        x, y = held.get(f"x{end}"), held.get(f"y{end}")
        if x is None and y is None and end:
            continue
        if x is None or y is None:
            raise DataError(
                f"{path}: holds {sorted(held)}, but no {'x' if x is None else 'y'}{end}"
            )
        if x.ndim < 1 or y.ndim < 1 or len(x) != len(y) or not x.size or not y.size:
            raise DataError(
                f"{path}: x{end} has shape {x.shape}, y{end} has shape {y.shape}; "
                "both need the same number of items, at least 1"
            )
        if inputs is None and x.dtype.kind in "iu" and x.dtype != np.uint8:
            raise UsageError(
                f"{path}: x{end} holds whole numbers ({x.dtype}): ids, such as tokens of a text, "
                "or numbers, such as counts? Give --inputs ids (networks get them as they are) or "
                "--inputs numbers (they are standardised)"
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
    """All arrays of an ``.npz`` file by name.

    Raises
    ------
    DataError
        If it is none, or holds something else than plain arrays.
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
    except Exception as e:  # whatever a damaged archive makes zipfile, zlib and NumPy raise
        raise DataError(f"{path}: not an .npz file of plain arrays: {e}") from None
