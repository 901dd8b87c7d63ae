"""Campaign and site files take bounded time and memory, run no code, add nothing to a script."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import pytest

from hpcsamp import config
from hpcsamp.campaign import expressions, placeholders, render
from hpcsamp.campaign.points import Campaign
from hpcsamp.errors import UsageError

FACTS = {"ranks": 4, "nodes": 2, "ranks_per_node": 2, "cores": 3, "gpus": 0, "time": "01:00:00"}


TEN_AXES = "[product]\n" + "".join(f"'model.{c}' = {list(range(10))}\n" for c in "abcdefghij")


@pytest.fixture(autouse=True)
def little():
    """Fails a test that takes more than two seconds of this process, or half a gigabyte."""
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.process_time() - began < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000


def _files(made: Campaign) -> None:
    jobs = render.arrays(made.points, made.site, 0)
    render.files(made, jobs, made.folder / "submissions" / "0001")


def refused(folder: Path, text: str, base: str = "") -> str:
    """The message about a campaign, once its scripts are asked for."""
    (folder / "base.toml").write_text(f'[data]\npath = "d"\n[model]\nname = "mlp"\n{base}')
    (folder / "sweep.toml").write_text(f'config = "base.toml"\n{text}')
    with pytest.raises(UsageError) as e:
        _files(Campaign(folder / "sweep.toml"))
    assert str(e.value).isprintable()
    assert len(str(e.value)) < 2000
    return str(e.value)


@pytest.mark.parametrize(
    "text",
    ["9**9**9", "2**(10**9)", "10**400 * 10**400", "-(7**10**8)", "9.0**9**9", "'%0999999999d' % 1",
     "'%.999999999f' % 1", "'%*d' % (999999999, 1)", "'a' * 10**9", "10**9 * 'a'", "[0] * 10**9",
     "[[0] * 1000] * 1000", "[[[[0] * 40] * 40] * 40] * 40", "('a' * 1999 + 'a') * 2", "1 << 10**9",
     "round(5, -10**9)", "round(5, 10**9)", "str(10**5000)", "int('9' * 2000)", "int('1' * 5000)",
     "min(int, 2)", "b'a' * 10**9", "1j", "...", "max()", "len(3)", "exp(1000)", "1 % 0",
     "'%d' % 'x'",
     "(" * 400 + "1" + ")" * 400, "-" * 990 + "1",
     "+".join(["1"] * 5000), "1 " + "if 1 else 1 " * 99,
     "[x for x in y]", "().__class__", "(lambda: 1)()", "f'{1:>999999999}'",
     "'{:>999999999}'.format(1)",
     "\0", "a\nb", "", "1 if", "(1).bit_length()", "seed.__class__"],
)  # fmt: skip
def test_expressions_are_bounded(tmp_path, text):
    with pytest.raises(UsageError) as e:
        expressions.parse(text, "x").value({"seed": 1})
    assert str(e.value).isprintable()
    assert len(str(e.value)) < 2000


def test_expressions_within_the_bounds_are_as_python_has_them():
    for text in ("2**62", "'%05.2f-%s' % (3.14159, 'a')", "[1, 2] * 3 + [4]", "'ab' * 3",
    "10**300 / 7",
                 "round(1234.567, -2)", "2**-3", "(-8)**3 // 5 % 7", "1 < 2 < 3 != 4",
                 "0 or '' or 'z'",
                 "1 and [] and 2", "3 if 0 else 4", "2 in [1, 2]", "not 3", "str(1.0) + str(True)",
                 "min([3, 1], [2])", "abs(-3) + len('abc')"):  # fmt: skip
        assert expressions.parse(text, "x").value({}) == eval(text), text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TEN_AXES, ["1e+10 combinations", "100000"]),
        (f"[product]\nseed = {list(range(400))}\n'data.batch' = {list(range(1, 400))}", ["159600"]),
        ("[resources]\nranks = 1000000000000", ["resources.ranks", "at most"]),
        ("[resources]\nnodes = inf", ["resources.nodes = inf", "whole"]),
        ("[resources]\ncores = nan", ["resources.cores = nan", "whole"]),
        ("[resources]\nmemory = '99999999999999T'", ["resources.memory", "at most"]),
        ("[resources]\ntime = 1e300", ["resources.time", "at most"]),
        ("[resources]\ntime = [1]", ["resources.time", "not a duration"]),
        ("[resources]\nranks = '9**9**9'", ["resources.ranks", "bits"]),
        ("exclude = ['9**9**9 > 1']", ["exclude", "bits"]),
        ("[[resources.when]]\nif = '[0] * 10**9'\nranks = 2", ["resources.when.if", "longer"]),
        ("[site]\nat_once = 99999999999", ["site.at_once", "less than or equal"]),
    ],
)  # fmt: skip
def test_campaigns_are_bounded(tmp_path, text, words):
    message = refused(tmp_path, text)
    for word in words:
        assert word in message


# Templates --------------------------------------------------------------------------------------

TEMPLATES = [
    "{{ cycler.__init__.__globals__.os.system('touch ran') }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ self.__init__.__globals__ }}", "{{ ranks.__class__ }}", "{{ ranks.real }}",
    "{{ ranks['x'] }}",
    "{{ lipsum(n=99999999) }}", "{{ range(99999999) }}", "{{ namespace() }}", "{{ ranks() }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
    "{% for c in 'abc' %}x{% endfor %}", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% set x = 1 %}", "{% include '/etc/passwd' %}", "{% extends 'job.sh.j2' %}", "{% raw",
    "{% import 'job.sh.j2' as j %}", "{% call x() %}{% endcall %}",
    "{% filter upper %}{% endfilter %}",
    "{{ 'a' * 999999999 }}", "{{ 9**(9**9) }}", "{{ ranks**(ranks**(ranks**ranks)) }}",
    "{{ '%0999999999d' % 1 }}", "{{ '%0999999999d'|format(1) }}", "{{ 'a'|center(999999999) }}",
    "{{ 1|round(999999999) }}", "{{ [1]|map('string') }}", "{{ 'x'|attr('__class__') }}",
    "{{ ('a' * 1999) ~ ('a' * 1999) }}", "{{ 1 // 0 }}", "{{ none + 1 }}", "{{ node }}", "{{",
    "{% if %}",
    "{{ " + "(" * 900 + "1" + ")" * 900 + " }}", "{{ " + "-" * 1900 + "1 }}", "x" * 3000,
    "{% if 1 %}" * 200 + "{% endif %}" * 200,
]  # fmt: skip


@pytest.mark.parametrize("text", TEMPLATES, ids=range(len(TEMPLATES)))
def test_templates_run_nothing_and_are_bounded(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"site\.header: "):
        placeholders.fill([text], FACTS, "header")
    assert not (tmp_path / "ran").exists()


def test_no_template_of_a_site_runs_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "{{ cycler.__init__.__globals__.os.system('touch ran') }}"
    for key in ("header", "before_modules", "setup"):
        refused(tmp_path, f"[site]\nname = 'slurm'\n{key} = [\"#{code}\"]")
    for key in ("launcher", "gpu_option"):
        text = f"[site]\nname = 'slurm'\n{key} = \"{code}\"\n[resources]\ngpus = 1"
        refused(tmp_path, text)
    refused(tmp_path, f"[site]\nname = 'pbs'\nchunk = \"{code}\"")
    assert not (tmp_path / "ran").exists()


def test_numbers_and_conditions_are_put_in():
    lines = {
        "#SBATCH --x={{ ranks * cores }}": "#SBATCH --x=12",
        "{{ nodes }}{% if nodes > 1 %} -N {{ cores }}{% elif ranks %}y{% endif %}": "2 -N 3",
        "{{ (ranks / 3)|round|int }} {{ [ranks, 9]|min }} {{ 'a' if gpus else 'b' }}": "1 4 b",
        "{{ time }} {{ ranks ~ 'x' }} $HOME ${x}": "01:00:00 4x $HOME ${x}",
    }
    assert placeholders.fill(list(lines), FACTS, "setup") == list(lines.values())


# Job scripts --------------------------------------------------------------------------------------

ADDED = ["p\n#SBATCH --uid=0", "p\r#SBATCH", "p --uid=0", "-p", "--uid=0", "p\u0085q",
         "p\u2028q", "p'q",
         'p"q', "p#q", "p\tq", "p\\q", "$(id)", "`id`", "p;q", "\x1b[31m", "p\x7f"]  # fmt: skip


@pytest.mark.parametrize("value", ADDED, ids=ascii)
def test_words_add_no_line_and_no_option_to_a_script(tmp_path, value):
    text = config.toml_value(value)
    for site in ("slurm", "pbs"):
        for key in ("partition", "account", "qos"):
            assert f"site.{key}" in refused(tmp_path, f"[site]\nname = '{site}'\n{key} = {text}")
    assert "site.modules" in refused(tmp_path, f"[site]\nname = 'slurm'\nmodules = [{text}]")
    assert "name = " in refused(tmp_path, f"name = {text}")
    assert "evaluate = " in refused(tmp_path, f"evaluate = {text}")
    if value not in ("-p", "--uid=0"):
        text = config.toml_value(f"--gres={value}")
        message = refused(tmp_path, f"[site]\nname='slurm'\ngpu_option={text}\n[resources]\ngpus=1")
        assert "site.gpu_option" in message
        text = config.toml_value(f"ncpus=1{value}")
        assert "site.chunk" in refused(tmp_path, f"[site]\nname = 'pbs'\nchunk = {text}")


@pytest.mark.parametrize(
    "folder", ["a b", "a\nb", "a%jb", "a#b", "a'b", "a$(id)b", "a\u2028b", "a\\b", "a^b"]
)
def test_a_folder_adds_nothing_to_a_header(tmp_path, folder):
    text = config.toml_value(folder)
    for site in ("slurm", "pbs"):
        refused(tmp_path, f"folder = {text}\n[site]\nname = '{site}'")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('header = ["rm -rf x"]', 'must begin with "#"'),
        ('header = ["#a\\nrm -rf x"]', "one line"),
        ('header = ["#a\\rrm"]', "one line"),
        ("header = [\"#{{ '\\\\n' }}rm\"]", "one line"),
        ("header = [\"{{ 'rm' }} #\"]", 'must begin with "#"'),
        ('launcher = "srun\\nrm x"', "one line"),
        ("gpu_option = \"--gres={{ 'a --uid' }}\"\nresources = {gpus = 1}", "one option"),
        ('setup = ["a\\rb"]', "control characters"),
        ('setup = ["a\\u001b[2Jb"]', "control characters"),
    ],
)
def test_lines_are_what_they_have_to_be(tmp_path, line, words):
    assert words in refused(tmp_path, f"[site]\nname = 'slurm'\n{line}")


@pytest.mark.parametrize("product", ["--help", "a\nb", "", "/etc/passwd", "../x", "a\x1bb"])
def test_products_are_names_of_files(tmp_path, product):
    assert "results = " in refused(tmp_path, f"results = [{config.toml_value(product)}]")
