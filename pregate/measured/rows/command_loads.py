"""What a row of a server's benchmark says of who asks: columns of concurrency and rates, commands of clients."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pregate.measured.rows.served_load import OF_REQUESTS, SERVED_METRICS, ServedLoad, metric_of_requests

_WHO_ASKS = ("concurrency", "requests", "request_rate")
LOAD_COLUMNS = (*_WHO_ASKS, "lengths")
"""Columns that become a part of the load; `lengths`: from how much to how much of the stated tokens requests have."""

_EACH = 10
"""Requests of each client where a table says none: what scripts of such benchmarks take (InferenceX, genai-perf)."""
_USUAL = 1000
"""Requests of the benchmarks of vLLM and SGLang that are told no number."""

_PROGRAM = r"(?:\S*python3?\s+(?:-m\s+)?)?(?:\S*/)?"
_REST = r"(?:'[^']*'|\"[^\"]*\"|[^;&|\n'\"])*"


@dataclass(frozen=True)
class _Client:
    """A program that asks: its flags by what they say; `lengths`: those of prompts and answers without a flag, of the
    random tokens that it draws unless told otherwise; `varies`: whether its lengths are drawn too.
    """

    program: re.Pattern[str]
    requests: tuple[str, ...]
    clients: tuple[str, ...]
    rate: tuple[str, ...] = ()
    input_tokens: tuple[str, ...] = ()
    output_tokens: tuple[str, ...] = ()
    n_requests: int = 0
    ratio: str = ""
    """How its `--random-range-ratio` counts: symmetric about the length, or from so much of it on."""
    engine: bool = False
    """Whether the same command has flags of the engine."""


def _program(words: str) -> re.Pattern[str]:
    return re.compile(rf"{_PROGRAM}(?:{words}){_REST}", re.IGNORECASE)


_LENGTHS = (
    ("--random-input-len", "--random-input", "--input-len", "--sonnet-input-len"),
    ("--random-output-len", "--random-output", "--output-len", "--sharegpt-output-len", "--sonnet-output-len"),
)
_OF_ENGINES = (("--num-prompts", "--num-prompt"), ("--max-concurrency",), ("--request-rate",), *_LENGTHS, _USUAL)
_CLIENTS = (
    _Client(_program(r"vllm\s+bench\s+serve\b"), *_OF_ENGINES, "about"),
    _Client(_program(r"benchmark_serving(?:\.py)?\b"), *_OF_ENGINES, "from"),
    _Client(_program(r"(?:sglang\.)?bench_serving(?:\.py)?\b"), *_OF_ENGINES, "from"),
    _Client(_program(r"vllm\s+bench\s+throughput\b|benchmark_throughput(?:\.py)?\b"), *_OF_ENGINES, "about", True),
    _Client(_program(r"(?:sglang\.)?bench_offline_throughput(?:\.py)?\b"), *_OF_ENGINES, "from", True),
    _Client(
        _program(r"(?:genai-perf|aiperf)\s+profile\b"), ("--request-count", "--num-requests"), ("--concurrency",),
        ("--request-rate",), ("--synthetic-input-tokens-mean", "--isl"), ("--output-tokens-mean", "--osl"),
    ),
    _Client(
        _program(r"evalscope\s+perf\b"), ("--number", "-n"), ("--parallel",), ("--rate",), ("--max-prompt-length",),
        ("--max-tokens", "--min-tokens"),
    ),
    _Client(
        _program(r"guidellm\s+benchmark\b"), ("--max-requests",), ("--rate",), (), ("prompt_tokens",),
        ("output_tokens",),
    ),
    _Client(
        _program(r"llmperf\b|token_benchmark_ray(?:\.py)?\b"), ("--max-num-completed-requests",),
        ("--num-concurrent-requests",), (), ("--mean-input-tokens",), ("--mean-output-tokens",),
    ),
    _Client(_program(r"(?:ab|hey|oha|bombardier)\s+(?=-)"), ("-n",), ("-c",)),
    _Client(_program(r"k6\s+run\b|locust\b"), ("--iterations",), ("--vus", "--users", "-u")),
)  # fmt: skip
"""Defaults and laws of lengths: vllm/benchmarks/datasets.py and serve.py, python/sglang/bench_serving.py."""
_SGLANG = re.compile(r"sg-?lang", re.IGNORECASE)
_SLOTS = re.compile(
    r"(?:--max[-_]num[-_]seqs|--max[-_]running[-_]requests|(?<=\s)-np|--parallel|OLLAMA_NUM_PARALLEL)[ =]+(\d{1,5})\b",
    re.ASCII,
)
_BETWEEN = re.compile(r"\s*(?:&&|;|\|+|&)\s*$|^\s*(?:&&|;|\|+|&)\s*")
_DATASET = re.compile(r"--dataset(?:-name)?[ =]+([\w-]+)", re.IGNORECASE)
_RATIO = re.compile(r"--random-range-ratio[ =]+([\d.]+)", re.ASCII)
_PACED = re.compile(r"--(?:rate-type|profile)[ =]+['\"]?(constant|poisson|async)", re.IGNORECASE)
_UNPACED = re.compile(r"--(?:rate-type|profile)[ =]+['\"]?(sweep|throughput|synchronous)", re.IGNORECASE)


_SHARED = re.compile(
    r"--(?:(?:random|sonnet)-prefix-len|(?:shared-)?system-prompt-length|prefix-prompt-length)[ =]+[1-9]"
)
_EVENLY = re.compile(r"--(?:request-rate-mode|arrival-pattern|rate-type|profile)[ =]+['\"]?constant")
_TURNS = r"--(?:conversation-num|conversation-turn-mean|num-sessions|session-concurrency|multi-turn)\b[ =]*\d*"
_OTHER_TRAFFIC: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"--burstiness[ =]+(?!1(?:\.0*)?(?:\s|$))[\d.]+"), "requests come at random here (burstiness 1)"),
    (re.compile(r"--ramp-up-strategy[ =]+\w+"), "requests come at one rate here"),
    (_EVENLY, "requests come at random here, not evenly, and wait otherwise"),
    (_SHARED, "what prompts share is read once where prefixes are held: state input_tokens, those that are read"),
    (re.compile(_TURNS), "turns of a conversation hold each other's prompts, which no load says"),
)
"""What a client may be told that no load says, and why; rates are rates however evenly requests come."""
_SPREADS = (
    (r"--synthetic-input-tokens-stddev|--isl-stddev|--stddev-input-tokens", "input_tokens"),
    (r"--output-tokens-stddev|--osl-stddev|--stddev-output-tokens", "output_tokens"),
)
"""Flags of a standard deviation of lengths, and the column of their mean."""


def with_load(cells: Mapping[str, str]) -> dict[str, str]:
    """A row with what its columns and the command of its client say of who asks as its `load`, its batch how many ask
    at once; one that says none of it as a batch that begins together. What cannot be said is the row's reason.
    """
    row = {column: cell for column, cell in cells.items() if column not in LOAD_COLUMNS}
    said = {column: cells.get(column, "").strip() for column in _WHO_ASKS}
    if row.get("reason") or row.get("load"):
        return row
    typed = row.get("policy", "")
    client, command = _client(typed)
    try:
        if client is not None:
            said["concurrency"] = said["concurrency"] or row.get("batch", "")
            said = _of_command(client, command, row, said)
            rest = typed.replace(command, _without_flags(client, command) if client.engine else " ")
            row["policy"] = _BETWEEN.sub("", rest.strip()).strip()
        slots = _SLOTS.search(typed if client is None or client.engine else typed.replace(command, " "))
        n_slots = int(slots[1]) if slots else 0
        stated = _stated_lengths(cells.get("lengths", ""))
        if not any(said.values()):
            if stated not in (None, (1.0, 1.0)):
                raise _CannotSayError(
                    "lengths: requests of a batch that begins together are alike: state how many ask "
                    "at once (concurrency) or come a second (request_rate)"
                )
            return _as_batch(row, n_slots)
        drawn = stated or _spread_lengths(command, row) or _lengths(client, command)
        return _as_served(row, said, client, command, n_slots, drawn)
    except _CannotSayError as error:
        return row | {"reason": str(error)}


def _as_served(
    row: dict[str, str],
    said: Mapping[str, str],
    client: _Client | None,
    command: str,
    n_slots: int,
    lengths: tuple[float, float],
) -> dict[str, str]:
    """A row whose requests come one by one."""
    try:
        clients, requests = int(said["concurrency"] or row.get("batch") or "0"), int(said["requests"] or "0")
        rate = float(said["request_rate"] or "inf")
    except ValueError:
        raise _CannotSayError(
            f"concurrency, requests and request_rate are numbers, not {', '.join(said.values())[:60]!r}"
        ) from None
    metric, percentile = metric_of_requests(row["metric"])
    if metric not in (*SERVED_METRICS, "itl"):
        return row | {"batch": row.get("batch") or (str(clients) if clients else "")}
    for column in ("input_tokens", "output_tokens"):
        if not row.get(column):
            data = _DATASET.search(command)
            what = f" (the lengths of {data[1]} are its own)" if data else ""
            raise _CannotSayError(f"{column} is empty{what}: what a server does depends on it, state the mean")
    if 1 in (clients, requests) and math.isinf(rate) and lengths == (1.0, 1.0):
        return row | {"batch": "1", "metric": "tpot" if metric == "itl" else metric}
    if metric == "itl":
        if percentile:
            why = "gaps between single tokens are not kept, tpot is the mean gap of a request, state that"
            raise _CannotSayError(f"itl, percentile {percentile}: no metric that is predicted: {why}")
        row["metric"] = "tpot"
    requests = requests or (_EACH * clients if clients else _USUAL)
    load = ServedLoad(requests, rate, lengths, n_slots, _prompts(row), bool(client and client.engine))
    return row | {"load": str(load), "batch": str(min(clients or requests, requests))}


class _CannotSayError(Exception):
    """What a row says of its load is not enough, or too much."""


def _client(command: str) -> tuple[_Client | None, str]:
    """Who asks by a command, and the part of it that is its own."""
    for client in _CLIENTS:
        found = client.program.search(command)
        if found:
            return client, found[0]
    return None, ""


def _of_command(client: _Client, command: str, row: dict[str, str], said: Mapping[str, str]) -> dict[str, str]:
    """The load of a command, columns before it; tokens that it states become those of the row."""
    _refuse_other_traffic(command, row)
    paced = bool(_PACED.search(command))
    if _UNPACED.search(command):
        raise _CannotSayError("the command finds its own rates: put how many asked at once into concurrency")
    flags = {
        "requests": client.requests, "concurrency": () if paced else client.clients,
        "request_rate": client.clients if paced else client.rate,
    }  # fmt: skip
    made = {column: cell or _one(command, flags[column], column) for column, cell in said.items()}
    made["requests"] = made["requests"] or (str(client.n_requests) if client.n_requests else "")
    for column, names in (("input_tokens", client.input_tokens), ("output_tokens", client.output_tokens)):
        row[column] = row.get(column) or _one(command, names, column)
    data = _DATASET.search(command)
    if client.ratio == "about" and data is None and not row["input_tokens"] and not client.engine:
        row["input_tokens"], row["output_tokens"] = "1024", row["output_tokens"] or "128"  # datasets.py: RandomDataset
    drawn = data is None or data[1].lower() in ("random", "random-ids")
    if (
        client.n_requests
        and drawn
        and (client.ratio == "about" or "benchmark_serving" in command or "random-ids" in command)
    ):
        row["routing"] = row.get("routing") or "random"
    return made


def _refuse_other_traffic(command: str, row: Mapping[str, str]) -> None:
    """Raises `_CannotSayError` for traffic that no load says."""
    of_time = metric_of_requests(row["metric"])[0] in (*OF_REQUESTS, "itl")
    for told, why in _OTHER_TRAFFIC:
        found = told.search(command)
        if found is None or (told is _EVENLY and not of_time) or (told is _SHARED and row.get("input_tokens")):
            continue
        raise _CannotSayError(f"{' '.join(found[0].split())[:40]}: {why}")


def _spread_lengths(command: str, row: Mapping[str, str]) -> tuple[float, float] | None:
    """From how much to how much of the stated tokens lengths lie that were drawn with a standard deviation: evenly, as
    widely, prompts and answers as their mean; None without one.
    """
    away: list[float] = []
    for flags, column in _SPREADS:
        found = re.search(rf"(?:{flags})[ =]+([\d.]+)", command)
        mean = row.get(column, "")
        away.append(math.sqrt(3) * float(found[1]) / int(mean) if found and mean.isdigit() and int(mean) else 0.0)
    share = min(sum(away) / len(away), 1.0)
    return (round(1 - share, 3), round(1 + share, 3)) if share else None


def _one(command: str, flags: tuple[str, ...], column: str) -> str:
    """The number behind one of `flags`, "" without any, or where it is infinite."""
    found: list[str] = []
    for flag in flags:
        word = re.escape(flag).replace(r"\-", "[-_]") if flag.startswith("--") else re.escape(flag)
        numbers = r"(inf|[\d.]+(?:[, ]+[\d.]+)*)(?=['\",\s}]|$)"
        for text in re.findall(rf"(?:^|[\s'\",{{]){word}['\"]?[ =:]+['\"]?{numbers}", command):
            found += [one for one in re.split(r"[, ]+", text) if one]
    found = list(dict.fromkeys(found))
    if len(found) > 1:
        raise _CannotSayError(f"the command tries several of {column} ({', '.join(found)[:40]}): put this row's there")
    return found[0] if found and found[0] not in ("inf", "0") else ""


def _stated_lengths(text: str) -> tuple[float, float] | None:
    """The column `lengths`: `0.5-1.5`; None of an empty one."""
    if not text.strip():
        return None
    low, _, high = text.strip().partition("-")
    try:
        drawn = float(low), float(high)
    except ValueError:
        drawn = math.nan, math.nan
    if not 0 <= drawn[0] <= drawn[1] <= 2:
        why = (
            "from how much to how much of the stated tokens requests have, from 0 to 2: 0.5-1.5 is one; a prompt and "
            "its answer are 512+128"
        )
        raise _CannotSayError(f"lengths {text[:40]!r}: {why}")
    return drawn


def _lengths(client: _Client | None, command: str) -> tuple[float, float]:
    """From how much to how much of the stated tokens requests have."""
    ratio = _RATIO.search(command)
    if ratio is None and "--random-range-ratio" in command:
        raise _CannotSayError("--random-range-ratio of prompts and of answers apart: state lengths, such as 0.8-1.2")
    share = float(ratio[1]) if ratio else None
    if client is None or not client.ratio:
        return 1.0, 1.0
    if client.ratio == "about":
        return (1 - share, 1 + share) if share and share < 1 else (1.0, 1.0)
    if _SGLANG.search(command) or "benchmark" not in command:
        drawn = _DATASET.search(command)
        return (min(share or 0.0, 1.0), 1.0) if drawn and drawn[1].lower().startswith("random") else (1.0, 1.0)
    return (min(share or 1.0, 1.0), 1.0)


def _prompts(row: Mapping[str, str]) -> str:
    """How SGLang's prompts pass; "" of other engines."""
    server = row.get("policy", "")
    if not _SGLANG.search(row.get("stack", "")) and not re.search(r"sglang[. ](?:launch_server|serve)", server):
        return ""
    return "beside" if "--enable-mixed-chunk" in server else "alone"


def _without_flags(client: _Client, command: str) -> str:
    """The command of a benchmark in the engine's own process, without what is of the load."""
    own = (*client.requests, *client.clients, *client.rate, *client.input_tokens, *client.output_tokens,
           "--random-range-ratio", "--dataset-name", "--dataset-path", "--dataset")  # fmt: skip
    for flag in own:
        command = re.sub(rf"(?<=\s){re.escape(flag)}[ =]+\S+", "", command)
    return command


def _as_batch(row: dict[str, str], n_slots: int) -> dict[str, str]:
    """A row that says nothing of who asks: a batch that begins together, all of whose requests are alike."""
    metric, percentile = metric_of_requests(row["metric"])
    if percentile not in (0, 50):
        why = "a batch that begins together has one time: state how many ask at once (concurrency) or come a second"
        raise _CannotSayError(f"{row['metric']}: {why} (request_rate)")
    of_server = metric == "requests_per_s" or (n_slots > 1 and metric in ("tokens_per_s", "total_tokens_per_s"))
    if of_server and not row.get("batch"):
        raise _CannotSayError(f"{metric}: how many asked at once is not said: state it in concurrency or batch")
    return row | {"metric": "tpot" if metric == "itl" else metric}
