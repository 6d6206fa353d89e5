"""Cells of a table as others write them: columns by other names, tests of llama-bench, values with their unit."""

from __future__ import annotations

import re
from collections.abc import Mapping

from hwmodels.quantity import ReadOnly

__all__ = ["COLUMN_ALIASES", "as_written"]

_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "hardware": ("gpu", "card", "accelerator", "device"),
    "host": ("cpu", "processor"),
    "link": ("pcie", "interconnect"),
    "formats": ("quant", "quantization", "quantisation", "format", "dtype", "precision"),
    "stack": ("engine", "framework", "software", "backend", "runtime"),
    "policy": ("flags", "args", "arguments", "command", "design"),
    "batch": ("batch_size", "concurrency", "bs"),
    "input_tokens": ("prompt_tokens", "in_len", "input_len", "prompt", "prompt_length", "n_prompt"),
    "output_tokens": ("generated_tokens", "out_len", "output_len", "n_gen"),
    "context_tokens": ("depth", "n_depth", "kept_tokens"),
    "metric": ("test", "measure"),
    "value": ("result", "measured", "speed"),
    "unit": ("units",),
    "note": ("notes", "comment", "comments", "remarks"),
    "source": ("reference",),
    "set": ("settings", "overrides"),
}
_METRICS: Mapping[str, tuple[str, ...]] = {
    "decode_tokens_per_s": ("decode", "generation", "tg", "eval", "token_generation", "decode_speed"),
    "prefill_tokens_per_s": ("prefill", "prompt_processing", "pp", "prompt_eval", "prefill_speed"),
    "ttft": ("time_to_first_token",),
    "tpot": ("time_per_output_token", "itl", "tbt"),
}


def _by_word(words: Mapping[str, tuple[str, ...]]) -> Mapping[str, str]:
    return ReadOnly({word: ours for ours, others in words.items() for word in others})


COLUMN_ALIASES = _by_word(_COLUMNS)
"""Other names of columns, in small letters and with underscores."""

_WORDS = _by_word(_METRICS)
_BENCH = re.compile(r"(?P<kind>pp|tg)\s?(?P<n>\d{1,7})(?:\s*@\s*d\s?(?P<depth>\d{1,7}))?", re.ASCII | re.IGNORECASE)
_OF_BENCH = {"pp": ("prefill_tokens_per_s", "input_tokens"), "tg": ("decode_tokens_per_s", "output_tokens")}
_VALUE = re.compile(
    r"~?\s*(?P<value>[0-9.eE+-]+)\s*(?:(?:\u00b1|\+/-)\s*[0-9.]+)?\s*(?P<unit>[A-Za-z][A-Za-z/ ]{0,15})?"
)


def as_written(cells: Mapping[str, str]) -> dict[str, str]:
    """A row's cells, a test of llama-bench (`tg128 @ d8192`) as metric and tokens, a value apart from its unit."""
    row = dict(cells)
    test = _BENCH.fullmatch(row.get("metric", "").strip())
    if test is not None:
        row["metric"], column = _OF_BENCH[test["kind"].lower()]
        row[column] = row.get(column) or test["n"]
        row["context_tokens"] = row.get("context_tokens") or test["depth"] or ""
    plain = re.sub(r"[\s_-]+", "_", row.get("metric", "").strip().lower())
    row["metric"] = _WORDS.get(plain, row.get("metric", ""))
    value = _VALUE.fullmatch(row.get("value", "").strip())
    if value is not None:
        row["value"] = value["value"]
        row["unit"] = row.get("unit") or (value["unit"] or "").strip()
    if not row.get("unit") and row["metric"].endswith("tokens_per_s"):
        row["unit"] = "tokens/s"
    for column in ("batch", "input_tokens", "output_tokens", "context_tokens"):
        row[column] = _count(row.get(column, ""))
    return row


def _count(text: str) -> str:
    """A count as digits: `4k`, `8K` and `1,024` too; other text as it is."""
    plain = text.strip()
    if re.fullmatch(r"\d{1,3}(,\d{3})+", plain, re.ASCII):
        return plain.replace(",", "")
    kilo = re.fullmatch(r"(\d{1,4})\s?[kK]", plain, re.ASCII)
    return str(1024 * int(kilo[1])) if kilo else plain
