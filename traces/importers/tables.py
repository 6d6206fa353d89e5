"""Tables of routing with columns in any order, under the names that recorders give them.

One row a choice (`layer,token,expert`), a row a token and layer with its experts in one cell (`"[3, 7]"` or `3 7`) or
in columns of their own (`expert_0,expert_1`), or a row a token with a cell a layer (`layer_0,layer_1`), by commas,
semicolons, tabs or bars; or such rows as JSON, a line each or in a list. `step` is the position where no column is;
`token_id` too, where its numbers are 0 to n - 1, as no ids of a vocabulary are; tokens that are counted within each
step of a request stand in its order. Columns that nobody knows here are left out; without a phase every token counts as
decode, without a sequence all rows are of one, without a slot experts stand in the order of their rows.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from traces.importers.files.text_lines import (
    MAX_LINE_CHARACTERS,
    first_object,
    json_records,
    only_list,
    text_lines,
    whole_numbers,
)
from traces.importers.pass_positions import places_in_sequences
from traces.importers.recording import ModelShape, Origin, TokenRows, refused
from traces.phase import Phase
from traces.routing import MAX_EXPERTS, RoutingTrace

N_EXPERTS = ("n_experts", "num_experts", "n_routed_experts", "num_local_experts", "n_expert")
"""What recorders call the number of experts of a layer."""
_NAMES: dict[str, tuple[str, ...]] = {
    "sequence": (
        "sequence", "seq", "seq_id", "sequence_id", "request", "request_id", "req_id", "sample", "prompt_id",
        "rid", "sample_id", "sample_idx", "conversation_id", "conversation", "session", "session_id", "chat_id",
        "request_uid", "request_idx", "request_index", "sequence_idx", "seq_idx", "prompt_idx", "query_id", "doc_id",
    ),
    "phase": ("phase", "stage"),
    "is_prefill": ("is_prefill", "is_prompt"),
    "is_decode": ("is_decode", "is_generated"),
    "position": ("position", "pos", "token_idx", "token_index", "token_pos", "token_position", "token", "t"),
    "token_id": ("token_id",),
    "step": ("step", "step_idx", "i_step", "iteration", "iter", "decode_step"),
    "layer": ("layer", "layer_id", "layer_idx", "layer_index", "moe_layer", "l", "block", "block_idx"),
    "slot": ("slot", "rank", "k", "topk_idx", "choice"),
    "experts": (
        "expert", "expert_id", "expert_idx", "expert_index", "experts", "expert_ids", "topk_ids", "selected_experts",
        "topk_experts", "top_k_experts", "topk_indices", "router_indices", "selected", "chosen", "e", "indices", "topk",
    ),
    "weight": (
        "weight", "gate_weight", "score", "prob", "probability", "router_weight", "weights", "gate_weights", "scores",
        "probs", "topk_weights", "selected_probs",
    ),
    "count": (
        "count", "counts", "n", "hits", "freq", "frequency", "activations", "num_tokens", "n_tokens", "token_count",
        "activation_count", "activation_frequency",
    ),
    "n_experts": N_EXPERTS,
}  # fmt: skip
"""Our name of a column: what recorders call it, the plainest first; a `token` beside a place may be an id."""

PHASES = {
    "0": Phase.PREFILL, "prefill": Phase.PREFILL, "prompt": Phase.PREFILL, "extend": Phase.PREFILL,
    "1": Phase.DECODE, "decode": Phase.DECODE, "generated": Phase.DECODE, "generation": Phase.DECODE,
    "context": Phase.PREFILL, "ctx": Phase.PREFILL, "p": Phase.PREFILL, "gen": Phase.DECODE, "d": Phase.DECODE,
}  # fmt: skip
_MAX_SLOTS = 256
_CELL = re.compile(r"[^\s,;|\[\]()]+")
_OF_A_LAYER = re.compile(
    r"\s*(?:\w+\.)*(?:moe_?)?(?:layers?|l|blk|block)[_. ]?(\d{1,4})(?:[_.](?:experts?|ids?))?\s*",
    re.ASCII | re.IGNORECASE,
)
_MODULE = re.compile(
    r"(?:[a-z_]\w*\.)*(?:layers?|blk|blocks?|h)[._](\d{1,4})(?:\.[a-z_]\w*)*", re.ASCII | re.IGNORECASE
)
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z][a-z]|IDs?\b)")
"""Where a word of a name in camel case begins."""
_OF_A_SLOT = re.compile(r"(?:expert|e|topk|top)_?(\d{1,3})(?:_id)?", re.ASCII)


def columns(header: str) -> dict[str, int] | None:
    """Which field of a header line is which column, by our names; None where one is there under two names."""
    found: dict[str, int] = {}
    try:
        words = _fields(header, _separator(header))
    except csv.Error:
        return None
    for place, word in enumerate(words):
        for name, spellings in _NAMES.items():
            if _plain(word) in spellings:
                if name in found:
                    return None
                found[name] = place
    if "experts" not in found:
        told = [(int(match[1]), place) for place, word in enumerate(words) if (match := _of_slot(word))]
        slots = dict(told)
        if len(told) == len(slots) > 1 and sorted(slots) in (list(range(len(slots))), list(range(1, len(slots) + 1))):
            found |= {"experts": min(slots.values())} | {f"slot {slot}": place for slot, place in slots.items()}
    for other in ("token_id", *(() if "count" in found else ("step",))):  # the place of a token, no other being said
        if "position" not in found and other in found:
            found["position"] = found[other]
    if not {"layer", "experts"} & set(found):
        layers = {int(match[1]): place for place, word in enumerate(words) if (match := _OF_A_LAYER.fullmatch(word))}
        if len(layers) > 1:
            found |= {"layer": min(layers.values()), "experts": min(layers.values())}
            found |= {f"layer {layer}": place for layer, place in layers.items()}
    return found


def plain_keys(record: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with its keys in small letters with underscores: `topkIds` as `topk_ids`."""
    return {_plain(key): value for key, value in record.items()}


