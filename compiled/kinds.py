"""What a value of a kernel is: a number, an array, a record, or several of them; and what LLVM calls its parts."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any

import numpy as np

INT, FLOAT, BOOL, LANES = "int", "float", "bool", "lanes"

SMALL = "small"
"""A whole number of an array of uint8 to uint32: NumPy would count on in those bits, and start anew at 0."""


@dataclass(frozen=True, slots=True)
class Array:
    """An array: a pointer, and as many sizes as it has dimensions."""

    dtype: np.dtype[Any]
    ndim: int


@dataclass(frozen=True, slots=True)
class Record:
    """One element of a structured array: a pointer to it."""

    dtype: np.dtype[Any]


@dataclass(frozen=True, slots=True)
class Items:
    """Several values: a tuple, or one with names."""

    kinds: tuple[Kind, ...]
    names: tuple[str, ...] = ()


Kind = str | Array | Record | Items

NOTHING = Items(())
"""What a function returns that returns nothing."""


@dataclass(frozen=True, slots=True)
class Value:
    """A value in the text: what it is, and a word of LLVM for each of its parts."""

    kind: Kind
    words: tuple[str, ...]

    @property
    def word(self) -> str:
        """Of a value of one part."""
        (word,) = self.words
        return word


def unknown(node: ast.AST, why: str) -> TypeError:
    """The error of what a kernel may not say."""
    return TypeError(f"line {getattr(node, 'lineno', '?')}: {ast.unparse(node)!r} in a kernel: {why}")


def flat_kinds(kind: Kind, width: int) -> list[str]:
    """The types of LLVM of the parts of a value; `width`: numbers side by side in `LANES`."""
    if isinstance(kind, Array):
        return ["ptr", *["i64"] * kind.ndim]
    if isinstance(kind, Record):
        return ["ptr"]
    if isinstance(kind, Items):
        return [part for one in kind.kinds for part in flat_kinds(one, width)]
    return [llvm_of(kind, width)]


def llvm_of(kind: Kind, width: int) -> str:
    """The type of LLVM of a number."""
    return {INT: "i64", SMALL: "i64", FLOAT: "double", BOOL: "i1", LANES: f"<{width} x double>"}[str(kind)]


def stored_as(dtype: np.dtype[Any]) -> tuple[str, str]:
    """How a number of `dtype` lies in memory, and what it is once loaded."""
    if dtype.kind == "f" and dtype.itemsize == 8:
        return "double", FLOAT
    if dtype.kind in "iu" and dtype != np.uint64:
        return f"i{8 * dtype.itemsize}", SMALL if dtype.kind == "u" else INT
    if dtype.kind == "b":
        return "i8", BOOL
    raise TypeError(f"numbers of {dtype} in a kernel: int8 to int64, uint8 to uint32, bool or float64")


def unified(left: Kind, right: Kind, node: ast.AST) -> Kind:
    """What holds values of both kinds. Raises `TypeError` where nothing does."""
    if left == right:
        return left
    order = [BOOL, INT, SMALL, FLOAT]
    if left in order and right in order:
        return order[max(order.index(str(left)), order.index(str(right)))]
    if isinstance(left, Items) and isinstance(right, Items) and len(left.kinds) == len(right.kinds):
        pairs = zip(left.kinds, right.kinds, strict=True)
        return Items(tuple(unified(a, b, node) for a, b in pairs), left.names)
    raise unknown(node, f"is {left} and {right}")
