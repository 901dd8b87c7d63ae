"""Compute the points of a campaign file: configuration, resources and name of each point."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcsamp import config
from hpcsamp.campaign import axes, resources, site, spec, start
from hpcsamp.campaign.expressions import Expression, parse
from hpcsamp.campaign.keys import defaults, is_key, no_key
from hpcsamp.campaign.naming import Names
from hpcsamp.campaign.point import Point, describe
from hpcsamp.campaign.store import Store
from hpcsamp.config import flatten, put
from hpcsamp.errors import UsageError
from hpcsamp.grid import check_sizes
from hpcsamp.spelling import hint, shown

if TYPE_CHECKING:
    from pandas import DataFrame

_WHEN = (
    *("ranks", "nodes", "ranks_per_node", "cores", "gpus", "time", "memory"),
    "points_per_job",
)


class Campaign:
    """A campaign file with its base configuration, site and points.

    Parameters
    ----------
    file
        The campaign file.
    site_name
        Site to use instead of the one in the file.
    datasets
        Known uids of datasets by path; used if a dataset is not available now.

    Raises
    ------
    UsageError
        If a key or value is wrong; the message names the key.
    """

    def __init__(
        self,
        file: str | Path,
        site_name: str | None = None,
        datasets: Mapping[str, str] | None = None,
    ) -> None:
        self.file = file = Path(file)
        self.spec = spec.read(file)
        self.root = (file.parent / self.spec.root).resolve()
        self.folder = self.root / (self.spec.folder or f"campaigns/{self.spec.name}")
        self.base = self._read_base()
        given = self.spec.site
        if site_name is not None and site_name != given.get("name"):
            given = {"name": site_name}  # settings of one site do not apply at another
        self.site = site.load(given, self.root)
        state = Store(self.folder).load()
        self.known_datasets = {**state.datasets, **(datasets or {})}
        self.folders = dict(state.folders)
        self.needs: dict[str, Campaign] = {}  # of a stage, the stages before it
        self.after = ""  # of a stage that waits for every point, a hash of these
        self.read_again()

    def read_again(self) -> None:
        """Read axes, expressions and resources from ``spec``."""
        axes.check(self.spec)
        self._derived = self._read_derived()
        self._exclude = [parse(t, "exclude") for t in self.spec.exclude]
        self._resources, self._when = self._read_resources()

    @cached_property
    def points(self) -> list[Point]:
        """Return all points in the order of the axes.

        Raises
        ------
        UsageError
            If the configuration refuses a value, or two points are the same.
        """
        found: dict[str, Point] = {}
        names, known = Names(self), config.Known(self.base)
        number = 0
        for values in axes.of_search(self.spec, self.folder):
            point = self._point(number + 1, values, names, known)
            if point is None:
                continue
            number += 1
            twin = found.get(point.name)
            if twin is not None:
                raise UsageError(
                    f"{self.file}: points {twin.number} and {number} are the same run: "
                    f"{describe(point.values)}"
                )
            found[point.name] = point
        if not found and self.spec.search is not None:
            raise UsageError(
                f"{self.file}: there are no trials yet: hpcsamp campaign search starts them"
            )
        if not found:
            raise UsageError(f"{self.file}: all combinations are excluded, there are no points")
        return list(found.values())

    @cached_property
    def datasets(self) -> dict[str, str]:
        """Return the known uids of the datasets that the points use, by path."""
        _ = self.points
        return self.known_datasets

    def frame(self) -> DataFrame:
        """Return the results of all finished points as a pandas data frame, one row per point.

        The index is the number of the point; columns are those of ``hpcsamp campaign collect``. The
        scheduler is not queried.

        Raises
        ------
        DataError
            If the campaign's state is damaged.
        """
        import pandas

        from hpcsamp.campaign.collect import collect

        results = collect(self, ask_scheduler=False)
        columns = results.columns or ["point", "folder"]
        return pandas.DataFrame(results.rows, columns=columns).set_index("point")

    # Reading ----------------------------------------------------------------------------------

    def _read_base(self) -> dict[str, Any]:
        self.source = start.source(self.spec, self.file, self.root, self.folder)
        loaded = config.load(self.source, preset=self.spec.preset)
        table = loaded.model_dump(mode="json", exclude_unset=True, exclude_none=True)
        for key, value in axes.read("set", self.spec.fixed).items():
            if not is_key(key):
                raise UsageError(f"{self.file}: [set] {no_key(key)}")
            _put(table, key, value)
        config.check(table, f"{self.file}: [set]")
        return table

    def _read_derived(self) -> list[tuple[str, Expression]]:
        derived = []
        for key, text in axes.read("derived", self.spec.derived).items():
            if not is_key(key) and not key.isidentifier():
                raise UsageError(f"{self.file}: [derived] {no_key(key)}, nor a plain name")
            derived.append((key, parse(str(text), f"[derived] {key}")))
        return derived

    def _read_resources(self) -> tuple[dict[str, Any], list[tuple[Expression, dict[str, Any]]]]:
        given = {**self.site.resources, **self.spec.resources}
        listed = given.pop("when", [])
        if not isinstance(listed, list):
            raise UsageError(f"{self.file}: resources.when must be written [[resources.when]]")
        cases = []
        for case in listed:
            case = dict(case)
            if "if" not in case:
                raise UsageError(f'{self.file}: [[resources.when]] needs an "if"')
            condition = parse(str(case.pop("if")), "resources.when.if")
            cases.append((condition, self._expressions(case)))
        return self._expressions(given), cases

    def _expressions(self, given: dict[str, Any]) -> dict[str, Any]:
        for key in given:
            if key not in _WHEN:
                raise UsageError(f"{self.file}: unknown key 'resources.{key}'{hint(key, _WHEN)}")
        written = ("time", "memory")  # values such as 01:00:00, unless they contain a key
        return {
            k: parse(v, f"resources.{k}")
            if isinstance(v, str) and (k not in written or "." in v)
            else v
            for k, v in given.items()
        }

    # Points -----------------------------------------------------------------------------------

    def _point(
        self, number: int, values: dict[str, Any], names: Names, known_tables: config.Known
    ) -> Point | None:
        settings = {k: v for k, v in values.items() if not k.startswith("resources.")}
        asked = {k: v for k, v in values.items() if k.startswith("resources.")}
        own: dict[str, Any] = dict(values)
        known = ChainMap(own, self._flat_base, self._defaults)
        table = dict(self.base)
        for key, value in settings.items():
            _put(table, key, value)
        for key, expression in self._derived:
            value = own[key] = expression.value(known)
            if is_key(key):
                settings[key] = value
                _put(table, key, value)
        try:
            run = config.check(table, known=known_tables)
        except UsageError as e:
            text = str(e).removeprefix("configuration: ")
            raise UsageError(f"{self._where(number, values)}: {text}") from None
        shape = self._shape(known, asked)
        known = known.new_child({f"resources.{k}": getattr(shape, k) for k in _SHAPE})
        if any(e.value(known) for e in self._exclude):
            return None
        parallel = run.parallel
        if parallel.model > 1:  # report it now rather than in the job
            try:
                check_sizes(shape.ranks, shape.ranks_per_node, parallel.samples, parallel.model)
            except UsageError as e:
                raise UsageError(f"{self._where(number, values)}: {e}") from None
        return Point(
            number=number,
            name=names.name(run, shape, own),
            values=own,
            settings=settings,
            shape=shape,
            seed=run.seed,
            samples=run.method.samples,
            sample_axis=parallel.samples,
            model_ranks=parallel.model,
        )

    def _where(self, number: int, values: dict[str, Any]) -> str:
        return f"{self.file}: point {number} ({describe(values)})"

    def _shape(self, known: Mapping[str, Any], asked: dict[str, Any]) -> resources.Shape:
        given = dict(self._resources)
        for condition, case in self._when:
            if condition.value(known):
                given |= case
        given |= {k.removeprefix("resources."): v for k, v in asked.items()}
        worked_out = {
            k: v.value(known) if isinstance(v, Expression) else v for k, v in given.items()
        }
        key = tuple((k, repr(v)) for k, v in worked_out.items())
        if key not in self._shapes:
            self._shapes[key] = resources.shape(worked_out)
        return self._shapes[key]

    def shape_of(self, point: Point) -> resources.Shape:
        """Return the resources of a point of another stage in this one."""
        return self._shape(ChainMap(point.values, self._flat_base, self._defaults), {})

    @cached_property
    def _shapes(self) -> dict[tuple[Any, ...], resources.Shape]:
        return {}

    @cached_property
    def _flat_base(self) -> dict[str, Any]:
        return flatten(self.base)

    @cached_property
    def _defaults(self) -> dict[str, Any]:
        return defaults()


def _put(table: dict[str, Any], key: str, value: Any) -> None:
    try:
        put(table, key, value)
    except ValueError as e:
        raise UsageError(f"{key} = {shown(value)}: {e}") from None


_SHAPE = ("ranks", "nodes", "ranks_per_node", "cores", "gpus")
