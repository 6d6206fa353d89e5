"""What `compiled.system` means, as calls of the C library."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from compiled import system
from compiled.kinds import INT, NOTHING, Value
from compiled.writer import Writer

DECLARED = {
    "@memcpy(": "declare ptr @memcpy(ptr, ptr, i64)",
    "@clock_gettime(": "declare i32 @clock_gettime(i32, ptr)",
    "@nanosleep(": "declare i32 @nanosleep(ptr, ptr)",
}
"""By how they are called in a text, what its head says of them."""

_NS_PER_S = 1_000_000_000


def _timespec(writer: Writer) -> tuple[str, str]:
    """Where the seconds and the nanoseconds of a `timespec` of this function lie."""
    seconds = writer.room(".timespec", "[2 x i64]")
    return seconds, writer.new(f"getelementptr inbounds i64, ptr {seconds}, i64 1")


def _copy_bytes(writer: Writer, node: ast.Call, *given: Value) -> Value:
    target, source, n_bytes = (writer.cast(value, INT, node).word for value in given)
    to, of = (writer.new(f"inttoptr i64 {address} to ptr") for address in (target, source))
    writer.write(f"call ptr @memcpy(ptr {to}, ptr {of}, i64 {n_bytes})")
    return Value(NOTHING, ())


def _clock_ns(writer: Writer, node: ast.Call, clock: Value) -> Value:
    which = writer.new(f"trunc i64 {writer.cast(clock, INT, node).word} to i32")
    at, rest = _timespec(writer)
    writer.write(f"call i32 @clock_gettime(i32 {which}, ptr {at})")
    seconds, below = writer.new(f"load i64, ptr {at}"), writer.new(f"load i64, ptr {rest}")
    whole = writer.new(f"mul i64 {seconds}, {_NS_PER_S}")
    return Value(INT, (writer.new(f"add i64 {whole}, {below}"),))


def _sleep_ns(writer: Writer, node: ast.Call, duration: Value) -> Value:
    at, rest = _timespec(writer)
    writer.write(f"store i64 0, ptr {at}")
    writer.write(f"store i64 {writer.cast(duration, INT, node).word}, ptr {rest}")
    writer.write(f"call i32 @nanosleep(ptr {at}, ptr null)")
    return Value(NOTHING, ())


SYSTEM: dict[Any, Callable[..., Value]] = {
    system.copy_bytes: _copy_bytes,
    system.clock_ns: _clock_ns,
    system.sleep_ns: _sleep_ns,
}
