"""What the header of a trained model's file says, read without PyTorch: a wrong file is told before that is loaded."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from traces.errors import InvalidFile
from traces.foundation.documents import require_regular

FORM = "pregate-model-1"
"""The files that are read."""


def model_header(path: Path) -> dict[str, str]:
    """The header of a file of `save_model`. Raises `InvalidFile` for any other."""
    require_regular(path)
    try:
        with safe_open(path, framework="numpy") as file:
            header: dict[str, str] = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise InvalidFile(f"{path}: no safetensors file ({error})") from error
    if header.get("form") != FORM:
        raise InvalidFile(f"{path}: not a model of `pregate train`, which says form {FORM} in its header")
    return header
