"""Where a campaign runs: scheduler, launcher, environment and header lines of one place.

What is known of centres comes with the package as ``sites/NAME.toml``; the ``[site]`` of a campaign
overrides any of it.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

import hpcsamp
from hpcsamp.campaign import lines
from hpcsamp.config import exists, one_of, parse_toml, read_toml
from hpcsamp.errors import UsageError
from hpcsamp.names import SCHEDULERS
from hpcsamp.spelling import hint, shown, suggest

Word = Annotated[str, AfterValidator(lines.word)]
Single = Annotated[str, AfterValidator(lines.single)]
Shell = Annotated[str, AfterValidator(lines.shell)]
Comment = Annotated[str, AfterValidator(lines.comment)]

MOST = 10**6
"""Seconds, points or cores: more is a slip of the keyboard."""

LAUNCHERS = {
    "none": "",
    "srun": "srun --cpus-per-task={{ cores * cpus_per_core }} "
    '--cpu-bind="${HPCSAMP_BIND:-cores}" --kill-on-bad-exit=1',
    "mpiexec": "mpiexec -n {{ ranks }} --ppn {{ ranks_per_node }} "
    '--depth {{ cores * cpus_per_core }} --cpu-bind "${HPCSAMP_BIND:-depth}"',
    "mpirun": "mpirun -n {{ ranks }}{% if nodes > 1 %} -N {{ ranks_per_node }}{% endif %}",
}


class Site(BaseModel):
    """``[site]``. Strings of ``launcher``, ``header``, ``before_modules``, ``setup`` ... may use
    ``{{ ranks }}``, ``{{ nodes }}``, ``{{ ranks_per_node }}``, ``{{ cores }}``, ``{{ gpus }}``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    name: str = Field("local", description="a file of sites/, or a TOML file of yours")
    description: str = ""
    page: str = Field("", description="the centre's page that the preset follows")
    tried: bool = Field(False, description="whether the preset was run at that place")
    scheduler: Annotated[str, one_of(SCHEDULERS)] = Field(
        "local", description="slurm, pbs, local, or your own as package.module:Class"
    )
    launcher: Single = Field("mpirun", description="srun, mpirun, mpiexec, none, or a command line")
    env: Single = Field("", description="a file that job scripts source, relative to the root")
    before_modules: list[Shell] = Field([], description="lines before modules are loaded")
    modules: list[Word] = Field([], description="environment modules, loaded in this order")
    setup: list[Shell] = Field([], description="lines after that, before the first command")
    header: list[Comment] = Field(
        [], description="further lines of the header, written out in full"
    )
    partition: Word = ""
    account: Word = ""
    qos: Word = ""
    at_once: int = Field(
        0,
        ge=0,
        le=MOST,
        description="points of an array (locally: of a submission) that run at once; 0: no limit",
    )
    max_array: int = Field(0, ge=0, le=MOST, description="largest array; 0: ask the scheduler")
    gpu_option: Single = Field("--gres=gpu:{{ gpus }}", description="how Slurm is asked for GPUs")
    cpus_per_core: int = Field(1, ge=1, le=64, description="hardware threads that count as CPUs")
    chunk: Single = Field(
        "ncpus={{ ranks_per_node * cores }}:mpiprocs={{ ranks_per_node }}:ompthreads={{ cores }}"
        "{% if gpus %}:ngpus={{ gpus }}{% endif %}{% if memory %}:mem={{ memory }}mb{% endif %}",
        description="what PBS is asked for of each node",
    )
    cores: int = Field(
        0, ge=0, le=MOST, description="cores that the local scheduler may use; 0: all"
    )
    signal: int = Field(
        120, ge=0, le=MOST, description="seconds before the limit that USR2 is sent"
    )
    requeue: bool = Field(True, description="points that stop early (exit 75) are started again")
    timeout: float = Field(
        30, gt=0, le=MOST, description="seconds that the scheduler has to answer"
    )
    resources: dict[str, Any] = Field(default_factory=dict, description="defaults of [resources]")

    @property
    def launch(self) -> str:
        """The launcher's command line, with placeholders."""
        return LAUNCHERS.get(self.launcher, self.launcher)

    def environment(self, root: Path) -> Path | None:
        """The file that scripts source, or None.

        It is looked for from the campaign's root, then beside the package (its ``envs/``).

        Raises
        ------
        UsageError
            If there is no such file.
        """
        if not self.env:
            return None
        places = [root / self.env, Path(hpcsamp.__file__).parent.parent / self.env]
        for place in places:
            if place.is_file():
                return place.resolve()
        raise UsageError(
            f'site.env = "{self.env}": there is no file {places[0]}; the files of envs/ come with '
            f'the checkout or the source distribution: name one of yours, or "" if the '
            f"environment of the submission is the one to use"
        )


def names() -> list[str]:
    """Sites that come with the package."""
    folder = resources.files("hpcsamp.campaign") / "sites"
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")
    )


def load(given: dict[str, Any], root: Path) -> Site:
    """The site of a campaign: a preset, and what the campaign says above it.

    Raises
    ------
    UsageError
        If there is no such site, or a key or value is wrong.
    """
    name = str(given.get("name", "local"))
    file = root / name
    if name in names():
        path = resources.files("hpcsamp.campaign") / "sites" / f"{name}.toml"
        preset = parse_toml(path.read_text("utf-8"), f"site {name}")
    elif name.endswith(".toml") and exists(file):
        preset = read_toml(file, "the site")
    else:
        known = names()
        raise UsageError(
            f"site.name = {shown(name)}: no such site{suggest(name, known)}; there are "
            f"{', '.join(known)}, or name a TOML file of yours"
        )
    try:
        return Site.model_validate({**preset, **given})
    except ValidationError as e:
        fault = e.errors()[0]
        key = ".".join(map(str, fault["loc"]))
        if fault["type"] == "extra_forbidden":
            raise UsageError(f"unknown key 'site.{key}'{hint(key, Site.model_fields)}") from None
        reason = fault["msg"].removeprefix("Value error, ")
        raise UsageError(
            f"site.{key} = {shown(fault['input'])}: {reason[0].lower()}{reason[1:]}"
        ) from None
