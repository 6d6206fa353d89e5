"""Expressions of a kernel as instructions: each is a value, which a statement keeps, stores or asks."""

from __future__ import annotations

import ast
import builtins
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from compiled.kinds import (
    BOOL,
    FLOAT,
    INT,
    SMALL,
    Array,
    Items,
    Kind,
    Record,
    Value,
    llvm_of,
    unified,
    unknown,
)
from compiled.system_calls import SYSTEM
from compiled.vector_instructions import VECTOR
from compiled.writer import Writer, constant


@dataclass(slots=True)
class Scope:
    """One function in the making: its text, its names, and `call`, which writes a call of another function."""

    writer: Writer
    names: dict[str, Any]
    """Of the module that it is written in, but those that it assigns itself."""
    call: Callable[[Scope, types.FunctionType, list[Value], ast.AST], Value]
    given: dict[str, Value]
    """Arguments that are never assigned to."""
    known: dict[str, Kind] = field(default_factory=dict)
    """What its variables hold, as far as is known: kinds only widen."""
    returns: Kind | None = None
    has_widened: bool = False
    """Whether something that was known before widened: what was written until then is of the narrower kind."""

    def keep(self, name: str, value: Value, node: ast.AST) -> None:
        """Assign to a variable."""
        before = self.known.get(name, value.kind)
        kind = self.known[name] = self._widened(before, value.kind, node)
        self.writer.put(name, self.writer.cast(value, kind, node))

    def give_back(self, kind: Kind, node: ast.AST) -> Kind:
        """The kind of what the function returns, which also returns `kind`."""
        self.returns = self._widened(kind if self.returns is None else self.returns, kind, node)
        return self.returns

    def _widened(self, before: Kind, kind: Kind, node: ast.AST) -> Kind:
        both = unified(before, kind, node)
        self.has_widened |= both != before
        return both

    def read(self, name: str, node: ast.AST) -> Value:
        """What a variable or an argument holds."""
        if name in self.given:
            return self.given[name]
        if name not in self.known:
            raise unknown(node, "not assigned before")
        return self.writer.get(name, self.known[name])


def value_of(scope: Scope, node: ast.expr) -> Value:
    """The value of an expression."""
    known = _EXPRESSIONS.get(type(node))
    if known is None:
        raise unknown(node, "no such expression")
    return known(scope, node)


def boolean(scope: Scope, node: ast.expr) -> str:
    """Whether an expression is true, where nothing else is asked of it."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return scope.writer.new(f"xor i1 {boolean(scope, node.operand)}, true")
    if isinstance(node, ast.BoolOp):
        return _first_that_decides(scope, node, lambda one: Value(BOOL, (boolean(scope, one),))).word
    return scope.writer.truth(value_of(scope, node), node)


def place_of(scope: Scope, node: ast.Subscript) -> Value:
    """Where an element or a row of an array lies."""
    return scope.writer.element(value_of(scope, node.value), _indices(scope, node), node)


def _indices(scope: Scope, node: ast.Subscript) -> list[Value]:
    indices = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    return [value_of(scope, index) for index in indices]


def _constant(scope: Scope, node: ast.Constant) -> Value:
    return _plain(node.value, node)


def _plain(value: object, node: ast.AST) -> Value:
    """A number of the module."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return Value(BOOL, ("true" if value else "false",))
    if isinstance(value, int):
        return Value(INT, (str(int(value)),))
    if isinstance(value, float):
        return Value(FLOAT, (constant(value),))
    raise unknown(node, f"a {type(value).__name__} is no number")


def _name(scope: Scope, node: ast.Name) -> Value:
    if node.id in scope.given or node.id in scope.known:
        return scope.read(node.id, node)
    if node.id in scope.names:
        return _plain(scope.names[node.id], node)
    raise unknown(node, "not assigned before")


def _tuple(scope: Scope, node: ast.Tuple) -> Value:
    return _together([value_of(scope, one) for one in node.elts])


