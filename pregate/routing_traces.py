"""Routing traces and popularity by name, from files or made up, as `import pregate` offers them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from traces.errors import InvalidInput, check_least
from traces.importers import ModelShape
from traces.importers import import_trace as import_recorded
from traces.model.architecture import ModelArchitecture
from traces.recorded import recorded_path
from traces.recorded.dials import default_for, recorded_default, recorded_dials
from traces.routing import RoutingTrace
from traces.statistics.popularity import PopularityProfile, popularity_of
from traces.synthesis.dials import Dials, synthesize_routing
from traces.synthesis.forced import forced_active_routing
from traces.synthesis.free_choices import without_free_choices
from traces.transforms.rebatching import rebatch

DEFAULT_DIALS = recorded_default()
"""Of a model of many experts that nothing was recorded of: medians over recordings (traces/recorded/dials.json)."""


def load_trace(path: str | Path, *, batch: int | None = None, model: ModelArchitecture | None = None) -> RoutingTrace:
    """A routing trace by the name of one that ships, or by path: pregate's own, or a recording of a known format.

    `batch`: run that many of its sequences side by side; `model`: for what a recording does not say of its own. Raises
    `InvalidFile` for anything else, with the formats that can be read.
    """
    trace = import_trace(recorded_path(str(path)) or Path(path), model=model)
    return trace if batch is None else rebatch(trace, batch)


def import_trace(
    path: str | Path, format: str | None = None, *, model: ModelArchitecture | None = None
) -> RoutingTrace:
    """A recording in one of the formats of `traces.importers`; None: the one that it shows itself to be.

    `model` as of `load_trace`. Raises `UnknownName` or `InvalidFile`.
    """
    return import_recorded(Path(path), format, _shape(model))


def load_popularity(path: str | Path, *, model: ModelArchitecture | None = None) -> PopularityProfile:
    """How often each expert is chosen: a table of counts, or a routing trace by name or path, counted.

    `model`: of several tables in a file, the one of its shape. Raises `InvalidFile`, or `InvalidInput` for counts that
    are not of `model`.
    """
    from traces.importers.counts.expert_counts import import_popularity
    from traces.importers.files.packed_files import unpacked_file
    from traces.importers.sniffing import is_routing, recognise_popularity

    with unpacked_file(recorded_path(str(path)) or Path(path)) as plain:
        if recognise_popularity(plain) is not None and not is_routing(plain):
            profile = import_popularity(plain, _shape(model))
        else:
            profile = popularity_of(load_trace(plain, model=model))
    if model is not None:
        profile.check_model(model)
    return profile


def _shape(model: ModelArchitecture | None) -> ModelShape:
    """What a recording may leave out."""
    if model is None:
        return ModelShape()
    return ModelShape(model.decoder.n_layers, model.n_moe_layers, model.n_experts, model.top_k)


def synthesize(
    model: ModelArchitecture,
    input_tokens: int = 256,
    output_tokens: int = 256,
    batch: int = 1,
    seed: int = 0,
    *,
    dials: Dials | None = None,
    n_active: int | None = None,
    popularity: PopularityProfile | None = None,
) -> RoutingTrace:
    """A made-up trace of `batch` sequences: `dials` set its skew and locality (None: those fitted to a recording of the
    model, where one ships), `popularity` the skew alone, expert by expert; or `n_active` forces how many experts every
    step activates at every MoE layer. Raises `InvalidInput` for impossible counts or two that exclude each other.
    """
    if popularity is not None:
        popularity.check_model(model)
    if n_active is not None:
        if dials is not None or popularity is not None:
            raise InvalidInput("a number of active experts forces the routing: give no dials and no popularity with it")
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
    return routed_by_dials(model, input_tokens, output_tokens, batch, seed, dials=dials, popularity=popularity)


def routed_by_dials(
    model: ModelArchitecture,
    input_tokens: int,
    output_tokens: int,
    batch: int,
    seed: int,
    *,
    dials: Dials | None = None,
    popularity: PopularityProfile | None = None,
    begun: Sequence[RoutingTrace] = (),
) -> RoutingTrace:
    """What `synthesize` makes where no number of active experts is forced. `begun`: traces that the same call made of
    other tokens or sequences; what this one has in common with one of them is taken over.
    """
    chosen, origin = (dials, "dials as given") if dials is not None else default_dials(model)
    counted = "" if popularity is None else f"popularity of {popularity.provenance.source}"
    if popularity is not None:  # one exponent for all layers: it is not used
        chosen = replace(chosen, zipf_exponent=DEFAULT_DIALS.zipf_exponent)
    rng = seeded(seed)
    made = synthesize_routing(
        n_moe_layers=model.n_moe_layers,
        n_encoder_moe_layers=model.n_encoder_moe_layers,
        n_experts=model.n_experts,
        top_k=model.top_k,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        batch=batch,
        dials=chosen,
        rng=rng,
        model_name=model.name,
        shares=None if popularity is None else popularity.shares,
        origin="; ".join(filter(None, (origin, counted))),
        begun=() if model.n_free_experts else begun,
    )
    return without_free_choices(made, model.computed_share, rng) if model.n_free_experts else made


def default_dials(model: ModelArchitecture) -> tuple[Dials, str]:
    """The dials of a synthetic trace of `model` that gives none, and whose they are, in words."""
    recorded = recorded_dials(model.name, model.n_moe_layers)
    if recorded is None:
        return default_for(model.n_experts), "default dials"
    return recorded.dials, f"dials fitted to {recorded.trace}"


def random_token_dials(model: ModelArchitecture) -> Dials:
    """The dials of a synthetic trace of tokens that are drawn at random, as those of llama-bench and llama-sweep-bench
    are (tools/llama-bench/llama-bench.cpp, `test_prompt`): popularity alone, since no token has to do with another.
    """
    return replace(default_dials(model)[0], repeat_probability=0.0, sequence_affinity=0.0)


def seeded(seed: int) -> np.random.Generator:
    """The generator of a seed. Raises `InvalidInput` for a negative one."""
    check_least("seed", seed, 0)
    return np.random.default_rng(seed)
