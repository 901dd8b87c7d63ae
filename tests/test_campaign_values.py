"""Values of a campaign file arrive in the run's configuration as they were written, or are refused.

Through the whole chain but for the training: campaign file, table of points, job script, bash, the
command's own parser, and the configuration that the run writes down.
"""

from __future__ import annotations

import math
import os
import random
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from hpcsamp import config
from hpcsamp.campaign import render
from hpcsamp.campaign.points import Campaign
from hpcsamp.errors import UsageError

WRITTEN = [
    "", " ", " a ", "\t", "a\tb", "a\nb\n", "\r\n", "\r", "a b", "'", '"', "\\", "\\n", "$HOME",
    "$(id)", "`id`", "${x}", "!", "*", "?", "[a]", "{a}", "~", "%d", "%", "#", "# a", ";", "&", "|",
    "=", "a=b", "--set", "-", "a\u2028b", "a\u2029b", "a\u0085b", "a\u007fb", "a\x1b[31mb", "\x01",
    "\ufeff", "\u00a0", "\u200b", "\u202e", "mu\u0308de", "müde", "ß", "\U0001f600", "None",
    "null", "true", "false", "nan", "1", "1e-3", "1979-05-27", "[1, 2]", "{a = 1}", '"""', "'''",
    "\\u0041", "é" * 500, 1, 0, -1, 2**63 - 1, -(2**63), 1e-3, 0.1 + 0.2, 1e22, 1e16, -0.0, 5e-324,
    1.7976931348623157e308, math.nan, math.inf, -math.inf, 3.0, True, False, [], [[]],
    [1, 2.0, "3", True], [["a\nb"], [-0.0]], {}, {"a": 1},
    {"a=b": {"c.d": ["\u2028", {}]}, "": 0, "e f": "", "\u2029": 1},
]  # fmt: skip
REFUSED = [
    "1979-05-27", "07:32:00", "1979-05-27T07:32:00Z", "9223372036854775808", "-9223372036854775809",
    f"0x{'f' * 5000}", '"a\\u0000b"', "[1, [1979-05-27]]", "{a = 1979-05-27}",
]  # fmt: skip
DUMP = """
import sys
from pathlib import Path
import typer.main
from hpcsamp import config
from hpcsamp.cli import app
from hpcsamp.files import write_whole
folder, *arguments = sys.argv[1:]
train = typer.main.get_command(app).get_command(None, "train")
given = train.make_context("train", arguments).params
run = config.load(given["config"], given["settings"])
write_whole(Path(folder, "config.toml"), config.to_toml(run))
"""


def made_up(seed: int, count: int) -> list[Any]:
    """Texts of characters that something on the way might take for its own, alone and in lists."""
    draw = random.Random(seed)
    letters = [*" \t\n\r'\"\\$`%*?[]{}#=.,:;&|<>()!~^-_/aZ09", *map(chr, range(1, 32))]
    letters += ["\x7f", "\x85", "\u2028", "\u2029", "\u0301", "\ufffd", "\U0010ffff", "\\u", "$("]

    def text() -> str:
        return "".join(draw.choices(letters, k=draw.randrange(12)))

    return [
        text() if draw.random() < 0.7 else [text(), {text(): draw.random()}] for _ in range(count)
    ]


