"""Tokens, depth and batch that the command of a benchmark states, for a row whose columns say none of them."""

from __future__ import annotations

import re
from collections.abc import Mapping

_OF_LLAMA = {
    "input_tokens": ("-p", "--n-prompt", "-npp"),
    "output_tokens": ("-n", "--n-gen", "-ntg"),
    "context_tokens": ("-d", "--n-depth"),
    "batch": ("-npl",),
}
"""Flags of llama-bench and llama-batched-bench by column."""
_OF_PROMPTS_ALONE = ("-p", "--n-prompt")
"""Of prompts that llama-bench times apart from answers."""
_OF_SERVERS = {
    "input_tokens": ("--input-len",),
    "output_tokens": ("--output-len",),
    "batch": ("--batch-size", "--batch"),
}
"""Flags of the benchmarks of one batch of vLLM and SGLang."""
_LLAMA_BENCH = re.compile(r"llama-(?:batched-)?bench\b")
_ONE_BATCH = re.compile(r"\bbench latency\b|benchmark_latency|bench_one_batch")


def with_command_counts(cells: Mapping[str, str]) -> dict[str, str]:
    """A row with the counts of its command in their columns, those that a column states as they are; one whose command
    tries several depths or batches has a reason in place of a guess, and so has one whose column says another number.
    """
    row, command = dict(cells), cells.get("policy", "")
    if _LLAMA_BENCH.search(command):
        flags = _OF_LLAMA
        row["routing"] = row.get("routing") or ("random" if row.get("metric") == "total_tokens_per_s" else "")
    elif _ONE_BATCH.search(command):
        flags = _OF_SERVERS
    else:
        return row
    for column, names in flags.items():
        is_decode = row.get("metric") == "decode_tokens_per_s"
        said = (name for name in names if not (is_decode and name in _OF_PROMPTS_ALONE))
        found = [value for name in said for value in _values(command, name)]
        if row.get(column):
            if _contradicts(row, column, found):
                said_here = (
                    f"the row has {column} {row[column][:20]}, its command {', '.join(found)[:40]}: which of them ran?"
                )
                row["reason"] = row.get("reason") or said_here
            continue
        if not found:
            continue
        if len(found) == 1 and found[0].isdigit():
            row[column] = "" if found[0] == "0" else found[0]
        elif column in ("context_tokens", "batch") and not row.get("reason"):
            row["reason"] = f"the command tries several of {column} ({', '.join(found)[:40]}): put this row's there"
    return row


_SAYS_NOTHING = {"prefill_tokens_per_s": "output_tokens", "ttft": "output_tokens"}
"""A column that a metric does not depend on."""


def _contradicts(row: Mapping[str, str], column: str, found: list[str]) -> bool:
    """Whether a command states numbers of what a column says, and none is the column's."""
    stated = row[column]
    plain = stated.isdigit() and all(value.isdigit() for value in found)
    return bool(found) and plain and stated not in found and _SAYS_NOTHING.get(row.get("metric", "")) != column


def _values(command: str, flag: str) -> list[str]:
    """The different numbers behind a flag, wherever it stands, parted by commas or spaces; ranges of llama-bench as
    they are written (`0-8192+1024`); none where anything else stands there.
    """
    lists = re.findall(
        rf"(?:^|\s){re.escape(flag)}[ =]+['\"]?(\d[\w*+-]*(?:[, ]+\d[\w*+-]*)*)['\"]?(?=\s|$)", command, re.ASCII
    )
    return list(dict.fromkeys(value for text in lists for value in re.split(r"[, ]+", text)))
