"""Stages of a campaign: what follows its points, in order and after failures."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from patience import patient

from hpcsamp.campaign import render, stages, start
from hpcsamp.campaign.points import Campaign
from hpcsamp.campaign.schedulers.base import dependency
from hpcsamp.campaign.selection import select
from hpcsamp.campaign.stage import RESERVED
from hpcsamp.campaign.submit import NEW
from hpcsamp.cli.campaign_options import look
from hpcsamp.errors import UsageError

TRAIN = """set -eu
echo x >>"$1/begun"
if [ "$3" = seed=2 ]; then
    while [ ! -e go ]; do sleep 0.05; done
    [ -e mended ] || exit 4
fi
nll=$(echo "$3" | tr -dc 0-9)
echo '{"steps": 1, "parameters_sha256": "'"$(printf '%064d' 1)"'", "metrics": {"nll": '"$nll"'}}' \\
    >"$1/summary.json"
"""

PIPELINE = """
config = "base.toml"
commands = ['launch bash train.sh "$point" "${settings[@]}"']
[product]
seed = [3, 2, 1]
[stage.predict]
commands = ['basename "$train" >"$point/of.txt"']
results = ["of.txt"]
[stage.longer]
needs = ["train"]
every = true
product = { "data.batch" = [32, 64] }
commands = ['echo "$(best nll)" "${settings[@]}" >"$point/best.txt"']
results = ["best.txt"]
[stage.report]
needs = ["predict", "longer"]
every = true
commands = ['cat "${predict[@]/%//of.txt}" "${longer[@]/%//best.txt}" >"$point/report.txt"']
results = ["report.txt"]
[site]
name = "local"
cores = 2
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    (tmp_path / "base.toml").write_text('[data]\npath = "d"\n[model]\nname = "mlp"\n')
    (tmp_path / "train.sh").write_text(TRAIN)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    path = tmp_path / "pipeline.toml"
    path.write_text(PIPELINE)
    yield path
    stages.cancel_all(Campaign(path))


def counts(file: Path) -> dict[str, dict[str, int]]:
    campaign = Campaign(file)
    made = {"train": campaign, **stages.of(campaign)}
    return {name: dict(look(c).counts()) for name, c in made.items()}


def wait(file: Path) -> dict[str, dict[str, int]]:
    end = time.monotonic() + patient(60)
    while True:
        found = counts(file)
        if not any({"queued", "running"} & c.keys() for c in found.values()):
            return found
        assert time.monotonic() < end, found
        time.sleep(0.1)


def test_what_follows_a_failure_waits_and_is_continued(file):
    done = stages.submit_all(Campaign(file), NEW)
    assert {n: sum(len(s.points) for s in of) for n, of in done.items()} == {
        "train": 3,
        "predict": 3,
        "longer": 2,
        "report": 1,
    }
    file.with_name("go").touch()
    assert wait(file) == {
        "train": {"done": 2, "failed": 1},
        "predict": {"done": 2, "missing": 1},
        "longer": {"missing": 2},
        "report": {"missing": 1},
    }
    file.with_name("mended").touch()
    file.with_name("go").unlink()
    again = stages.submit_all(Campaign(file), [*NEW, "failed"])
    assert {n: sum(len(s.points) for s in of) for n, of in again.items()} == {
        "train": 1,
        "predict": 1,
        "longer": 2,
        "report": 1,
    }
    file.with_name("go").touch()
    assert wait(file) == {
        "train": {"done": 3},
        "predict": {"done": 3},
        "longer": {"done": 2},
        "report": {"done": 1},
    }
    campaign = Campaign(file)
    made = stages.of(campaign)
    names = [p.name for p in campaign.points]
    begun = [(campaign.folder / "points" / n / "begun").read_text().count("x") for n in names]
    assert begun == [1, 2, 1]
    best = campaign.folder / "points" / names[2]  # seed 1 has the smallest nll
    [report] = made["report"].points
    told = (made["report"].folder / "points" / report.name / "report.txt").read_text()
    assert told.split("\n") == [
        *names,
        f"{best} --set data.batch=32",
        f"{best} --set data.batch=64",
        "",
    ]
    assert all(not s.points for of in stages.submit_all(campaign, NEW).values() for s in of)
    # a further point, and what it makes new: the report of all, but no prediction of the others
    file.write_text(PIPELINE.replace("[3, 2, 1]", "[3, 2, 1, 4]"))
    assert counts(file) == {
        "train": {"done": 3, "missing": 1},
        "predict": {"done": 3, "missing": 1},
        "longer": {"missing": 2},
        "report": {"missing": 1},
    }
    chosen = stages.submit_all(Campaign(file), NEW, select("seed == 4"))
    assert {n: [p.number for s in of for p in s.points] for n, of in chosen.items()} == {
        "train": [4],
        "predict": [4],
    }
    wait(file)


