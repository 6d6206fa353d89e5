"""pregate's own safetensors among the formats that can be imported: it says all of its shape."""

from __future__ import annotations

from pathlib import Path

from traces.importers.recording import ModelShape
from traces.routing import RoutingTrace
from traces.storage import load_trace


def import_own(path: Path, shape: ModelShape = ModelShape()) -> RoutingTrace:  # noqa: B008 (frozen)
    """The trace in `path`, whatever `shape` says. Raises `InvalidFile`."""
    return load_trace(path)
