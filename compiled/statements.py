"""Statements of a kernel as blocks of instructions."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from compiled.expressions import Scope, binary, boolean, compared, place_of, value_of
from compiled.kinds import INT, NOTHING, SMALL, Array, Value, flat_kinds, unknown


class Body:
    """The statements of one function in `scope`; loops around the one being written are listed innermost last."""

    def __init__(self, scope: Scope) -> None:
        self._scope, self._writer = scope, scope.writer
        self._loops: list[tuple[str, str]] = []  # where `break` and `continue` go on

    def write(self, statements: list[ast.stmt]) -> None:
        """All of them, one after the other."""
        for node in statements:
            known = _STATEMENTS.get(type(node))
            if known is None:
                raise unknown(node, "no such statement")
            known(self, node)

    def assign(self, node: ast.Assign) -> None:
        """One value to one or more targets."""
        value = value_of(self._scope, node.value)
        for target in node.targets:
            self._put(target, value)

    def annotate(self, node: ast.AnnAssign) -> None:
        """An assignment whose annotation is for readers."""
        if node.value is not None:
            self._put(node.target, value_of(self._scope, node.value))

    def change(self, node: ast.AugAssign) -> None:
        """A target that is changed by a value: where it lies is found once."""
        scope, target = self._scope, node.target
        if isinstance(target, ast.Subscript):
            place = place_of(scope, target)
            now, by = self._writer.read(place), value_of(scope, node.value)
            # what is stored in an array of few bits is the same as if it had been reckoned in them
            now, by = (self._writer.cast(one, INT, node) if one.kind == SMALL else one for one in (now, by))
            self._store(place, binary(scope, node.op, now, by, node), node)
        else:
            now = value_of(scope, ast.copy_location(_as_read(target), target))
            self._put(target, binary(scope, node.op, now, value_of(scope, node.value), node))

    def _put(self, target: ast.expr, value: Value) -> None:
        if isinstance(target, ast.Name):
            self._scope.keep(target.id, value, target)
        elif isinstance(target, ast.Tuple):
            parts = self._writer.parts(value)
            if len(parts) != len(target.elts):
                raise unknown(target, f"so many names for {value.kind}")
            for one, part in zip(target.elts, parts, strict=True):
                self._put(one, part)
        elif isinstance(target, ast.Subscript):
            self._store(place_of(self._scope, target), value, target)
        elif isinstance(target, ast.Attribute):
            record = value_of(self._scope, target.value)
            self._writer.save(*self._writer.field(record, target.attr, target), value, target)
        else:
            raise unknown(target, "nothing is assigned to it")

    def _store(self, place: Value, value: Value, node: ast.AST) -> None:
        if not isinstance(place.kind, Array) or place.kind.ndim:
            raise unknown(node, "a whole row is not assigned to")
        self._writer.save(place.word, place.kind.dtype, value, node)

    def decide(self, node: ast.If) -> None:
        """One of two ways."""
        yes, no, done = self._writer.block(), self._writer.block(), self._writer.block()
        self._writer.branch(boolean(self._scope, node.test), yes, no if node.orelse else done)
        self._writer.label(yes)
        self.write(node.body)
        if node.orelse:
            self._go(done)
            self._writer.label(no)
            self.write(node.orelse)
        self._go(done)
        self._writer.label(done)

    def repeat(self, node: ast.While) -> None:
        """As long as a condition holds."""
        head, body, done = self._writer.block(), self._writer.block(), self._writer.block()
        self._writer.label(head)
        self._writer.branch(boolean(self._scope, node.test), body, done)
        self._loop(node, body, head, done)
        self._go(head)
        self._writer.label(done)

    def count(self, node: ast.For) -> None:
        """For each number of a range, which is known before the first."""
        writer, scope = self._writer, self._scope
        call = node.iter
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "range"):
            raise unknown(node.iter, "loops are over a range")
        limits = [writer.cast(value_of(scope, one), INT, one) for one in call.args]
        start, stop = (Value(INT, ("0",)), limits[0]) if len(limits) == 1 else (limits[0], limits[1])
        step = limits[2].word if len(limits) == 3 else "1"
        if step.startswith("%") or step == "0":
            raise unknown(call, "a step is a number of its own")
        name = f".{node.lineno}.{node.col_offset}.next"
        head, body, on, done = (writer.block() for _ in range(4))
        scope.keep(name, start, node)
        writer.label(head)
        at = scope.read(name, node)
        goes_on = compared(scope, ast.Lt() if int(step) > 0 else ast.Gt(), at, stop, node)
        writer.branch(goes_on, body, done)
        writer.label(body)
        self._put(node.target, at)
        inside = writer.block()
        self._loop(node, inside, on, done)
        writer.label(on)
        following = writer.new(f"add nsw i64 {at.word}, {step}")
        scope.keep(name, Value(INT, (following,)), node)
        writer.go(head)
        writer.label(done)

    def _loop(self, node: ast.While | ast.For, body: str, on: str, done: str) -> None:
        if node.orelse:
            raise unknown(node, "a loop has no else")
        self._writer.label(body)
        self._loops.append((done, on))
        self.write(node.body)
        self._loops.pop()

    def leave(self, node: ast.Break | ast.Continue) -> None:
        """Out of the loop, or on to its next turn."""
        self._writer.go(self._loops[-1][0 if isinstance(node, ast.Break) else 1])

    def end(self, node: ast.Return) -> None:
        """Back to the caller, with a value or with nothing."""
        scope = self._scope
        value = Value(NOTHING, ()) if node.value is None else value_of(scope, node.value)
        value = self._writer.cast(value, scope.give_back(value.kind, node), node)
        kinds = flat_kinds(value.kind, self._writer.width)
        if not kinds:
            self._writer.ends("ret void")
        elif len(kinds) == 1:
            self._writer.ends(f"ret {kinds[0]} {value.word}")
        else:
            whole, found = "{" + ", ".join(kinds) + "}", "poison"
            for i, (of, word) in enumerate(zip(kinds, value.words, strict=True)):
                found = self._writer.new(f"insertvalue {whole} {found}, {of} {word}, {i}")
            self._writer.ends(f"ret {whole} {found}")

    def say(self, node: ast.Expr) -> None:
        """A call whose result nobody asks for, or words for readers."""
        if not isinstance(node.value, ast.Constant):
            value_of(self._scope, node.value)

    def _go(self, block: str) -> None:
        if self._writer.is_open:
            self._writer.go(block)


def _as_read(target: ast.Name | ast.Attribute | ast.Subscript) -> ast.expr:
    """What stands on the left, asked for its value."""
    if isinstance(target, ast.Name):
        return ast.Name(target.id, ast.Load())
    assert isinstance(target, ast.Attribute)
    return ast.Attribute(target.value, target.attr, ast.Load())


def _nothing(body: Body, node: ast.Pass) -> None:
    """`pass`."""


_STATEMENTS: dict[type[ast.stmt], Callable[[Body, Any], None]] = {
    ast.Assign: Body.assign,
    ast.AnnAssign: Body.annotate,
    ast.AugAssign: Body.change,
    ast.If: Body.decide,
    ast.While: Body.repeat,
    ast.For: Body.count,
    ast.Break: Body.leave,
    ast.Continue: Body.leave,
    ast.Return: Body.end,
    ast.Expr: Body.say,
    ast.Pass: _nothing,
}
