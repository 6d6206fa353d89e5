"""BigMoeOnEdge `route_trace v1`: a CSV row for every (token, layer, slot) of one engine run.

Layout: `# route_trace v1`; `# model=.. arch=.. n_layer=.. n_expert=.. n_expert_used=..`; one
`# layer=i expert_bytes=B dense_bytes=B` a layer; then rows turn, phase (0 prefill, 1 decode), step
(absolute position), layer, slot (rank), expert, weight, residency (0 miss, 1 hit, 2 hit by speculation),
expert_bytes (0 unless a miss) and, in some versions, dropped.

A turn becomes a sequence, its prompt one step and every decoded token one step. The recorder's engine
runs the last layer of a prompt only for its last token: those cells become -1. A cell missing anywhere
else means a file cut short and is refused.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from traces.errors import InvalidFile, InvalidInput
from traces.importers.files.text_lines import regular_file
from traces.importers.recording import MAX_CELLS, ModelShape
from traces.phase import Phase
from traces.routing import MAX_EXPERTS, Provenance, RoutingTrace

MAX_FILE_BYTES = 1 << 30
MAX_LINE_CHARACTERS = 4096

_COLUMNS = "turn,phase,step,layer,slot,expert,weight,residency,expert_bytes"


@dataclass(frozen=True, slots=True)
class _Header:
    model: str
    arch: str
    n_experts: int
    top_k: int
    expert_bytes: dict[int, int]  # MoE layers only


@dataclass(frozen=True, slots=True)
class _Table:
    """The rows as a dense table: tokens sorted by (turn, phase, position)."""

    header: _Header
    tokens: NDArray[np.int64]  # (n_tokens, 3): turn, phase, position
    experts: NDArray[np.int16]  # (n_tokens, n_moe_layers, top_k)
    weights: NDArray[np.float32]
    residency: NDArray[np.int8]


def import_route_trace_v1(path: Path, shape: ModelShape = ModelShape()) -> RoutingTrace:  # noqa: B008
    """The routing in a route_trace v1 file, with expert sizes, and gate weights where the engine showed them.

    Raises `InvalidFile`.
    """
    table = _read(path)
    turn, phase, position = table.tokens.T
    # A prompt is one forward pass, every decode token one of its own.
    is_new = (np.diff(turn, prepend=-1) != 0) | (phase == Phase.DECODE)
    sizes = table.header.expert_bytes
    try:
        return RoutingTrace(
            experts=table.experts,
            gate_weights=None if np.isnan(table.weights).any() else table.weights,
            sequence=turn,
            position=position,
            phase=phase,
            step=np.cumsum(is_new) - 1,
            n_experts=table.header.n_experts,
            expert_bytes=np.array([sizes[layer] for layer in sorted(sizes)], dtype=np.int64),
            provenance=Provenance(
                model=table.header.model,
                source=path.name,
                licence="not stated in the file",
                recorder="BigMoeOnEdge route_trace v1",
                versions={"arch": table.header.arch},
            ),
        )
    except InvalidInput as error:
        raise InvalidFile(f"{path}: {error}") from error


def read_residency(path: Path) -> NDArray[np.int8]:
    """What the engine found at each cell: (n_tokens, n_moe_layers, top_k) int8, in the trace's token order.

    0 a miss, 1 a hit, 2 a hit by speculation, -1 no such row. Raises `InvalidFile`.
    """
    return _read(path).residency


def _read(path: Path) -> _Table:
    try:
        regular_file(path, MAX_FILE_BYTES)
        lines = _lines(path)
        header = _header(lines, path)
        return _table(header, _columns_and_weights(lines, header, path), path)
    except OSError as error:
        raise InvalidFile(f"{path}: cannot be read ({error.strerror}): check the path") from error
    except UnicodeDecodeError as error:
        raise InvalidFile(f"{path}: not UTF-8 text: is this the right file?") from error


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open(encoding="utf-8-sig") as file:
        number = 0
        while line := file.readline(MAX_LINE_CHARACTERS + 1):
            number += 1
            if len(line) > MAX_LINE_CHARACTERS:
                raise InvalidFile(f"{path}: line {number} is longer than {MAX_LINE_CHARACTERS} characters")
            yield number, line.rstrip("\r\n")


def _header(lines: Iterator[tuple[int, str]], path: Path) -> _Header:
    """Consume the comments and the column line."""
    _, first = next(lines, (1, ""))
    if first.strip() != "# route_trace v1":
        raise InvalidFile(f"{path}: the first line is {first[:40]!r}, not '# route_trace v1'")
    about: dict[str, str] = {}
    sizes: dict[int, int] = {}
    for number, line in lines:
        if not line.startswith("#"):
            if line != _COLUMNS and line != _COLUMNS + ",dropped":
                raise InvalidFile(f"{path}: line {number}: columns are {line[:80]!r}, not {_COLUMNS!r}")
            break
        pairs = dict(word.partition("=")[::2] for word in line[1:].split() if "=" in word)
        if "layer" in pairs:
            layer = _integer(pairs, "layer", 0, 4095, path, number)
            sizes[layer] = _integer(pairs, "expert_bytes", 0, 1 << 40, path, number)
        elif "n_expert" in pairs:
            about = pairs | {"line": str(number)}
    else:
        raise InvalidFile(f"{path}: no rows: the file ends in its header")
    if not about:
        raise InvalidFile(f"{path}: the header names no n_expert")
    where = int(about["line"])
    n_layers = _integer(about, "n_layer", 1, 4096, path, where)
    n_experts = _integer(about, "n_expert", 1, MAX_EXPERTS, path, where)
    top_k = _integer(about, "n_expert_used", 1, min(n_experts, 256), path, where)
    moe = {layer: size for layer, size in sizes.items() if size > 0}  # dense layers hold no experts
    if not moe or max(moe) >= n_layers:
        raise InvalidFile(
            f"{path}: {len(moe)} layers with expert_bytes up to layer {max(moe, default=-1)} of {n_layers}"
        )
    model = PurePosixPath(about.get("model", "unknown").replace("\\", "/")).name
    return _Header(model, about.get("arch", "unknown"), n_experts, top_k, moe)


def _integer(pairs: dict[str, str], key: str, least: int, most: int, path: Path, number: int) -> int:
    text = pairs.get(key, "")
    if not (text.isascii() and text.isdigit() and len(text) < 16 and least <= int(text) <= most):
        raise InvalidFile(f"{path}: line {number}: {key} = {text[:20]!r} is not an integer in [{least}, {most}]")
    return int(text)


def _columns_and_weights(
    lines: Iterator[tuple[int, str]], header: _Header, path: Path
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Columns turn, phase, position, MoE layer, slot, expert, residency (n_rows, 7), and the weights."""
    whole, weights = array("q"), array("f")
    index = {layer: i for i, layer in enumerate(sorted(header.expert_bytes))}
    limits = (1 << 31, 2, 1 << 31, 4096, header.top_k, header.n_experts, 3)
    for number, line in lines:
        if not line.strip():
            continue
        parts = line.split(",")
        if not 9 <= len(parts) <= 10:
            raise InvalidFile(f"{path}: line {number} has {len(parts)} fields, not 9 or 10: {line[:60]!r}")
        try:
            if not line.isascii() or "_" in line or "+" in line.partition("e+")[0]:
                raise ValueError
            values = [int(part) for part in (*parts[:6], parts[7])]
            weight = float(parts[6])
            if weight < 0 or math.isinf(weight) or int(parts[8]) < 0:
                raise ValueError
        except ValueError:
            raise InvalidFile(
                f"{path}: line {number} is not numbers, of which none is below 0: {line[:60]!r}"
            ) from None
        if not all(0 <= value < limit for value, limit in zip(values, limits, strict=True)) or values[3] not in index:
            names = "turn, phase, step, layer, slot, expert, residency"
            raise InvalidFile(f"{path}: line {number}: ({names}) = {tuple(values)} goes beyond the header")
        values[3] = index[values[3]]
        whole.extend(values)
        weights.append(weight)
    if not weights:
        raise InvalidFile(f"{path}: no rows: the file ends in its header")
    return np.frombuffer(whole, dtype=np.int64).reshape(-1, 7), np.frombuffer(weights, dtype=np.float32)


