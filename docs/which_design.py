"""Which design, where: `python docs/which_design.py` ranks designs over models, machines, batches and prompts.

It writes `results/which_design.json` (ten minutes of CPU) and the pictures of `docs/which-design.md`; its tables are
made from that file by `docs/build.py`. All designs run in one software, this project's own, so that what differs is
the design. Machines are claimed ones and routing is synthetic.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

from rules_of_thumb import draw

import pregate
from pregate.card.choice import ratio
from pregate.card.job import workpiece
from pregate.card.plan import platforms_of, ranked_on

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "which_design.json"
PICTURES = ROOT / "docs" / "pictures"
STACK = "streams"

MODELS: Mapping[str, Mapping[str, str] | None] = {
    "switch-base-128": None,
    "mixtral-8x7b": None,
    "qwen3-30b-a3b": None,
    "gpt-oss-120b": None,
}
"""Models, and the formats of their parts where these are not the published ones."""

MACHINES = ("rtx-3060-12gb", "rtx-4090", "rtx-5090", "a100-pcie-40gb", "h100-pcie", "gh200")
BATCHES = (1, 8, 64)
PROMPTS = (128, 2048)
OUTPUT_TOKENS = 64

RULES: Mapping[str, tuple[str, ...]] = {
    "all in HBM, else pre-gate": ("gpu_only", "pregate"),
    "all in HBM, else an LRU": ("gpu_only", "on_demand+lru"),
    "all in HBM, else experts on the host": ("gpu_only", "gpu_only@experts=cpu:keep=", "gpu_only@experts=cpu"),
    "all in HBM, else the next layer ahead": ("gpu_only", "prefetch_all"),
    "always pre-gate": ("pregate",),
    "fetch on demand": ("on_demand",),
}
"""Rules of thumb: the first of these designs that fits. A name that ends in `=` has a number after it."""


def main() -> None:
    """Rank all, a process a core; then the pictures."""
    cells = list(product(MODELS, MACHINES, BATCHES, PROMPTS))
    with ProcessPoolExecutor(2) as pool:
        found = [cell for cell in pool.map(ranked, cells) if cell is not None]
    RESULTS.write_text(json.dumps({"stack": STACK, "output_tokens": OUTPUT_TOKENS, "cells": found}, indent=1) + "\n")
    pictures()


def ranked(cell: tuple[str, str, int, int]) -> dict[str, Any]:
    """One cell: the best design and its rivals, what binds it, the margin, and seconds a request of every design."""
    name, machine, batch, prompt = cell
    at = {"model": name, "machine": machine, "batch": batch, "input_tokens": prompt}
    model = pregate.load_model(name, formats=MODELS[name])
    job = pregate.RequestLoad(prompt, OUTPUT_TOKENS, batch)
    try:
        platforms = platforms_of(model, machine, [STACK], None)
        choice, _ = ranked_on(model, workpiece(model, job, 0, None), platforms, "request")
    except pregate.PregateError as error:
        return at | {"best": None, "reason": str(error)[:160]}
    best = choice.best
    second = next((one for one in choice.ranked[1:]), None)
    margin = None if second is None else ratio(best, second, "request")
    print(*cell, best.design.policy, file=sys.stderr, flush=True)
    return at | {
        "best": best.design.policy,
        "request_s": _rounded(best.request.value),
        "ci95": [_rounded(side) for side in best.request.interval],
        "rivals": [one.design.policy for one in choice.rivals],
        "margin": None if margin is None else [_rounded(margin[0]), *(_rounded(side) for side in margin[1])],
        "prompt_binds": best.prompt_binds,
        "token_binds": best.token_binds,
        "designs": {one.design.policy: _rounded(one.request.value) for one in choice.ranked},
    }


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _cells() -> list[dict[str, Any]]:
    cells: list[dict[str, Any]] = json.loads(RESULTS.read_text())["cells"]
    return cells


def _by_rule(cell: Mapping[str, Any], names: Sequence[str]) -> float | None:
    """Seconds of the first design of a rule that fits."""
    for name in names:
        for design, seconds in cell["designs"].items():
            if design == name or (name.endswith("=") and design.startswith(name)):
                return float(seconds)
    return None


def verdicts() -> str:
    """A table a model: the best design of each machine, by batch and prompt."""
    parts = []
    for model in MODELS:
        heads = [f"batch {batch}, prompt {prompt}" for batch, prompt in product(BATCHES, PROMPTS)]
        lines = [f"**{model}**", "", f"| machine | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
        for machine in MACHINES:
            row = [cell for cell in _cells() if (cell["model"], cell["machine"]) == (model, machine)]
            by = {(cell["batch"], cell["input_tokens"]): cell for cell in row}
            lines.append(f"| {machine} | " + " | ".join(_told(by[at]) for at in product(BATCHES, PROMPTS)) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _told(cell: Mapping[str, Any]) -> str:
    """The best design and how far ahead; in brackets how many others cannot be told from it."""
    if cell["best"] is None:
        return "none fits"
    margin = (
        ""
        if cell["margin"] is None
        else f" {cell['margin'][0]:.2f}x ({cell['margin'][1]:.2f} to {cell['margin'][2]:.2f})"
    )
    open_ = f", not told from {len(cell['rivals'])}" if cell["rivals"] else ""
    return f"`{cell['best']}`{margin}{open_}; {cell['token_binds'].split(' (')[0]}"


def regrets() -> str:
    """How much longer requests take by each rule than by the best design, in per cent, over cells where one fits."""
    cells = [cell for cell in _cells() if cell["best"] is not None]
    lines = ["| rule | cells | median | mean | worst | where |", "|---|---|---|---|---|---|"]
    for rule, names in RULES.items():
        found = []
        for cell in cells:
            seconds = _by_rule(cell, names)
            if seconds is not None:
                found.append((seconds / min(cell["designs"].values()) - 1, cell))
        losses = sorted(loss for loss, _ in found)
        worst = max(found, key=lambda one: one[0])[1]
        where = f"{worst['model']}, {worst['machine']}, batch {worst['batch']}, prompt {worst['input_tokens']}"
        median, mean = losses[len(losses) // 2], sum(losses) / len(losses)
        lines.append(f"| {rule} | {len(losses)} | {median:.0%} | {mean:.0%} | {losses[-1]:.0%} | {where} |")
    return "\n".join(lines)


def headline() -> str:
    """How often each design is the best, and how often that can be said."""
    cells = [cell for cell in _cells() if cell["best"] is not None]
    counts = Counter(cell["best"].split(":keep=")[0] for cell in cells)
    told = ", ".join(f"`{name}` in {n}" for name, n in counts.most_common())
    sure = sum(not cell["rivals"] for cell in cells)
    fitting = [cell for cell in cells if "gpu_only" not in cell["designs"]]
    gated = sum(cell["best"].startswith("pregate") for cell in fitting)
    return (
        f"Of {len(_cells())} cells a design fits in {len(cells)}. The best is {told}. In {sure} of them it can be told "
        f"from every other design; in the others intervals straddle. Where not all fits into HBM, in {len(fitting)}, "
        f"pre-gating is the best in {gated}."
    )


def summary() -> str:
    """By whether all experts fit, and by batch: who is the best, how often that can be said, what binds it."""
    lines = [
        "| all in HBM | batch | cells | the best, in cells | told from all others | what binds it |",
        "|---" * 6 + "|",
    ]
    for fits, batch in product((True, False), BATCHES):
        cells = [cell for cell in _cells() if cell["best"] is not None and cell["batch"] == batch]
        cells = [cell for cell in cells if ("gpu_only" in cell["designs"]) == fits]
        best = Counter(cell["best"].split(":keep=")[0] for cell in cells)
        binds = Counter(cell["token_binds"].split(" (")[0] for cell in cells)
        sure = sum(not cell["rivals"] for cell in cells)
        told = ", ".join(f"`{name}` {n}" for name, n in best.most_common())
        lines.append(
            f"| {'fits' if fits else 'does not fit'} | {batch} | {len(cells)} | {told} | {sure} | "
            f"{', '.join(f'{what}: {n}' for what, n in binds.most_common())} |"
        )
    return "\n".join(lines)


def pictures() -> None:
    """What is said against pre-gating, a picture each."""
    lookahead(PICTURES / "lookahead-too-short.png")
    large_batches(PICTURES / "bound-by-transfers.png")
    without_tuning(PICTURES / "without-tuning.png")
    faster_gpu(PICTURES / "faster-gpu.png")


def lookahead(target: Path, links: Sequence[float] = (8, 16, 32, 64, 128, 256, 512)) -> None:
    """Is one block ahead too short? What 1, 2 and 3 blocks ahead gain over on demand, by the link, with an LRU too."""
    lines = {}
    for n, kept in ((1, ""), (3, ""), (1, "+lru:0.75"), (2, "+lru:0.75"), (3, "+lru:0.75")):
        name = "pregate" if n == 1 else f"pregate({n})"
        lines[f"{n} ahead{', LRU of 75%' * bool(kept)}"] = [
            _tpot(f"on_demand{kept}", link, n_tokens=24) / _tpot(f"{name}{kept}", link, n_tokens=24) for link in links
        ]
    draw(
        links, lines, target, title="Looking further ahead: Mixtral-8x7B, RTX 4090, batch 1, experts in q4_k",
        x="link, GB/s", y="time a token, on demand over pre-gated (ratio)", even=1.0, log_x=True,
    )  # fmt: skip


def large_batches(target: Path, batches: Sequence[int] = (1, 2, 4, 8, 16, 32, 64)) -> None:
    """Bound by transfers at large batches: what pre-gating gains over on demand, and what both lose to all in HBM."""
    lines: dict[str, list[float]] = {}
    for name in ("qwen3-30b-a3b", "mixtral-8x7b"):
        lines[f"on demand over pre-gated, {name}"] = [
            _tpot("on_demand", 31.5, batch=batch, name=name) / _tpot("pregate", 31.5, batch=batch, name=name)
            for batch in batches
        ]
        lines[f"pre-gated over all in HBM, {name}"] = [
            _tpot("pregate", 31.5, batch=batch, name=name) / _tpot("gpu_only", 31.5, batch=batch, name=name)
            for batch in batches
        ]
    draw(
        batches, lines, target, title="Large batches: RTX 4090 with HBM for all, PCIe 4.0, experts in q4_k",
        x="sequences at once", y="ratio of times a token", even=1.0, log_x=True, log_y=True,
    )  # fmt: skip


def without_tuning(target: Path, recalls: Sequence[float] = (0.2, 0.4, 0.6, 0.8, 0.9, 1.0)) -> None:
    """Wrong without fine-tuning: gates of the next layer used as they are are right in a share of cases only."""
    lines = {}
    for held in (0.25, 0.5):
        base = _tpot(f"on_demand+lru:{held}:per_layer", 31.5)
        lines[f"an LRU of {held:.0%} and guesses"] = [
            _tpot(f"lru_next_gate:recall={recall:g}+lru:{held}:per_layer", 31.5) / base for recall in recalls
        ]
    lines["pre-gated, exact, no cache, over the LRU of 25%"] = [
        _tpot("pregate", 31.5) / _tpot("on_demand+lru:0.25:per_layer", 31.5)
    ] * len(recalls)
    draw(
        recalls, lines, target, title="Guesses in place of trained pre-gates: Mixtral-8x7B, RTX 4090, PCIe 4.0",
        x="share of guesses that are right", y="time a token, over no guesses (ratio)", even=1.0,
    )  # fmt: skip


def faster_gpu(target: Path, factors: Sequence[float] = (0.25, 0.5, 1, 2, 4, 8)) -> None:
    """Gone on a faster GPU over the same link: what pre-gating gains over on demand, by the speed of the GPU."""
    lines = {}
    for link in (15.75, 31.5, 63.0):
        lines[f"link of {link:g} GB/s"] = [
            _tpot("on_demand", link, faster=factor) / _tpot("pregate", link, faster=factor) for factor in factors
        ]
    draw(
        factors, lines, target, title="A faster GPU over the same link: Mixtral-8x7B, batch 1, experts in q4_k",
        x="times as fast as an RTX 4090", y="time a token, on demand over pre-gated (ratio)", even=1.0, log_x=True,
    )  # fmt: skip


def _tpot(
    policy: str, link: float, *, batch: int = 1, name: str = "mixtral-8x7b", faster: float = 1.0, n_tokens: int = 4
) -> float:
    """Time a token; `link` in GB/s; the GPU is an RTX 4090 `faster` times as fast, its HBM as large as it need be."""
    model = pregate.load_model(name, formats={"all": "q4_k"})
    base = pregate.load_hardware("rtx-4090", STACK)
    changes: dict[str, float | str] = {
        "link.h2d_bytes_per_s": link * 1e9,
        "accelerator.hbm_bytes": 256e9,
        "accelerator.hbm_bytes_per_s": base.machine.accelerator.hbm_bytes_per_s * faster,
        "stack.launch_s": base.constant("launch_s") / faster,
        "stack.kernel_s": base.constant("kernel_s") / faster,
    }
    trace = pregate.synthesize(model, input_tokens=2, output_tokens=n_tokens, batch=batch, seed=0)
    return pregate.simulate(model, pregate.load_hardware("rtx-4090", STACK, changes), trace, policy).tpot_s


if __name__ == "__main__":
    from script_arguments import given

    given(__doc__)
    main()
