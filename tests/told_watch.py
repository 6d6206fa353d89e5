"""A watch on the machine that sees what a test tells it to, whatever else runs there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from runtime.machine.watch import Seen

QUIET = Seen(foreign=0.0, steal=0.0, clock=1.0)


class Watch:
    """In place of `runtime.machine.watch.LoadWatch`: sees a quiet machine."""

    seen = QUIET

    def __init__(self, clock: object = None) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def watch_of(see: Callable[[], Seen]) -> type[Watch]:
    """A watch that asks `see` each time it begins."""

    class Told(Watch):
        def __enter__(self) -> Self:
            self.seen = see()
            return self

    return Told
