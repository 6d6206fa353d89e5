"""What is read of a `config.json`, held against the bytes that the index of the weights beside it states.

A checkpoint that is smaller than its shapes and formats make it is stored otherwise than its configuration says.
"""

from __future__ import annotations

import re
from pathlib import Path

from traces.errors import InvalidFile

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_HEAD_BYTES = 4096
"""Where an index states its size: `metadata` comes before `weight_map`."""
_TOTAL = re.compile(rb'"total_size"\s*:\s*(\d{1,18})(?![\d.])')
_LEAST, _MOST = 0.85, 1.25
"""Shares of what is read: below, weights are stored otherwise; above, other modalities may stand beside."""


def held_against_index(folder: Path, total_bytes: int, where: str) -> str:
    """A note where the index in `folder` states far more bytes than `total_bytes`; empty where it agrees, or there is
    none. Raises `InvalidFile` where it states fewer.
    """
    found = next((folder / name for name in _INDEXES if (folder / name).is_file()), None)
    if found is None:
        return ""
    with found.open("rb") as file:
        match = _TOTAL.search(file.read(_HEAD_BYTES))
    stated = int(match[1]) if match else 0
    if not stated or _LEAST * total_bytes <= stated <= _MOST * total_bytes:
        return ""
    sizes = f"{found.name} beside it states {stated / 1e9:.4g} GB of weights, its shapes and formats make"
    if stated > total_bytes:
        return f"{sizes} {total_bytes / 1e9:.4g}: the rest is not read, or stored wider than the configuration says"
    raise InvalidFile(
        f"{where}: {sizes} {total_bytes / 1e9:.4g}: they are stored in other formats, or not all there: take the "
        "config.json alone, away from its index, and give the formats with --formats, such as all=w4.5"
    )
