"""Names of points: hashes of everything that determines their results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hpcsamp import config
from hpcsamp.campaign import spec
from hpcsamp.campaign.keys import is_key, is_neutral
from hpcsamp.campaign.resources import Shape
from hpcsamp.campaign.store import Store
from hpcsamp.config import flatten, former
from hpcsamp.sealing.text import read_json

if TYPE_CHECKING:
    from hpcsamp.campaign.point import Point
    from hpcsamp.campaign.points import Campaign


class Names:
    """Names of the points of a campaign.

    Parameters
    ----------
    campaign
        The campaign. The uids of datasets that are read, and the names of folders that earlier
        versions gave to its points, are noted there.
    """

    def __init__(self, campaign: Campaign) -> None:
        self.campaign = campaign
        self._uids: dict[str, str] = {}
        self._known: dict[int, tuple[Any, dict[str, Any]]] = {}

    def name(
        self,
        run: config.RunConfig,
        shape: Shape,
        values: Mapping[str, Any],
    ) -> str:
        """Return the name of a point.

        Parameters
        ----------
        run
            Its configuration.
        shape
            Its resources.
        values
            Its axes and derived names with their values.
        """
        facts: dict[str, Any] = {}
        for table in run.model_fields_set:
            facts |= self._facts(run, table)
        for key, value in values.items():
            if key.startswith("resources.") or (is_neutral(key) and is_key(key)):
                facts[former.key_of_before(key)] = value
        if run.augment.share == "rank" or not run.loss.exact:  # results depend on the grid
            facts["grid"] = [shape.ranks, shape.ranks_per_node, str(run.parallel.samples)]
            facts["grid"] += [run.parallel.model] * (run.parallel.model > 1)
        facts["dataset"] = self._dataset(run.data.path)
        campaign = self.campaign
        facts |= {"after": campaign.after} if campaign.after else {}
        # Evaluations after training are not part of the name: for one more split, the point is
        # evaluated but not trained again.
        name = _hash({**facts, "commands": campaign.spec.commands or spec.USUAL})
        if name in campaign.folders:
            return campaign.folders[name]
        if not campaign.spec.commands and self._on_disk and name not in self._on_disk:
            for splits in (
                [],
                ["valid"],
                ["train"],
                campaign.spec.splits(),
            ):  # names of earlier versions included it
                former_name = _hash({**facts, "commands": spec.training(splits)})
                if former_name in self._on_disk:
                    campaign.folders[name] = former_name
                    return former_name
        return name

    def suits(self, run: config.RunConfig, point: Point) -> bool:
        """Whether a run with this configuration gives the same results as a point."""
        return self.name(run, point.shape, point.values) == point.name

    def _facts(self, run: config.RunConfig, table: str) -> dict[str, Any]:
        """Return the values of a table that determine results, by keys as in old names of points.

        Points share most of their tables as the same objects, each of which is converted once.
        """
        section = getattr(run, table)
        known, facts = self._known.get(id(section), (None, {}))
        if known is not section:
            # Without defaults: a key that a later version adds must not rename finished points.
            content = run.model_dump(
                mode="json", include={table}, exclude_defaults=True, exclude_none=True
            )
            facts = {
                former.key_of_before(key): value
                for key, value in flatten(content).items()
                if not is_neutral(key) and key != "data.path"
            }
            self._known[id(section)] = section, facts
        return facts

    @cached_property
    def _on_disk(self) -> set[str]:
        """Names of all points that have a folder or a recorded state."""
        store = Store(self.campaign.folder)
        return store.read_folders() | store.read_marks().keys()

    def _dataset(self, path: str) -> str:
        if path not in self._uids:
            known = self.campaign.known_datasets
            manifest = self.campaign.root / path / "manifest.json"
            uid = known.get(path, path)  # if the dataset is not available now
            if manifest.is_file():
                uid = known[path] = str(read_json(manifest).get("uid", path))
            self._uids[path] = uid
        return self._uids[path]


def _hash(facts: dict[str, Any]) -> str:
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
