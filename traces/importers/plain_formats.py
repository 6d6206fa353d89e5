"""pregate's own plain formats, for recordings of no other: see docs in `PLAIN_CSV` and `PLAIN_NPZ`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from traces.importers.files.arrays import npz_arrays, whole_array
from traces.importers.files.text_lines import text_lines, whole_numbers
from traces.importers.recording import ModelShape, Origin, TokenRows, recorded_trace, refused
from traces.routing import RoutingTrace

PLAIN_CSV = "sequence,phase,position,layer,slot,expert"
"""A row for each expert a token chose, in any order, all whole numbers from 0: phase 0 is prefill (or the encoder) and
1 decode, position the token's place in its sequence, layer the MoE layer (an encoder's first), slot 0 to k - 1. A
seventh column `weight` may follow. A comment `# n_experts=N model=NAME` may come first.
Sequences run one after another."""

PLAIN_NPZ = ("experts", "sequence", "position", "phase", "step")
"""The arrays of `RoutingTrace` by name: experts (n_tokens, n_moe_layers, top_k), -1 pads; the others (n_tokens,). May
follow: gate_weights, expert_bytes (n_moe_layers,), n_experts ()."""


def import_plain_csv(path: Path, shape: ModelShape = ModelShape()) -> RoutingTrace:  # noqa: B008 (frozen)
    """The routing of a plain CSV. Raises `InvalidFile`."""
    rows, about = TokenRows(path), dict[str, str]()
    lines = text_lines(path)
    header = ""
    for _, line in lines:
        if not line.startswith("#"):
            header = line.strip()
            break
        about |= dict(word.partition("=")[::2] for word in line[1:].split() if "=" in word)
    weighted = header == f"{PLAIN_CSV},weight"
    if header != PLAIN_CSV and not weighted:
        raise refused(path, f"columns are {header[:80]!r}, not {PLAIN_CSV!r}")
    for number, line in lines:
        parts = line.split(",")
        if len(parts) != 6 + weighted:
            raise refused(path, f"{len(parts)} fields, not {6 + weighted}: {line[:60]!r}", number)
        sequence, phase, position, layer, slot, expert = whole_numbers(path, number, parts[:6])
        if phase not in (0, 1) or not 0 <= slot < 256:
            raise refused(path, f"phase {phase} is not 0 or 1, or slot {slot} not 0 to 255", number)
        weights = None
        if weighted:
            try:
                weights = [float(parts[6])]
            except ValueError:
                raise refused(path, f"weight {parts[6][:20]!r} is not a number", number) from None
        rows.add(number, sequence, phase, position, layer, [expert], weights, first_slot=slot)
    n_experts = whole_numbers(path, 1, [about["n_experts"]])[0] if "n_experts" in about else None
    return rows.trace(Origin("pregate plain CSV", about.get("model", "not stated in the file"), n_experts), shape)


def import_plain_npz(path: Path, shape: ModelShape = ModelShape()) -> RoutingTrace:  # noqa: B008
    """The routing of a plain npz. Raises `InvalidFile`."""
    found = npz_arrays(path, PLAIN_NPZ, ("gate_weights", "expert_bytes", "n_experts"))
    experts = whole_array(path, "experts", found["experts"], 3)
    columns = {name: whole_array(path, name, found[name], 1) for name in PLAIN_NPZ[1:]}
    stated = None
    if "n_experts" in found:
        stated = int(whole_array(path, "n_experts", np.atleast_1d(found["n_experts"]), 1)[0])
        if stated < 1:
            raise refused(path, f"n_experts = {stated} is below 1")
    origin = Origin("pregate plain npz", n_experts=stated)
    optional = {name: found[name] for name in ("gate_weights", "expert_bytes") if name in found}
    return recorded_trace(path, origin, shape, experts=experts, **columns, **optional)
