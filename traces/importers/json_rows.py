"""Routing as JSON lines, a row for a token and layer.

`vllm_route_log`     {"type": "meta", model_id, num_experts, ...}, then {"type": "route", req_id, token_idx, layer,
                     topk_ids, topk_weights}; a request is a sequence, phases are not recorded; rows of the
                     engine's own warm-up before them are left out
`policylang`         {model_name, num_layers, num_experts, top_k, num_entries}, then {"t": token, "l": layer,
                     "e": [ids], "s": [scores] or null} and, in some versions, "p" prompt and "ph" prefill or decode
`moe_cache_lab`      {"record_type": "metadata", "format": "moe-cache-lab.routing-jsonl", ...}, then {"record_type":
                     "routing_selection", phase prompt or generated, token_position, layer, selected_experts, ...}
`speculative_moe`    {"dataset", "problem_id", "layer", "experts", "gating_probs", "token_idx"}; a problem is a sequence
`moe_balance`        {"layer", "batch_id", "origin_rows": [T], "topk_experts": [T][k], "topk_weights"?}
`moe_vis`            {"layer": L, "experts": [T][k]} and {"wlayer": L, ...}, or under other names of `tables`; a pass
                     ends where the layer falls
`token_lines`        {"experts": [layers][k]} under any of `TOKEN_KEYS`, or by layer, {"3": [k], "4": [k]}, a line a
                     token, with its position, phase and sequence where they are stated, under the names of `tables`

Where phases are not recorded every token counts as decode, and the provenance says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from traces.importers.files.text_lines import json_lines, json_records
from traces.importers.recording import PHASES_UNKNOWN, ModelShape, Origin, TokenRows, refused
from traces.importers.tables import json_names, keys_of, stated_phase
from traces.phase import Phase
from traces.routing import RoutingTrace

TOKEN_KEYS = (
    "experts", "selected_experts", "expert_ids", "topk_experts", "topk_ids", "topk_indices", "layers", "routing",
)  # fmt: skip
"""What recorders call the experts of a token, layer by layer."""
LAYER_KEY = re.compile(r"(?:[a-z_.]*[_.]?)?(\d{1,4})", re.ASCII | re.IGNORECASE)
"""How recorders call a layer: `3`, `layer_3`, `model.layers.3`."""


def import_route_log(path: Path, shape: ModelShape = ModelShape()) -> RoutingTrace:  # noqa: B008 (frozen)
    """The routing of a vLLM route log. Raises `InvalidFile`."""
    rows, requests = TokenRows(path), _Numbers()
    lines = json_lines(path)
    about = _header(path, lines, "topk_ids")
    n_warm = _n_warm_up(path)
    for i_row, (number, record) in enumerate(lines):
        if record.get("type") != "route":
            raise refused(path, f"type is {_short(record.get('type'))}, not 'route'", number)
        if i_row < n_warm:
            continue
        at = _fields(path, number, record, "token_idx", "layer", "topk_ids")
        _add(rows, number, requests[record.get("req_id")], Phase.DECODE, at, record.get("topk_weights"))
    origin = _origin(path, about, "vLLM route log", "model_id", "num_experts", "vllm_version")
    warm = (f"{n_warm} rows of the engine's warm-up left out",) if n_warm else ()
    return rows.trace(replace(origin, notes=(*origin.notes, *warm)), shape)


def _n_warm_up(path: Path) -> int:
    """With how many rows a log begins that passes over empty inputs wrote: the same experts in each, all of one weight;
    none where one row alone is so, or all are.
    """
    found = (record for _, record in json_lines(path) if record.get("type") == "route")
    first = next(found, {})
    ids, weights = first.get("topk_ids"), first.get("topk_weights")
    if (
        not isinstance(ids, list)
        or not isinstance(weights, list)
        or len(weights) < 2
        or weights.count(weights[0]) < len(weights)
    ):
        return 0
    n_alike = 1
    for record in found:
        if record.get("topk_ids") != ids or record.get("topk_weights") != weights:
            return n_alike if n_alike > 1 else 0
        n_alike += 1
    return 0


def import_policylang(path: Path, shape: ModelShape = ModelShape()) -> RoutingTrace:  # noqa: B008
    """The routing of moe-policylang. Raises `InvalidFile`."""
    rows, prompts = TokenRows(path), _Numbers()
    lines = json_lines(path)
    about = _header(path, lines, "e")
    n_rows, phased = 0, True
    phases = {"prefill": Phase.PREFILL, "decode": Phase.DECODE, None: Phase.DECODE}
    for number, record in lines:
        at = _fields(path, number, record, "t", "l", "e")
        phase = _phase(path, number, record.get("ph"), phases)
        phased &= "ph" in record
        _add(rows, number, prompts[record.get("p", 0)], phase, at, record.get("s"))
        n_rows += 1
    stated = about.get("num_entries")
    if isinstance(stated, int) and stated != n_rows:
        raise refused(path, f"{n_rows} rows, its header states {stated}: cut short?")
    origin = _origin(path, about, "moe-policylang", "model_name", "num_experts", phased=phased)
    return rows.trace(origin, shape)


def import_moe_cache_lab(path: Path, shape: ModelShape = ModelShape()) -> RoutingTrace:  # noqa: B008
    """The routing of moe-cache-lab, one sequence. Raises `InvalidFile`; for tokens that capacity dropped, too."""
    rows = TokenRows(path)
    lines = json_lines(path)
    about = _header(path, lines, "selected_experts")
    phases = {"prompt": Phase.PREFILL, "generated": Phase.DECODE}
    for number, record in lines:
        if record.get("record_type") == "metadata":
            raise refused(path, "a second header: two recordings in one file, split it", number)
        if record.get("record_type") != "routing_selection":
            continue
        if record.get("assignment_state") == "unassigned":
            raise refused(path, "a token was dropped by its expert's capacity: such traces are not simulated", number)
        if record.get("routing_stage") == "encoder":
            raise refused(path, "routing of an encoder: convert it to pregate's CSV, encoder layers first", number)
        at = _fields(path, number, record, "token_position", "layer", "selected_experts")
        phase = _phase(path, number, record.get("phase"), phases)
        _add(rows, number, 0, phase, at, record.get("selected_probabilities"))
    return rows.trace(_origin(path, about, "moe-cache-lab", "model_id", "num_experts", phased=True), shape)


def import_speculative_moe(path: Path, shape: ModelShape = ModelShape()) -> RoutingTrace:  # noqa: B008
    """The routing of speculative-moe. Raises `InvalidFile`."""
    rows, problems = TokenRows(path), _Numbers()
    for number, record in json_lines(path):
        at = _fields(path, number, record, "token_idx", "layer", "experts")
        problem = problems[(str(record.get("dataset")), str(record.get("problem_id")))]
        _add(rows, number, problem, Phase.DECODE, at, record.get("gating_probs"))
    return rows.trace(_origin(path, {}, "speculative-moe", "", ""), shape)


def import_moe_balance(path: Path, shape: ModelShape = ModelShape()) -> RoutingTrace:  # noqa: B008
    """The routing of moe-balance: a batch is a sequence, its rows are tokens. Raises `InvalidFile`."""
    rows, batches = TokenRows(path), _Numbers()
    for number, record in json_lines(path):
        _, layer, chosen = _fields(path, number, record, "batch_id", "layer", "topk_experts")
        weights = record.get("topk_weights")
        _add_tokens(rows, number, batches[record.get("batch_id")], 0, layer, chosen, weights)
    return rows.trace(_origin(path, {}, "moe-balance", "", ""), shape)


def import_moe_vis(path: Path, shape: ModelShape = ModelShape()) -> RoutingTrace:  # noqa: B008
    """The routing of moe-vis: a pass of several tokens is a prompt's, of the sequence that its lines state, or of the
    one that runs. Raises `InvalidFile`.
    """
    rows, prompts = TokenRows(path), _Numbers()
    passes: dict[str, _Pass] = {}
    for number, record in json_lines(path):
        if "wlayer" in record:
            continue
        names = json_names(record) or {}
        keys = [list(record)[names[name]] if name in names else name for name in ("layer", "experts")]
        layer, chosen = _fields(path, number, record, *keys)
        if not isinstance(chosen, list):
            raise refused(path, "experts is not a list", number)
        stated = repr(_sequence_of(record))
        now = passes.setdefault(stated, _Pass())
        if type(layer) is int and layer <= now.layer:
            now.first += now.n_tokens
            if now.n_tokens == 1 and len(chosen) > 1:
                now.sequence, now.first = now.sequence + 1, 0
        now.layer = layer if type(layer) is int else now.layer
        now.n_tokens = len(chosen)
        phase = Phase.DECODE if len(chosen) == 1 else Phase.PREFILL
        _add_tokens(rows, number, prompts[(stated, now.sequence)], now.first, layer, chosen, None, phase)
    return rows.trace(_origin(path, {}, "moe-vis", "", "", phased=True), shape)


@dataclass(slots=True)
class _Pass:
    """The pass of a sequence that lines are of: its first token, how many, and its last layer."""

    sequence: int = 0
    first: int = 0
    n_tokens: int = 0
    layer: int = -1


def _sequence_of(record: dict[str, Any]) -> Any:
    """What a line states as its sequence, by any of the names that recorders have for it; None where nothing."""
    keys = keys_of("sequence", record)
    return record[keys[0]] if keys else None


_PHASE_NAMES = ("phase", "is_prefill", "is_decode")


def import_token_lines(path: Path, shape: ModelShape = ModelShape()) -> RoutingTrace:  # noqa: B008
    """The routing of lines that hold all layers of a token. Raises `InvalidFile`."""
    rows, sequences, phased = TokenRows(path), _Numbers(), True
    n_before: dict[int, int] = {}  # where no place is stated: a token may be a word
    lines: list[str] = []
    for number, record in json_records(path):
        key = next((key for key in TOKEN_KEYS if isinstance(record.get(key), list | dict)), TOKEN_KEYS[0])
        lines.append(key)
        (layers,) = _fields(path, number, record, key)
        told = {name: str(record[key]) for name in _PHASE_NAMES for key in keys_of(name, record)[:1]}
        phase = stated_phase(path, number, {name: word for name, word in told.items() if word != "None"})
        phased &= bool(told)
        sequence = sequences[_sequence_of(record)]
        places = (record[name] for name in keys_of("position", record))
        position = next((place for place in places if not isinstance(place, str)), n_before.get(sequence, 0))
        n_before[sequence] = n_before.get(sequence, 0) + 1
        for layer, experts in _by_layer(path, number, layers):
            _add(rows, number, sequence, phase, (position, layer, experts), None)
    if len(lines) == 1 and isinstance(layers, list) and not keys_of("position", record):
        raise refused(
            path, f"{lines[0]} of one token, or of many in a row? [tokens, layers, k] is read, or a line each"
        )
    if lines == ["layers"]:
        raise refused(path, 'one object of numbers by layer: counts of experts, as {"0": [...]}, go to --popularity')
    return rows.trace(_origin(path, {}, "lines of tokens", "", "", phased=phased), shape)


def _by_layer(path: Path, number: int, layers: Any) -> Iterator[tuple[int, Any]]:
    """What a token chose at each layer, of a list in their order or of a mapping by their numbers."""
    if isinstance(layers, list):
        yield from enumerate(layers)
        return
    for name, experts in layers.items():
        found = LAYER_KEY.fullmatch(name)
        if found is None:
            raise refused(path, f"key {name[:40]!r} is no layer", number)
        yield int(found[1]), experts


class _Numbers:
    """Names as numbers, in order of appearance."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def __getitem__(self, name: Any) -> int:
        return self._known.setdefault(repr(name), len(self._known))


