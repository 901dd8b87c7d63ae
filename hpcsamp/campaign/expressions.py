"""Arithmetic expressions over keys in campaign files, e.g. ``0.001 * data.batch / 64``."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hpcsamp.campaign.bounded import FUNCTIONS, bounded, operate
from hpcsamp.config import unwritable
from hpcsamp.errors import UsageError
from hpcsamp.spelling import hint, shown

LONGEST = 1000
"""Largest number of characters of an expression."""

_BINARY: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "**",
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
}
_COMPARED: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}

#: Function that evaluates a part of an expression for given values of keys.
_Part = Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True)
class Expression:
    """A parsed and checked expression.

    Attributes
    ----------
    text
        Text of the expression.
    where
        Key under which it is written, for messages.
    names
        Keys that it refers to.
    function
        Function from the values of these keys to the value of the expression.
    """

    text: str
    where: str
    names: tuple[str, ...]
    function: _Part

    def value(self, values: Mapping[str, Any]) -> Any:
        """Evaluate the expression for given values of keys; a tuple becomes a list.

        Raises
        ------
        UsageError
            If a key has no value, the arithmetic fails or exceeds its bounds (:mod:`.bounded`), or
            a configuration cannot hold the result.
        """
        for name in self.names:
            if name not in values:
                raise UsageError(f"{self._named}: {name!r} has no value{hint(name, values)}")
        try:
            found = self.function(values)
        except (ArithmeticError, TypeError, ValueError, RecursionError) as e:
            raise UsageError(f"{self._named}: {e}") from None
        reason = unwritable(found)
        if reason:
            raise UsageError(f"{self._named} is {shown(found)}: {reason}")
        return list(found) if isinstance(found, tuple) else found

    @property
    def _named(self) -> str:
        return f'{self.where} = "{self.text}"'


def parse(text: str, where: str, known: Iterable[str] | None = None) -> Expression:
    """Parse and check an expression.

    Parameters
    ----------
    text
        Numbers, strings, lists, ``+ - * / // % **``, comparisons, ``and or not``,
        ``a if b else c``, keys such as ``data.batch``, and the functions in
        :data:`~.bounded.FUNCTIONS`.
    where
        Key under which it is written, for messages.
    known
        Names that it may refer to; if None, :meth:`Expression.value` checks the names.

    Raises
    ------
    UsageError
        If the text is not such an expression.
    """
    if len(text) > LONGEST:
        raise UsageError(f"{where}: the expression has more than {LONGEST} characters")
    reader = _Reader(text, where)
    try:
        function = reader.read(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
        reason = e.msg if isinstance(e, SyntaxError) else e or "it is nested too deeply"
        raise UsageError(f'{where} = "{text}" is not an expression: {reason}') from None
    if known is not None:
        listed = list(known)
        for name in reader.names:
            if name not in listed:
                raise UsageError(
                    f'{where} = "{text}": there is no key {name!r}{hint(name, listed)}'
                )
    return Expression(text, where, tuple(reader.names), function)


class _Reader:
    """Compile the syntax tree of an expression to functions; refuse anything but arithmetic."""

    def __init__(self, text: str, where: str) -> None:
        self.text = text
        self.where = where
        self.names: dict[str, None] = {}

    def read(self, node: ast.expr) -> _Part:
        if isinstance(node, ast.Name | ast.Attribute):
            return self._look_up(self._dotted(node))
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str | None):
            constant = bounded(node.value)
            return lambda values: constant
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, ast.List | ast.Tuple):
            items = [self.read(i) for i in node.elts]
            kind = list if isinstance(node, ast.List) else tuple
            return lambda values: bounded(kind(i(values) for i in items))
        if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
            sign, left, right = _BINARY[type(node.op)], self.read(node.left), self.read(node.right)
            return lambda values: operate(sign, left(values), right(values))
        if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
            change, operand = _UNARY[type(node.op)], self.read(node.operand)
            return lambda values: change(operand(values))
        if isinstance(node, ast.BoolOp):
            return self._logic(node)
        if isinstance(node, ast.Compare):
            return self._compare(node)
        if isinstance(node, ast.IfExp):
            test, yes, no = self.read(node.test), self.read(node.body), self.read(node.orelse)
            return lambda values: yes(values) if test(values) else no(values)
        self._refuse(f"{ast.unparse(node)!r} is not allowed here")
        raise AssertionError

    def _call(self, node: ast.Call) -> _Part:
        if not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS:
            known = ", ".join(FUNCTIONS)
            self._refuse(f"{ast.unparse(node.func)!r} is not one of the functions {known}")
        if node.keywords:
            self._refuse("functions take no keyword arguments")
        assert isinstance(node.func, ast.Name)
        function = FUNCTIONS[node.func.id]
        arguments = [self.read(a) for a in node.args]
        return lambda values: bounded(function(*(a(values) for a in arguments)))

    def _logic(self, node: ast.BoolOp) -> _Part:
        parts = [self.read(v) for v in node.values]
        until = isinstance(node.op, ast.Or)

        def work_out(values: Mapping[str, Any]) -> Any:
            found = None
            for part in parts:
                found = part(values)
                if bool(found) is until:
                    break
            return found

        return work_out

    def _compare(self, node: ast.Compare) -> _Part:
        first, *others = (self.read(n) for n in (node.left, *node.comparators))
        tests = [_COMPARED[type(op)] for op in node.ops]

        def work_out(values: Mapping[str, Any]) -> bool:
            left = first(values)
            for test, other in zip(tests, others, strict=True):
                right = other(values)
                if not test(left, right):
                    return False
                left = right
            return True

        return work_out

    def _dotted(self, node: ast.AST) -> str:
        if isinstance(node, ast.Name):
            return node.id
        if isinstance(node, ast.Attribute):
            return f"{self._dotted(node.value)}.{node.attr}"
        self._refuse(f"{ast.unparse(node)!r} is not a key")
        raise AssertionError

    def _look_up(self, name: str) -> _Part:
        self.names[name] = None
        return lambda values: values[name]

    def _refuse(self, reason: str) -> None:
        raise UsageError(f'{self.where} = "{self.text}": {reason}')
