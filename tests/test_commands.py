"""The command line as people meet it: help with examples that parse, levels of output, sections."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from conftest import launch
from patience import patient

import hpcsamp
from hpcsamp import cli, config, explain
from hpcsamp.cli import bench, options
from hpcsamp.errors import UsageError
from hpcsamp.names import SETS
from hpcsamp.training.progress import Reporter

PACKAGE = Path(hpcsamp.__file__).parent
PROGRAM = Path(sys.executable).with_name("hpcsamp")
ROOT = typer.main.get_command(cli.app)


def tree(command, path=("hpcsamp",)):
    """All commands and groups with the words that call them."""
    yield path, command
    context = typer.Context(command)
    for name in getattr(command, "list_commands", lambda _: ())(context):
        inner = command.get_command(context, name)
        yield from tree(inner.whole() if path[-1] == "ingest" else inner, (*path, name))


COMMANDS = dict(tree(ROOT))


def parsed(words):
    """Parse a command line without running it; returns the words of the command, and its values."""
    command, path, parent = ROOT, ("hpcsamp",), None
    while True:
        context = command.make_context(path[-1], list(words), parent=parent)
        if not getattr(command, "list_commands", None):
            return path, context
        words = [*context._protected_args, *context.args]
        name, inner, words = command.resolve_command(context, words)
        command, path, parent = inner, (*path, name), context


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_ends_with_two_examples_that_parse(path):
    command = COMMANDS[path]
    text = command.get_help(typer.Context(command, info_name=" ".join(path)))
    assert text.rstrip().endswith("\n".join(f"  {line}" for line in command.examples)), text
    assert len(command.examples) == 2
    for line in command.examples:
        called = []
        for part in line.split(" && "):
            words = shlex.split(part)
            if words[0] == "mpirun":
                words = words[3:]
            if words[0] in ("cd", "bash"):
                continue
            assert words[0] == "hpcsamp", part
            found, context = parsed(words[1:])
            called.append(found)
            values = context.params
            name = values.get("config")
            of_a_run = found[-1] in ("train", "plan", "models", "memory")
            if of_a_run and name is not None and not name.startswith("torchvision"):
                config.load(name, values["settings"] or (), preset=values["preset"])
        assert any(found[: len(path)] == path for found in called), (path, line)


def test_an_example_with_a_wrong_option_does_not_parse():
    for line in ("train --dat data/digits", "bench step --ranks two", "ingest csv a --target"):
        with pytest.raises(cli.typer_usage_error):
            parsed(shlex.split(line))


@pytest.mark.parametrize(
    ("path", "places"), [(("hpcsamp",), cli.COMMANDS), (("hpcsamp", "bench"), bench.COMMANDS)]
)
def test_what_a_group_lists_is_the_first_line_of_each_help(path, places):
    for name, (_, line) in places.items():
        assert " ".join(COMMANDS[(*path, name)].help.split("\n\n")[0].split()) == line


@pytest.mark.parametrize("words", [[], ["campaign"], ["bench"], ["ingest"]])
def test_a_group_alone_prints_its_help(words):
    done = subprocess.run(
        [PROGRAM, *words], capture_output=True, text=True, timeout=patient(60), check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: {' '.join(['hpcsamp', *words])} ")


HELP = """
import sys, typer
from hpcsamp import cli

HEAVY = {"torch", "h5py", "mpi4py", "rich", "xarray", "scipy", "numpy"}
root = typer.main.get_command(cli.app)
root.get_help(typer.Context(root))

def show(command):
    context = typer.Context(command)
    command.get_help(context)
    for name in getattr(command, "list_commands", lambda _: ())(context):
        show(command.get_command(context, name))

assert "hpcsamp.cli.train" not in sys.modules  # a command is imported when it is used
show(root)
print(sorted(HEAVY & sys.modules.keys()))
from hpcsamp.cli.ingest import SETS, _command
for name in SETS:
    _command(name)
