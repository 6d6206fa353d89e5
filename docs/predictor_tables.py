"""Write what predictors are worth into docs/predictors.md: `python docs/predictor_tables.py`, a minute of a processor.

`docs/build.py` makes some rows of both tables anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import marked_tables

import pregate
from traces.recorded import recorded_names

PAGE = Path(__file__).with_name("predictors.md")

DESIGNS = (
    "on_demand", "pregate", "guess/next_gate", "guess/next_gate:recall=0.91", "guess/markov", "guess/maps",
    "guess/matrices", "guess/learned", "guess/shuffled_learned", "guess/popular", "guess/uniform", "oracle",
)  # fmt: skip
LINKS_BYTES_PER_S = (25e9, 100e9)


def curves(names: Sequence[str] | None = None) -> str:
    """Recall one layer ahead of every predictor, or of some, on the recordings that ship."""
    found = {name: pregate.predictors(pregate.load_trace(name), names, [1], [0, 4]) for name in recorded_names()}
    lines = ["| predictor | " + " | ".join(f"{name}: k, k + 4 (shuffled)" for name in found) + " |"]
    lines.append("|---" * (len(found) + 1) + "|")
    for predictor in dict.fromkeys(row.predictor for row in next(iter(found.values()))):
        cells = []
        for one in found.values():
            row = next(row for row in one if (row.predictor, row.more) == (predictor, 0))
            control = "" if row.shuffled != row.shuffled else f" ({100 * row.shuffled:.1f})"
            cells.append(f"{100 * row.value:.1f}, {100 * one.value(predictor, 1, 4):.1f}{control}")
        lines.append(f"| `{predictor}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def worth(designs: Sequence[str] = DESIGNS, links: Sequence[float] = LINKS_BYTES_PER_S) -> str:
    """What each predictor is worth in a run of the Qwen3 recording, on a slower and on a faster link."""
    model, trace = pregate.load_model("qwen3-30b-a3b", top_k=6), pregate.load_trace("qwen3-30b-a3b-phone")
    lines = ["| design | link | tokens/s | link bytes | precision | recall | wasted | early | in time |"]
    lines.append("|---" * 9 + "|")
    for link in links:
        hw = pregate.load_hardware("rtx-4090", "streams", overrides={"link.h2d_bytes_per_s": link})
        for design in designs:
            cache = "belady" if design == "oracle" else "lru"
            result = pregate.simulate(model, hw, trace, f"{design}+{cache}:0.2")
            ahead = result.prefetches
            shown = ["-"] * 5
            if ahead is not None:
                shown = [f"{100 * ahead.precision:.1f} %", f"{100 * ahead.recall:.1f} %",
                         f"{ahead.wasted_bytes / 1e9:.1f} GB", f"{1e3 * ahead.early_s:.2f} ms",
                         f"{100 * ahead.in_time:.0f} %"]  # fmt: skip
            lines.append(
                f"| `{result.policy}` | {link / 1e9:g} GB/s | {result.decode_tokens_per_s:.1f} | "
                f"{result.h2d_bytes / 1e9:.1f} GB | " + " | ".join(shown) + " |"
            )
    return "\n".join(lines)


def some_rows() -> dict[Path, list[str]]:
    """Rows that a check makes anew: of what learns nothing by linear maps, which is most of the time."""
    quick = curves(("popular", "markov", "maps", "uniform", "oracle"))
    run = worth(("guess/next_gate",), LINKS_BYTES_PER_S[:1])
    return {PAGE: [*quick.splitlines()[2:], *run.splitlines()[2:]]}


if __name__ == "__main__":
    from script_arguments import given

    given(__doc__)
    marked_tables.write(PAGE, {"curves": curves, "worth": worth})
