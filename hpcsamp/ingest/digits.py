"""The handwritten digits that scikit-learn ships: 1,797 real images of 8 x 8 pixels.

Test set of the UCI ML hand-written digits (E. Alpaydin, C. Kaynak, 1998), CC BY 4.0.
"""

from __future__ import annotations

import numpy as np

from hpcsamp.data.manifest import ArraySpec
from hpcsamp.ingest.source import ArraySource, digest, split_items

FRACTIONS = {"valid": 0.1, "test": 0.2}


def digits() -> ArraySource:
    """Return the digits as ``(1, 8, 8)`` uint8 images with values 0..16 and a fixed split.

    The stratified split has 70% train, 10% valid and 20% test items, the same on every machine.

    Examples
    --------
    hpcsamp ingest digits --out data/digits

    mpirun -n 2 hpcsamp ingest digits --out data/digits --overwrite
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = bunch.images.astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    parts = split_items(len(labels), FRACTIONS, labels=labels, seed=0)
    return ArraySource(
        name="digits",
        task="classification",
        classes=10,
        arrays={
            "x": ArraySpec.plan((1, 8, 8), "u1", description="ink per pixel, 0..16"),
            "y": ArraySpec.plan((), "<i8", description="digit"),
        },
        splits={name: len(rows) for name, rows in parts.items()},
        source={
            "name": "UCI ML hand-written digits, as shipped by scikit-learn",
            "url": "https://archive.ics.uci.edu/dataset/80",
            "sha256": digest(images, labels),
        },
        licence="CC BY 4.0",
        transforms=["stratified split 70/10/20, seed 0"],
        items={name: {"x": images[rows], "y": labels[rows]} for name, rows in parts.items()},
    )
