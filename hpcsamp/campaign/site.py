"""Site of a campaign: scheduler, launcher, environment and header lines.

Presets for computing centres are packaged as ``sites/NAME.toml``; the ``[site]`` table of a
campaign overrides any of their keys.
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
"""Largest number of seconds, points or cores; a larger one is a typing mistake."""

LAUNCHERS = {
    "none": "",
    "srun": "srun --cpus-per-task={{ cores * cpus_per_core }} "
    '--cpu-bind="${HPCSAMP_BIND:-cores}" --kill-on-bad-exit=1',
    "mpiexec": "mpiexec -n {{ ranks }} --ppn {{ ranks_per_node }} "
    '--depth {{ cores * cpus_per_core }} --cpu-bind "${HPCSAMP_BIND:-depth}"',
    "mpirun": "mpirun -n {{ ranks }}{% if nodes > 1 %} -N {{ ranks_per_node }}{% endif %}",
}


class Site(BaseModel):
    """Table ``[site]`` of a campaign file.

    Strings of ``launcher``, ``header``, ``before_modules``, ``setup`` ... may use ``{{ ranks }}``,
    ``{{ nodes }}``, ``{{ ranks_per_node }}``, ``{{ cores }}``, ``{{ gpus }}``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    name: str = Field("local", description="a preset, or your own TOML file")
    description: str = ""
    page: str = Field(
        "", description="address of the centre's documentation on which the preset is based"
    )
    tried: bool = Field(False, description="whether the preset was tested at that centre")
    scheduler: Annotated[str, one_of(SCHEDULERS)] = Field(
        "local", description="slurm, pbs, local, or your own as package.module:Class"
    )
    launcher: Single = Field("mpirun", description="srun, mpirun, mpiexec, none, or a command line")
    env: Single = Field("", description="file that job scripts source, relative to the root")
    before_modules: list[Shell] = Field([], description="lines that run before modules are loaded")
    modules: list[Word] = Field([], description="environment modules, loaded in this order")
    setup: list[Shell] = Field(
        [], description="lines that run after modules are loaded, before the first command"
    )
    header: list[Comment] = Field(
        [], description="additional lines of the header, complete with #SBATCH or #PBS"
    )
    partition: Word = ""
    account: Word = ""
    qos: Word = ""
    at_once: int = Field(
        0,
        ge=0,
        le=MOST,
        description="largest number of points of an array (local scheduler: of a submission) "
        "that run at the same time; 0: no limit",
    )
    max_array: int = Field(
        0, ge=0, le=MOST, description="largest job array; 0: limit of the scheduler"
    )
    gpu_option: Single = Field("--gres=gpu:{{ gpus }}", description="Slurm option to request GPUs")
    cpus_per_core: int = Field(1, ge=1, le=64, description="hardware threads that count as CPUs")
    chunk: Single = Field(
        "ncpus={{ ranks_per_node * cores }}:mpiprocs={{ ranks_per_node }}:ompthreads={{ cores }}"
        "{% if gpus %}:ngpus={{ gpus }}{% endif %}{% if memory %}:mem={{ memory }}mb{% endif %}",
        description="resources of each node requested from PBS",
    )
    cores: int = Field(
        0, ge=0, le=MOST, description="cores that the local scheduler may use; 0: all"
    )
    signal: int = Field(
        120, ge=0, le=MOST, description="seconds before the time limit at which USR2 is sent"
    )
    requeue: bool = Field(True, description="restart points that stop early (exit code 75)")
    timeout: float = Field(
        30, gt=0, le=MOST, description="seconds to wait for an answer of the scheduler"
    )
    resources: dict[str, Any] = Field(default_factory=dict, description="defaults of [resources]")

    @property
    def launch(self) -> str:
        """Command line of the launcher, with placeholders."""
        return LAUNCHERS.get(self.launcher, self.launcher)

    def environment(self, root: Path) -> Path | None:
        """Return the file that job scripts source, or None.

        The path is relative to the campaign's root, or else to the checkout of the package.

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
            f'site.env = "{self.env}": there is no file {places[0]}; the files of envs/ are part '
            f"of the checkout and the source distribution only: name a file of your own, or write "
            f'"" to use the environment of the submission'
        )


def names() -> list[str]:
    """Return the names of the packaged sites."""
    folder = resources.files("hpcsamp.campaign") / "sites"
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")
    )


def load(given: dict[str, Any], root: Path) -> Site:
    """Load the site of a campaign: a preset, overridden by the keys of the campaign.

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
            f"site.name = {shown(name)}: no such site{suggest(name, known)}; choose from "
            f"{', '.join(known)}, or name your own TOML file"
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