def same(one: Any, other: Any) -> bool:
    """Equal in type and value, the sign of zero and NaN included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other) if isinstance(one, float) else bool(one == other)


@pytest.fixture
def campaign(tmp_path):
    """A campaign of these tables, on this machine."""

    def make(tables: str | dict[str, Any]) -> Campaign:
        (tmp_path / "base.toml").write_text('[data]\npath = "d"\n[model]\nname = "mlp"\n')
        text = tables if isinstance(tables, str) else tomli_w.dumps(tables)
        (tmp_path / "sweep.toml").write_text(f'config = "base.toml"\n{text}', encoding="utf-8")
        return Campaign(tmp_path / "sweep.toml")

    return make


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_values_arrive_as_they_were_written(campaign, tmp_path, locale):
    values = WRITTEN + made_up(3 if locale == "C" else 4, 300)
    keys = {f"model.v{i}": v for i, v in enumerate(values)} | {'model."a=b.c"': "x=y", "seed": 5}
    (tmp_path / "dump.py").write_text(DUMP)
    made = campaign(
        {
            "commands": [f'launch python {tmp_path}/dump.py "$point" "$config" "${{settings[@]}}"'],
            "results": ["config.toml"],
            "site": {"launcher": "none"},
            "zip": {key: [value, 1] for key, value in keys.items()},  # lines before and after
            "set": {
                "augment.transforms": [{"name": "\u2028\x7f"}],
                "loss": {"q": {"r": ""}},
            },
        }
    )
    folder = made.folder / "submissions" / "0001"
    folder.mkdir(parents=True)
    [job] = render.arrays(made.points, made.site, 0)
    for name, text in render.files(made, [job], folder).items():
        (folder / name).write_text(text, encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LC_")}
    environment |= {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        ["bash", str(folder / job.script), "0"], env=environment, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    written = (made.folder / "points" / made.points[0].name / "config.toml").read_bytes().decode()
    found = tomllib.loads(written)
    wrong = {
        k: v for k, v in keys.items() if k[:7] == "model.v" and not same(v, found["model"][k[6:]])
    }
    assert wrong == {}
    assert (found["model"]["a=b.c"], found["seed"]) == ("x=y", 5)
    assert found["augment"]["transforms"] == [{"name": "\u2028\x7f"}]
    assert found["loss"]["q"] == {"r": ""}


@pytest.mark.parametrize("value", REFUSED, ids=lambda v: v[:12])
def test_values_that_toml_or_a_shell_cannot_carry_are_refused_at_plan(campaign, value):
    for place in ('[product]\n"model.x" = [{}]', "[set]\nmodel.x = {}", "[[list]]\nmodel.x = {}"):
        with pytest.raises(UsageError, match=r"model\.x"):
            _ = campaign(place.replace("{}", value)).points


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ("[derived]\n'model.x' = 'None'", "TOML has no null value"),
        ("[derived]\n'model.x' = '9 ** 30'", "64 bits"),
        ("[product]\nmodel.'a=b' = [1]", "'a=b' is not a key"),
        ("[set]\nmodel.'\\u0000' = 1", "is not a key"),
        ("[set]\nmodel.'a b' = 1", "'a b' is not a key"),
        ("[set]\nseed = 1\n'seed' = 2", "not valid TOML"),
        ("[set]\ndata.batch = 1\n'data.batch' = 2", "data.batch is defined twice"),
        ("[zip]\ndata.batch = [1]\n'data.batch' = [2]", "data.batch is defined twice"),
        ("[product]\n'model.x' = [1]\n[zip]\n'model.x.y' = [2]", "model.x.y is a part of it"),
        ("[product]\n'model.x' = [1]\n[derived]\n'model.x.y' = '2'", "model.x.y is a part of it"),
        ("[set]\n'model.x' = 1\n[product]\n'model.x.y' = [2]", "'x' is a value, not a table"),
        ("[product]\ntraining.epochs = ['3']", "a number is needed"),
        ("[product]\ntraining.epochs = [true]", "a number is needed"),
        ("[product]\ntraining.epochs = [3.0]", "a whole number is needed"),
        ("[product]\nloss.exact = ['no']", "true or false is needed"),
        ("[product]\noptimizer.lr = ['1e-3']", "a number is needed"),
        ("[product]\ndata.path = [1]", "valid string"),
        (f"[product]\nmodel.x = ['{'a' * 200_000}']", "command line"),
    ],
)
def test_what_would_change_on_its_way_is_refused(campaign, tables, words):
    with pytest.raises(UsageError) as e:
        _ = campaign(tables).points
    assert words in str(e.value)
    assert len(str(e.value)) < 1000


@pytest.mark.parametrize("value", [*WRITTEN, *made_up(5, 200)], ids=repr)
def test_pairs_of_a_command_line_are_ascii_and_read_back(value):
    text = f"{config.join_key(['model', 'x=y'])}={config.toml_value(value)}"
    assert text.isascii()
    assert text.isprintable()
    path, found = config.parse_override(text)
    assert path == ["model", "x=y"]
    assert same(found, value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("a=b c", "b c"), ("a= b ", "b"), ("a=None", "None"), ("a=x\u2028", "x\u2028"), ("a=", ""),
     ("a=1\u00a0", "1\u00a0"), ("a=x=y", "x=y"), ("a.'b=c'=1", 1), ("a=x\ny", "x\ny")],
)  # fmt: skip
def test_words_of_a_command_line_stay_as_they_are(text, value):
    assert config.parse_override(text)[1] == value


@pytest.mark.parametrize("text", ["a=1\nb=2", 'a="', "a=[1", "a={b=1", "a='x", "a=" + "[" * 9999,
                                  "a=" + "9" * 9999, "a", "=1", "a b=1", "a..b=1"])  # fmt: skip
def test_overrides_that_would_lose_something_are_refused(text):
    with pytest.raises(UsageError) as e:
        config.parse_override(text)
    assert len(str(e.value)) < 500


def test_places_with_one_spelling_are_one_key(tmp_path: Path):
    table = {"a": {"b.c": 1, "b": {"c": 2}}}
    assert config.flatten(table) == {'a."b.c"': 1, "a.b.c": 2}
    for key, value in config.flatten(table).items():
        made: dict[str, Any] = {}
        config.put(made, key, value)
        assert config.flatten(made) == {key: value}
