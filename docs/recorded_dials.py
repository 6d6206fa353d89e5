"""Fits the synthetic dials to every recorded trace that ships and writes traces/recorded/dials.json.

    python docs/recorded_dials.py

With them the decode hit rate of an LRU a layer, by the share of a layer's experts resident: of the recording, and of a
synthetic trace as long by these dials and by the default ones.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np

from pregate import routing_traces
from pregate.named import load_model
from traces.recorded.dials import MODEL_OF, PATH, SHARES
from traces.routing import RoutingTrace
from traces.statistics.locality import lru_hit_rates
from traces.synthesis.dials import Dials
from traces.synthesis.fitting import fit_dials
from traces.transforms.rebatching import rebatch
from traces.whole_file import whole_file


def main() -> None:
    """Write the file."""
    document = {model: entry(model, trace) for model, trace in MODEL_OF.items()}
    with whole_file(PATH) as partial:
        partial.write_text(json.dumps(document, indent=1) + "\n")


def entry(name: str, trace_name: str) -> dict[str, Any]:
    """Dials and hit rates of one model."""
    trace = routing_traces.load_trace(trace_name)
    dials = fit_dials(trace, np.random.default_rng(0), every_expert=True).dials
    dials = Dials(**{key: _rounded(value) for key, value in asdict(dials).items()})
    model = load_model(name, top_k=trace.top_k)
    prompt = max(1, int((trace.phase == 0).sum() / trace.n_sequences))
    length = max(2, round(trace.decode_only().n_tokens / trace.n_sequences))

    def made(given: Dials) -> dict[str, float]:
        return rates(routing_traces.synthesize(model, prompt, length, trace.n_sequences, 0, dials=given))

    return {
        "trace": trace_name,
        "digest": trace.digest,
        "note": f"top-{trace.top_k}, {trace.n_sequences} sequences, {trace.decode_only().n_tokens} decode tokens",
        "dials": asdict(dials),
        "lru_hit_rate": {
            "recorded": rates(trace),
            "synthetic": made(dials),
            "default_dials": made(routing_traces.DEFAULT_DIALS),
        },
    }


def rates(trace: RoutingTrace) -> dict[str, float]:
    """Decode hit rate of an LRU a layer, sequences one after another, by the share of experts resident."""
    decoded = rebatch(trace, 1)
    slots = [round(share * trace.n_experts) for share in SHARES]
    found = lru_hit_rates(decoded, slots)
    return {f"{share:g}": round(rate, 4) for share, rate in zip(SHARES, found, strict=True)}


def _rounded(value: Any) -> Any:
    return tuple(round(one, 3) for one in value) if isinstance(value, tuple) else round(value, 4)


if __name__ == "__main__":
    main()
