"""What may stand in lines of a job script: a word of a header must not add an option or a line.

Slurm and PBS read the lines ``#SBATCH`` and ``#PBS`` themselves: blanks, quotes and ``#`` end a
word there, and ``%`` and ``^`` mean something in the names of logs.
"""

from __future__ import annotations

import re
from pathlib import Path

from hpcsamp.errors import UsageError, one_line

_WORD = r"[A-Za-z0-9_][A-Za-z0-9_.,:+@/=-]*"
_OPTION = r"--?[A-Za-z][A-Za-z0-9_.,:+@/=*&|()\[\]-]*"
_PATH = r"/[\w/.,+@=~-]*"


def word(text: str) -> str:
    """A word, such as the name of a partition or a module; or nothing.

    Raises
    ------
    ValueError
        If it is none.
    """
    if text and not re.fullmatch(_WORD, text):
        raise ValueError("one word of letters, digits and _.,:+@/=- is expected")
    return text


def option(text: str) -> str:
    """One option, such as ``--gres=gpu:4``; or nothing.

    Raises
    ------
    ValueError
        If it is none.
    """
    if text and not re.fullmatch(_OPTION, text):
        raise ValueError("one option is expected, e.g. --gres=gpu:4")
    return text


def comment(text: str) -> str:
    """One line of a header.

    Raises
    ------
    ValueError
        If it is a command, or more than a line.
    """
    if not text.startswith("#"):
        raise ValueError('a line of a header begins with "#"; commands belong into setup')
    return single(text)


def single(text: str) -> str:
    """One line.

    Raises
    ------
    ValueError
        If it is more than one, or holds control characters.
    """
    if not text.replace("\t", " ").isprintable():
        raise ValueError("one line without control characters is expected")
    return text


def shell(text: str) -> str:
    """One or more lines of shell.

    Raises
    ------
    ValueError
        If it holds control characters.
    """
    if not text.replace("\t", " ").replace("\n", " ").isprintable():
        raise ValueError("lines without control characters are expected")
    return text


def path_in_header(path: Path) -> str:
    """A path that a scheduler reads in a script's header.

    Raises
    ------
    UsageError
        If the scheduler would read something else.
    """
    if not re.fullmatch(_PATH, str(path)):
        raise UsageError(
            f"the scheduler cannot read {one_line(str(path))!r} in the header of a script: "
            f"letters, digits and /_.,+@=~- only; choose another folder"
        )
    return str(path)
