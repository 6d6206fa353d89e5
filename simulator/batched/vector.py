"""Several float64 side by side as one value of compiled code: loaded from a table row, computed with, stored.

A loop over machines would be left scalar by the compiler, which cannot know that the rows read and written are apart;
these are vector instructions by construction. Tables are C-contiguous (n_rows, WIDTH) float64. numba is imported with
this module. IEEE arithmetic, lane by lane: the same bits as one machine at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.datamodel import models
from numba.core.datamodel.registry import register_default
from numba.extending import intrinsic

from simulator.batched.batch_layout import width

__all__ = ["ALL", "WIDTH", "add", "below", "load", "maximum", "multiply", "splat", "store", "subtract", "where_below"]


WIDTH = width()
"""Machines side by side."""

ALL = (1 << WIDTH) - 1
"""What `below` says when it is so on every machine."""


_instruction: Callable[[Callable[..., Any]], Any] = intrinsic
"""A function of compiled code, written as the instructions it becomes."""


class _Lanes(types.Type):
    def __init__(self) -> None:
        super().__init__(name=f"float64x{WIDTH}")


_make_lanes: Callable[[], Any] = _Lanes
_lanes = _make_lanes()
_vector = ir.VectorType(ir.DoubleType(), WIDTH)


@register_default(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, _vector)  # type: ignore[no-untyped-call]


def _address(context: Any, builder: Any, table_type: Any, table: Any, row: Any) -> Any:
    data = context.make_array(table_type)(context, builder, table).data
    first = builder.gep(data, [builder.mul(row, ir.Constant(row.type, WIDTH))])
    return builder.bitcast(first, _vector.as_pointer())


def _splat(builder: Any, value: Any) -> Any:
    first = builder.insert_element(ir.Constant(_vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH))


@_instruction
def load(typingctx: Any, table: Any, row: Any) -> Any:
    """Row `row` of a table."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_address(context, builder, table, args[0], args[1]), align=8)

    return _lanes(table, types.intp), codegen


@_instruction
def store(typingctx: Any, table: Any, row: Any, value: Any) -> Any:
    """Write row `row` of a table."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _address(context, builder, table, args[0], args[1]), align=8)
        return context.get_dummy_value()

    return types.void(table, types.intp, _lanes), codegen


@_instruction
def splat(typingctx: Any, value: Any) -> Any:
    """The same number for all."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _splat(builder, args[0])

    return _lanes(types.float64), codegen


@_instruction
def add(typingctx: Any, left: Any, right: Any) -> Any:
    """left + right."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fadd(args[0], args[1])

    return _lanes(_lanes, _lanes), codegen


@_instruction
def subtract(typingctx: Any, left: Any, right: Any) -> Any:
    """left - right."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fsub(args[0], args[1])

    return _lanes(_lanes, _lanes), codegen


@_instruction
def multiply(typingctx: Any, left: Any, right: Any) -> Any:
    """left * right."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fmul(args[0], args[1])

    return _lanes(_lanes, _lanes), codegen


@_instruction
def maximum(typingctx: Any, left: Any, right: Any) -> Any:
    """The larger of both; no NaN expected."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", args[0], args[1]), args[0], args[1])

    return _lanes(_lanes, _lanes), codegen


@_instruction
def below(typingctx: Any, left: Any, right: Any) -> Any:
    """Where left < right, a bit each: 0 nowhere, `ALL` everywhere."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = builder.bitcast(builder.fcmp_ordered("<", args[0], args[1]), ir.IntType(WIDTH))
        return builder.zext(bits, ir.IntType(64))

    return types.intp(_lanes, _lanes), codegen


@_instruction
def where_below(typingctx: Any, left: Any, right: Any, value: Any) -> Any:
    """`value` where left < right, else 0."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        zeros = ir.Constant(_vector, [0.0] * WIDTH)
        return builder.select(builder.fcmp_ordered("<", args[0], args[1]), _splat(builder, args[2]), zeros)

    return _lanes(_lanes, _lanes, types.float64), codegen
