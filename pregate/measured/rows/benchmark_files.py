"""Result files of the benchmarks of engines, as rows by our columns: what they hold, and what a reader has to add.

None of them says which card it ran on, and some not which model: keys `model`, `hardware`, `stack` and any other column
of ours that are added to their objects are read. Keys as the tools write them (vllm/benchmarks/serve.py and SGLang's
bench_serving.py, read in November 2026; bench_one_batch.py, tools/batched-bench of llama.cpp: not re-read).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any

from pregate.measured.rows.measured_row import COLUMNS
from pregate.measured.rows.served_load import SERVED_METRICS, metric_of_requests
from traces.errors import InvalidFile

_Cells = dict[str, str]

_COME_AND_GO = "percentiles of requests that come and go"
_UNREAD: Mapping[str, tuple[tuple[str, ...], str]] = {
    "vllm bench throughput": (("elapsed_time", "requests_per_second"), "rates of requests that join and leave"),
    "vllm bench latency": (("avg_latency", "latencies"), "the time of whole requests of no stated length"),
    "AIPerf or GenAI-Perf": (("records", "input_config"), _COME_AND_GO),
    "guidellm": (("benchmarks",), _COME_AND_GO),
    "GenAI-Perf": (("time_to_first_token", "request_latency"), _COME_AND_GO),
}
"""Tools whose files hold no row of ours: keys that tell them, and what they hold."""
_CLIENTS = (
    (
        "GenAI-Perf or AIPerf",
        re.compile(r"\s*NVIDIA (?:GenAI-Perf|AIPerf)\b|[\u2503\u2502|]\s*(?:Statistic|Metric)\b.*\bavg\b.*\bp99\b"),
    ),
    (
        "trtllm-bench",
        re.compile(r"\s*=\s*PERFORMANCE OVERVIEW\s*$|\s*Total Output Throughput \(tokens/sec\):"),
    ),
    ("llmperf", re.compile(r'.*"results_ttft_s_mean"\s*:|\s*inter_token_latency_s\s*$')),
    ("guidellm", re.compile(r"\s*Benchmarks (?:Metadata|Info|Stats):?\s*$")),
)
"""Clients of servers by a line that each alone prints or writes. Labels read in November and December 2026: NVIDIA's
pages on AIPerf and TensorRT-LLM (performance overview), llmperf's summary file, GuideLLM's guide on its results.
"""
_FIRST_LINES = 200
_ENGINES = {"vllm": "vllm", "sglang": "sglang", "sglang-native": "sglang", "sglang-oai": "sglang"}
"""Engines by what serving benchmarks call the back end; `openai` is any."""


def rows_of_benchmark(objects: Sequence[Mapping[str, Any]], where: str) -> list[_Cells] | None:
    """Rows of the objects of one tool's file; None where no tool that is known here wrote it. Raises `InvalidFile` for
    a file that lacks what a row needs, or holds none.
    """
    first = frozenset(objects[0])
    for tool, (keys, what) in _UNREAD.items():
        if set(keys) <= first:
            raise not_of_a_batch(f"{where}: of {tool}", what)
    for tool, needed, rows_of in _READ:
        if set(needed) <= first:
            lacking = next((key for one in objects for key in needed if key not in one), "")
            if lacking:
                raise InvalidFile(f"{where}: of {tool}: {lacking!r} is missing in one of its objects: cut short?")
            return [cells for one in objects for cells in _stated(rows_of(one), one, f"{where}: of {tool}")]
    return None


def rows_of_printed(objects: Sequence[Mapping[str, Any]], where: str) -> list[_Cells]:
    """Rows of what serving benchmarks print. Raises `InvalidFile` as `rows_of_benchmark`."""
    told = f"{where}: a printed result"
    return [
        cells
        for one in objects
        for cells in _stated(_of_serving(one), one, told, "write", "on a line above it", "{}: {}")
    ]


def client_of(text: str) -> str:
    """The client of a server that printed or wrote a text, of those whose results are no row of ours; "" of another."""
    lines = [line[:2000] for line in text.splitlines()[:_FIRST_LINES]]
    return next((name for name, form in _CLIENTS if any(map(form.match, lines))), "")


def not_of_a_batch(where: str, what: str = _COME_AND_GO) -> InvalidFile:
    """The error for a file that does not say who asked for how much."""
    return InvalidFile(
        f"{where}: it holds {what}: write a row of it (model,hardware,stack,concurrency,requests,input_tokens,"
        f"output_tokens,metric,value,unit; batch in place of concurrency of one that begins together)"
    )


def of_batched_table(header: Sequence[str], rows: Sequence[Sequence[str]], where: str) -> list[_Cells] | None:
    """Rows of the Markdown of llama-batched-bench; None where a table is another's."""
    names = {"PP": "pp", "TG": "tg", "B": "pl", "S_PP t/s": "speed_pp", "S_TG t/s": "speed_tg"}
    if not set(names) <= set(header):
        return None
    keys = [names.get(name, name.lower()) for name in header]
    return rows_of_benchmark([dict(zip(keys, row, strict=False)) for row in rows], where)


