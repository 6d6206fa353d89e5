"""The text of one function of LLVM in the making: instructions, blocks, variables."""

from __future__ import annotations

import ast
import struct

from compiled.kinds import (
    BOOL,
    FLOAT,
    INT,
    LANES,
    SMALL,
    Array,
    Items,
    Kind,
    Record,
    Value,
    flat_kinds,
    llvm_of,
    stored_as,
    unknown,
)


class Writer:
    """Instructions so far; `width`: numbers side by side in `LANES`."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.lines: list[str] = []
        self._variables: list[str] = []
        self._stored: dict[str, tuple[str, ...]] = {}
        self._n = 0
        self._is_open = True

    def text(self, head: str) -> str:
        """The function: its head, its variables, its instructions."""
        return "\n".join([f"{head} {{", "entry:", *self._variables, *self.lines, "}"])

    def new(self, instruction: str) -> str:
        """Write an instruction that has a result; the word for it."""
        self._n += 1
        self.write(f"%t{self._n} = {instruction}")
        return f"%t{self._n}"

    def write(self, instruction: str) -> None:
        """Write an instruction; after the end of a block, one that is never reached."""
        if not self._is_open:
            self.label(self.block())
        self.lines.append(f"  {instruction}")

    def block(self) -> str:
        """The name of a block to come."""
        self._n += 1
        return f"b{self._n}"

    def label(self, name: str) -> None:
        """The block `name` begins; what comes before goes on into it."""
        if self._is_open:
            self.lines.append(f"  br label %{name}")
        self.lines.append(f"{name}:")
        self._is_open = True

    def ends(self, instruction: str) -> None:
        """Write the last instruction of a block."""
        self.write(instruction)
        self._is_open = False

    def go(self, name: str) -> None:
        """On to block `name`."""
        self.ends(f"br label %{name}")

    def branch(self, condition: str, yes: str, no: str) -> None:
        """On to one of two blocks."""
        self.ends(f"br i1 {condition}, label %{yes}, label %{no}")

    @property
    def is_open(self) -> bool:
        """Whether the block goes on."""
        return self._is_open

    def variable(self, name: str, kind: Kind) -> tuple[str, ...]:
        """Where the parts of a variable are kept."""
        if name not in self._stored:
            kinds = flat_kinds(kind, self.width)
            self._stored[name] = tuple(f'%"{name}.{i}"' for i in range(len(kinds)))
            self._variables += [f"  {at} = alloca {of}" for at, of in zip(self._stored[name], kinds, strict=True)]
        return self._stored[name]

    def room(self, name: str, of: str) -> str:
        """Where something of LLVM's type `of` is kept, once a function."""
        if name not in self._stored:
            self._stored[name] = (f'%"{name}"',)
            self._variables.append(f"  {self._stored[name][0]} = alloca {of}")
        return self._stored[name][0]

    def put(self, name: str, value: Value) -> None:
        """Into a variable of the kind of `value`."""
        places = self.variable(name, value.kind)
        for of, word, at in zip(flat_kinds(value.kind, self.width), value.words, places, strict=True):
            self.write(f"store {of} {word}, ptr {at}")

    def get(self, name: str, kind: Kind) -> Value:
        """What a variable holds."""
        places = zip(flat_kinds(kind, self.width), self.variable(name, kind), strict=True)
        return Value(kind, tuple(self.new(f"load {of}, ptr {at}") for of, at in places))

    def cast(self, value: Value, kind: Kind, node: ast.AST) -> Value:
        """`value` as another kind: a wider number, or the same."""
        if value.kind == kind:
            return value
        if isinstance(kind, Items) and isinstance(value.kind, Items):
            parts = zip(self.parts(value), kind.kinds, strict=True)
            return Value(kind, tuple(word for one, to in parts for word in self.cast(one, to, node).words))
        if {kind, value.kind} == {INT, SMALL}:
            return Value(kind, value.words)
        if kind in (INT, SMALL) and value.kind == BOOL:
            return Value(kind, (self.new(f"zext i1 {value.word} to i64"),))
        if kind == FLOAT and value.kind in (INT, SMALL):
            return Value(FLOAT, (self._float_of(value.word),))
        if kind == FLOAT and value.kind == BOOL:
            return Value(FLOAT, (self.new(f"uitofp i1 {value.word} to double"),))
        raise unknown(node, f"{value.kind} where {kind} is")

    def _float_of(self, word: str) -> str:
        return self.new(f"sitofp i64 {word} to double") if word.startswith("%") else constant(float(word))

    def parts(self, value: Value) -> list[Value]:
        """Of a tuple, its values."""
        found, at = [], 0
        for kind in value.kind.kinds if isinstance(value.kind, Items) else ():
            n = len(flat_kinds(kind, self.width))
            found.append(Value(kind, value.words[at : at + n]))
            at += n
        return found

    def truth(self, value: Value, node: ast.AST) -> str:
        """Whether a number is not 0."""
        if value.kind == BOOL:
            return value.word
        if value.kind in (INT, SMALL):
            return self.new(f"icmp ne i64 {value.word}, 0")
        if value.kind == FLOAT:
            return self.new(f"fcmp une double {value.word}, {constant(0.0)}")
        raise unknown(node, f"{value.kind} is neither true nor false")

    def element(self, array: Value, indices: list[Value], node: ast.AST) -> Value:
        """Element or row of an array, as an array of what is left: without dimensions an element."""
        if not isinstance(array.kind, Array) or len(indices) > array.kind.ndim:
            raise unknown(node, f"{array.kind} has no such element")
        pointer, *sizes = array.words
        offset = "0"
        for axis, size in enumerate(sizes):
            index = self._index(indices[axis], size, node) if axis < len(indices) else "0"
            offset = self._sum(self._product(offset, size), index)
        dtype = array.kind.dtype
        step = f"i{8 * dtype.itemsize}" if dtype.names is None else f"[{dtype.itemsize} x i8]"
        word = pointer if offset == "0" else self.new(f"getelementptr inbounds {step}, ptr {pointer}, i64 {offset}")
        return Value(Array(dtype, array.kind.ndim - len(indices)), (word, *sizes[len(indices) :]))

    def _index(self, index: Value, size: str, node: ast.AST) -> str:
        """An index as it counts from the first element: one below 0 counts from behind."""
        word = self.cast(index, INT, node).word
        if not word.startswith("%"):
            return word if int(word) >= 0 else self.new(f"add i64 {word}, {size}")
        behind = self.new(f"icmp slt i64 {word}, 0")
        from_end = self.new(f"add i64 {word}, {size}")
        return self.new(f"select i1 {behind}, i64 {from_end}, i64 {word}")

    def _product(self, left: str, right: str) -> str:
        return "0" if left == "0" else self.new(f"mul i64 {left}, {right}")

    def _sum(self, left: str, right: str) -> str:
        return right if left == "0" else left if right == "0" else self.new(f"add i64 {left}, {right}")

    def read(self, place: Value) -> Value:
        """What lies at an element: a number, or a record."""
        assert isinstance(place.kind, Array)
        dtype = place.kind.dtype
        if place.kind.ndim:
            return place
        return Value(Record(dtype), place.words) if dtype.names else self.load(place.word, dtype)

    def load(self, at: str, dtype: object) -> Value:
        """A number of `dtype` at an address."""
        import numpy as np

        kept = np.dtype(dtype)  # type: ignore[call-overload]
        of, kind = stored_as(kept)
        word = self.new(f"load {of}, ptr {at}, align {kept.itemsize}")
        if kind == BOOL:
            word = self.new(f"icmp ne i8 {word}, 0")
        elif kind in (INT, SMALL) and of != "i64":
            word = self.new(f"{'zext' if kept.kind == 'u' else 'sext'} {of} {word} to i64")
        return Value(kind, (word,))

    def save(self, at: str, dtype: object, value: Value, node: ast.AST) -> None:
        """A number of `dtype` to an address; of a whole number its lowest bits."""
        import numpy as np

        kept = np.dtype(dtype)  # type: ignore[call-overload]
        of, kind = stored_as(kept)
        if kind == BOOL:
            word = self.new(f"zext i1 {self.truth(value, node)} to i8")
        else:
            word = self.cast(value, kind, node).word
            if kind in (INT, SMALL) and of != "i64":
                word = self.new(f"trunc i64 {word} to {of}") if word.startswith("%") else word
        self.write(f"store {of} {word}, ptr {at}, align {kept.itemsize}")

    def field(self, record: Value, name: str, node: ast.AST) -> tuple[str, object]:
        """Where a field of a record lies, and its dtype."""
        fields = record.kind.dtype.fields if isinstance(record.kind, Record) else None
        if fields is None or name not in fields:
            raise unknown(node, f"{record.kind} has no such field")
        dtype, offset = fields[name][:2]
        return self.new(f"getelementptr inbounds i8, ptr {record.word}, i64 {offset}"), dtype

    def lanes(self, word: str) -> str:
        """A number on all lanes."""
        of = llvm_of(LANES, self.width)
        first = self.new(f"insertelement {of} poison, double {word}, i32 0")
        return self.new(f"shufflevector {of} {first}, {of} poison, <{self.width} x i32> zeroinitializer")


def constant(value: float) -> str:
    """A float64 as LLVM writes it: its bits."""
    return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"
