"""Schema and reader of the campaign file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hpcsamp.config import read_toml
from hpcsamp.errors import UsageError
from hpcsamp.spelling import hint, shown

TRAIN = 'launch hpcsamp train "$config" "${settings[@]}" --output "$point" --resume'
EVALUATE = 'launch hpcsamp evaluate "$point" --split %s'


class Reach(BaseModel):
    """``[[collect.reach]]``: the first epoch in which a metric reaches a value."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    metric: str = Field(description="e.g. accuracy")
    value: float
    event: str = Field("valid", description="event of the lines of metrics.jsonl to search")
    below: bool = Field(False, description="the metric must be at most the value, not at least")


class Collect(BaseModel):
    """``[collect]``: additional columns of the table of results."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    reach: list[Reach] = []


class CampaignFile(BaseModel):
    """A campaign file. Paths are relative to ``root``."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    name: str = Field("", description="name of the campaign (default: name of the file)")
    config: str = Field(description="base configuration: a TOML file or a packaged configuration")
    preset: str | None = Field(None, description="preset of the base configuration")
    root: str = Field(".", description="folder of relative paths, relative to the campaign file")
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
    evaluate: str = Field("test", description="split to evaluate after training; empty: none")
    commands: list[str] = Field([], description="shell lines that replace train and evaluate")
    results: list[str] = Field([], description="product files of a finished point")
    collect: Collect = Collect()

    def shell(self) -> tuple[str, ...]:
        """Return the shell commands of a point."""
        if self.commands:
            return tuple(self.commands)
        return (TRAIN, EVALUATE % self.evaluate) if self.evaluate else (TRAIN,)

    def files(self) -> tuple[str, ...]:
        """Return the product files of a point, relative to its folder."""
        if self.results:
            return tuple(self.results)
        if self.evaluate and not self.commands:
            return ("summary.json", f"evaluation/{self.evaluate}.json")
        return ("summary.json",)


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
    for key, text, what in (("name", spec.name, "jobs"), ("evaluate", spec.evaluate, "a split")):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", text) and (text or key == "name"):
            raise UsageError(
                f'{path}: {key} = {shown(text)}: at most 100 letters, digits, "-", "_" and "." are '
                f"allowed, because it names {what}"
            )
    for product in spec.files():
        if Path(product).is_absolute() or ".." in Path(product).parts:
            raise UsageError(
                f"{path}: results = {shown(product)} is outside the folder of the point"
            )
        if not product.isprintable() or product.startswith("-") or not product:
            raise UsageError(f"{path}: results = {shown(product)} is not a file name")
    for key, text in (("root", spec.root), ("folder", spec.folder), ("config", spec.config)):
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
