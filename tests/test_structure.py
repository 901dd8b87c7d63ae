"""The house: imports point downwards."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import hpcsamp

ROOT = Path(hpcsamp.__file__).parent

#: Rooms from the ground up. Each has a level of its own, so no two can need each other.
LEVELS = [
    "errors", "imports", "spelling", "explain", "serial", "vision", "registry", "names", "kinds",
    "files", "generators", "processes", "heap", "watchdog", "streams", "provenance", "config",
    "arguments",
    "launcher", "devices", "runtime", "grid", "weights", "layers", "models", "locks", "sealing",
    "serving",
    "campaign", "methods", "collectives", "losses", "metrics", "calibration", "data", "tasks",
    "ingest", "run", "project", "prediction", "report", "planning", "training", "bench", "doctor",
    "cli", "__main__",
]  # fmt: skip
LEVEL = {room: level for level, room in enumerate(LEVELS)}


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """Rooms of the package that a file imports, at its top or inside a function."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("hpcsamp."):
            rooms.add(node.module.split(".")[1])
        elif isinstance(node, ast.ImportFrom) and node.module == "hpcsamp":
            rooms |= {a.name for a in node.names if a.name in LEVEL}
        elif isinstance(node, ast.Import):
            rooms |= {a.name.split(".")[1] for a in node.names if a.name.startswith("hpcsamp.")}
    return rooms


FILES = [p for p in sorted(ROOT.rglob("*.py")) if p.parent != ROOT or p.name != "__init__.py"]


def test_every_room_has_a_level():
    assert {room_of(p) for p in FILES} <= LEVEL.keys()
    assert len(LEVEL) == len(LEVELS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downwards(path):
    own = room_of(path)
    assert {r for r in imported_rooms(path) - {own} if LEVEL[r] > LEVEL[own]} == set()


def callers(room: str, function: str) -> set[str]:
    """Files outside a room that call its function as ``room.function(...)``."""
    found = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(f"{room}.{function}"):
                found.add(str(path.relative_to(ROOT)))
    return found


def test_a_run_is_assembled_in_one_place():
    assert callers("methods", "make") == {"run/assemble.py"}
    assert callers("losses", "make_likelihood") == {"run/assemble.py"}
    # benchmarks of single parts use losses as a loop of one's own does
    used = callers("losses", "make")
    assert {p for p in used if not p.startswith("bench/")} == {"run/assemble.py"}
