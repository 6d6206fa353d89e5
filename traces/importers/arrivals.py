"""Arrivals of requests, from tables, JSON lines and lists, under the names that public traces give them.

A row a request: its time, the tokens of its prompt and of its answer. Times are seconds, a date with its time of day
(Azure's LLM traces), or what the name ends in (`_ms`, `_us`, `_ns`); whole milliseconds too where `timestamp` is beside
`input_length` (Mooncake) without the `chat_id` of Qwen-Bailian's traces, which has seconds. Other columns are left out;
rows without a prompt or without an answer are counted and left out. `hash_ids` of JSON lines number the blocks that a
prompt begins with, of 512 tokens (Mooncake) or 16 (Qwen-Bailian): as many as the prompt has, the last one may be cut.
"""

from __future__ import annotations

import csv
import datetime
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.errors import InvalidFile, InvalidInput
from traces.importers.files.text_lines import MAX_LINE_CHARACTERS, json_document, json_lines, text_lines
from traces.importers.recording import refused
from traces.requests import MAX_REQUESTS, ArrivalTrace

_NAMES: dict[str, tuple[str, ...]] = {
    "time": (
        "arrival_s", "timestamp", "time_s", "arrived_at", "arrival_time", "arrival_ms", "timestamp_ms",
        "arrival_timestamp", "arrival_time_s", "arrival_time_ms", "arrival_time_us", "arrival_time_ns", "timestamp_s",
        "request_timestamp",
    ),
    "input": (
        "input_tokens", "contexttokens", "request tokens", "prompt_tokens", "input_length", "num_prefill_tokens",
        "prompt_size", "input_toks", "prompt_len", "prompt_length", "input_len", "context_tokens", "request_tokens",
        "num_input_tokens", "num_prompt_tokens",
    ),
    "output": (
        "output_tokens", "generatedtokens", "response tokens", "completion_tokens", "output_length",
        "num_decode_tokens", "token_size", "output_toks", "output_len", "decode_length", "generated_tokens",
        "response_tokens", "num_output_tokens", "response_length",
    ),
}  # fmt: skip
"""What a column holds: how traces call it, in lower case."""

_MAX_S = 1e11
"""The latest time: dates of five thousand years; seconds since 1970 in milliseconds are beyond it."""

_EXAMPLE = "arrival_s,input_tokens,output_tokens"
_MAX_TOKENS = 10_000_000
_BLOCKS = (512, 16)
"""Tokens of a block in traces that number them: Mooncake's, Qwen-Bailian's."""

_Row = tuple[float, int, int, NDArray[np.int64] | None]
"""Arrival in seconds, tokens of prompt and answer, and the numbers of the blocks of the prompt, where stated."""


def load_arrivals(path: str | Path) -> ArrivalTrace:
    """The requests of a file, in the order of their arrival, the first at 0. Raises `InvalidFile`."""
    path = Path(path)
    number, first = next(text_lines(path, MAX_LINE_CHARACTERS), (1, ""))
    mark = first.lstrip()[:1]
    rows = _json_rows(path, listed=mark == "[") if mark in ("{", "[") else _table_rows(path)
    times: list[float] = []
    inputs: list[int] = []
    outputs: list[int] = []
    blocks: list[NDArray[np.int64] | None] = []
    n_left_out = 0
    for number, (time, in_tokens, out_tokens, ids) in rows:
        if not in_tokens or not out_tokens:
            n_left_out += 1
            continue
        if len(times) == MAX_REQUESTS:
            raise refused(path, f"more than {MAX_REQUESTS:,} requests: cut it", number)
        times.append(time)
        inputs.append(in_tokens)
        outputs.append(out_tokens)
        blocks.append(ids)
    order = np.argsort(np.array(times), kind="stable")
    try:
        arrival_s = np.array(times, dtype=np.float64)[order]
        arrays = (arrival_s - arrival_s[:1], np.array(inputs)[order], np.array(outputs)[order])
        prefixes = _prefixes([blocks[i] for i in order.tolist()], arrays[1])
        return ArrivalTrace(*arrays, path.name, n_left_out, None, *prefixes)
    except InvalidInput as error:
        raise InvalidFile(f"{path}: {error}") from None


def are_arrivals(first: str) -> bool:
    """Whether the first line of a file names a time, a prompt and an answer, in a header or a JSON object."""
    try:
        record = json.loads(first) if first.startswith("{") else None
    except (ValueError, RecursionError):
        return False
    separator = max(",;\t", key=first.count)
    return _places(list(record) if isinstance(record, dict) else _header(first, separator)) is not None


def _header(line: str, separator: str) -> list[str]:
    return [name.strip().strip('"') for name in line.split(separator)]


def _places(names: list[str]) -> dict[str, str] | None:
    """By what is needed, the name of its column; None where one is missing, or is there twice."""
    found = {}
    for what, spellings in _NAMES.items():
        mine = [name for name in names if name.strip().lower() in spellings]
        if len(mine) != 1:
            return None
        found[what] = mine[0]
    return found


