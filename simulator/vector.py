"""Sixteen float64 side by side as one value of compiled code: loaded from a table row, computed with, stored.

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

__all__ = ["WIDTH", "add", "load", "maximum", "minimum", "store", "subtract", "zeros"]

WIDTH = 16
"""Machines side by side: two AVX-512 registers, four of AVX2."""


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
def zeros(typingctx: Any) -> Any:
    """All 0."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(_vector, [0.0] * WIDTH)

    return _lanes(), codegen


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
def maximum(typingctx: Any, left: Any, right: Any) -> Any:
    """The larger of both; no NaN expected."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", args[0], args[1]), args[0], args[1])

    return _lanes(_lanes, _lanes), codegen


@_instruction
def minimum(typingctx: Any, left: Any, right: Any) -> Any:
    """The smaller of both; no NaN expected."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", args[0], args[1]), args[0], args[1])

    return _lanes(_lanes, _lanes), codegen