def _stated(
    rows: Iterator[_Cells], theirs: Mapping[str, Any], where: str,
    how: str = "add", place: str = "to each of its objects", form: str = '"{}": "{}"',
) -> Iterator[_Cells]:  # fmt: skip
    """Rows with the columns of ours that were added to their object. Raises `InvalidFile` where one is due."""
    added = {key: str(value) for key, value in theirs.items() if key in _ADDED and isinstance(value, str | int)}
    for cells in rows:
        made = cells | {key: value for key, value in added.items() if value}
        missing = [key for key in ("model", "hardware", "stack") if not made.get(key)]
        if missing:
            told = ", ".join(form.format(key, _EXAMPLES[key]) for key in missing)
            raise InvalidFile(f"{where}, which writes no {' and no '.join(missing)}: {how} {told} {place}")
        yield made


_ADDED = frozenset(COLUMNS) - {"metric", "value", "unit", "batch", "input_tokens", "output_tokens"}
_EXAMPLES = {"model": "qwen3-30b-a3b", "hardware": "rtx-4090", "stack": "vllm"}


def _of_serving(theirs: Mapping[str, Any]) -> Iterator[_Cells]:
    """Output tokens a second, means and percentiles over requests, with who asked; traffic that is not simulated as
    their reason.
    """
    n, at_once = theirs["completed"], str(theirs.get("max_concurrency") or "")
    cells = {
        "model": str(theirs.get("model_id") or ""),
        "stack": _ENGINES.get(str(theirs.get("backend")).lower(), ""),
        "input_tokens": _mean(theirs.get("total_input_tokens"), n),
        "output_tokens": _mean(theirs.get("total_output_tokens"), n),
        "concurrency": at_once,
        "requests": str(n),
        "request_rate": str(theirs.get("request_rate") or ""),
        "lengths": _lengths(theirs),
        "reason": _other_traffic(theirs),
    }
    if theirs.get("output_throughput"):
        yield cells | {"metric": "tokens_per_s", "value": str(theirs["output_throughput"]), "unit": "tokens/s"}
    for metric in SERVED_METRICS:
        name, percentile = metric_of_requests(metric)
        words = {0: ("mean",), 50: ("median", "p50")}.get(percentile, (f"p{percentile}",))
        keys = [f"{word}_{their}_ms" for word in words for their in _TIMES_OF_REQUESTS.get(name, ())]
        value = next((theirs[key] for key in keys if theirs.get(key) is not None), None)
        if value is not None and not (percentile and at_once == "1"):  # one at a time: one time, no percentiles of it
            yield cells | {"metric": metric, "value": str(value), "unit": "ms"}


_TIMES_OF_REQUESTS = {"ttft": ("ttft",), "tpot": ("tpot",), "e2el": ("e2el", "e2e_latency")}
"""Times of requests by what the tools call them."""


def _other_traffic(theirs: Mapping[str, Any]) -> str:
    """What of its requests no load says: the reason of its rows."""
    if theirs.get("ramp_up_strategy"):
        return f"ramp_up_strategy {str(theirs['ramp_up_strategy'])[:20]}: requests come at one rate here"
    if str(theirs.get("request_rate")).lower() not in ("inf", "none") and theirs.get("burstiness") not in (None, 1):
        return f"burstiness {str(theirs['burstiness'])[:20]}: requests come at random here (1)"
    if theirs.get("failed"):
        return f"{str(theirs['failed'])[:20]} requests failed: what they took of the server is not stated"
    drafts = next((key for key in _OF_DRAFTS if theirs.get(key)), "")
    if drafts:
        return f"{drafts} {str(theirs[drafts])[:20]}: a draft's tokens were verified together, which no row says"
    return ""


