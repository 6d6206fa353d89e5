"""Text traces of llama.cpp and its forks.

`llama_moe_trace`   no header, `pos,layer,id0,id1,...`: rows layer by layer; a batch of n prompt rows has the
                    positions -n to -1, decode rows 0, 1, ...; a prompt after decode rows begins another sequence
                    (forks: tools/moe-trace, MIT)
`llama_ranks`       `phase,token,layer,rank,expert`, phase prefill or decode, token the position (pull request 28544)
`llama_server_log`  `layer_id,expert_ids`, ids separated by spaces: a new token where the layer number does not rise;
                    phases are not recorded, all tokens count as decode (scripts/moe-analysis, MIT)
`llama_activations` `layer,expert`, a row an activation, k rows a layer: as above
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from traces.importers.files.text_lines import text_lines, whole_numbers
from traces.importers.recording import PHASES_UNKNOWN, ModelShape, Origin, TokenRows, refused
from traces.phase import Phase
from traces.routing import RoutingTrace

RANKS_HEADER = "phase,token,layer,rank,expert"
SERVER_LOG_HEADER = "layer_id,expert_ids"
ACTIVATIONS_HEADER = "layer,expert"


def import_moe_trace(path: Path, shape: ModelShape = ModelShape()) -> RoutingTrace:  # noqa: B008 (frozen)
    """The routing of llama-moe-trace. Raises `InvalidFile`."""
    rows = TokenRows(path)
    sequence, first, prompt = 0, 0, 0  # `first`: place in the sequence of a pass's position 0
    last = (1 << 40, 0)  # layer and position of the row before
    decoding = False
    for number, line in text_lines(path):
        parts = line.split(",")
        if len(parts) < 3:
            raise refused(path, f"{len(parts)} fields, not pos,layer,id0,...: {line[:60]!r}", number)
        position, layer, *experts = whole_numbers(path, number, parts)
        if layer < last[0] or (layer == last[0] and position <= last[1]) or (position < 0) != (last[1] < 0):
            if position < 0:  # one more batch of a prompt, or the prompt of the next sequence
                sequence, prompt = (sequence + 1, 0) if decoding else (sequence, prompt)
                prompt += -position
            first, decoding = prompt, position >= 0
        last = (layer, position)
        rows.add(number, sequence, Phase.DECODE if decoding else Phase.PREFILL, first + position, layer, experts)
    return rows.trace(Origin("llama.cpp moe-trace"), shape)


def import_ranks(path: Path, shape: ModelShape = ModelShape()) -> RoutingTrace:  # noqa: B008
    """The routing of `phase,token,layer,rank,expert`. Raises `InvalidFile`."""
    rows = TokenRows(path)
    phases = {"prefill": Phase.PREFILL, "decode": Phase.DECODE}
    for number, parts in _body(path, RANKS_HEADER, 5):
        if parts[0] not in phases:
            raise refused(path, f"phase {parts[0][:20]!r} is neither prefill nor decode", number)
        token, layer, rank, expert = whole_numbers(path, number, parts[1:])
        if not 0 <= rank < 256:
            raise refused(path, f"rank {rank} is not 0 to 255", number)
        rows.add(number, 0, phases[parts[0]], token, layer, [expert], first_slot=rank)
    return rows.trace(Origin("llama.cpp, phase,token,layer,rank,expert"), shape)


def import_server_log(path: Path, shape: ModelShape = ModelShape()) -> RoutingTrace:  # noqa: B008
    """The routing of a llama-server log, all of it decode. Raises `InvalidFile`."""
    rows = TokenRows(path)
    token, last = -1, 1 << 40
    for number, (text, experts) in _body(path, SERVER_LOG_HEADER, 2):
        (layer,) = whole_numbers(path, number, [text])
        token += layer <= last
        last = layer
        rows.add(number, 0, Phase.DECODE, token, layer, whole_numbers(path, number, experts.split()))
    return rows.trace(Origin("llama-server expert log", notes=(PHASES_UNKNOWN,)), shape)


def import_activations(path: Path, shape: ModelShape = ModelShape()) -> RoutingTrace:  # noqa: B008
    """The routing of `layer,expert` rows, all of it decode. Raises `InvalidFile`."""
    rows = TokenRows(path)
    pairs = ((number, whole_numbers(path, number, parts)) for number, parts in _body(path, ACTIVATIONS_HEADER, 2))
    token, last, top_k = -1, 1 << 40, shape.top_k
    for layer, group in groupby(pairs, key=lambda pair: pair[1][0]):
        cells = list(group)
        top_k = top_k or len(cells)
        if len(cells) % top_k:
            raise refused(path, f"{len(cells)} experts in a row at layer {layer}, not {top_k}", cells[-1][0])
        token += layer <= last
        last = layer
        for i in range(0, len(cells), top_k):
            token += i > 0
            chosen = [expert for _, (_, expert) in cells[i : i + top_k]]
            rows.add(cells[i][0], 0, Phase.DECODE, token, layer, chosen)
    return rows.trace(Origin("llama.cpp, layer,expert", notes=(PHASES_UNKNOWN,)), shape)


def _body(path: Path, header: str, n_fields: int) -> Iterator[tuple[int, list[str]]]:
    """The fields of every line after the header."""
    lines = ((number, line) for number, line in text_lines(path) if not line.startswith("#"))
    _, first = next(lines, (1, ""))
    if first.strip() != header:
        raise refused(path, f"the first line is {first[:40]!r}, not {header!r}")
    for number, line in lines:
        parts = line.strip().split(",")
        if len(parts) != n_fields:
            raise refused(path, f"{len(parts)} fields, not {n_fields}: {line[:60]!r}", number)
        yield number, parts