def _plain(word: str) -> str:
    """A name in small letters with underscores: `Layer ID`, `layerId`."""
    return re.sub(r"[\s-]+", "_", _HUMP.sub("_", word.strip()).lower())


def _of_slot(word: str) -> re.Match[str] | None:
    return _OF_A_SLOT.fullmatch(_plain(word))


def _rows(number: int, fields: list[str], places: dict[str, int]) -> Iterator[tuple[int, dict[str, str]]]:
    """The row of a line, or one a layer where a line has a cell for each; cells that are empty are of no row."""
    row = _row(fields, places)
    layers = [name for name in row if name.startswith("layer ")]
    for name in layers:
        if row[name]:
            yield number, row | {"layer": name[6:], "experts": row[name]}
    if not layers:
        yield number, row


def _row(fields: list[str], places: dict[str, int]) -> dict[str, str]:
    """A row by our names; experts that stand in columns of their own in one field."""
    row = {name: fields[place].strip() for name, place in places.items()}
    slots = sorted((int(name[5:]), name) for name in row if name.startswith("slot "))
    return row | ({"experts": " ".join(row[name] for _, name in slots)} if slots else {})


def json_names(record: Mapping[str, Any]) -> dict[str, int] | None:
    """As `columns`, of the keys of a JSON object."""
    return columns(",".join(record)) if record and all(re.fullmatch(r"\w+", key, re.ASCII) for key in record) else None


def keys_of(name: str, record: Mapping[str, Any]) -> list[str]:
    """The keys of a JSON object that recorders call one of our names, the plainest first."""
    places = {spelling: place for place, spelling in enumerate(_NAMES[name])}
    return sorted((key for key in record if _plain(key) in places), key=lambda key: places[_plain(key)])


def states_model(record: Mapping[str, Any]) -> bool:
    """Whether a first line says how large the model is, and is no row."""
    return not {"layer", "experts"} & set(json_names(record) or ()) and bool(set(plain_keys(record)) & set(N_EXPERTS))


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    for number, record in json_records(path):
        places = json_names(record)
        if number == 1 and states_model(record):
            continue
        if places is None or not {"position", "layer", "experts"} <= set(places):
            raise refused(path, "a token, a layer and its experts are needed, once each", number)
        fields = [_field(path, number, item) for item in record.values()]
        yield number, _row(fields, places)


def _field(path: Path, number: int, item: Any) -> str:
    """A value as the text that a table has for it."""
    if not isinstance(item, list):
        return "" if item is None else str(item)
    if not all(type(one) in (int, float, bool) for one in item):
        raise refused(path, f"{str(item)[:40]} is no list of numbers", number)
    return " ".join(str(int(one) if type(one) is bool else one) for one in item)