def _together(values: list[Value], names: tuple[str, ...] = ()) -> Value:
    kinds = tuple(value.kind for value in values)
    return Value(Items(kinds, names), tuple(word for value in values for word in value.words))


def _attribute(scope: Scope, node: ast.Attribute) -> Value:
    if isinstance(node.value, ast.Name) and isinstance(scope.names.get(node.value.id), types.ModuleType):
        return _plain(getattr(scope.names[node.value.id], node.attr), node)
    value = value_of(scope, node.value)
    if isinstance(value.kind, Items) and node.attr in value.kind.names:
        return scope.writer.parts(value)[value.kind.names.index(node.attr)]
    if isinstance(value.kind, Record):
        return scope.writer.load(*scope.writer.field(value, node.attr, node))
    if isinstance(value.kind, Array) and node.attr == "shape":
        return Value(Items((INT,) * value.kind.ndim), value.words[1:])
    if isinstance(value.kind, Array) and node.attr == "size":
        size = value.words[1]
        for other in value.words[2:]:
            size = scope.writer.new(f"mul i64 {size}, {other}")
        return Value(INT, (size,))
    raise unknown(node, f"{value.kind} has no such attribute")


def _subscript(scope: Scope, node: ast.Subscript) -> Value:
    value = value_of(scope, node.value)
    if not isinstance(value.kind, Items):
        return scope.writer.read(scope.writer.element(value, _indices(scope, node), node))
    index, parts = value_of(scope, node.slice), scope.writer.parts(value)
    if index.kind != INT or index.word.startswith("%"):
        raise unknown(node, "a tuple is asked for what stands at a number of its own")
    return parts[int(index.word)]


_IN_ITS_BITS = "NumPy would count on in the bits of the array: ask for int() of it"
"""Why nothing is added to a number that an array of uint8 to uint32 holds."""

_INSTRUCTIONS: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("add", "fadd"), ast.Sub: ("sub", "fsub"), ast.Mult: ("mul", "fmul"), ast.Div: ("", "fdiv"),
    ast.LShift: ("shl", ""), ast.RShift: ("ashr", ""), ast.BitAnd: ("and", ""), ast.BitOr: ("or", ""),
    ast.BitXor: ("xor", ""),
}  # fmt: skip
"""By operator: of whole numbers, of others."""


def _binary(scope: Scope, node: ast.BinOp) -> Value:
    return binary(scope, node.op, value_of(scope, node.left), value_of(scope, node.right), node)


def binary(scope: Scope, op: ast.operator, left: Value, right: Value, node: ast.AST) -> Value:
    """left op right, as Python has it: a quotient is a float, `//` and `%` go down."""
    writer, kind = scope.writer, unified(left.kind, right.kind, node)
    if kind == BOOL and isinstance(op, ast.BitAnd | ast.BitOr | ast.BitXor):
        return Value(BOOL, (writer.new(f"{_INSTRUCTIONS[type(op)][0]} i1 {left.word}, {right.word}"),))
    if kind == SMALL and isinstance(op, ast.Add | ast.Sub | ast.Mult | ast.LShift):
        raise unknown(node, _IN_ITS_BITS)
    small, kind = kind == SMALL, FLOAT if kind == FLOAT or isinstance(op, ast.Div) else INT
    a, b = writer.cast(left, kind, node).word, writer.cast(right, kind, node).word
    if kind == INT and isinstance(op, ast.FloorDiv | ast.Mod):
        return Value(SMALL if small else INT, (_floored(writer, a, b, isinstance(op, ast.Mod)),))
    of_ints, of_floats = _INSTRUCTIONS.get(type(op), ("", ""))
    instruction, of = (of_floats, "double") if kind == FLOAT else (of_ints, "i64")
    if not instruction:
        raise unknown(node, f"no such operator of {left.kind} and {right.kind}")
    if kind == INT and not a.startswith("%") and not b.startswith("%"):
        return Value(INT, (str(_folded(instruction, int(a), int(b))),))
    return Value(SMALL if small and kind == INT else kind, (writer.new(f"{instruction} {of} {a}, {b}"),))