# the options of a set are those of its source, which reads arrays and files
print(sorted((HEAVY - {"numpy", "h5py"}) & sys.modules.keys()))
"""


def test_help_waits_for_no_large_package():
    done = subprocess.run(
        [sys.executable, "-c", HELP],
        capture_output=True, text=True, timeout=patient(60), check=False,
    )  # fmt: skip
    assert done.stdout.split("\n") == ["[]", "[]", ""], done.stderr


def test_ranks_has_one_meaning():
    found = 0
    for path, command in COMMANDS.items():
        for option in command.params:
            if "--ranks" in option.opts:
                found += 1
                assert option.help.startswith((options.RANKS, "Number of ranks, D x P x M")), path
    assert found >= 10


def test_commands_with_progress_have_levels():
    with_levels = {("train",), ("evaluate",), ("predict",), ("doctor",), ("recalibrate",)}
    with_levels |= {("ingest", name) for name in SETS}
    for path, command in COMMANDS.items():
        have = {o for p in command.params for o in p.opts}
        levels = {"-q", "--quiet", "-v", "--verbose"}
        assert (levels <= have) == (path[1:] in with_levels), path


@pytest.mark.parametrize("ranks", [1, 2])
def test_levels_of_output(ranks, small, tmp_path):
    def run(name, *levels):
        done = launch(
            ranks, "-m", "hpcsamp", "train", str(small), "--output", str(tmp_path / name),
            "--set=training.epochs=1", *levels, timeout=120,
        )  # fmt: skip
        assert done.code == 0, done.err
        return done.out.splitlines(), done.err

    quiet, _ = run("q", "-q")
    usual, errors = run("n")
    verbose, log = run("v", "-v")
    steps = re.compile(r"step \d+/\d+  epoch \d+  loss ")
    assert len(quiet) == 1
    assert quiet[0].startswith("done: ")
    assert sum("valid: " in line for line in usual) == 1
    assert not any(map(steps.match, usual))
    assert int(quiet[0].split()[1]) == sum(bool(steps.match(line)) for line in verbose)
    assert "reading:" in log or "hpcsamp: " in log.replace(errors, "")
    predictions = ("--out", str(tmp_path / "p.h5"), "--overwrite")
    for command, more in (("evaluate", ()), ("predict", predictions)):
        found = {}
        for level in ("-q", "", "-v"):
            words = [command, str(tmp_path / "n"), *more, *[level] * bool(level)]
            done = launch(ranks, "-m", "hpcsamp", *words, timeout=120)
            assert done.code == 0, done.err
            found[level] = done
        assert ("accuracy" in found["-q"].out) == (command == "evaluate")
        assert found["-v"].out == found[""].out
        reading = [len(re.findall(r" test: [\d,]+ items, ", f.err)) for f in found.values()]
        assert reading == [0, 0, 1], found["-v"].err  # by rank 0 only
    if ranks == 1:
        done = launch(1, "-m", "hpcsamp", "report", str(tmp_path / "n"), "-q", timeout=120)
        assert done.out.splitlines() == [f"page {tmp_path / 'n' / 'report' / 'index.html'}"]


def test_levels_exclude_each_other(hpcsamp, tmp_path):
    done = hpcsamp(1, "train", "vit-digits", "-q", "-v", "--output", tmp_path / "r")
    assert done.code == 2
    assert "-q and -v exclude each other" in done.err


def test_warnings_appear_in_a_quiet_run(capsys):
    for active in (True, False):
        reporter = Reporter(active, 1)
        reporter.say("progress")
        reporter.warn("doubt")
        found = capsys.readouterr()
        assert ("progress" in found.out) == active
        assert found.err == "hpcsamp: warning: doubt\n"
    Reporter(False, 1, warns=False).warn("doubt")  # the other ranks
    assert capsys.readouterr().err == ""


# -- sections of the page Troubleshooting -------------------------------------------------------


def named_by_messages() -> set[str]:
    """Names of sections in calls of ``more`` and ``pointing_to``."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        if path == PACKAGE / "explain.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("more", "pointing_to"):
                assert isinstance(node.args[0], ast.Constant), path
                found.add(node.args[0].value)
    return found


def test_each_section_is_reached_by_a_message_or_is_a_symptom():
    messages, _, symptoms = explain.PAGE.read_text().partition("\n## Symptoms\n")
    names = re.compile(r"^\(([a-z-]+)\)=$", re.MULTILINE)
    assert named_by_messages() == set(names.findall(messages))
    sections = explain.sections()
    assert list(sections) == names.findall(messages) + names.findall(symptoms)
    assert len(sections) == (messages + symptoms).count("\n### ")
    assert all(len(s.text) > 60 and s.title for s in sections.values())


def test_links_of_the_sections_lead_to_pages():
    docs = PACKAGE.parent / "docs"
    links = re.findall(r"\]\(([^)#]+)", explain.PAGE.read_text())
    assert links
    assert [link for link in links if not (docs / link).is_file()] == []


def test_explain_prints_a_section_that_a_message_names(capsys):
    told = r"it is too large \(more: hpcsamp explain memory\)$"
    with pytest.raises(UsageError, match=told), explain.pointing_to("memory"):
        raise UsageError("it is too large")
    cli.app(["explain", "memory"], standalone_mode=False)
    assert "training.memory_check" in capsys.readouterr().out
    cli.app(["explain"], standalone_mode=False)
    assert set(explain.sections()) <= set(capsys.readouterr().out.split())
    with pytest.raises(UsageError, match="did you mean 'memory'"):
        explain.section("memroy")


# -- names of the package -----------------------------------------------------------------------


def test_the_package_lists_its_names():
    assert {*hpcsamp.__all__, "__version__"} == set(dir(hpcsamp))
    assert all(getattr(hpcsamp, name) is not None for name in dir(hpcsamp))
    done = subprocess.run(
        [PROGRAM, "--version"], capture_output=True, text=True, timeout=patient(60), check=True
    )
    assert done.stdout == f"hpcsamp {hpcsamp.__version__}\n"
    assert inspect.ismodule(hpcsamp.losses)
