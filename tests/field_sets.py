"""Small sets of fields in time: two predicted variables, a forcing, a mask and features of time."""

from __future__ import annotations

import numpy as np

from hpcsamp.data.manifest import ArraySpec
from hpcsamp.data.shard_writer import Coordinate
from hpcsamp.ingest.fields import FEATURES, TIME_UNITS, features
from hpcsamp.ingest.source import ArraySource

LATITUDE, LONGITUDE = np.array([-30.0, 10.0, 60.0]), np.array([0.0, 90.0])
NAMES = ("u", "sst", "v", "land_sea_mask", *FEATURES)
START = np.datetime64("2001-12-30T00", "h")


def fields(splits: dict[str, int], *, step: int = 6, seed: int = 0) -> ArraySource:
    """States of successive splits, each without gaps; the target is the state after a step."""
    generator, items, first = np.random.default_rng(seed), {}, 0
    count = sum(splits.values()) + len(splits)
    states = np.cumsum(generator.normal(size=(count, 3, 3, 2)), 0) * 0.1 + [
        [[5.0]],
        [[280.0]],
        [[0.0]],
    ]
    mask = generator.random((1, 3, 2))
    for split, n in splits.items():
        rows = np.arange(first, first + n)
        first += n + 1  # no target in the next split
        times = START + rows * np.timedelta64(step, "h")
        clock = np.stack([features(LATITUDE, LONGITUDE, t) for t in times])
        x = np.concatenate([states[rows], np.repeat(mask[None], n, 0), clock], 1)
        items[split] = {"x": x, "y": states[rows + 1][:, [2, 0]], "time": rows * float(step)}
    both = ("x", "y")
    since = TIME_UNITS.replace("1900-01-01", str(START).replace("T", " "))
    return ArraySource(
        name="fields",
        task="regression",
        normalize_y=True,
        arrays={
            "x": ArraySpec.plan((8, 3, 2), "<f8", chunk_bytes=1000),
            "y": ArraySpec.plan((2, 3, 2), "<f8", chunk_bytes=1000),
        },
        splits=splits,
        source={"name": "fields"},
        meaning={"y": {"lead": f"{step} h"}},
        coords={
            "channel": Coordinate(np.asarray(NAMES), axis=0),
            "target_channel": Coordinate(np.asarray(["v", "u"]), axis=0, arrays=("y",)),
            "latitude": Coordinate(LATITUDE, "degrees_north", 1, both),
            "longitude": Coordinate(LONGITUDE, "degrees_east", 2, both),
            "time": Coordinate(np.empty(0), since),
        },
        items=items,
    )