def _table(header: _Header, rows: tuple[NDArray[np.int64], NDArray[np.float32]], path: Path) -> _Table:
    cells, weights = rows
    tokens, member = np.unique(cells[:, :3], axis=0, return_inverse=True)  # sorted by turn, phase, position
    shape = (len(tokens), len(header.expert_bytes), header.top_k)
    if np.prod(shape, dtype=np.int64) > min(MAX_CELLS, 64 * len(cells)):
        raise InvalidFile(f"{path}: {shape} cells for {len(cells)} rows: the file is cut short or not of this format")
    at = np.ravel_multi_index((member.reshape(-1), cells[:, 3], cells[:, 4]), shape)
    order = np.argsort(at, kind="stable")
    again = np.flatnonzero(np.diff(at[order]) == 0)
    if again.size:
        turn, phase, step, layer, slot = cells[order[again[0] + 1], :5].tolist()
        raise InvalidFile(f"{path}: turn {turn} phase {phase} step {step} MoE layer {layer} slot {slot} comes twice")
    experts, residency = np.full(shape, -1, np.int16), np.full(shape, -1, np.int8)
    gate_weights = np.zeros(shape, np.float32)
    experts.reshape(-1)[at] = cells[:, 5]
    residency.reshape(-1)[at] = cells[:, 6]
    gate_weights.reshape(-1)[at] = weights
    missing = experts < 0
    missing[tokens[:, 1] == Phase.PREFILL, -1] = False
    if missing.any():
        token, layer, slot = np.unravel_index(int(missing.argmax()), shape)
        turn, phase, step = tokens[token].tolist()
        raise InvalidFile(f"{path}: turn {turn} step {step} has no row for MoE layer {layer} slot {slot}: cut short?")
    return _Table(header, tokens, experts, gate_weights, residency)
