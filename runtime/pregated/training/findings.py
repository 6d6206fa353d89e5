"""What an experiment says: paired differences between arms with confidence intervals, and recall curves.

Seeds are the sample: both arms of a pair start from the same trained model, see the same batches and are judged on the
same windows, so that what differs from seed to seed is left out. Intervals are Student's t over seeds, 95 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student

from traces.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class SeedEstimate:
    """The mean over `n` seeds, and half the width of its 95 % interval."""

    mean: float
    ci95: float
    n: int

    @property
    def sign(self) -> int:
        """1 or -1 where the interval leaves 0 out, else 0."""
        return 0 if abs(self.mean) <= self.ci95 else (1 if self.mean > 0 else -1)


def seed_estimate(values: Sequence[float]) -> SeedEstimate:
    """The mean of `values`, one a seed, with its interval. Raises `InvalidInput` below two."""
    n = len(values)
    if n < 2:
        raise InvalidInput(f"{n} seeds have no confidence interval: at least 2")
    half = float(student.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return SeedEstimate(float(np.mean(values)), half, n)


def findings(document: Mapping[str, Any]) -> dict[str, Any]:
    """`arms`: each one's loss and accuracy, and what it differs by from the conventional one; `pairs`: other paired
    differences of loss; `balance` of experts by arm; `recall` curves; all of a document of `run_experiment`.
    """
    seeds = document["seeds"]
    names = [name for name in seeds[0]["arms"] if name != "before"]
    lookaheads = document["plan"]["lookaheads"]
    longest = max(lookaheads)
    pairs = [(f"reuse_{n}", f"pregate_{n}") for n in lookaheads]
    pairs += [(f"frozen_{n}", f"pregate_{n}") for n in lookaheads]
    pairs += [(f"pregate_{n}", f"pregate_{n - 1}") for n in lookaheads if n > 1]
    pairs += [(f"pregate_{longest}", "pregate_1")] if longest > 2 else []
    return {
        "arms": {name: _arm(seeds, name) for name in names},
        "pairs": [{"arm": a, "beside": b, "loss": asdict(_difference(seeds, a, b, "loss"))} for a, b in pairs],
        "balance": {name: _balance(seeds, name) for name in names},
        "recall": recall_curves(seeds),
    }


def _difference(seeds: Sequence[Mapping[str, Any]], arm: str, beside: str, what: str) -> SeedEstimate:
    return seed_estimate([seed["arms"][arm][what] - seed["arms"][beside][what] for seed in seeds])


def _arm(seeds: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for what in ("loss", "accuracy"):
        figures[what] = asdict(seed_estimate([seed["arms"][name][what] for seed in seeds]))
        figures[f"{what}_difference"] = asdict(_difference(seeds, name, "conventional", what))
    return figures


def _balance(seeds: Sequence[Mapping[str, Any]], name: str) -> dict[str, dict[str, float | int]]:
    """The mean over blocks of each seed's figures, with the interval over seeds."""
    parts = ("busiest_over_mean", "effective_share")
    return {
        part: asdict(seed_estimate([float(np.mean(seed["arms"][name]["balance"][part])) for seed in seeds]))
        for part in parts
    }


def recall_curves(seeds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a model, predictor, lookahead and block (`block` None: all blocks of that lookahead)."""
    rows = []
    for model in seeds[0]["recall"]:
        keys = [(row["predictor"], row["lookahead"], row["block"]) for row in seeds[0]["recall"][model]]
        of_seed = [
            {(r["predictor"], r["lookahead"], r["block"]): r["recall"] for r in seed["recall"][model]} for seed in seeds
        ]
        for predictor, lookahead in dict.fromkeys(key[:2] for key in keys):
            blocks = [key for key in keys if key[:2] == (predictor, lookahead)]
            whole = [float(np.mean([one[key] for key in blocks])) for one in of_seed]
            about = {"model": model, "predictor": predictor, "lookahead": lookahead}
            rows.append(about | {"block": None} | asdict(seed_estimate(whole)))
            rows += [about | {"block": key[2]} | asdict(seed_estimate([one[key] for one in of_seed])) for key in blocks]
    return rows
