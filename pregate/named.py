"""Models, machines and policies by name or from a file.

Nothing here imports numpy: a name that is not known is told at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hwmodels.fits.fit import Fit
from hwmodels.platform import Platform, load_platform, platform_of
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture, load_architecture

if TYPE_CHECKING:
    from offload.policy import Policy

__all__ = ["load_hardware", "load_model", "load_policy"]

_TOP_K = re.compile(r"top_k=(\d{1,4})", re.ASCII)


def load_model(
    name: str | Path,
    *,
    dtype: str | None = None,
    top_k: int | None = None,
    formats: Mapping[str, str] | None = None,
) -> ModelArchitecture:
    """A model by name, YAML file, Hugging Face `config.json`, or its weights (`.gguf`), stored as these are.

    `dtype`, `top_k` replace the published ones, and a name may say the latter itself (`deepseek-v3?top_k=6`);
    `formats` those of parts, as `ModelArchitecture.with_formats` takes them (`{"experts": "q4_k", "attention":
    "q8_0"}`), in place of what `dtype` gives them. Raises `UnknownName` with the nearest name, `InvalidFile` or
    `InvalidInput`.
    """
    name, stated = _name_and_top_k(name)
    if stated is not None and top_k is not None:
        raise InvalidInput(f"{name}?top_k={stated} and a top_k of {top_k}: give one of the two")
    top_k = stated if top_k is None else top_k
    model = load_architecture(name)
    if dtype is not None:
        model = model.with_dtype(dtype)
    if formats is not None:
        model = model.with_formats(formats)
    return model if top_k is None else model.with_top_k(top_k)


def _name_and_top_k(name: str | Path) -> tuple[str | Path, int | None]:
    """A model's name without `?top_k=N`, and that number. Raises `InvalidInput` for anything else behind a `?`."""
    if not isinstance(name, str) or "?" not in name or os.path.exists(name):
        return name, None
    bare, _, asked = name.partition("?")
    match = _TOP_K.fullmatch(asked)
    if match is None:
        raise InvalidInput(f"model {name!r}: only ?top_k=N may follow a name, N experts a token")
    return bare, int(match[1])


def load_hardware(
    name: str | Path | Fit, stack: str | None = None, overrides: Mapping[str, float | str] | None = None
) -> Platform:
    """A machine by accelerator name or YAML file, with a software stack (None: the one it was fitted with).

    A fit that `pregate.calibrate` returned is a machine too, with its own stack only.

    `overrides`: dotted keys, numbers in SI or text with a unit: `{"link.h2d_bytes_per_s": 64e9, "hbm_bytes": "24GiB",
    "stack.sync_s": "5us", "link": "pcie5-x16"}`. Raises `UnknownName` or `InvalidInput`.
    """
    if isinstance(name, str | Path):
        if "," in str(name) and not os.path.exists(name):
            raise InvalidInput(
                f"hardware {str(name)[:80]!r}: one machine is asked about here; `pregate plan` ranks several"
            )
        return load_platform(str(name), stack, overrides)
    if stack not in (None, name.stack):
        raise InvalidInput(f"stack {stack}: the fit was made on {name.stack}, leave the stack out")
    return platform_of(name, overrides)


def load_policy(text: str) -> Policy:
    """A policy as the command line spells it, code of your own included: `./mine.py:MyPolicy:depth=2+lru:0.1`.

    Executes the file, with all that you may do. Raises `UnknownName`, `InvalidFile` or `InvalidInput`.
    """
    from offload.own_policies import is_own_name, load_own
    from offload.policies import policy_named

    if is_own_name(text):
        load_own(text)
    return policy_named(text)
