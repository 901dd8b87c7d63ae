"""Change every kind of file that is read back, and see what its reader makes of it.

    python tests/fuzz.py --each 200 [--seed 1] [--only manifest]

Per kind it counts: ``refused`` (one line), ``same`` (the change was of no matter), ``changed``
(taken with another meaning), ``traceback`` and ``hang``. The last three must be 0.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import re
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpcsamp.errors import HpcsampError

WORDS = ("refused", "same", "changed", "traceback", "hang")
LIMIT = 10.0
"""Seconds that a reader may take."""


@dataclass
class Kind:
    """A kind of file.

    Attributes
    ----------
    path
        The file.
    read
        What reads it, as the commands do; equal results are the same meaning.
    other
        The same file of another run, campaign or dataset.
    prefix
        Whether a beginning is a right content: what a kill leaves of lines that are appended.
    """

    path: Path
    read: Callable[[], Any]
    other: bytes = b""
    prefix: bool = False


# Changes ------------------------------------------------------------------------------------------


def of_bytes(whole: bytes, draw: random.Random) -> bytes:
    """A fault of storage or of a copy."""
    place, length = draw.randrange(len(whole)), draw.choice([1, 7, 64, 512])
    end = min(len(whole), place + length)
    other = draw.randrange(len(whole))
    changed = bytearray(whole)
    kind = draw.randrange(9)
    if kind == 0:
        changed[place] ^= 1 << draw.randrange(8)
    elif kind == 1:
        changed[place] = draw.randrange(256)
    elif kind == 2:
        changed = changed[:place]
    elif kind == 3:
        changed[place:end] = bytes(end - place)
    elif kind == 4:
        changed += changed[place:end]
    elif kind == 5:
        del changed[place:end]
    elif kind == 6:
        changed[place:place] = whole[other : other + length]
    elif kind == 7:
        changed[place:end] = b"\xff\xfe\x80" * (end - place)
    else:
        changed[place:end] = whole[other : other + end - place]
    return bytes(changed)


def of_lines(whole: bytes, draw: random.Random) -> bytes:
    """Lines that are left out, repeated or exchanged."""
    lines = whole.splitlines(keepends=True)
    a, b = draw.randrange(len(lines)), draw.randrange(len(lines))
    kind = draw.randrange(3)
    if kind == 0:
        del lines[a]
    elif kind == 1:
        lines.insert(b, lines[a])
    else:
        lines[a], lines[b] = lines[b], lines[a]
    return b"".join(lines)


VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 10**30, 1e308, float("nan"), "", "x", "../../x", "/etc/passwd", "\ud800",
    [], {}, [[[]]], "\0", "\u2028",
)  # fmt: skip


def of_content(whole: bytes, draw: random.Random) -> bytes:
    """Another value, name or depth somewhere in JSON; of lines, in one of them."""
    lines = whole.decode().splitlines(keepends=True)
    number = draw.randrange(len(lines)) if len(lines) > 1 and lines[0].rstrip().endswith("}") else 0
    several = lines[0].rstrip().endswith("}") and len(lines) > 1
    table = json.loads(lines[number] if several else whole)
    where: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        for key in value if isinstance(value, dict) else range(len(value)):
            where.append((value, key))
            if isinstance(value[key], dict | list):
                walk(value[key])

    walk(table)
    place, key = draw.choice(where)
    kind = draw.randrange(6)
    if kind == 0:
        del place[key]
    elif kind == 1 and isinstance(place[key], int | float):
        place[key] = place[key] * draw.choice([2, -1, 1.0000001]) + draw.choice([0, 1])
    elif kind == 2:
        place[key] = place[draw.choice([k for p, k in where if p is place])]
    elif kind == 3 and isinstance(place, dict):
        place[draw.choice(["extra", "constructor", ""])] = draw.choice(VALUES)
    elif kind == 4:
        nested: Any = 1
        for _ in range(50):
            nested = [nested]
        place[key] = nested
    else:
        place[key] = draw.choice(VALUES)
    text = json.dumps(table, indent=None if several else 1)
    if not several:
        return text.encode()
    lines[number] = text + "\n"
    return "".join(lines).encode()


def of_toml(whole: bytes, draw: random.Random) -> bytes:
    """Another value of a key."""
    lines = whole.decode().splitlines(keepends=True)
    keys = [i for i, line in enumerate(lines) if " = " in line]
    i = draw.choice(keys)
    name = lines[i].split(" = ")[0]
    value = draw.choice(["1", "0.5", '"x"', "true", "[]", "1e400", "nan", "2020-01-01", "{}"])
    lines[i] = f"{name} = {value}\n"
    return "".join(lines).encode()


def whole_files(kind: Kind) -> list[bytes]:
    """Files that are something else altogether."""
    found = [b"", b"\0", b"[" * 100_000, b'{"a":' * 100_000, b"{}", b"[]", b"null", b"\x80abc"]
    found += [b"1" * 5000, b'{"seal": "0000000000000000"}', b"PK\x05\x06" + bytes(18)]
    return [*found, *([kind.other] if kind.other else [])]


def changes(kind: Kind, number: int, draw: random.Random) -> Iterator[bytes | None]:
    """So many changed contents; None stands for a folder in the file's place."""
    whole = kind.path.read_bytes()
    yield from [None, *whole_files(kind)]
    suffix = kind.path.suffix
    ways = [of_bytes]
    if suffix in (".json", ".jsonl"):
        ways += [of_content, of_content, of_lines]
    if suffix in (".toml", ".tsv"):
        ways += [of_lines, *([of_toml] * (suffix == ".toml"))]
    for _ in range(number):
        yield draw.choice(ways)(whole, draw)


