"""The house: imports point downwards."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import hpcsamp

ROOT = Path(hpcsamp.__file__).parent

FLOORS = [
    {
        "errors",
        "files",
        "launcher",
        "locks",
        "processes",
        "generators",
        "provenance",
        "runtime",
        "sealing",
        "streams",
        "grid",
        "watchdog",
        "config",
        "arguments",
        "models",
        "weights",
    },
    {"collectives", "methods", "data", "campaign"},
    {"losses", "prediction", "ingest", "report"},
    {"run"},
    {"planning"},
    {"training"},
    {"cli", "bench", "doctor", "__main__"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """Rooms of the package that a file imports, at its top or inside a function."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("hpcsamp."):
            rooms.add(node.module.split(".")[1])
        elif isinstance(node, ast.ImportFrom) and node.module == "hpcsamp":
            rooms |= {a.name for a in node.names if a.name in FLOOR}
        elif isinstance(node, ast.Import):
            rooms |= {a.name.split(".")[1] for a in node.names if a.name.startswith("hpcsamp.")}
    return rooms


FILES = [p for p in sorted(ROOT.rglob("*.py")) if p.parent != ROOT or p.name != "__init__.py"]


def test_every_room_has_a_floor():
    assert {room_of(p) for p in FILES} <= FLOOR.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downwards(path):
    own = FLOOR[room_of(path)]
    assert {r: FLOOR[r] for r in imported_rooms(path) if FLOOR[r] > own} == {}