def _folded(instruction: str, a: int, b: int) -> int:
    """Of two numbers that stand in the source: what a step of a loop may be made of."""
    found = {"add": a + b, "sub": a - b, "mul": a * b, "and": a & b, "or": a | b, "xor": a ^ b}
    return found[instruction] if instruction in found else a << b if instruction == "shl" else a >> b


def _floored(writer: Writer, a: str, b: str, rest: bool) -> str:
    """a // b, or what is left of it, with the sign of b."""
    left = writer.new(f"srem i64 {a}, {b}")
    signs = writer.new(f"xor i64 {left}, {b}")
    apart = writer.new(f"icmp slt i64 {signs}, 0")
    some = writer.new(f"icmp ne i64 {left}, 0")
    below = writer.new(f"and i1 {apart}, {some}")
    if rest:
        up = writer.new(f"select i1 {below}, i64 {b}, i64 0")
        return writer.new(f"add i64 {left}, {up}")
    quotient = writer.new(f"sdiv i64 {a}, {b}")
    down = writer.new(f"sext i1 {below} to i64")
    return writer.new(f"add i64 {quotient}, {down}")


def _unary(scope: Scope, node: ast.UnaryOp) -> Value:
    if isinstance(node.op, ast.Not):
        return Value(BOOL, (boolean(scope, node),))
    value = value_of(scope, node.operand)
    if value.kind == SMALL:
        raise unknown(node, _IN_ITS_BITS)
    if isinstance(node.op, ast.Invert):
        return binary(scope, ast.BitXor(), scope.writer.cast(value, INT, node), Value(INT, ("-1",)), node)
    if isinstance(node.op, ast.USub) and value.kind == FLOAT:
        return Value(FLOAT, (scope.writer.new(f"fneg double {value.word}"),))
    if isinstance(node.op, ast.USub):
        return binary(scope, ast.Sub(), Value(INT, ("0",)), value, node)
    return value


_COMPARED: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("slt", "olt"), ast.LtE: ("sle", "ole"), ast.Gt: ("sgt", "ogt"), ast.GtE: ("sge", "oge"),
    ast.Eq: ("eq", "oeq"), ast.NotEq: ("ne", "une"),
}  # fmt: skip


def _compare(scope: Scope, node: ast.Compare) -> Value:
    left, found = value_of(scope, node.left), ""
    for op, other in zip(node.ops, node.comparators, strict=True):
        right = value_of(scope, other)
        if isinstance(op, ast.In):
            here = ""
            for one in scope.writer.parts(right):
                same = compared(scope, ast.Eq(), left, one, node)
                here = scope.writer.new(f"or i1 {here}, {same}") if here else same
        else:
            here = compared(scope, op, left, right, node)
        found = scope.writer.new(f"and i1 {found}, {here}") if found else here
        left = right
    return Value(BOOL, (found,))


def compared(scope: Scope, op: ast.cmpop, left: Value, right: Value, node: ast.AST) -> str:
    """Whether left op right."""
    writer, kind = scope.writer, unified(left.kind, right.kind, node)
    if type(op) not in _COMPARED:
        raise unknown(node, "no such comparison")
    kind = INT if kind in (BOOL, SMALL) else kind
    a, b = writer.cast(left, kind, node).word, writer.cast(right, kind, node).word
    of_ints, of_floats = _COMPARED[type(op)]
    return writer.new(f"fcmp {of_floats} double {a}, {b}" if kind == FLOAT else f"icmp {of_ints} i64 {a}, {b}")


def _bool_op(scope: Scope, node: ast.BoolOp) -> Value:
    return _first_that_decides(scope, node, lambda one: value_of(scope, one))