def test_schedulers_wait_for_each_element_or_for_all(file):
    campaign = Campaign(file)
    [job] = render.arrays(campaign.points, campaign.site, 0)
    each = replace(job, needs=tuple((("7", i),) for i in range(3)))
    every = replace(job, needs=((("7", 0), ("7", 1)), (("8", 0),), ()))
    assert dependency(job, []) == ""
    assert dependency(each, [], corresponding=True) == "aftercorr:7"
    assert dependency(each, ["5"]) == "afterany:5,afterok:7"
    assert dependency(every, [], corresponding=True) == "afterok:7:8"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[stage.longer]", "[stage.settings]", "another name is needed"),
        ('["predict", "longer"]', '["pedict"]', "needs 'pedict', which is not above it"),
        ('needs = ["train"]\nevery = true', "", "[stage.longer.product] needs every = true"),
        ('"longer"]\nevery = true', '"longer"]', "needs longer, which has no job for each point"),
        ('["report.txt"]', '["../report.txt"]', "outside the folder of the point"),
        ('results = ["of.txt"]', "", "stage.predict.results is missing"),
    ],
)
def test_stages_that_are_refused(file, old, new, words):
    assert old in PIPELINE
    file.write_text(PIPELINE.replace(old, new))
    with pytest.raises(UsageError) as e:
        Campaign(file)
    file.write_text(PIPELINE)
    assert words in str(e.value)
    with pytest.raises(UsageError, match=r"has no \[stage.other\]"):
        stages.load(Path(f"{file}:other"))


def test_a_stage_cannot_replace_a_variable_of_its_script(file):
    words = set()
    for site in ("local", "slurm", "pbs"):
        for pack in (1, 2):
            packed = f"[resources]\npoints_per_job = {pack}\n[site]"
            file.write_text(PIPELINE.replace("[site]", packed))
            campaign = Campaign(file, site)
            [job] = render.arrays(campaign.points, campaign.site, 0)
            script = render.script(campaign, job, file.parent.resolve())
            code = re.sub(r"(^|\s)#.*", "", script, flags=re.M)
            code = re.sub(r"'[^']*'", "", code)
            words |= set(re.findall(r"(?:^|[\s;(])([a-z_]+)=", code, re.M))
            for names in re.findall(r"\b(?:read -r(?: -a)?|local|for) ([a-z_ ]+)", code):
                words |= set(names.split(" in ")[0].split())
    assert {"told", "starts", "name_of_log"} <= words
    assert words <= RESERVED, words - RESERVED


SECOND = """
config = { best = "nll", of = "pipeline.toml" }
commands = ['launch bash train.sh "$point" "${settings[@]}"']
[product]
"data.batch" = [32, 64]
[site]
name = "local"
"""


def finish(file: Path, number: int, batch: int) -> None:
    """What a point leaves behind whose nll is its seed."""
    point = Campaign(file).points[number]
    folder = Campaign(file).folder / "points" / point.name
    folder.mkdir(parents=True)
    metrics = {"nll": point.values["seed"]}
    summary = {"steps": 1, "parameters_sha256": "1" * 64, "metrics": metrics}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.toml").write_text(
        f'seed = {point.values["seed"]}\n[data]\npath = "d"\nbatch = {batch}\n'
        '[model]\nname = "mlp"\n'
    )


def test_a_campaign_starts_from_the_best_of_another(file):
    second = file.with_name("second.toml")
    second.write_text(SECOND)
    with pytest.raises(UsageError, match=r"second.toml: config.of = pipeline.toml: no point is"):
        Campaign(second)
    finish(file, 1, 7)  # its seed is 2
    planned = Campaign(second)
    assert planned.base["seed"] == 2
    assert planned.base["data"]["batch"] == 7
    names = [p.name for p in planned.points]
    finish(file, 2, 8)  # its seed is 1: a better one
    planned.folder.mkdir()
    start.keep(planned)
    assert [p.name for p in Campaign(second).points] == names  # it goes on as it was submitted
    (planned.folder / start.COPY).unlink()
    assert Campaign(second).base["seed"] == 1
    second.write_text(SECOND.replace('"nll"', '"nll", highest = true'))
    assert Campaign(second).base["seed"] == 2
    second.write_text(SECOND.replace("pipeline", "second"))
    with pytest.raises(UsageError, match=r"second.toml: .* start from one another"):
        Campaign(second)
    second.write_text(SECOND.replace("best =", "bst ="))
    with pytest.raises(UsageError, match=r"config"):
        Campaign(second)
