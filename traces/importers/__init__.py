"""Foreign trace formats: one file each, one line here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from traces.documents import require_regular
from traces.errors import unknown_name
from traces.importers.gptoss_npz import import_gptoss_npz
from traces.importers.route_trace_v1 import import_route_trace_v1
from traces.routing import RoutingTrace

__all__ = ["IMPORTERS", "import_trace"]

IMPORTERS: dict[str, Callable[[Path], RoutingTrace]] = {
    "route_trace_v1": import_route_trace_v1,
    "gptoss_npz": import_gptoss_npz,
}
"""Format name -> function of a path. Each raises `InvalidFile` for a file it cannot read."""


def import_trace(path: Path | str, trace_format: str) -> RoutingTrace:
    """Read `path` in `trace_format`. Raises `UnknownName` (the format) or `InvalidFile` (the file)."""
    if trace_format not in IMPORTERS:
        raise unknown_name("trace format", trace_format, IMPORTERS)
    require_regular(Path(path))
    return IMPORTERS[trace_format](Path(path))
