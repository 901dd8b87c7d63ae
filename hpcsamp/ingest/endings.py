"""Find the ingest command that reads a file or folder, from file endings."""

from __future__ import annotations

from pathlib import Path

ENDINGS = {
    ".npz": "npz",
    ".npy": "npy",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".nc": "netcdf",
    ".nc4": "netcdf",
    ".cdf": "netcdf",
    ".h5": "netcdf",
    ".hdf5": "netcdf",
    ".zarr": "zarr",
    ".grib": "grib",
    ".grib2": "grib",
    ".grb": "grib",
    ".grb2": "grib",
    ".tar": "tar",
    ".png": "images",
    ".jpg": "images",
    ".jpeg": "images",
    ".tif": "images",
    ".tiff": "images",
}
"""Ingest command for each file ending."""

LOOKED = 1000
"""Largest number of files of a folder that are examined."""


def command_for(path: str) -> str:
    """Return the ingest command that reads a file or folder; empty if none is known.

    For example ``hpcsamp ingest parquet data/`` for a folder of parquet files. No file is opened.
    """
    place = Path(path)
    try:
        folder = place.is_dir()
    except OSError:
        return ""
    kind = ENDINGS.get(place.suffix.lower(), "")
    if kind == "images":
        place, folder = place.parent, False
    if folder and kind != "zarr":
        kind = _of_folder(place)
    return f"hpcsamp ingest {kind} {place}" if kind else ""


def _of_folder(folder: Path) -> str:
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        return "arrow"
    if (folder / "x.npy").is_file():
        return "npy"
    if any((folder / name).exists() for name in (".zgroup", ".zmetadata", "zarr.json")):
        return "zarr"
    for _, file in zip(range(LOOKED), folder.rglob("*"), strict=False):
        if file.suffix.lower() in ENDINGS and not file.name.startswith("."):
            return ENDINGS[file.suffix.lower()]
    return ""
