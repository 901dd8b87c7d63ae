"""Validate words and lines of job scripts, so that a word in a header cannot add an option.

Slurm and PBS parse the lines ``#SBATCH`` and ``#PBS`` themselves: blanks, quotes and ``#`` end a
word there, and ``%`` and ``^`` have a meaning in the names of logs.
"""

from __future__ import annotations

import re
from pathlib import Path

from hpcsamp.errors import UsageError, one_line

_WORD = r"[A-Za-z0-9_][A-Za-z0-9_.,:+@/=-]*"
_OPTION = r"--?[A-Za-z][A-Za-z0-9_.,:+@/=*&|()\[\]-]*"
_PATH = r"/[\w/.,+@=~-]*"


def word(text: str) -> str:
    """Check a word, such as the name of a partition or a module; it may be empty.

    Raises
    ------
    ValueError
        If the text is not a word.
    """
    if text and not re.fullmatch(_WORD, text):
        raise ValueError("must be one word of letters, digits and _.,:+@/=-")
    return text


def option(text: str) -> str:
    """Check an option, such as ``--gres=gpu:4``; it may be empty.

    Raises
    ------
    ValueError
        If the text is not one option.
    """
    if text and not re.fullmatch(_OPTION, text):
        raise ValueError("must be one option, e.g. --gres=gpu:4")
    return text


def comment(text: str) -> str:
    """Check a line of a header.

    Raises
    ------
    ValueError
        If the text is a command or has several lines.
    """
    if not text.startswith("#"):
        raise ValueError('a header line must begin with "#"; commands belong in site.setup')
    return single(text)


def single(text: str) -> str:
    """Check that a text is one line.

    Raises
    ------
    ValueError
        If the text has several lines or control characters.
    """
    if not text.replace("\t", " ").isprintable():
        raise ValueError("must be one line without control characters")
    return text


def shell(text: str) -> str:
    """Check one or more lines of shell code.

    Raises
    ------
    ValueError
        If there are control characters.
    """
    if not text.replace("\t", " ").replace("\n", " ").isprintable():
        raise ValueError("must not contain control characters")
    return text


def path_in_header(path: Path) -> str:
    """Check and return a path for the header of a job script.

    Raises
    ------
    UsageError
        If the scheduler cannot read the path in a header.
    """
    if not re.fullmatch(_PATH, str(path)):
        raise UsageError(
            f"the scheduler cannot read {one_line(str(path))!r} in the header of a script: a path "
            f"may contain letters, digits and /_.,+@=~- only; choose another folder"
        )
    return str(path)
