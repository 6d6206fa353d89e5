"""Models and machines by name or from a file. Nothing here imports numpy: a name that is not known is told at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hwmodels.platform import Platform, load_platform
from traces.model.architecture import ModelArchitecture, load_architecture

__all__ = ["load_hardware", "load_model"]


def load_model(
    name: str | Path,
    *,
    dtype: str | None = None,
    top_k: int | None = None,
    formats: Mapping[str, str] | None = None,
) -> ModelArchitecture:
    """A model by name, YAML file, Hugging Face `config.json`, or its weights (`.gguf`), stored as these are.

    `dtype`, `top_k` replace the published ones; `formats` those of parts, as `ModelArchitecture.with_formats` takes
    them (`{"experts": "q4_k", "attention": "q8_0"}`), in place of what `dtype` gives them. Raises `UnknownName` with
    the nearest name, `InvalidFile` or `InvalidInput`.
    """
    model = load_architecture(name)
    if dtype is not None:
        model = model.with_dtype(dtype)
    if formats is not None:
        model = model.with_formats(formats)
    return model if top_k is None else model.with_top_k(top_k)


def load_hardware(name: str, stack: str | None = None, overrides: Mapping[str, float | str] | None = None) -> Platform:
    """A machine by accelerator name or YAML file, with a software stack (None: the one it was fitted with).

    `overrides`: dotted keys, numbers in SI or text with a unit: `{"link.h2d_bytes_per_s": 64e9, "hbm_bytes": "24GiB",
    "stack.sync_s": "5us", "link": "pcie5-x16"}`. Raises `UnknownName` or `InvalidInput`.
    """
    return load_platform(name, stack, overrides)