def _first_that_decides(scope: Scope, node: ast.BoolOp, ask: Callable[[ast.expr], Value]) -> Value:
    """`and`, `or`: what comes after the value that decides is not evaluated."""
    writer, done = scope.writer, scope.writer.block()
    name = f".{node.lineno}.{node.col_offset}.{ask.__code__.co_firstlineno}"
    for one in node.values[:-1]:
        value, on = ask(one), writer.block()
        scope.keep(name, value, node)
        decided = writer.truth(value, one)
        writer.branch(decided, *((on, done) if isinstance(node.op, ast.And) else (done, on)))
        writer.label(on)
    scope.keep(name, ask(node.values[-1]), node)
    writer.label(done)
    return scope.read(name, node)


def _if_else(scope: Scope, node: ast.IfExp) -> Value:
    writer, name = scope.writer, f".{node.lineno}.{node.col_offset}.if"
    yes, no, done = writer.block(), writer.block(), writer.block()
    writer.branch(boolean(scope, node.test), yes, no)
    writer.label(yes)
    scope.keep(name, value_of(scope, node.body), node)
    writer.go(done)
    writer.label(no)
    scope.keep(name, value_of(scope, node.orelse), node)
    writer.label(done)
    return scope.read(name, node)


def _call(scope: Scope, node: ast.Call) -> Value:
    called = _called(scope, node.func)
    given = [value_of(scope, one) for one in node.args]
    if node.keywords:
        raise unknown(node, "arguments have no names")
    if called in _INSTRUCTED:
        return _INSTRUCTED[called](scope.writer, node, *given)
    if called in _BUILT_IN:
        return _BUILT_IN[called](scope, node, *given)
    fields = getattr(called, "_fields", None)
    if isinstance(called, type) and fields is not None and len(fields) == len(given):
        return _together(given, tuple(fields))
    if isinstance(called, types.FunctionType):
        return scope.call(scope, called, given, node)
    raise unknown(node, "no such function")


def _called(scope: Scope, node: ast.expr) -> Any:
    """The function that a name stands for."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return getattr(scope.names.get(node.value.id), node.attr, None)
    if not isinstance(node, ast.Name):
        return None
    return scope.names.get(node.id, getattr(builtins, node.id, None))


def _extreme(op: ast.cmpop) -> Callable[..., Value]:
    """`max`, `min`: of equal ones the first."""

    def written(scope: Scope, node: ast.Call, *given: Value) -> Value:
        found = given[0]
        for value in given[1:]:
            kind = unified(found.kind, value.kind, node)
            a, b = scope.writer.cast(found, kind, node), scope.writer.cast(value, kind, node)
            beyond, of = compared(scope, op, b, a, node), llvm_of(kind, scope.writer.width)
            found = Value(kind, (scope.writer.new(f"select i1 {beyond}, {of} {b.word}, {of} {a.word}"),))
        return found

    return written


def _as_int(scope: Scope, node: ast.Call, value: Value) -> Value:
    if value.kind == FLOAT:
        return Value(INT, (scope.writer.new(f"fptosi double {value.word} to i64"),))
    return scope.writer.cast(value, INT, node)


def _length(scope: Scope, node: ast.Call, value: Value) -> Value:
    if not isinstance(value.kind, Array):
        raise unknown(node, f"{value.kind} has no length")
    return Value(INT, (value.words[1],))


_INSTRUCTED = {**VECTOR, **SYSTEM}
"""What has instructions of its own."""


_BUILT_IN: dict[Any, Callable[..., Value]] = {
    max: _extreme(ast.Gt()),
    min: _extreme(ast.Lt()),
    int: _as_int,
    np.int64: _as_int,
    float: lambda scope, node, value: scope.writer.cast(value, FLOAT, node),
    bool: lambda scope, node, value: Value(BOOL, (scope.writer.truth(value, node),)),
    len: _length,
}


_EXPRESSIONS: dict[type[ast.expr], Callable[[Scope, Any], Value]] = {
    ast.Constant: _constant,
    ast.Name: _name,
    ast.Tuple: _tuple,
    ast.Attribute: _attribute,
    ast.Subscript: _subscript,
    ast.BinOp: _binary,
    ast.UnaryOp: _unary,
    ast.Compare: _compare,
    ast.BoolOp: _bool_op,
    ast.IfExp: _if_else,
    ast.Call: _call,
}
