"""The items of a split that are read for each item of a batch, such as the next ones in time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Follows = Mapping[str, np.ndarray]
"""By array: the positions ``(N, m)`` of the ``m`` items that are read for each item."""


def read_for(items: np.ndarray, follows: np.ndarray | None) -> np.ndarray:
    """Return the items to read for a batch ``(B,)``: ``(B * m,)``, those of an item together."""
    return items if follows is None else follows[items].reshape(-1)
