"""Write what one copy brings, what writing back costs and reading ahead gains, on one machine, into docs/policies.md
and docs/residency.md: `python docs/granularity_tables.py`.

`docs/build.py` makes some rows anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import marked_tables

import pregate
from simulator.modes import FIFO, Modes

POLICIES, RESIDENCY = (Path(__file__).with_name(name) for name in ("policies.md", "residency.md"))

HARDWARE, STACK = "rtx-4090", "streams"
MODELS = {"mixtral-8x7b": 0.2, "qwen3-30b-a3b": 0.3}
"""Models, and the share of the experts that a cache of each holds."""
DESIGNS = ("on_demand", "pregate", "prefetch_all")
GRAINS = ("layer", "expert", "matrix", "1MiB")


def _machine() -> pregate.Platform:
    return pregate.load_hardware(HARDWARE, STACK, overrides={"host.dram_bytes": 128e9})


def grains(models: Sequence[str] = tuple(MODELS), designs: Sequence[str] = DESIGNS) -> str:
    """Milliseconds a token of each design by what one copy brings; no cache."""
    hw = _machine()
    lines = ["| model, design | " + " | ".join(GRAINS) + " |", "|---" * (len(GRAINS) + 1) + "|"]
    for name in models:
        model = pregate.load_model(name)
        trace = pregate.synthesize(model, 4, 8)
        for design in designs:
            cells = []
            for grain in GRAINS:
                policy = design if grain == "expert" else f"{design}:granularity={grain}"
                cells.append(f"{1e3 * pregate.simulate(model, hw, trace, policy).tpot_s:.1f}")
            lines.append(f"| {name}, `{design}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def written_back(models: Sequence[str] = tuple(MODELS)) -> str:
    """The same cache, forgetting what it lets go and writing it back; links that share a cap both ways too."""
    hw = _machine()
    lines = ["| model, cache | forgets | writes back | both ways under one cap | fetched | written back |"]
    lines.append("|---" * 6 + "|")
    for name in models:
        model, ratio = pregate.load_model(name), MODELS[name]
        trace = pregate.synthesize(model, 4, 8)
        cache = f"lru:{ratio}:per_layer:warm"
        plain = pregate.simulate(model, hw, trace, f"on_demand+{cache}")
        back, capped = (
            pregate.simulate(model, hw, trace, f"on_demand+{cache}:write_back", modes=modes)
            for modes in (FIFO, Modes(both_ways=True))
        )
        times = " | ".join(f"{1e3 * one.tpot_s:.1f} ms" for one in (plain, back, capped))
        sizes = f"{back.h2d_bytes / 1e9:.1f} GB | {back.written_back_bytes / 1e9:.1f} GB"
        lines.append(f"| {name}, `{cache}` | {times} | {sizes} |")
    return "\n".join(lines)


AHEAD = ("pregate", "pregate:dram=4", "pregate(4)", "guess/markov", "guess/markov:dram=4")


def read_ahead(designs: Sequence[str] = AHEAD) -> str:
    """Experts on storage, a quarter of them in host memory: what reading ahead into that gains, and what it takes."""
    hw, model = pregate.load_hardware(HARDWARE, STACK), pregate.load_model("qwen3-30b-a3b")
    trace = pregate.synthesize(model, 16, 24)
    lines = ["| design | tokens/s | read | found in host memory | slots on the device |", "|---" * 5 + "|"]
    for design in designs:
        found = pregate.simulate(model, hw, trace, f"{design}+lru:0.1", expert_tier="ssd+lru:0.25:warm")
        read = f"{found.storage_bytes / 1e9:.1f} GB | {found.host_hit_rate:.0%}"
        lines.append(f"| `{design}` | {found.tokens_per_s:.2f} | {read} | {found.n_expert_slots} |")
    return "\n".join(lines)


def some_rows() -> dict[Path, list[str]]:
    """Rows that a check makes anew: of the model that is quick, and of one design that reads ahead."""
    quick = list(MODELS)[:1]
    copied, back, ahead = grains(quick, DESIGNS[:2]), written_back(quick), read_ahead(AHEAD[1:2])
    return {POLICIES: [*copied.splitlines()[2:], *back.splitlines()[2:]], RESIDENCY: ahead.splitlines()[2:]}


if __name__ == "__main__":
    from script_arguments import given

    given(__doc__)
    marked_tables.write(POLICIES, {"granularity": grains, "written_back": written_back})
    marked_tables.write(RESIDENCY, {"read_ahead": read_ahead})
