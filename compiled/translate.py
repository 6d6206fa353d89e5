"""A kernel and all that it calls as one module of LLVM: each function once for each kind of its arguments."""

from __future__ import annotations

import ast
import types
from functools import cache
from pathlib import Path
from typing import Any

from compiled.expressions import Scope
from compiled.kinds import FLOAT, INT, NOTHING, SMALL, Array, Items, Kind, Value, flat_kinds, unknown
from compiled.machine_code import SYMBOL, Kinds
from compiled.statements import Body
from compiled.system_calls import DECLARED
from compiled.writer import Writer

_INLINED_LINES = 40
"""Functions of fewer instructions are written where they are called."""


def module_of(function: Any, kinds: Kinds, width: int) -> str:
    """The text of `function` for arguments of (dtype, number of dimensions), 0 for a number; `width` numbers side by
    side in a vector. Its function takes of an array a pointer and its sizes, and returns a whole number, 0 for nothing.

    Raises `TypeError` for what a kernel may not say, with its line.
    """
    module = _Module(width)
    given: list[Kind] = []
    for dtype, ndim in kinds:
        given.append(Array(dtype, ndim) if ndim else FLOAT if dtype.kind == "f" else INT)
    name, returns = module.function(function, tuple(given))
    parts = [of for kind in given for of in flat_kinds(kind, width)]
    names = ", ".join(f"{of} %a{i}" for i, of in enumerate(parts))
    gives = returns in (INT, SMALL)
    back = "i64" if gives else "void"
    body = f"  {'%r = ' if gives else ''}call {back} @{name}({names})\n  ret i64 {'%r' if gives else 0}"
    entry = f"define i64 @{SYMBOL}({names}) nounwind {{\n{body}\n}}"
    text = "\n\n".join([*module.texts, entry])
    return "\n".join([*(head for called, head in DECLARED.items() if called in text), text])


class _Module:
    """Functions written so far."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._written: dict[tuple[Any, tuple[Kind, ...]], tuple[str, Kind]] = {}
        self.texts: list[str] = []

    def function(self, function: types.FunctionType, given: tuple[Kind, ...]) -> tuple[str, Kind]:
        """Its name in the module, and what it returns."""
        known = self._written.get((function, given))
        if known is None:
            known = self._written[function, given] = self._write(function, given)
        return known

    def call(self, scope: Scope, function: types.FunctionType, given: list[Value], node: ast.AST) -> Value:
        """A call of `function` where `scope` is."""
        name, returns = self.function(function, tuple(value.kind for value in given))
        parts = [
            f"{of} {word}"
            for value in given
            for of, word in zip(flat_kinds(value.kind, self._width), value.words, strict=True)
        ]
        kinds, writer = flat_kinds(returns, self._width), scope.writer
        if not kinds:
            writer.write(f"call void @{name}({', '.join(parts)})")
            return Value(returns, ())
        whole = kinds[0] if len(kinds) == 1 else "{" + ", ".join(kinds) + "}"
        found = writer.new(f"call {whole} @{name}({', '.join(parts)})")
        if len(kinds) == 1:
            return Value(returns, (found,))
        return Value(returns, tuple(writer.new(f"extractvalue {whole} {found}, {i}") for i in range(len(kinds))))

    def _write(self, function: types.FunctionType, given: tuple[Kind, ...]) -> tuple[str, Kind]:
        """The text of a function, written again where a variable was found to hold more than before."""
        tree = _source(function)
        names = [one.arg for one in tree.args.args]
        if len(names) != len(given):
            raise unknown(tree, f"{len(given)} arguments")
        assigned = {one.id for one in ast.walk(tree) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}
        outside = {name: value for name, value in function.__globals__.items() if name not in assigned}
        heads, values = [], {}
        for name, kind in zip(names, given, strict=True):
            parts = flat_kinds(kind, self._width)
            words = tuple(f"%given.{name}.{i}" for i in range(len(parts)))
            heads += [f"{of} {word}" for of, word in zip(parts, words, strict=True)]
            values[name] = Value(kind, words)
        known: dict[str, Kind] = {}
        returns: Kind | None = None
        while True:
            constant = {name: value for name, value in values.items() if name not in assigned}
            scope = Scope(Writer(self._width), outside, self.call, constant, dict(known), returns)
            for name, value in values.items():
                if name in assigned:
                    scope.keep(name, value, tree)
            Body(scope).write(tree.body)
            known, returns = scope.known, scope.returns
            if not scope.has_widened:
                break
        returns = NOTHING if returns is None else returns
        if scope.writer.is_open:
            scope.writer.ends("ret void" if returns == NOTHING else "unreachable")
        kinds = flat_kinds(returns, self._width)
        whole = "void" if not kinds else kinds[0] if len(kinds) == 1 else "{" + ", ".join(kinds) + "}"
        name = f"{function.__name__}.{len(self.texts)}"
        many = any(isinstance(kind, Items) for kind in given)  # else all of them would be handed over at every call
        rule = "alwaysinline nounwind" if many or len(scope.writer.lines) < _INLINED_LINES else "nounwind"
        self.texts.append(scope.writer.text(f"define internal {whole} @{name}({', '.join(heads)}) {rule}"))
        return name, returns


def _source(function: types.FunctionType) -> ast.FunctionDef:
    """The function as it is written, at the top of its module."""
    for node in _tree(function.__code__.co_filename).body:
        if isinstance(node, ast.FunctionDef) and node.name == function.__name__:
            return node
    raise TypeError(f"{function.__qualname__} in a kernel: not at the top of {function.__code__.co_filename}")


@cache
def _tree(path: str) -> ast.Module:
    return ast.parse(Path(path).read_text(encoding="utf-8"))
