"""Calls every command with hostile input, in this process, and prints what it should not do.

    python tests/hostile.py FOLDER          JSON: a list of [arguments, what is wrong]

Commands, arguments and options are those of the command line itself, so that new ones are included.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from hpcsamp.cli import app, main

SECONDS = 30
TEXTS = [
    "",
    "no\x1b[31m such\nthing",
    "x" * 5000,
    "\udcff",
    "a/../\u2028",
    "--",
    "=",
    "[",
    "{{ 9**9 }}",
]
NUMBERS = ["x", "nan", "", "-99999999999999999999", "1e400", "9" * 5000, "\u0663", "0x10"]
#: These start ranks or measure the machine if nothing is wrong with what they are given.
WORKING = {"bench", "doctor"}


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command, the hidden ones as well."""
    context = typer.Context(group)
    for name in () if path == ("ingest",) else group.list_commands(context):
        command = group.get_command(context, name)
        if hasattr(command, "list_commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def is_number(param: Any) -> bool:
    """Whether an option takes a number; older versions of typer have click's types."""
    told = getattr(param, "type_descriptor", None)
    if told is not None:
        return told.annotation in (int, float)
    return "integer" in param.type.name or "float" in param.type.name


def files(folder: Path) -> list[str]:
    """Files and folders that nothing can be read from."""
    contents = {
        "empty": b"",
        "bytes.toml": b"\xff\xfe\x00name = 1",
        "dates.toml": b"seed = 1979-05-27\n[data]\npath = 07:32:00\n[model]\nname = 'mlp'",
        "deep.toml": b"x = " + b"[" * 5000,
        "nested.toml": b"x = " + b"[" * 300 + b"]" * 300,
        "nul.toml": b'[data]\npath = "a\\u0000b"\n[model]\nname = "mlp"',
        "huge.toml": b"seed = 0x" + b"f" * 9000,
        "digits.toml": b"seed = " + b"9" * 9000,
        "long.toml": b"[data]\npath = '" + b"a" * 5000 + b"'\n[model]\nname = 'mlp'",
        "keys.toml": b'"a\\u001b[31m\\nb" = 1\n[data]\npath = "d"\n[model]\nname = "mlp"',
        "deep.json": b"[" * 100_000,
        "list.json": b"[1]",
        "table.csv": b"a,b\n1,x\n",
        "array.npy": b"\x93NUMPY\x01\x00v\x00{'descr': '<f8'}",
        "array.npz": b"PK\x03\x04 no archive",
        "shard.h5": b"\x89HDF\r\n\x1a\n damaged",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    made = [str(folder / name) for name in contents]
    run = folder / "run"
    (run / "checkpoints").mkdir(parents=True)
    for name in ("config.toml", "provenance.json", "summary.json", "metrics.jsonl", "manifest.json",
                 "checkpoints/step-00000001.pt"):  # fmt: skip
        (run / name).write_bytes(b"\xff{[damaged")
    (folder / "none").mkdir()
    paths = ["run", "none", "is/not", "n" * 300, "empty/below", "\udcff"]
    return [*made, *(f"{folder}/{path}" for path in paths), "/dev/null"]


def cases(folder: Path) -> Iterator[list[str]]:
    """Arguments to call with."""
    paths = files(folder)
    yield from ([], ["nope"], ["--nope"], ["\x1b[31m"], ["campaign"], ["ingest", "nope"])
    for path, command in commands(typer.main.get_command(app)):
        yield [*path, "--no-such-option"]
        own = [p for p in command.params if p.name != "help"]
        needed = [p for p in own if p.required]
        if path[0] in WORKING:
            for param in own:
                if is_number(param):
                    yield from ([*path, param.opts[0], value] for value in NUMBERS[:4])
            continue
        for value in [*paths, *TEXTS]:
            given = [] if all(p.opts[0].startswith("-") for p in needed) else ["--"]
            options = [t for p in needed if p.opts[0].startswith("-") for t in (p.opts[0], value)]
            arguments = [value for p in command.params if not p.opts[0].startswith("-")]
            if arguments or options:
                yield [*path, *options, *(["--"] if arguments else given), *arguments]
        for param in own:
            if not param.opts[0].startswith("-") or param.is_flag:
                continue
            rest = [str(folder / "empty") for p in needed if not p.opts[0].startswith("-")]
            for value in NUMBERS[:3] if is_number(param) else [*TEXTS[:4], paths[1], paths[-3]]:
                yield [*path, f"{param.opts[0]}={value}", *rest]


def wrong(arguments: list[str]) -> str:
    """What a command should not have done; empty if it ended as it should."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["hpcsamp", *arguments]
    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    code: Any = None
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as e:
        code = e.code
    except BaseException as e:
        return f"raises {e!r:.200}"
    finally:
        signal.alarm(0)
    said = err.getvalue()
    if "Traceback" in said:
        return said.strip().splitlines()[-1][:300]
    lines = [line for line in re.split(r"[\n\r]", said) if line.startswith("hpcsamp: error")]
    helped = code == 2 and "Usage: " in out.getvalue()
    if code in (1, 2) and not helped and len(lines) != 1:
        return f"exit {code}, {len(lines)} lines of errors: {said[-300:]!r}"
    if any(not line.isprintable() for line in lines):
        return f"control characters in {lines[0]!r:.300}"
    if any(len(line) > 2000 for line in lines):
        return f"a line of {len(lines[0])} characters"
    return "" if code in (0, 1, 2) else f"exit {code}"  # 0: the strange name of a file may be one


if __name__ == "__main__":
    # typer makes the tree of commands anew for each call, which takes longer than the call
    typer.main.get_command = functools.cache(typer.main.get_command)
    scratch = Path(sys.argv[1])
    os.chdir(scratch)
    found, count, began = [], 0, time.monotonic()
    slow = ("", 0.0)
    for case in cases(scratch):
        start = time.monotonic()
        fault = wrong(case)
        count += 1
        slow = max(slow, (str(case)[:200], time.monotonic() - start), key=lambda s: s[1])
        if fault:
            found.append([ascii([a[:80] for a in case]), fault])
    sys.__stdout__.write(
        json.dumps([count, found, slow, time.monotonic() - began], indent=0) + "\n"
    )
    sys.__stdout__.flush()
    os._exit(0)
