"""Files that are a model itself, weights and all: which names mean one, and who reads it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from traces.model.model_architecture import ModelArchitecture

__all__ = ["is_weights", "read_weights"]


def is_weights(name: str | Path) -> bool:
    """Whether a name means a file of weights."""
    return Path(name).suffix.lower() == ".gguf"


def read_weights(path: Path) -> ModelArchitecture:
    """The architecture of the model at `path`, from the headers of its files. Raises `InvalidFile`."""
    from traces.model.gguf_architecture import from_gguf

    return from_gguf(path)