_OF_DRAFTS = ("accept_length", "spec_decode_acceptance_length", "spec_decode_num_drafts")
"""Keys that a server which drafts tokens leaves, SGLang's and vLLM's."""


def _lengths(theirs: Mapping[str, Any]) -> str:
    """From how much to how much of their mean lengths were drawn evenly, as SGLang's ratio says, else with the spread
    that the prompts have, whatever law they follow; "" of lengths that are alike or not stated. What is no length or
    share is said as it stands.
    """
    tokens, share = theirs.get("input_lens"), theirs.get("random_range_ratio")
    if isinstance(share, int | float) and str(theirs.get("dataset_name")).startswith("random"):
        if not 0 <= share <= 1:
            return f"random_range_ratio {share}"
        away = (1 - share) / (1 + share)  # drawn from a share of the stated length up to it
    elif isinstance(tokens, list) and any(tokens):
        if not all(isinstance(one, int) and 0 <= one < 2**31 for one in tokens):
            return str(tokens)[:40]  # which is told of as none
        away = min(math.sqrt(3) * pstdev(tokens) / fmean(tokens), 1.0)
    else:
        return ""
    return f"{1 - away:.3g}-{1 + away:.3g}" if away > 0.001 else ""


def _mean(total: Any, n: Any) -> str:
    """A mean length, whole; empty where it is not said."""
    known = isinstance(total, int) and isinstance(n, int) and total > 0 < n
    return str(max(1, round(total / n))) if known else ""


def _of_batched(theirs: Mapping[str, Any]) -> Iterator[_Cells]:
    """Rates of llama-batched-bench: prompts, of one where all share it, and answers of all sequences."""
    flags = (
        ("n_gpu_layers", "-ngl"),
        ("n_batch", "-b"),
        ("n_ubatch", "-ub"),
        ("n_threads", "-t"),
        ("flash_attn", "-fa"),
    )
    cells = {
        "stack": "llama-cpp",
        "policy": " ".join(f"{flag} {int(theirs[key])}" for key, flag in flags if key in theirs),
        "routing": "random",
    }
    n = str(theirs["pl"])
    prompt = {"batch": "1" if theirs.get("is_pp_shared") in (1, True) else n, "input_tokens": str(theirs["pp"])}
    yield cells | prompt | {"metric": "prefill_tokens_per_s", "value": str(theirs["speed_pp"]), "unit": "tokens/s"}
    answer = {"batch": n, "input_tokens": str(theirs["pp"]), "output_tokens": str(theirs["tg"])}
    yield cells | answer | {"metric": "decode_tokens_per_s", "value": str(theirs["speed_tg"]), "unit": "tokens/s"}


def _of_one_batch(theirs: Mapping[str, Any]) -> Iterator[_Cells]:
    """Rates of SGLang's benchmark of one batch."""
    cells = {
        "stack": "sglang",
        "batch": str(theirs["batch_size"]),
        "input_tokens": str(theirs["input_len"]),
        "output_tokens": str(theirs["output_len"]),
        "routing": "random",
        "unit": "tokens/s",
    }
    yield cells | {"metric": "prefill_tokens_per_s", "value": str(theirs["prefill_throughput"])}
    if theirs.get("median_decode_throughput"):
        yield cells | {"metric": "decode_tokens_per_s", "value": str(theirs["median_decode_throughput"])}


_READ: tuple[tuple[str, tuple[str, ...], Callable[[Mapping[str, Any]], Iterator[_Cells]]], ...] = (
    ("a serving benchmark", ("completed", "request_throughput", "mean_tpot_ms", "mean_ttft_ms"), _of_serving),
    ("llama-batched-bench", ("pp", "tg", "pl", "speed_pp", "speed_tg"), _of_batched),
    ("bench_one_batch", ("batch_size", "input_len", "output_len", "prefill_throughput"), _of_one_batch),
)
"""Tools whose files are read, and the keys that tell them."""
