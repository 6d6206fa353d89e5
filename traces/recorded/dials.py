"""Synthetic dials and hit rates of models that a recorded trace ships of, and the dials of any other model, as
`docs/recorded_dials.py` fitted them.

One or twelve greedy prompts each: locality belongs to prompt, k and decoding, not to a model alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from traces.synthesis.dials import Dials

PATH = Path(__file__).parent / "dials.json"
MODEL_OF = {
    "gpt-oss-20b": "gpt-oss-20b-mmlu",
    "gpt-oss-120b": "gpt-oss-120b-phone",
    "qwen3-30b-a3b": "qwen3-30b-a3b-phone",
}
"""Model -> the recorded trace its dials are fitted to."""
FEW_EXPERTS = 16
"""Midway, as a ratio, between 8 (counted alone) and 32 (the fewest recorded)."""
SHARES = (0.1, 0.25, 0.4, 0.5, 0.75)
"""Shares of a layer's experts that are resident, at which hit rates were counted."""


@dataclass(frozen=True, slots=True)
class RecordedDials:
    """Dials of one model and the recorded trace they were fitted to."""

    dials: Dials
    trace: str


def recorded_dials(model: str, n_moe_layers: int) -> RecordedDials | None:
    """The dials of a model by name; None where no trace of it ships, or it has another number of MoE layers."""
    entry = _document()["models"].get(model)
    if entry is None or len(entry["dials"]["zipf_exponent"]) != n_moe_layers:
        return None
    exponents = tuple(entry["dials"]["zipf_exponent"])
    return RecordedDials(Dials(**(entry["dials"] | {"zipf_exponent": exponents})), entry["trace"])


def recorded_default() -> Dials:
    """The dials of a model that nothing was recorded of: medians over the models that were."""
    return Dials(**_document()["default"]["dials"])


def default_for(n_experts: int) -> Dials:
    """As `recorded_default`; with up to `FEW_EXPERTS` a layer those of the only such model that was counted."""
    return Dials(**_document()["few_experts"]["dials"]) if n_experts <= FEW_EXPERTS else recorded_default()


def recorded_hit_rates(share: float) -> dict[str, float]:
    """Decode hit rate of an LRU that holds `share` of each layer's experts, by recorded trace; between shares counted,
    linear.
    """
    return _hit_rates("recorded", share)


def default_error(share: float) -> float:
    """The largest error of that hit rate by default dials made of the other models, in either direction."""
    made = _hit_rates("left_out", share)
    return max(abs(made[name] - rate) for name, rate in recorded_hit_rates(share).items())


def _hit_rates(whose: str, share: float) -> dict[str, float]:
    found = {}
    for entry in _document()["models"].values():
        rates = entry["lru_hit_rate"][whose]
        found[str(entry["trace"])] = float(
            np.interp(share, [0.0, *map(float, rates), 1.0], [0.0, *rates.values(), 1.0])
        )
    return found


@cache
def _document() -> dict[str, Any]:
    """The file, read once."""
    document: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
    return document
