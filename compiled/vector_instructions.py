"""What `compiled.vector` means, as the vector instructions of LLVM."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from compiled import vector
from compiled.kinds import FLOAT, INT, LANES, NOTHING, SMALL, Array, Value, llvm_of, unknown
from compiled.writer import Writer


def _row(writer: Writer, node: ast.Call, table: Value, row: Value) -> str:
    if not isinstance(table.kind, Array) or row.kind not in (INT, SMALL):
        raise unknown(node, f"{table.kind} has no rows")
    first = writer.new(f"mul i64 {row.word}, {writer.width}")
    return writer.new(f"getelementptr inbounds double, ptr {table.words[0]}, i64 {first}")


def _load(writer: Writer, node: ast.Call, table: Value, row: Value) -> Value:
    of, at = llvm_of(LANES, writer.width), _row(writer, node, table, row)
    return Value(LANES, (writer.new(f"load {of}, ptr {at}, align 8"),))


def _store(writer: Writer, node: ast.Call, table: Value, row: Value, value: Value) -> Value:
    of, at = llvm_of(LANES, writer.width), _row(writer, node, table, row)
    writer.write(f"store {of} {value.word}, ptr {at}, align 8")
    return Value(NOTHING, ())


def _lane_by_lane(instruction: str) -> Callable[..., Value]:
    def written(writer: Writer, node: ast.Call, left: Value, right: Value) -> Value:
        of = llvm_of(LANES, writer.width)
        return Value(LANES, (writer.new(f"{instruction} {of} {left.word}, {right.word}"),))

    return written


def _splat(writer: Writer, node: ast.Call, value: Value) -> Value:
    return Value(LANES, (writer.lanes(writer.cast(value, FLOAT, node).word),))


def _below(writer: Writer, node: ast.Call, left: Value, right: Value) -> Value:
    width = writer.width
    each = writer.new(f"fcmp olt {llvm_of(LANES, width)} {left.word}, {right.word}")
    bits = writer.new(f"bitcast <{width} x i1> {each} to i{width}")
    return Value(INT, (writer.new(f"zext i{width} {bits} to i64"),))


def _either(condition: str) -> Callable[..., Value]:
    def written(writer: Writer, node: ast.Call, left: Value, right: Value, yes: Value, no: Value) -> Value:
        of = llvm_of(LANES, writer.width)
        each = writer.new(f"fcmp {condition} {of} {left.word}, {right.word}")
        return Value(LANES, (writer.new(f"select <{writer.width} x i1> {each}, {of} {yes.word}, {of} {no.word}"),))

    return written


def _chosen(condition: str) -> Callable[..., Value]:
    def written(writer: Writer, node: ast.Call, left: Value, right: Value, *other: Value) -> Value:
        of = llvm_of(LANES, writer.width)
        each = writer.new(f"fcmp {condition} {of} {left.word}, {right.word}")
        yes = writer.lanes(writer.cast(other[0], FLOAT, node).word) if other else left.word
        no = "zeroinitializer" if other else right.word
        return Value(LANES, (writer.new(f"select <{writer.width} x i1> {each}, {of} {yes}, {of} {no}"),))

    return written


VECTOR: dict[Any, Callable[..., Value]] = {
    vector.load: _load,
    vector.store: _store,
    vector.splat: _splat,
    vector.add: _lane_by_lane("fadd"),
    vector.subtract: _lane_by_lane("fsub"),
    vector.multiply: _lane_by_lane("fmul"),
    vector.maximum: _chosen("ogt"),
    vector.below: _below,
    vector.where_below: _chosen("olt"),
    vector.if_below: _either("olt"),
    vector.if_equal: _either("oeq"),
}
