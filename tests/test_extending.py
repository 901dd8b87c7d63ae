"""What is added takes one file and one line of :mod:`hpcsamp.names`, or none if it is one's own.

A method, a loss, a likelihood, a scheduler, two sets and a transport are written into a package
beside the tests, and then used: data are ingested, steps are trained, a script is rendered.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from conftest import launch

from hpcsamp import names
from hpcsamp.errors import UsageError
from hpcsamp.registry import Registry

FILES = {
    "method.py": '''
import torch

from hpcsamp.methods import Method
from hpcsamp.streams import Purpose, torch_generator


class Jittered(Method):
    """The weights of a point estimate; outputs get noise of the sample."""

    def __init__(self, module, *, scale: float = 0.1, seed: int = 0, samples_per_pass="auto",
                 autocast=None):
        super().__init__(seed, samples_per_pass)
        self.module, self.scale = module, scale

    @property
    def networks(self):
        return [self.module]

    def forward(self, x, samples, step=None, *, stacked=False, index=None):
        found = []
        for place, sample in enumerate(samples):
            y = self.module(x[place] if stacked else x)
            stream = torch_generator("cpu", self.seed, Purpose.DROPOUT, self.step, sample)
            found.append(y + self.scale * torch.randn(y.shape[-1], generator=stream).to(y))
        return torch.stack(found)

    def penalty(self, part=0, parts=1):
        return sum(p.square().sum() for p in self.module.parameters()) / (2 * parts)

    def named_variational(self):
        return self.module.named_parameters()
''',
    "loss.py": '''
from hpcsamp.losses import LinearLoss, like_target, over_values


class Absolute(LinearLoss):
    """mean_s |y_s - t|^power"""

    def __init__(self, power: float = 1.0, **others):
        super().__init__(**others)
        self.power = power

    def per_sample(self, outputs, target, weight=None):
        error = (like_target(outputs, target) - target).abs() ** self.power
        return over_values(error, weight, lead=2)
''',
    "likelihood.py": '''
import math

import torch

from hpcsamp.losses import Likelihood, like_target


class Laplace(Likelihood):
    """Absolute errors: exp(-|t - y| / b) / (2 b)."""

    def __init__(self, b: float = 1.0):
        self.b = b

    def of_values(self, outputs, target):
        return -(like_target(outputs, target) - target).abs() / self.b - math.log(2 * self.b)

    def moments(self, outputs, target):
        mean = like_target(outputs, target)
        return mean, torch.full_like(mean, 2 * self.b**2)
''',
    "scheduler.py": '''
from hpcsamp.campaign.schedulers import Limits, Scheduler


class Queue(Scheduler):
    """A scheduler with one queue."""

    suffix = "queue"
    template = """{% extends "job.sh.j2" %}
{% block header %}
#QUEUE -n {{ ranks }} -t {{ minutes | int }}
{% endblock %}
"""

    def limits(self):
        return Limits(2, {"only": 60.0}, "only")

    def submit(self, jobs, folder, taken):
        for number, job in enumerate(jobs):
            taken(job, str(number))

    def live(self, jobs):
        return {(job, 0): "queued" for job in jobs}

    def cancel(self, jobs):
        pass
''',
    "rings.py": '''
from typing import Annotated

import numpy as np

from hpcsamp.data.manifest import ArraySpec
from hpcsamp.ingest.asked import Asked
from hpcsamp.ingest.source import ArraySource


def rings(
    items: Annotated[int, Asked("In each split.", "--items", least=1)] = 8,
    *,
    noise: Annotated[float, Asked("Standard deviation of the radius.", least=0)] = 0.1,
):
    """Points on rings, with the radius as target.

    Not a second paragraph of the help.
    """
    draw = np.random.default_rng(0)
    dealt = {}
    for split in ("train", "valid", "test"):
        radius = draw.uniform(1, 2, items)
        angle = draw.uniform(0, 2 * np.pi, items)
        x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).astype("f4")
        dealt[split] = {"x": x, "y": (radius + noise * draw.normal(size=items)).astype("f4")}
    return ArraySource(
        name="rings", task="regression", splits=dict.fromkeys(dealt, items), items=dealt,
        arrays={"x": ArraySpec.plan((2,), "<f4"), "y": ArraySpec.plan((), "<f4")},
    )
''',
    "waves.py": '''
import numpy as np

from hpcsamp.ingest.synthetic import Shapes, Synthetic


class Waves(Synthetic):
    """Five numbers of a wave and the next one."""

    @classmethod
    def shapes(cls, grid):
        return Shapes(((5,), "<f4", "m"), ((), "<f4", "m"))

    def item(self, split, item):
        wave = np.sin(np.arange(6) + self.generator(split, item).uniform(0, 6))
        return wave[:5], wave[5]
''',
}

#: The one line of each, in the registry of its kind.
LINES = {
    "METHODS": ("jittered", "mine.method:Jittered"),
    "LOSSES": ("absolute", "mine.loss:Absolute"),
    "LIKELIHOODS": ("laplace", "mine.likelihood:Laplace"),
    "TRANSPORTS": ("trivial", "mine.transport:Trivial"),
    "SCHEDULERS": ("queue", "mine.scheduler:Queue"),
    "SETS": ("rings", "mine.rings:rings"),
    "MADE_UP": ("waves", "mine.waves:Waves"),
}

RUN = """
task = "regression"
data = {{ path = "set", batch = 8 }}
model = {{ name = "mlp", hidden = [4] }}
method = {{ name = "{METHODS}", samples = 3, scale = 0.2 }}
loss = {{ name = "{LOSSES}", power = 2.0 }}
likelihood = {{ name = "{LIKELIHOODS}", b = 0.5 }}
parallel = {{ collectives = "{TRANSPORTS}", samples = "world" }}
training = {{ steps = 2, precision = "float64" }}
"""

MADE_UP = RUN.replace(
    'path = "set"', 'path = "set", synthetic = {{ like = "{MADE_UP}", items = 20 }}'
)

CAMPAIGN = """
config = "run.toml"
product = {{ seed = [1, 2] }}
site = {{ scheduler = "{SCHEDULERS}", launcher = "none" }}
"""

#: Adds the lines, then runs commands as tests/commands.py does.
PROGRAM = """
import json, sys
from hpcsamp import names
from hpcsamp.cli import app
for kind, (name, place) in json.loads(sys.argv[1]).items():
    getattr(names, kind).add(name, place)
