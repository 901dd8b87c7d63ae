"""Schema and reader of the campaign file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hpcsamp.campaign import stage
from hpcsamp.campaign.space import Search
from hpcsamp.campaign.stage import Stage
from hpcsamp.config import read_toml
from hpcsamp.errors import UsageError
from hpcsamp.spelling import hint, shown

TRAIN = 'launch hpcsamp train "$config" "${settings[@]}" --output "$point" --resume'
EVALUATE = 'launch hpcsamp evaluate "$point" --split %s'


def training(splits: Sequence[str]) -> tuple[str, ...]:
    """Return the commands that train a run and then evaluate splits."""
    return (TRAIN, *(EVALUATE % split for split in splits))


USUAL = training(["test"])
"""Default commands of a campaign."""


class Reach(BaseModel):
    """``[[collect.reach]]``: the first epoch in which a metric reaches a value."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    metric: str = Field(description="e.g. accuracy")
    value: float
    event: str = Field("valid", description="event of the lines of metrics.jsonl to search")
    below: bool = Field(
        False, description="true: the metric must be at most the value; false: at least the value"
    )


class Collect(BaseModel):
    """``[collect]``: additional columns of the table of results."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    reach: list[Reach] = []


class Start(BaseModel):
    """``config = {...}``: the settings of the best finished point of another campaign."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    best: str = Field(description="metric, as for hpcsamp campaign best")
    of: str = Field(description="the other campaign file, or FILE:STAGE")
    highest: bool | None = Field(
        None, description="whether higher is better (default: by the name of the metric)"
    )


class CampaignFile(BaseModel):
    """A campaign file. Paths are relative to ``root``."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    name: str = Field("", description="name of the campaign (default: name of the file)")
    config: str | Start = Field(
        description="base configuration: a TOML file, a packaged configuration, or the best of "
        "another campaign"
    )
    preset: str | None = Field(None, description="preset of the base configuration")
    root: str = Field(
        ".",
        description="folder that other paths are relative to, itself relative to the campaign file",
    )
    folder: str = Field("", description="folder of the campaign (default: campaigns/NAME)")
    fixed: dict[str, Any] = Field(
        default_factory=dict, alias="set", description="keys set for all points"
    )
    product: dict[str, Any] = Field(
        default_factory=dict, description="lists of values; all combinations are points"
    )
    together: dict[str, Any] = Field(
        default_factory=dict, alias="zip", description="lists that advance together"
    )
    listed: list[dict[str, Any]] = Field(
        default_factory=list, alias="list", description="combinations, one table each"
    )
    exclude: list[str] = Field(
        [], description="expressions; combinations where one is true are skipped"
    )
    derived: dict[str, Any] = Field(
        default_factory=dict, description="keys or new names with expressions for their values"
    )
    resources: dict[str, Any] = Field(default_factory=dict)
    site: dict[str, Any] = Field(default_factory=dict)
    evaluate: str | list[str] = Field(
        "test", description="split, or splits, to evaluate after training; empty: none"
    )
    commands: list[str] = Field([], description="shell lines that replace train and evaluate")
    results: list[str] = Field([], description="result files of a finished point")
    collect: Collect = Collect()
    search: Search | None = None
    stages: dict[str, Stage] = Field(
        default_factory=dict, alias="stage", description="jobs that follow the points, in order"
    )
    retries: int = Field(
        100,
        ge=0,
        le=10**6,
        description="largest number of restarts of a point that stops early (exit code 75); a "
        "point without progress since its last start is not restarted",
    )

    def splits(self) -> list[str]:
        """Return the splits that are evaluated after training."""
        if isinstance(self.evaluate, list):
            return self.evaluate
        return [self.evaluate] if self.evaluate else []

    def shell(self) -> tuple[str, ...]:
        """Return the shell commands of a point."""
        if self.commands:
            return tuple(self.commands)
        return training(self.splits())

    def files(self) -> tuple[str, ...]:
        """Return the result files of a point, relative to its folder."""
        if self.results:
            return tuple(self.results)
        if self.commands:
            return ("summary.json",)
        return ("summary.json", *(f"evaluation/{split}.json" for split in self.splits()))

    def planned(self) -> str:
        """Return a hash of the settings, except those of training, that determine result files.

        A trained point whose mark has another hash is not trained again; only missing result files
        are written.
        """
        text = repr((self.shell(), self.files()))
        return hashlib.sha256(text.encode()).hexdigest()[:8]


def read(path: Path) -> CampaignFile:
    """Read a campaign file.

    Raises
    ------
    UsageError
        If it cannot be read, or a key or value is wrong.
    """
    table = read_toml(path, "the campaign file")
    table.setdefault("name", path.stem)
    try:
        spec = CampaignFile.model_validate(table)
    except ValidationError as e:
        faults = [_explain(f) for f in e.errors()]
        raise UsageError(f"{path}: {'; '.join(dict.fromkeys(faults))}") from None
    if len(set(spec.splits())) < len(spec.splits()):
        raise UsageError(f"{path}: evaluate = {shown(spec.evaluate)}: a split is listed twice")
    named = [("name", spec.name, "jobs"), *(("evaluate", s, "a split") for s in spec.splits())]
    for key, text, what in named:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", text):
            raise UsageError(
                f'{path}: {key} = {shown(text)}: at most 100 letters, digits, "-", "_" and "." are '
                f"allowed, because it names {what}"
            )
    try:
        stage.check(spec.stages)
    except UsageError as e:
        raise UsageError(f"{path}: {e}") from None
    if spec.stages and spec.search is not None:
        raise UsageError(f"{path}: [search] cannot be combined with [stage]")
    for product in (*spec.files(), *(r for s in spec.stages.values() for r in s.results)):
        if Path(product).is_absolute() or ".." in Path(product).parts:
            raise UsageError(
                f"{path}: results = {shown(product)} is outside the folder of the point"
            )
        if not product.isprintable() or product.startswith("-") or not product:
            raise UsageError(f"{path}: results = {shown(product)} is not a file name")
    base = spec.config if isinstance(spec.config, str) else spec.config.of
    for key, text in (("root", spec.root), ("folder", spec.folder), ("config", base)):
        if not text.isprintable():
            raise UsageError(f"{path}: {key} = {shown(text)} is not a file name")
    return spec


def _explain(fault: Any) -> str:
    key = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        known = [f.alias or n for n, f in CampaignFile.model_fields.items()]
        return f"unknown key {key!r}{hint(key, known)}"
    if fault["type"] == "missing":
        return f"{key} is missing"
    return f"{key} = {shown(fault['input'])}: {fault['msg'][0].lower()}{fault['msg'][1:]}"
