"""What a run learns from, and how it is fed."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hpcsamp.config.section import MOST, NOTHING, RESULTS, Section, one_of
from hpcsamp.names import MADE_UP, ReaderName, Shuffle, Verify


class SyntheticSection(Section):
    """``[data.synthetic]``: the made-up set that ``--data synthetic`` stands for."""

    like: Annotated[str, one_of(MADE_UP)] = Field(
        description="set to resemble, e.g. era5, or package.module:Class"
    )
    items: int = Field(1000, ge=10, le=MOST, description="in all splits together")
    seed: int = Field(0, ge=0, description="of the data")
    grid: tuple[int, int] | None = Field(
        None, description="latitudes and longitudes, where they are not to be era5's 121 and 240"
    )


class DataSection(Section):
    """``[data]``: what is learnt from and how it is fed."""

    path: str = Field(
        description="dataset folder, as written by hpcsamp ingest", json_schema_extra=RESULTS
    )
    batch: int = Field(64, ge=1, le=MOST, description="items per step over all data groups")
    accumulate: int = Field(
        1,
        ge=1,
        le=MOST,
        description="parts that the batch of a data group is taken in, one after the other: the "
        "step is the same, its activations are those of one part",
        json_schema_extra=NOTHING,
    )
    reader: ReaderName = Field(
        "auto",
        description="how shards are read; memory: once, and held on every node",
        json_schema_extra=NOTHING,
    )
    shuffle: bool | Shuffle = Field(
        True, description="a new order every epoch, drawn from the seed; pool keeps reads local"
    )
    verify: Verify = Field(
        "all",
        description="which chunks have their checksum compared on first read",
        json_schema_extra=NOTHING,
    )
    slots: int = Field(
        3,
        ge=2,
        le=64,
        description="batches that are prefetched, plus one",
        json_schema_extra=NOTHING,
    )
    synthetic: SyntheticSection | None = Field(
        None, description="what --data synthetic makes; a run's own config.toml has none"
    )
