"""The table ``[data]``: the dataset, its batches and how it is read."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hpcsamp.config.section import MOST, NOTHING, RESULTS, Section, one_of
from hpcsamp.names import MADE_UP, ReaderName, Shuffle, Verify


class SyntheticSection(Section):
    """``[data.synthetic]``: the synthetic dataset that ``--data synthetic`` generates."""

    like: Annotated[str, one_of(MADE_UP)] = Field(
        description="dataset to imitate, e.g. era5, or package.module:Class"
    )
    items: int = Field(1000, ge=10, le=MOST, description="number of items in all splits together")
    seed: int = Field(0, ge=0, description="seed of the generated data")
    grid: tuple[int, int] | None = Field(
        None,
        description="number of latitudes and longitudes; default: those of era5, 121 and 240",
    )


class DataSection(Section):
    """``[data]``: the dataset, its batches and how it is read."""

    path: str = Field(
        description="dataset folder, as written by hpcsamp ingest", json_schema_extra=RESULTS
    )
    batch: int = Field(64, ge=1, le=MOST, description="items per step over all data groups")
    accumulate: int = Field(
        1,
        ge=1,
        le=MOST,
        description="number of parts into which the batch of a data group is split and that are "
        "processed in turn: the gradient is the same, but only the activations of one part "
        "are in memory at a time",
        json_schema_extra=NOTHING,
    )
    reader: ReaderName = Field(
        "auto",
        description="how shards are read; memory: read once and keep them in the memory of every "
        "node",
        json_schema_extra=NOTHING,
    )
    shuffle: bool | Shuffle = Field(
        True,
        description="draw a new order of the items from the seed every epoch; pool: items read "
        "together are close together in the files",
    )
    verify: Verify = Field(
        "all",
        description="chunks whose checksums are verified when they are first read",
        json_schema_extra=NOTHING,
    )
    slots: int = Field(
        3,
        ge=2,
        le=64,
        description="number of batch buffers: one is in use while the others are prefetched",
        json_schema_extra=NOTHING,
    )
    synthetic: SyntheticSection | None = Field(
        None,
        description="dataset that --data synthetic generates; not written to a run's config.toml",
    )
