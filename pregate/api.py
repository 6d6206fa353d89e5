"""What `import pregate` offers: names of models, machines and traces become objects."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hwmodels.platform import Platform, load_platform
from traces.documents import open_regular
from traces.errors import InvalidInput
from traces.forced import forced_active_routing
from traces.importers import IMPORTERS
from traces.importers import import_trace as import_recorded
from traces.model.architecture import ModelArchitecture, load_architecture
from traces.recorded import recorded_path
from traces.routing import RoutingTrace, rebatch
from traces.storage import load_trace as load_stored
from traces.synthesis import Dials, synthesize_routing

__all__ = ["import_trace", "load_hardware", "load_model", "load_trace", "seeded", "synthesize"]

DEFAULT_ZIPF = 0.6
DEFAULT_DIALS = Dials(zipf_exponent=DEFAULT_ZIPF, repeat_probability=0.15, layer_correlation=0.0)
"""Locality where no trace is given: next-token reuse a little above chance, as on the least local recorded model
(gpt-oss-120b, 17.9 % against 1.6 % at random). Cautious: real prompts of other models reuse up to 43 %."""


def load_model(name: str | Path, *, dtype: str | None = None, top_k: int | None = None) -> ModelArchitecture:
    """A model by name, YAML file or Hugging Face `config.json`; `dtype`, `top_k` replace the published ones.

    Raises `UnknownName` with the nearest name, `InvalidFile` or `InvalidInput`.
    """
    model = load_architecture(name)
    if dtype is not None:
        model = model.with_dtype(dtype)
    return model if top_k is None else model.with_top_k(top_k)


def load_hardware(name: str, stack: str | None = None, overrides: Mapping[str, float | str] | None = None) -> Platform:
    """A machine by accelerator name or YAML file, with a software stack (None: the one it was fitted with).

    `overrides`: dotted keys, numbers in SI or text with a unit: `{"link.h2d_bytes_per_s": 64e9, "hbm_bytes": "24GiB",
    "stack.sync_s": "5us", "link": "pcie5-x16"}`. Raises `UnknownName` or `InvalidInput`.
    """
    return load_platform(name, stack, overrides)


def load_trace(path: str | Path, *, batch: int | None = None) -> RoutingTrace:
    """A routing trace by the name of one that ships, or by path: pregate's own, or a recording of a known format.

    `batch`: run that many of its sequences side by side. Raises `InvalidFile` for anything else.
    """
    path = recorded_path(str(path)) or Path(path)
    name = _recorded_format(path)
    trace = load_stored(path) if name is None else import_recorded(path, name)
    return trace if batch is None else rebatch(trace, batch)


def import_trace(path: str | Path, format: str) -> RoutingTrace:
    """A recording in one of the formats of `traces.importers`. Raises `UnknownName` or `InvalidFile`."""
    return import_recorded(Path(path), format)


def _recorded_format(path: Path) -> str | None:
    """The importer for a file, by its first bytes; None for our own format. Raises `InvalidFile` as `open_regular`."""
    with open_regular(path) as file:
        head = file.read(64).removeprefix(codecs.BOM_UTF8)
    if head.startswith(b"# route_trace v1"):
        return "route_trace_v1"
    return "gptoss_npz" if head.startswith(b"PK\x03\x04") and "gptoss_npz" in IMPORTERS else None


def synthesize(
    model: ModelArchitecture,
    input_tokens: int = 256,
    output_tokens: int = 256,
    batch: int = 1,
    seed: int = 0,
    *,
    dials: Dials | None = None,
    n_active: int | None = None,
) -> RoutingTrace:
    """A made-up trace of `batch` sequences: `dials` set its skew and locality, or `n_active` forces how many experts
    every step activates at every MoE layer. Raises `InvalidInput` for impossible counts or both at once.
    """
    if n_active is not None:
        if dials is not None:
            raise InvalidInput("give dials or a number of active experts, not both")
        return forced_active_routing(
            n_moe_layers=model.n_moe_layers,
            n_encoder_moe_layers=model.n_encoder_moe_layers,
            n_experts=model.n_experts,
            top_k=model.top_k,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            batch=batch,
            n_active=n_active,
        )
    return synthesize_routing(
        n_moe_layers=model.n_moe_layers,
        n_encoder_moe_layers=model.n_encoder_moe_layers,
        n_experts=model.n_experts,
        top_k=model.top_k,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        batch=batch,
        dials=dials or DEFAULT_DIALS,
        rng=seeded(seed),
        model_name=model.name,
    )


def seeded(seed: int) -> np.random.Generator:
    """The generator of a seed. Raises `InvalidInput` for a negative one."""
    if seed < 0:
        raise InvalidInput(f"seed = {seed} is below 0")
    return np.random.default_rng(seed)