def _header(path: Path, lines: Iterator[tuple[int, dict[str, Any]]], row_key: str) -> dict[str, Any]:
    """The first object of a file, which is none of its rows: these have `row_key`."""
    for number, record in lines:
        if row_key in record:
            raise refused(path, "the first line is a row, its header is missing: cut off, or out of order?", number)
        return record
    raise refused(path, "no rows: the file is empty")


def _fields(path: Path, number: int, record: dict[str, Any], *names: str) -> tuple[Any, ...]:
    for name in names:
        if name not in record:
            raise refused(path, f"{name!r} is missing: cut short, or not of this format?", number)
    return tuple(record[name] for name in names)


def _phase(path: Path, number: int, found: Any, phases: dict[Any, Phase]) -> Phase:
    if not isinstance(found, str | None) or found not in phases:
        raise refused(path, f"phase {_short(found)} is none of {', '.join(str(p) for p in phases if p)}", number)
    return phases[found]


def _add(rows: TokenRows, number: int, sequence: int, phase: Phase, at: tuple[Any, ...], weights: Any) -> None:
    position, layer, experts = at
    _check_lists(rows.path, number, experts, weights)
    rows.add(number, sequence, phase, position, layer, experts, weights)


def _add_tokens(
    rows: TokenRows,
    number: int,
    sequence: int,
    first: int,
    layer: Any,
    chosen: Any,
    weights: Any,
    phase: Phase = Phase.DECODE,
) -> None:
    """A row of several tokens at one layer."""
    _check_lists(rows.path, number, chosen, weights)
    if weights is not None and len(weights) != len(chosen):
        raise refused(rows.path, f"{len(chosen)} tokens and weights of {len(weights)}", number)
    for i, experts in enumerate(chosen):
        own = None if weights is None else weights[i]
        _check_lists(rows.path, number, experts, own)
        rows.add(number, sequence, phase, first + i, layer, experts, own)


def _check_lists(path: Path, number: int, experts: Any, weights: Any) -> None:
    if not isinstance(experts, list) or not isinstance(weights, list | None):
        raise refused(path, "experts and weights must be lists", number)


def _origin(
    path: Path, about: dict[str, Any], recorder: str, model: str, n_experts: str, *more: str, phased: bool = False
) -> Origin:
    stated = about.get(n_experts)
    if stated is not None and (type(stated) is not int or stated < 1):
        raise refused(path, f"{n_experts} = {_short(stated)} is not a whole number above 0", 1)
    name = about.get(model)
    return Origin(
        recorder,
        name if isinstance(name, str) and name else "not stated in the file",
        stated,
        {key: str(about[key])[:80] for key in more if key in about},
        () if phased else (PHASES_UNKNOWN,),
    )


def _short(value: Any) -> str:
    return repr(value)[:40]
