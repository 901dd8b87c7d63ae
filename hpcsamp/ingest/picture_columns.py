"""Decode images in a column of a table."""

from __future__ import annotations

import numpy as np

from hpcsamp.errors import DataError
from hpcsamp.ingest.pictures import Pictures
from hpcsamp.ingest.table import Table


def images_of(values: np.ndarray, rows: np.ndarray, table: Table, pictures: Pictures) -> np.ndarray:
    """Decode a column of images, shape ``(n, C, H, W)``.

    Raises
    ------
    DataError
        If an image is missing, cannot be read, or has a different size or type; the message names
        its row.
    """
    found: list[np.ndarray] = []
    for row, data in zip(rows.tolist(), values.tolist(), strict=True):
        where = f"{table.path}: {table.row(row)}"
        if data is None:
            raise DataError(f"{where} has no image")
        image = pictures.read(data, where)
        if found and (image.shape, image.dtype) != (found[0].shape, found[0].dtype):
            raise DataError(
                f"{where}: the image is {image.shape} {image.dtype}, but others are "
                f"{found[0].shape} {found[0].dtype}; give --size and --colour"
            )
        found.append(image)
    return np.stack(found)
