"""Check that the files of the package are unchanged and that its internal imports work.

Commands import most modules only when they are called, so a missing module would otherwise be
noticed only in the first training run.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import importlib
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import hpcsamp
from hpcsamp.doctor.check import Check

NAME = "hpcsamp"


def whole() -> Check:
    """Check that all installed files are unchanged and all imports within the package work."""
    name, root = "package", Path(hpcsamp.__file__).parent
    wrong = list(dict.fromkeys([*_damaged(root), *_missing(root)]))
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        return Check(
            name,
            "problem",
            "; ".join(wrong[:3]) + more,
            f"install hpcsamp again in this environment (it is imported from {root})",
        )
    modules = sum(1 for _ in root.rglob("*.py"))
    return Check(name, "ok", f"all {modules} modules in {root} can be imported")


def _damaged(root: Path) -> Iterator[str]:
    """Yield faults of files that differ from the record of the installation.

    An editable installation has no record of the package's files.
    """
    try:
        files = metadata.files(NAME) or []
    except metadata.PackageNotFoundError:
        return
    for file in files:
        path = Path(str(file.locate()))
        if file.parts[0] != NAME or file.hash is None:
            continue
        if file.parts[1:] == ("__init__.py",) and path.resolve().parent != root.resolve():
            yield f"{NAME} is imported from {root}, but installed in {path.parent}"
            return
        try:
            digest = hashlib.new(file.hash.mode, path.read_bytes()).digest()
        except OSError as e:
            yield f"{file} cannot be read: {e.strerror}"
            continue
        if base64.urlsafe_b64encode(digest).decode().rstrip("=") != file.hash.value:
            yield f"{file} was changed after the installation"


def _missing(root: Path) -> Iterator[str]:
    """Yield failing imports within the package, at the top of modules and in functions."""
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[-1] == "__main__":
            continue  # importing it would run a command
        importer = ".".join([NAME, *parts]).removesuffix(".__init__")
        try:
            imports = sorted(_imports(ast.parse(path.read_bytes())))
        except SyntaxError as e:
            yield f"{importer}: {e.msg}, line {e.lineno}"
            continue
        yield from _import(importer, importer)
        for module, attribute in imports:
            yield from _import(module, importer, attribute)


def _imports(tree: ast.Module) -> set[tuple[str, str]]:
    """Return the modules of the package that a file imports, with the imported names."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and _ours(node.module or ""):
            found |= {(node.module or "", alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names if _ours(alias.name)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            # a class or a folder named by a string such as "hpcsamp.room.module:Class"
            named = re.fullmatch(rf"({NAME}(?:\.\w+)+)(?::(\w+))?", node.value)
            found |= {(named[1], named[2] or "")} if named else set()
    return found


def _ours(module: str) -> bool:
    return module == NAME or module.startswith(f"{NAME}.")


def _import(module: str, by: str, attribute: str = "") -> Iterator[str]:
    for_whom = "" if by == module else f" (needed by {by})"
    try:
        found = importlib.import_module(module)
        if attribute and not hasattr(found, attribute):
            importlib.import_module(f"{module}.{attribute}")
    except ModuleNotFoundError as e:
        if _ours(e.name or ""):  # another check reports missing dependencies
            yield f"there is no {e.name}{for_whom if e.name == module else f' (needed by {by})'}"
    except Exception as e:
        yield f"{module}{for_whom}: {type(e).__name__}: {' '.join(str(e).split())}"
