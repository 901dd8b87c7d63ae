"""Fill in placeholders such as ``{{ ranks }}`` in the lines of a site.

Lines are rendered in Jinja's sandbox and may contain numbers and conditions only: loops, calls and
attributes are refused before anything runs. Arithmetic is limited by :mod:`.bounded`, so that a
line needs little time and memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hpcsamp.campaign.bounded import LENGTH, OPERATORS, operate
from hpcsamp.errors import UsageError

_ALLOWED = (
    nodes.Template,
    nodes.Output,
    nodes.Literal,
    nodes.Name,
    nodes.BinExpr,
    nodes.UnaryExpr,
    nodes.Compare,
    nodes.Operand,
    nodes.CondExpr,
    nodes.Concat,
    nodes.If,
    nodes.Filter,
)
_FILTERS = ("abs", "float", "int", "lower", "max", "min", "round", "sum", "upper")


def fill(lines: Sequence[str], facts: Mapping[str, Any], where: str) -> list[str]:
    """Fill in the placeholders of lines of a site.

    Raises
    ------
    UsageError
        If a placeholder does not exist, or is neither a number nor a condition.
    """
    found = []
    for line in lines:
        try:
            found.append(_fill(line, facts))
        except (jinja2.TemplateError, ArithmeticError, TypeError, ValueError, SyntaxError) as e:
            raise UsageError(f"site.{where}: {e}; choose from {', '.join(facts)}") from None
        except (RecursionError, MemoryError):
            raise UsageError(f"site.{where}: the template is nested too deeply") from None
    return found


def _fill(line: str, facts: Mapping[str, Any]) -> str:
    if len(line) > LENGTH:
        raise ValueError(f"a line of more than {LENGTH} characters")
    tree = _sandbox().parse(line)
    for node in [tree, *tree.find_all(nodes.Node)]:
        if isinstance(node, nodes.Name) and node.name not in facts:
            raise ValueError(f"{node.name!r} is undefined")
        if isinstance(node, nodes.Filter):
            plain = not (node.args or node.kwargs or node.dyn_args or node.dyn_kwargs)
            if node.name not in _FILTERS or not plain:
                raise ValueError(f"filters are {', '.join(_FILTERS)}, without arguments")
        if not isinstance(node, _ALLOWED):
            raise ValueError(f"{type(node).__name__!r} is not allowed in a placeholder")
    text = _sandbox().from_string(tree).render(**facts)
    if len(text) > LENGTH:
        raise ValueError(f"a line of more than {LENGTH} characters")
    return text


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(OPERATORS)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        return operate(operator, left, right)


@cache
def _sandbox() -> _Sandbox:
    sandbox = _Sandbox(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    sandbox.globals.clear()
    return sandbox
