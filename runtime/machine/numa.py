"""Memory of another socket: which nodes there are, and how memory comes to lie on one (Linux)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NODES = Path("/sys/devices/system/node")


def nodes() -> list[int]:
    """The memory nodes of this machine, by number; none where the kernel does not say."""
    numbers = [name.name.removeprefix("node") for name in _NODES.glob("node[0-9]*")]
    return sorted(int(number) for number in numbers if number.isdigit())


def other_node(device_node: int | None) -> int | None:
    """A node that is not the device's, with processors that this process may run on; None without one.

    `device_node` None, or below 0: nobody says where the device is attached.
    """
    if device_node is None or device_node < 0:
        return None
    return next((node for node in nodes() if node != device_node and cpus_of_node(node)), None)


def cpus_of_node(node: int) -> frozenset[int]:
    """The processors of a node that this process may run on; none where the kernel does not say."""
    try:
        listed = (_NODES / f"node{node}" / "cpulist").read_text(encoding="ascii").strip()
        spans = [part.partition("-") for part in listed.split(",") if part]
        cpus = {cpu for first, _, last in spans for cpu in range(int(first), int(last or first) + 1)}
    except (OSError, ValueError):
        return frozenset()
    return frozenset(cpus & os.sched_getaffinity(0))


@contextmanager
def on_node(node: int) -> Iterator[None]:
    """Run this thread on the processors of `node`: memory that it is the first to touch lies there."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus_of_node(node))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
