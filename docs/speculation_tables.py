"""Write the tables of docs/speculative.md anew: `python docs/speculation_tables.py`, a few minutes of processor time.

`docs/build.py` makes the unions anew, and some rows of the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import marked_tables
import numpy as np
import xarray as xr

import pregate
from offload.policy_parts.speculation import speculation_named
from traces.recorded import recorded_names
from traces.routing import RoutingTrace
from traces.transforms.grown_trees import GrownTrees
from traces.transforms.speculation import verified

PAGE = Path(__file__).with_name("speculative.md")
MACHINES = ("t4", "rtx-4090", "gh200")
GAMMAS = (1, 2, 3, 4, 5, 6, 7, 8)
ACCEPTANCES = (0.5, 0.7, 0.9)
DESIGNS = ("gpu_only", "on_demand+lru:0.2", "pregate+lru:0.2")
MODELS = {
    "gpt-oss-20b-mmlu": ("gpt-oss-20b", None),
    "gpt-oss-120b-phone": ("gpt-oss-120b", 2),
    "qwen3-30b-a3b-phone": ("qwen3-30b-a3b", 6),
}
MOVED, SOME_GAMMAS = ("rtx-4090", ("on_demand+lru:0.2",)), (2, 4, 8)
N_STEPS = 81


def recording(name: str) -> RoutingTrace:
    """The first passes of a recording that ships."""
    whole = pregate.load_trace(name)
    return whole.first_steps(min(N_STEPS, whole.n_steps))


def swept(
    name: str,
    route: str,
    designs: Sequence[str] = DESIGNS,
    machines: Sequence[str] = MACHINES,
    gammas: Sequence[int] = GAMMAS,
) -> xr.Dataset:
    """Tokens a second, and bytes, of designs, machines, lengths of a draft and acceptances on one recording."""
    model, top_k = MODELS[name]
    policies = [f"{design}@gamma=1:acceptance=0.5:rejected={route}" for design in designs]
    return pregate.sweep(
        pregate.load_model(model, top_k=top_k), None, recording(name), policies=policies,
        axes={"hardware": list(machines), "gamma": [0, *gammas], "acceptance": list(ACCEPTANCES)},
    )  # fmt: skip


def _wide(found: xr.Dataset, i: int, j: int, k: int, field: str) -> list[float]:
    """A field by length of draft, over what it is without one."""
    here = found[field].isel(policy=i, hardware=j, acceptance=k).values
    return [float(value / here[0]) for value in here[1:]]


@cache
def recorded() -> Mapping[str, xr.Dataset]:
    """Every recording, rejected tokens routed as those recorded."""
    return {name: swept(name, "recorded") for name in MODELS}


def speeds() -> str:
    """How many times as many decoded tokens a second."""
    heads = " | ".join(f"gamma {g}" for g in GAMMAS)
    lines = [f"| recording | machine | design | accepted | {heads} |", "|---" * (4 + len(GAMMAS)) + "|"]
    for name, one in recorded().items():
        lines += _speeds_of(name, one, DESIGNS, MACHINES)
    return "\n".join(lines)


def _speeds_of(name: str, one: xr.Dataset, designs: Sequence[str], machines: Sequence[str]) -> list[str]:
    lines = []
    for j, machine in enumerate(machines):
        for i, design in enumerate(designs):
            for k, acceptance in enumerate(ACCEPTANCES):
                ratios = _wide(one, i, j, k, "decode_tokens_per_s")
                if not np.isfinite(ratios).any():
                    continue
                best = max(ratios)
                cells = [f"**{r:.2f}**" if r == best and r > 1 else f"{r:.2f}" for r in ratios]
                lines.append(f"| {name} | {machine} | `{design}` | {acceptance:g} | " + " | ".join(cells) + " |")
    return lines


def unions() -> str:
    """Experts that a layer of a pass asks for, tokens that a pass makes, and experts for each of these."""
    columns = ("recording", "rejected", "accepted", "gamma", "tokens a pass", "experts a layer", "experts a token")
    lines = ["| " + " | ".join(columns) + " |"]
    lines.append("|---" * 7 + "|")
    for name in recorded_names():
        plain = recording(name)
        for route in ("recorded", "elsewhere"):
            for acceptance in ACCEPTANCES:
                for gamma in (0, 2, 4, 8):
                    if gamma == 0 and (route != "recorded" or acceptance != ACCEPTANCES[0]):
                        continue
                    one = verified(plain, gamma, acceptance, rejected_route=route) if gamma else plain
                    n_passes, n_experts, n_tokens = _asked(one)
                    shown = ("-", "-") if gamma == 0 else (route, f"{acceptance:g}")
                    lines.append(
                        f"| {name} | {shown[0]} | {shown[1]} | {gamma} | {n_tokens / n_passes:.2f} | "
                        f"{n_experts / n_passes:.1f} | {n_experts / n_tokens:.1f} |"
                    )
    return "\n".join(lines)


TREES = (
    "gamma=4", "gamma=8", "nodes=8", "grown=8,varies=0.3", "branches=2x2x1x1", "nodes=16", "grown=16,varies=0.3",
    "branches=4x2x1", "nodes=32", "nodes=60", "grown=60,varies=0.1", "grown=60,varies=0.3", "grown=60,varies=0.6",
)  # fmt: skip
RANKS = "0.7/0.12/0.05"
"""Rates by rank that the table of trees assumes: a first guess as often right as in the middle rows of the others."""


def trees() -> str:
    """Chains and trees on one recording: tokens and experts of a pass, and speed over that without a draft."""
    name, designs = "gpt-oss-20b-mmlu", DESIGNS
    model, top_k = MODELS[name]
    loaded, plain, machine = pregate.load_model(model, top_k=top_k), recording(name), pregate.load_hardware(MOVED[0])
    heads = ("drafted", "proposals", "tokens a pass", "experts a layer", *(f"`{design}`" for design in designs))
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    without = [pregate.simulate(loaded, machine, plain, design).decode_tokens_per_s for design in designs]
    for shape in TREES:
        drafts = speculation_named(f"{shape},acceptance={RANKS},rejected=elsewhere")
        n_passes, n_experts, n_tokens = _asked(drafts.of(plain))
        speeds = [
            pregate.simulate(loaded, machine, plain, f"{design}@{drafts}").decode_tokens_per_s / before
            for design, before in zip(designs, without, strict=True)
        ]
        tree = drafts.tree
        n_proposals = tree.n_proposals if isinstance(tree, GrownTrees) else len(tree.parent)
        lines.append(
            f"| `{shape}` | {n_proposals} | {n_tokens / n_passes:.2f} | {n_experts / n_passes:.1f} | "
            + " | ".join(f"{speed:.2f}" for speed in speeds) + " |"
        )  # fmt: skip
    return "\n".join(lines)


def _asked(trace: RoutingTrace) -> tuple[int, float, int]:
    """Decode passes, experts of their unions a layer, and the tokens that they make."""
    n_passes, n_experts, n_tokens = 0, 0.0, 0
    for step in trace.decode_only().steps():
        n_passes, n_tokens = n_passes + 1, n_tokens + step.n_kept
        n_experts += float(np.mean([len(np.unique(layer[layer >= 0])) for layer in step.experts.swapaxes(0, 1)]))
    return n_passes, n_experts, n_tokens


def moved() -> str:
    """Bytes over the link of `MOVED` for a token, over those without a draft, by what rejected tokens are routed as."""
    machine, designs = MOVED
    lines = ["| recording | design | accepted | " + " | ".join(f"gamma {g}" for g in SOME_GAMMAS) + " |"]
    lines.append("|---" * (3 + len(SOME_GAMMAS)) + "|")
    for name in MODELS:
        found = [swept(name, route, designs, (machine,), SOME_GAMMAS) for route in ("recorded", "elsewhere")]
        for i, design in enumerate(designs):
            for k, acceptance in enumerate(ACCEPTANCES):
                low, high = (_wide(one, i, 0, k, "h2d_bytes") for one in found)
                cells = " | ".join(f"{a:.2f} to {b:.2f}" for a, b in zip(low, high, strict=True))
                lines.append(f"| {name} | `{design}` | {acceptance:g} | {cells} |")
    return "\n".join(lines)


def some_rows() -> dict[Path, list[str]]:
    """Rows of `speeds` that a check makes anew."""
    name, designs, machines = "gpt-oss-20b-mmlu", DESIGNS[1:2], MACHINES[1:2]
    return {PAGE: _speeds_of(name, swept(name, "recorded", designs, machines), designs, machines)}


if __name__ == "__main__":
    from script_arguments import given

    given(__doc__)
    marked_tables.write(PAGE, {"speeds": speeds, "moved": moved})
