"""Cells of a table as others write them: columns by other names, tests of llama-bench, values with their unit."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pregate.measured.rows.metric_aliases import METRIC_ALIASES, WORDS_OF_RATES, by_alias, is_metric_name, underscored
from pregate.measured.rows.placement_words import placement_in_words
from pregate.measured.rows.served_load import PERCENTILES
from pregate.measured.rows.stated_lengths import count_of
from pregate.measured.rows.stated_units import metric_and_unit, metric_of_unit, one_unit, own_unit, value_and_unit
from pregate.spellings.host_memory import host_and_memory

_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "model": ("model_name", "llm", "checkpoint"),
    "hardware": ("gpu", "gpus", "card", "accelerator", "device", "machine"),
    "host": ("cpu", "processor"),
    "memory": ("ram", "dram", "host_memory", "system_memory", "dimms"),
    "name": ("id", "row"),
    "link": ("pcie", "interconnect"),
    "formats": ("quant", "quantization", "quantisation", "format", "dtype", "precision"),
    "stack": ("engine", "framework", "software", "backend", "runtime"),
    "policy": ("flags", "args", "arguments", "command", "cmd", "command_line", "options", "design"),
    "batch": ("batch_size", "bs"),
    "concurrency": (
        "max_concurrency",
        "parallel",
        "n_parallel",
        "users",
        "clients",
        "concurrent_requests",
        "concurrent_users",
        "conc",
        "num_concurrent_requests",
    ),
    "requests": ("num_prompts", "n_requests", "num_requests", "number_of_requests", "total_requests", "prompts"),
    "request_rate": ("qps", "arrival_rate", "request_rate_(req/s)", "request_rate_(rps)", "rate"),
    "input_tokens": (
        "input",
        "isl",
        "prompt_len",
        "prompt_tokens",
        "in_len",
        "input_len",
        "input_length",
        "prompt",
        "prompt_length",
        "n_prompt",
    ),
    "output_tokens": (
        "output",
        "osl",
        "output_length",
        "generated_tokens",
        "generated",
        "new_tokens",
        "completion_tokens",
        "out_len",
        "output_len",
        "n_gen",
    ),
    "context_tokens": ("depth", "n_depth", "kept_tokens"),
    "lengths": (
        "length",
        "isl/osl",
        "isl_/_osl",
        "in/out",
        "input/output",
        "input/output_tokens",
        "prompt/output",
        "prompt/gen",
        "pp/tg",
    ),
    "metric": ("test", "measure"),
    "value": ("result", "measured", "speed"),
    "unit": ("units",),
    "note": ("notes", "comment", "comments", "remarks"),
    "source": ("reference",),
    "set": ("settings", "overrides"),
}
COLUMN_ALIASES = by_alias(_COLUMNS)
"""Other names of columns, in small letters and with underscores."""

_DEPTH = (
    r"\s*(?:@|\(|,|\bat\b)\s*(?:d(?:epth)?|ctx|context)?(?:\s+of)?\s*=?\s*(?P<depth>\d{1,7}k?)"
    r"(?:\s*(?:tokens?|ctx|context|depth))*\)?"
)
_BENCH = re.compile(rf"(?P<kind>pp|tg)\s?(?P<n>\d{{1,7}}k?)(?:{_DEPTH})?", re.ASCII | re.IGNORECASE)
_AT_DEPTH = re.compile(
    rf"(?P<metric>[A-Za-z][\w /]*?){_DEPTH}(?P<unit>\s*[(\[]?[A-Za-z/]+[)\]]?)?", re.ASCII | re.IGNORECASE
)
"""A metric at so many tokens: `decode @ 32k`, `TTFT at 8k (ms)`."""
_BOTH = re.compile(r"pp\s?(?P<pp>\d{1,7})\s*\+\s*tg\s?(?P<tg>\d{1,7})", re.ASCII | re.IGNORECASE)
"""A prompt and an answer after it, counted as tokens of both."""
_EXPLAINED = re.compile(r"(?:(?<=exps=CPU)|(?<=cpu-moe)|(?<=-ngl 0)): (?:all|every)[a-z ]+ on the CPU$")
"""Words behind flags that say what these mean: `-ot exps=CPU: all routed experts on the CPU`."""
_WHOLE_RUN = re.compile(r"(?:generation )?throughput \(prefill ?(?:\+|and) ?decode\)", re.IGNORECASE)
"""Output tokens over the whole run, as MoE-Lightning and FlexGen count them."""
_OF_BENCH = {"pp": ("prefill_tokens_per_s", "input_tokens"), "tg": ("decode_tokens_per_s", "output_tokens")}


def as_written(cells: Mapping[str, str]) -> dict[str, str]:
    """A row's cells, a test of llama-bench (`tg128 @ d8192`) as metric and tokens, which it draws at random, a value
    apart from its unit. Raises `InvalidInput` for two units.
    """
    row = dict(cells)
    row |= _at_depth(row)
    if _WHOLE_RUN.fullmatch(row.get("metric", "").strip()):
        row["metric"] = "tokens_per_s"
    told, unit = metric_and_unit(row.get("metric", ""))
    test = _BENCH.fullmatch(row.get("metric", "").strip())
    if test is None and unit and (test := _BENCH.fullmatch(told.strip())):
        row["unit"] = one_unit(unit, row.get("unit", ""))
    if test is not None:
        row["metric"], column = _OF_BENCH[test["kind"].lower()]
        row[column] = row.get(column) or test["n"]
        row["context_tokens"] = row.get("context_tokens") or test["depth"] or ""
        row["routing"] = row.get("routing") or "random"
    both = _BOTH.fullmatch(row.get("metric", "").strip())
    if both is not None:
        row |= {"metric": "total_tokens_per_s", "input_tokens": both["pp"], "output_tokens": both["tg"]}
        row["routing"] = row.get("routing") or "random"
    metric, unit = metric_and_unit(row.get("metric", ""))
    if (
        test is None
        and both is None
        and underscored(row.get("metric", "")) not in METRIC_ALIASES
        and (unit != "tokens/s" or underscored(metric) in METRIC_ALIASES)
    ):
        row["metric"], row["unit"] = metric, one_unit(unit, row.get("unit", ""))
    row["metric"] = METRIC_ALIASES.get(underscored(row["metric"]), _of_requests(row["metric"]) or row["metric"])
    row["value"], unit = value_and_unit(row.get("value", ""))
    row["unit"] = own_unit(row.get("unit", ""), unit)
    row["metric"] = metric_of_unit(row["metric"], row["unit"])
    row["placement"] = placement_in_words(row.get("placement", ""))
    policy = row["policy"] = _EXPLAINED.sub("", row.get("policy", ""))
    if not row["placement"] and placement_in_words(policy) != policy:
        row["policy"], row["placement"] = "gpu_only", placement_in_words(policy)
    row |= _memory_apart(row)
    for column in ("batch", "input_tokens", "output_tokens", "context_tokens", "concurrency", "requests"):
        row[column] = count_of(row.get(column, ""))
    return row


_AFTER_TOKENS = ("decode_tokens_per_s", "tpot")


def _at_depth(row: Mapping[str, str]) -> dict[str, str]:
    """The metric of a row apart from the tokens that it is of: those before an answer, or of the prompt of a time to
    the first token. Of a rate of prompts they may be either, so that it stays as it is.
    """
    at = _AT_DEPTH.fullmatch(row.get("metric", "").strip())
    plain = underscored(metric_and_unit(at["metric"])[0]) if at else ""
    ours = METRIC_ALIASES.get(plain, plain)
    column = "context_tokens" if ours in _AFTER_TOKENS else "input_tokens" if ours == "ttft" else ""
    if at is None or not column or row.get(column):
        return {}
    return {"metric": f"{at['metric']}{at['unit'] or ''}", column: at["depth"]}


def is_metric(header: str) -> bool:
    """Whether the header of a column names a metric, with or without its unit: `decode t/s`, `TTFT (ms)`, `pp512`."""
    if _BENCH.fullmatch(header.strip()) or _BOTH.fullmatch(header.strip()):
        return True
    if _at_depth({"metric": header}):
        return True
    metric, _ = metric_and_unit(header)
    if _WHOLE_RUN.fullmatch(header.strip()):
        return True
    return any(is_metric_name(text) or _of_requests(text) for text in (header, metric))


_STATISTIC = r"(?P<{0}>mean|avg\.?|average|median|p\d\d|\d\d(?:th)?[ _-]?percentile)"
_BASE = (
    r"(?P<{0}>ttft|time[ _]to[ _]first[ _]token|first[ _]token[ _]latency|tpot|time[ _]per[ _]output[ _]token|itl|tbt|"
    r"inter[ _-]token[ _]latency|e2el?|(?:(?:e2e|end[ _-]to[ _-]end|request|total)[ _])?latency)"
)
_TOLD = re.compile(
    rf"{_STATISTIC.format('a')}[ _]+{_BASE.format('b')}|{_BASE.format('c')}[ _,]+{_STATISTIC.format('d')}",
    re.IGNORECASE,
)


def _of_requests(text: str) -> str:
    """A mean or a percentile over requests by our name, "" of another metric: `P99 TTFT`, `avg latency`."""
    told = _TOLD.fullmatch(metric_and_unit(text)[0].strip())
    if told is None:
        return ""
    base, statistic = (told["b"] or told["c"]).lower(), (told["a"] or told["d"]).lower()
    kinds = {"ttft": r"ttft|.*first", "tpot": r"tpot|.*output", "itl": r"itl|tbt|inter", "e2el": r""}
    name = next(kind for kind, form in kinds.items() if re.match(form, base))
    digits = re.sub(r"\D", "", statistic) or ("50" if statistic == "median" else "")
    if not digits:
        return "tpot" if name == "itl" else name
    return f"{name}_p{digits}" if int(digits) in PERCENTILES else ""


def unit_of_header(header: str) -> bool:
    """Whether the header of a column is no more than a unit, or a word for a value with one: `t/s`, `Result (ms)`."""
    metric, unit = metric_and_unit(header)
    plain = underscored(header)
    return plain in (*WORDS_OF_RATES, "ms") or (
        bool(unit) and underscored(metric) in (*_COLUMNS["value"], "value", "avg")
    )


def _memory_apart(row: Mapping[str, str]) -> dict[str, str]:
    """A host's memory in a cell of its own where it stands beside the host."""
    host, memory = host_and_memory(row.get("host", ""))
    return {"host": host, "memory": memory} if memory and not row.get("memory") else {}
