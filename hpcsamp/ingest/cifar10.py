"""Ingest CIFAR-10 (Krizhevsky 2009) from its official archives, python or binary version.

The MD5 of the archive is checked before anything is unpacked, and nothing is written to disk. Only
plain arrays of the python version are unpickled.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import numpy as np

from hpcsamp.data.manifest import ArraySpec
from hpcsamp.data.shard import check_labels, sha256
from hpcsamp.errors import DataError
from hpcsamp.ingest.asked import Asked
from hpcsamp.ingest.source import ArraySource, split_items

MD5 = {
    "c58f30108f718f92721af3b95e74349a": "python",
    "c32a1d4ab5d03f1284b67883e8d87530": "binary",
}
"""MD5 of ``cifar-10-python.tar.gz`` and ``cifar-10-binary.tar.gz``."""

VALID = 0.1
"""Fraction of the training images that is held out, as in the paper (section 5.2)."""

_RECORD = 1 + 3 * 32 * 32
_HARMLESS = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


def cifar10(
    archive: Annotated[str | Path, Asked("File to read.", "file", kind=Path)],
    *,
    md5: dict[str, str] = MD5,
) -> ArraySource:
    """Read CIFAR-10 as ``(3, 32, 32)`` uint8 images: 45,000 train, 5,000 valid, 10,000 test.

    Parameters
    ----------
    archive
        One of the official archives.
    md5
        Version of each trusted archive by its MD5.

    Raises
    ------
    DataError
        If the archive is not trusted, has a path outside its folder, or lacks a batch.

    Examples
    --------
    hpcsamp ingest cifar10 cifar-10-python.tar.gz --out data/cifar10

    mpirun -n 4 hpcsamp ingest cifar10 cifar-10-python.tar.gz --out data/cifar10
    """
    path = Path(archive)
    try:
        with path.open("rb") as f:
            found = hashlib.file_digest(f, "md5").hexdigest()
    except OSError as e:
        raise DataError(f"{path}: cannot be read: {e.strerror}") from None
    if found not in md5:
        raise DataError(
            f"{path}: the MD5 is {found}, but official archives have {' or '.join(md5)}"
        )
    members = read_archive(path)
    read = _python if md5[found] == "python" else _binary
    ending = "" if md5[found] == "python" else ".bin"
    parts = [read(path, members, f"data_batch_{n}{ending}") for n in range(1, 6)]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    test = read(path, members, f"test_batch{ending}")
    dealt = split_items(len(labels), {"valid": VALID}, labels=labels, seed=0)
    items = {name: {"x": images[rows], "y": labels[rows]} for name, rows in dealt.items()}
    items["test"] = {"x": test[0], "y": test[1]}
    return ArraySource(
        name="cifar10",
        task="classification",
        classes=10,
        arrays={"x": ArraySpec.plan((3, 32, 32), "u1"), "y": ArraySpec.plan((), "<i8")},
        splits={name: len(values["y"]) for name, values in items.items()},
        source={
            "name": "CIFAR-10",
            "url": "https://www.cs.toronto.edu/~kriz/cifar.html",
            "file": path.name,
            "sha256": sha256(path),
            "md5": found,
        },
        licence="research use, see the source",
        transforms=[f"{VALID:g} of train held out as valid, stratified, seed 0"],
        items=items,
    )


def read_archive(path: Path) -> dict[str, bytes]:
    """Read the plain files of a tar archive into memory, by base name.

    Raises
    ------
    DataError
        If a member lies outside the archive's folder or is a link or device, or the archive is
        damaged.
    """
    found = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts:
                    raise DataError(f"{path}: {member.name!r} is a path outside its folder")
                if not (member.isfile() or member.isdir()):
                    raise DataError(f"{path}: {member.name!r} is not a plain file")
                if member.isfile():
                    stream = archive.extractfile(member)
                    assert stream is not None
                    found[name.name] = stream.read()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as e:
        raise DataError(f"{path}: the archive is damaged or incomplete: {e}") from None
    return found


def _binary(path: Path, members: dict[str, bytes], name: str) -> tuple[np.ndarray, np.ndarray]:
    raw = np.frombuffer(_member(path, members, name), np.uint8)
    if raw.size == 0 or raw.size % _RECORD:
        raise DataError(f"{path}: {name} has {raw.size} bytes, not a multiple of {_RECORD}")
    rows = raw.reshape(-1, _RECORD)
    return _checked(path, name, rows[:, 1:], rows[:, 0])


def _python(path: Path, members: dict[str, bytes], name: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        batch = _Plain(io.BytesIO(_member(path, members, name)), encoding="bytes").load()
        return _checked(path, name, np.asarray(batch[b"data"]), np.asarray(batch[b"labels"]))
    except (pickle.UnpicklingError, KeyError, TypeError, ValueError, EOFError) as e:
        raise DataError(f"{path}: {name} is not a batch of CIFAR-10: {e}") from None


def _checked(
    path: Path, name: str, images: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    if images.shape != (len(labels), _RECORD - 1):
        raise DataError(f"{path}: {name} has images {images.shape}, but {len(labels)} labels")
    check_labels(labels, 10, f"{path}: {name}")
    return images.reshape(-1, 3, 32, 32).astype(np.uint8), labels.astype(np.int64)


def _member(path: Path, members: dict[str, bytes], name: str) -> bytes:
    if name not in members:
        raise DataError(f"{path} has no {name}, only {', '.join(sorted(members))}")
    return members[name]


class _Plain(pickle.Unpickler):
    """Unpickler of arrays, lists, dicts and strings that refuses anything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _HARMLESS:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a batch")
        return super().find_class(module, name)