def _table_rows(path: Path) -> Iterator[tuple[int, _Row]]:
    lines = ((number, line) for number, line in text_lines(path) if not line.startswith("#"))
    _, header = next(lines, (1, ""))
    separator = max(",;\t", key=header.count)
    names = _header(header, separator)
    places = _places(names)
    if places is None:
        raise refused(path, f"columns are {header[:80]!r}: name a time, prompt and answer, such as {_EXAMPLE}")
    for number, line in lines:
        try:
            fields = next(csv.reader([line], delimiter=separator, strict=True), [])
        except csv.Error as error:
            raise refused(path, f"no row of a table ({error}): {line[:60]!r}", number) from error
        if len(fields) != len(names):
            raise refused(path, f"{len(fields)} fields, not {len(names)}: {line[:60]!r}", number)
        yield number, (*_row(path, number, places, dict(zip(names, fields, strict=True))), None)


_TEXTS = ("conversations", "conversation", "messages", "prompt", "text")
"""What sets of prompts call their texts."""


def _json_rows(path: Path, *, listed: bool) -> Iterator[tuple[int, _Row]]:
    for number, record in _listed(path) if listed else json_lines(path):
        places = _places(list(record))
        if places is None:
            texts = next((key for key in _TEXTS if key in record), "")
            told = f"{texts} is text, whose tokens nobody counted: " if texts else ""
            raise refused(
                path, f"{told}name a time, prompt and answer, such as timestamp, input_length, output_length", number
            )
        yield number, (*_row(path, number, places, record), _hash_ids(path, number, record.get("hash_ids")))


def _listed(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of one JSON list, numbered from 1. Raises `InvalidFile`."""
    document = json_document(path)
    for number, record in enumerate(document if isinstance(document, list) else (), 1):
        if not isinstance(record, dict):
            raise refused(path, f"request {number} of the list is no JSON object")
        yield number, record


def _row(path: Path, number: int, places: Mapping[str, str], row: Mapping[str, Any]) -> tuple[float, int, int]:
    """Arrival in seconds, tokens of the prompt, tokens of the answer. Raises `InvalidFile`."""
    cell = row[places["time"]]
    time = _seconds(path, number, cell, _per_second(places, row))
    if _is_of_mooncake(places, row) and re.fullmatch(r"\d+\.\d*[1-9]\d*", str(cell).strip(), re.ASCII):
        raise refused(path, "timestamp beside input_length is whole milliseconds: call seconds arrival_s", number)
    inputs, outputs = (_tokens(path, number, places[what], row[places[what]]) for what in ("input", "output"))
    return time, inputs, outputs


def _hash_ids(path: Path, number: int, cell: Any) -> NDArray[np.int64] | None:
    """The numbers of the blocks of a prompt; None where none are stated. Raises `InvalidFile`."""
    if cell is None:
        return None
    if not isinstance(cell, list) or not all(type(one) is int and 0 <= one < 1 << 63 for one in cell):
        raise refused(path, f"hash_ids is {str(cell)[:40]!r}: a list of whole numbers from 0", number)
    return np.array(cell, dtype=np.int64)


def _prefixes(
    blocks: list[NDArray[np.int64] | None], inputs: NDArray[np.int64]
) -> tuple[tuple[NDArray[np.int64], ...], int]:
    """The blocks of every request and the tokens of each; none where a row has none, or not as many as its prompt."""
    known = [one for one in blocks if one is not None]
    if len(known) < len(blocks) or not known:
        return (), 0
    n_ids = np.array([len(one) for one in known])
    for size in _BLOCKS:
        if np.all((n_ids == -(-inputs // size)) | (n_ids == inputs // size)):
            return tuple(known), size
    return (), 0


_UNITS = {"_ms": 10**3, "_us": 10**6, "_ns": 10**9}


def _per_second(places: Mapping[str, str], row: Mapping[str, Any]) -> int:
    """How many of what the column of times counts are a second."""
    return 1000 if _is_of_mooncake(places, row) else _UNITS.get(places["time"].lower()[-3:], 1)


def _is_of_mooncake(places: Mapping[str, str], row: Mapping[str, Any]) -> bool:
    return (places["time"].lower(), places["input"].lower()) == ("timestamp", "input_length") and "chat_id" not in row


def _seconds(path: Path, number: int, cell: Any, per_s: int) -> float:
    """Seconds of a time: a number, so many of which are a second, or a date. Raises `InvalidFile`."""
    text = str(cell).strip()
    if text.isascii():
        try:
            time = float(text)
        except ValueError:
            try:
                date = datetime.datetime.fromisoformat(text)
            except ValueError:
                date = None
            if date is not None:
                zoned = date if date.tzinfo is not None else date.replace(tzinfo=datetime.UTC)
                return zoned.timestamp()
        else:
            if math.isfinite(time) and not isinstance(cell, bool) and "_" not in text:
                if abs(time) > _MAX_S * per_s:
                    raise refused(path, f"{text[:40]} is too late for seconds: arrival_ms has milliseconds", number)
                return time / per_s
    raise refused(path, f"{text[:40]!r} is no time: seconds, or 2023-11-16 18:15:46.68", number)


def _tokens(path: Path, number: int, name: str, cell: Any) -> int:
    text = str(cell).strip().removesuffix(".0")
    if not (text.isascii() and text.isdigit() and int(text[:12]) <= _MAX_TOKENS and len(text) < 12):
        raise refused(path, f"{name} is {text[:40]!r}: a whole number up to {_MAX_TOKENS:,}", number)
    return int(text)