def named_rows(path: Path, needed: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Numbered rows as text by our names of columns; comments are skipped. Raises `InvalidFile`."""
    lines = ((number, line) for number, line in text_lines(path) if not line.startswith("#"))
    _, header = next(lines, (1, ""))
    places = columns(header)
    if places is None or not set(needed) <= set(places):
        raise refused(path, f"columns are {header[:80]!r}: {', '.join(needed)} are needed, once each")
    separator = _separator(header)
    n_fields = len(_fields(header, separator))
    for number, line in lines:
        try:
            fields = _fields(line, separator)
        except csv.Error as error:
            raise refused(path, f"no row of a table ({error}): {line[:60]!r}", number) from error
        if len(fields) != n_fields:
            raise refused(path, f"{len(fields)} fields, not {n_fields}: {line[:60]!r}", number)
        yield from _rows(number, fields, places)


def import_table(path: Path, shape: ModelShape = ModelShape()) -> RoutingTrace:  # noqa: B008 (frozen)
    """The routing of a table with a header. Raises `InvalidFile`."""
    rows = TokenRows(path)
    sequences: dict[str, int] = {}
    slots: dict[tuple[int, int, int, int], int] = {}
    phased = False
    positions: set[int] = set()
    stated: set[int] = set()
    counted = places_in_sequences(row for _, row in _placed_rows(path))
    for number, row in _placed_rows(path):
        if counted is not None:
            if "sequence" not in row:
                raise refused(path, "tokens are counted within each step: a column request must say whose they are")
            row["position"] = counted[row.get("sequence", ""), row["step"], row["position"]]
        position, layer = whole_numbers(path, number, [row["position"], _layer(row["layer"])])
        experts = whole_numbers(path, number, _CELL.findall(row["experts"]))
        if not experts and "slot" not in row:  # a dense layer's: one that has experts elsewhere is told to lack them
            continue
        sequence = sequences.setdefault(row.get("sequence", ""), len(sequences))
        phase = stated_phase(path, number, row)
        if "token_id" in row and row["position"] == row["token_id"]:
            positions.add(position)
        phased = bool({"phase", "is_prefill", "is_decode"} & set(row))
        stated.update(whole_numbers(path, number, _CELL.findall(row.get("n_experts", ""))))
        if len(stated) > 1:
            raise refused(
                path, f"layers of {' and '.join(map(str, sorted(stated)))} experts: of one model alone", number
            )
        place = (sequence, phase, position, layer)
        if "slot" in row:
            (slot,) = whole_numbers(path, number, [row["slot"]])
        else:
            slot = slots.get(place, 0)
            slots[place] = slot + len(experts)
        if not 0 <= slot < _MAX_SLOTS:
            raise refused(path, f"slot {slot} is not 0 to {_MAX_SLOTS - 1}", number)
        weights = [_weight(path, number, word) for word in _CELL.findall(row.get("weight", ""))]
        weights = weights if len(weights) == len(experts) else []
        rows.add(number, sequence, phase, position, layer, experts, weights or None, first_slot=slot)
    if positions and len(positions) != max(positions) + 1:
        raise refused(path, "token_id is not 0 to n - 1: ids of a vocabulary? Name the column of places position")
    notes = ["tokens are counted within each step: their places are those in their sequence"] if counted else []
    notes += [] if phased else ["phases are not recorded: every token counts as decode"]
    n_experts = n_experts_of(path, {"n_experts": stated.pop()}) if stated else _n_experts(path)
    return rows.trace(Origin("table of choices", n_experts=n_experts, notes=tuple(notes)), shape)


def _n_experts(path: Path) -> int | None:
    """The number of experts that the first line, or a document around the rows, states. Raises `InvalidFile`."""
    if not _begins(path).startswith("{"):
        return None
    document = first_object(path)
    if only_list(document) is None and not states_model(document):
        return None
    return n_experts_of(path, plain_keys(document))


def _begins(path: Path) -> str:
    return next(text_lines(path, MAX_LINE_CHARACTERS), (1, ""))[1].lstrip()


def n_experts_of(path: Path, stated: Mapping[str, Any]) -> int | None:
    """The number of experts that a recording states; None where it does not. Raises `InvalidFile`."""
    key = next((key for key in N_EXPERTS if stated.get(key) is not None), None)
    if key is None:
        return None
    found = np.asarray(stated[key])
    if found.size != 1 or found.dtype.kind not in "iu" or not 0 < found.item() <= MAX_EXPERTS:
        raise refused(path, f"{key} {str(stated[key])[:40]} is not a whole number from 1 to {MAX_EXPERTS}")
    return int(found.item())


def _placed_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Numbered rows of a token, a layer and experts, of JSON or of a table. Raises `InvalidFile`."""
    if _begins(path).startswith(("{", "[")):
        return _json_rows(path)
    return named_rows(path, ("position", "layer", "experts"))


_TRUE, _FALSE = ("1", "true", "yes"), ("0", "false", "no")


def stated_phase(path: Path, number: int, row: Mapping[str, str]) -> Phase:
    """The phase that a row states, alike in each column that says it; decode where none does."""
    found: dict[str, Phase] = {}
    word = row.get("phase")
    if word is not None:
        if word.lower() not in PHASES:
            raise refused(path, f"phase {word[:20]!r} is neither prefill (0) nor decode (1)", number)
        found["phase"] = PHASES[word.lower()]
    for name, phase in (("is_prefill", Phase.PREFILL), ("is_decode", Phase.DECODE)):
        if name in row:
            said = row[name].lower()
            if said not in (*_TRUE, *_FALSE):
                raise refused(path, f"{name} {said[:20]!r} is neither true nor false", number)
            found[name] = phase if said in _TRUE else Phase(1 - phase)
    if len(set(found.values())) > 1:
        raise refused(path, f"{' and '.join(found)} contradict each other: keep the one that is right", number)
    return next(iter(found.values()), Phase.DECODE)


def _layer(text: str) -> str:
    """A layer's number, out of a module's name too: `model.layers.3.mlp.gate`, `blk.3.ffn_gate_inp`."""
    module = _MODULE.fullmatch(text)
    return module[1] if module else text


def _weight(path: Path, number: int, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise refused(path, f"weight {text[:20]!r} is not a number", number) from None


def _separator(header: str) -> str:
    marks = ("\t", ";", ",", *(() if header.startswith("|") else ("|",)))  # of Markdown has one at either end
    return next((mark for mark in marks if mark in header), ",")


def _fields(line: str, separator: str) -> list[str]:
    return next(csv.reader([line], delimiter=separator, skipinitialspace=True, strict=True), [])