for arguments in json.loads(sys.argv[2]):
    app(arguments, standalone_mode=False)
"""


def used(folder: Path, ranks: int, said: dict[str, str], lines: dict) -> tuple[dict, str]:
    """Ingest, train, evaluate and render with these names in the configuration."""
    folder.mkdir()
    (folder / "run.toml").write_text(RUN.format(**said))
    (folder / "made-up.toml").write_text(MADE_UP.format(**said))
    (folder / "sweep.toml").write_text(CAMPAIGN.format(**said))
    commands = [
        ["ingest", said["SETS"], "--items", "16", "--noise", "0.3", "--out", "set"],
        ["train", "run.toml", "--output", "run"],
        ["evaluate", "run"],
        ["train", "made-up.toml", "--data", "synthetic", "--output", "waves"],
    ]
    (folder / "program.py").write_text(PROGRAM)
    for count, part in ((ranks, commands), (1, [["campaign", "render", "sweep.toml"]])):
        done = launch(count, "-m", "mpi4py", "program.py", json.dumps(lines), json.dumps(part),
                      cwd=folder)  # fmt: skip
        assert done.code == 0, done.err
    [script] = folder.glob("**/*.queue")
    return json.loads((folder / "run" / "evaluation" / "test.json").read_text()), script.read_text()


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    place = tmp_path_factory.mktemp("extending")
    (place / "mine").mkdir()
    for name, text in FILES.items():
        (place / "mine" / name).write_text(text)
    shutil.copy(Path(__file__).with_name("trivial_transport.py"), place / "mine" / "transport.py")
    with pytest.MonkeyPatch.context() as patch:
        path = [str(place), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
        patch.syspath_prepend(str(place))
        yield place
    for name in [n for n in sys.modules if n == "mine" or n.startswith("mine.")]:
        del sys.modules[name]


@pytest.mark.timeout(300)
def test_one_file_and_one_line_or_a_place_alone(package):
    registered, script = used(
        package / "lines", 2, {kind: name for kind, (name, _) in LINES.items()}, LINES
    )
    own, same = used(package / "places", 1, {kind: place for kind, (_, place) in LINES.items()}, {})
    assert registered["metrics"] == pytest.approx(own["metrics"], rel=1e-10)
    assert registered["method"] == "jittered"
    assert own["method"] == "mine.method:Jittered"
    for text in (script, same):
        assert "#QUEUE -n 1 -t 60" in text
    waves = (package / "lines" / "synthetic-waves-20" / "manifest.json").read_text()
    assert json.loads(waves)["splits"] == {"train": 16, "valid": 2, "test": 2}


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("METHODS", "jitterd", "method.name = 'jitterd': choose from mean_field"),
        ("METHODS", "mine.method:Jitter", "has no attribute 'Jitter'"),
        ("METHODS", "mine.loss:Absolute", "not a subclass of hpcsamp.methods.Method"),
        ("METHODS", "hpcsamp.methods.item_noise:ItemNoise", "does not define perturbation"),
        ("SCHEDULERS", "mine.scheduler:Scheduler", "does not define cancel, limits, live, submit"),
        ("SETS", "mine.rings:np", "is not a class or function"),
        ("LOSSES", "mine.broken:Loss", "ZeroDivisionError: division by zero"),
        ("LIKELIHOODS", ":Laplace", "package.module:Class"),
        ("TRANSPORTS", 3, "parallel.collectives = 3: choose from auto, horovod, mpi"),
    ],
)
def test_what_cannot_be_opened_is_refused_in_one_line(package, kind, name, words):
    (package / "mine" / "broken.py").write_text("1 / 0\n")
    with pytest.raises(UsageError, match=words) as caught:
        getattr(names, kind).find(name)
    assert "\n" not in str(caught.value)


def test_every_line_of_the_names_opens():
    kinds = [value for value in vars(names).values() if isinstance(value, Registry)]
    assert len(kinds) >= 8
    for registry in kinds:
        for name in registry:
            assert registry.find(name) is registry[name]


def test_a_taken_name_is_refused():
    with pytest.raises(ValueError, match="'swag' cannot be registered"):
        names.METHODS.add("swag", "mine.method:Jittered")