# Readers ------------------------------------------------------------------------------------------


class HangError(BaseException):
    """The reader took too long."""


def _alarm(*_: object) -> None:
    raise HangError


def outcome(kind: Kind, content: bytes | None, right: Any) -> str:
    """Which of :data:`WORDS` a changed content is."""
    whole = kind.path.read_bytes()
    try:
        if content is None:
            kind.path.unlink()
            kind.path.mkdir()
        else:
            kind.path.write_bytes(content)
        signal.signal(signal.SIGALRM, _alarm)
        signal.setitimer(signal.ITIMER_REAL, LIMIT)
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                found = kind.read()
        except HpcsampError as e:
            return "refused" if "\n" not in str(e) else "traceback"
        except HangError:
            return "hang"
        except Exception:
            return "traceback"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if same(found, right):
            return "same"
        return "same" if kind.prefix and same(found, right[: len(found)]) else "changed"
    finally:
        if kind.path.is_dir():
            shutil.rmtree(kind.path)
        kind.path.write_bytes(whole)


def same(a: Any, b: Any) -> bool:
    """Whether two results are equal, NaN and all."""
    if isinstance(a, np.ndarray) or hasattr(a, "numpy"):
        return np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True)
    if isinstance(a, dict):
        keys = isinstance(b, dict) and a.keys() == b.keys()
        return keys and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or a != a)


def kinds(folder: Path) -> dict[str, Kind]:
    """Every kind of file that is read back, in a folder of their own."""
    import fuzz_files

    return {
        name: Kind(path, read, other, prefix)
        for name, (path, read, other, prefix) in fuzz_files.make(folder).items()
    }


def fuzz(kind: Kind, number: int, seed: int, show: bool = False) -> Counter[str]:
    """Count what becomes of so many changes."""
    draw, right = random.Random(seed), kind.read()
    counts: Counter[str] = Counter()
    for content in changes(kind, number, draw):
        word = outcome(kind, content, right)
        counts[word] += 1
        if show and word in WORDS[2:]:
            sys.stderr.write(f"{kind.path.name} {word}: {str(content)[:300]}\n")
    return counts


def main() -> int:
    """All kinds; the exit code says whether something was taken that should not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default=".", help="regular expression of names of kinds")
    parser.add_argument("--show", action="store_true", help="print what was not refused")
    asked = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        print(f"{'file':28}" + "".join(f"{w:>11}" for w in WORDS))
        for name, kind in kinds(Path(folder)).items():
            if re.search(asked.only, name):
                counts = fuzz(kind, asked.each, asked.seed, asked.show)
                bad += sum(counts[w] for w in WORDS[2:])
                print(f"{name:28}" + "".join(f"{counts[w]:11}" for w in WORDS), flush=True)
    print("all refused or the same" if not bad else f"{bad} were not refused")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
