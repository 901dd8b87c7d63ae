"""Expressions in campaign files, e.g. ``0.001 * data.batch / 64``: arithmetic over keys."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hpcsamp.config import suggest
from hpcsamp.errors import UsageError

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "bool": bool,
    "ceil": math.ceil,
    "exp": math.exp,
    "float": float,
    "floor": math.floor,
    "int": int,
    "len": len,
    "log": math.log,
    "log2": math.log2,
    "log10": math.log10,
    "max": max,
    "min": min,
    "round": round,
    "sqrt": math.sqrt,
    "str": str,
}

_NODES = (
    ast.Expression,
    ast.Constant,
    ast.BinOp,
    ast.UnaryOp,
    ast.BoolOp,
    ast.Compare,
    ast.IfExp,
    ast.List,
    ast.Tuple,
    ast.Load,
    ast.operator,
    ast.unaryop,
    ast.boolop,
    ast.cmpop,
)


@dataclass(frozen=True)
class Expression:
    """A checked expression.

    Attributes
    ----------
    text
        As it was written.
    where
        The key that it stands under, for messages.
    names
        Keys that it refers to.
    function
        From the values of keys to the value.
    """

    text: str
    where: str
    names: tuple[str, ...]
    function: Callable[[Mapping[str, Any]], Any]

    def value(self, values: Mapping[str, Any]) -> Any:
        """The value for given keys.

        Raises
        ------
        UsageError
            For a key that has no value, or arithmetic that fails.
        """
        for name in self.names:
            if name not in values:
                raise UsageError(
                    f'{self.where} = "{self.text}": {name!r} has no value{suggest(name, values)}'
                )
        try:
            return self.function(values)
        except (ArithmeticError, TypeError, ValueError) as e:
            raise UsageError(f'{self.where} = "{self.text}": {e}') from None


def parse(text: str, where: str, known: Iterable[str] | None = None) -> Expression:
    """Check an expression and make it ready.

    Parameters
    ----------
    text
        Numbers, strings, lists, ``+ - * / // % **``, comparisons, ``and or not``,
        ``a if b else c``, keys such as ``data.batch``, and the functions in :data:`FUNCTIONS`.
    where
        The key that it stands under, for messages.
    known
        Names that it may refer to; None leaves that to :meth:`Expression.value`.

    Raises
    ------
    UsageError
        For anything else.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError) as e:
        reason = e.msg if isinstance(e, SyntaxError) else e
        raise UsageError(f'{where} = "{text}" is no expression: {reason}') from None
    keys = _Keys(text, where)
    tree = ast.fix_missing_locations(keys.visit(tree))
    if known is not None:
        listed = list(known)
        for name in keys.names:
            if name not in listed:
                raise UsageError(
                    f'{where} = "{text}": there is no key {name!r}{suggest(name, listed)}'
                )
    arguments = ast.parse("lambda _values: 0", mode="eval").body
    assert isinstance(arguments, ast.Lambda)
    arguments.body = tree.body
    code = compile(ast.fix_missing_locations(ast.Expression(arguments)), where, "eval")
    function = eval(code, {"__builtins__": {}, **FUNCTIONS})
    return Expression(text, where, tuple(keys.names), function)


class _Keys(ast.NodeTransformer):
    """Replaces dotted names by look-ups, and refuses what is not arithmetic."""

    def __init__(self, text: str, where: str) -> None:
        self.text = text
        self.where = where
        self.names: dict[str, None] = {}

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, ast.Name | ast.Attribute):
            return self._look_up(self._dotted(node))
        if isinstance(node, ast.Call):
            if not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS:
                known = ", ".join(FUNCTIONS)
                self._refuse(f"{ast.unparse(node.func)!r} is not one of the functions {known}")
            if node.keywords:
                self._refuse("functions take no keywords")
            node.args = [self.visit(a) for a in node.args]
            return node
        if not isinstance(node, _NODES):
            self._refuse(f"{ast.unparse(node)!r} is not allowed here")
        return self.generic_visit(node)

    def _dotted(self, node: ast.AST) -> str:
        if isinstance(node, ast.Name):
            return node.id
        if isinstance(node, ast.Attribute):
            return f"{self._dotted(node.value)}.{node.attr}"
        self._refuse(f"{ast.unparse(node)!r} is not a key")
        raise AssertionError

    def _look_up(self, name: str) -> ast.AST:
        self.names[name] = None
        values = ast.Name("_values", ast.Load())
        return ast.Subscript(values, ast.Constant(name), ast.Load())

    def _refuse(self, reason: str) -> None:
        raise UsageError(f'{self.where} = "{self.text}": {reason}')
