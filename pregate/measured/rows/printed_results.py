"""What benchmarks of servers print at their end, pasted as text: a block a run, commands and columns of ours above it.

Labels as vllm/benchmarks/serve.py and SGLang's bench_serving.py print them. Lines above a block that are `column:
value` and commands are of all blocks below, until another says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pregate.measured.rows.measured_row import COLUMNS
from traces.errors import InvalidFile

_BEGIN = re.compile(r"\s*=+ *Serving Benchmark Result *=+\s*")
_END = re.compile(r"\s*={20,}\s*")
_LINE = re.compile(r"\s*(?P<label>[A-Za-z][^:=]*?)\s*[:=]\s*(?P<value>\S.*?)\s*")
_TIME = re.compile(r"(?P<of>mean|median|p\d{2}) (?P<time>ttft|tpot|e2el|e2e latency) \(ms\)")
_COUNTS = {
    "successful requests": "completed", "failed requests": "failed", "total input tokens": "total_input_tokens",
    "total generated tokens": "total_output_tokens", "maximum request concurrency": "max_concurrency",
    "max request concurrency": "max_concurrency",
}  # fmt: skip
_NUMBERS = {
    "request rate configured (rps)": "request_rate", "traffic request rate": "request_rate",
    "output token throughput (tok/s)": "output_throughput", "accept length": "accept_length",
}  # fmt: skip
"""Labels by the keys that the same tools write into their files."""
_COMMAND = re.compile(r"\s*[$#>]?\s*(?P<command>(?:\S+=\S+\s+)*\S*(?:vllm|python3?|sglang)\s.*)")
_ENGINE = re.compile(
    r"--backend[ =]+(?P<backend>vllm|sglang)\b|\b(?P<serves>vllm|sglang)(?:\s+serve|\.launch_server)\b"
)
_MODEL = re.compile(r"(?:--model(?:-path)?[ =]+|vllm\s+serve\s+)['\"]?(?P<name>[\w./-]+)")


def is_printed(text: str) -> bool:
    """Whether a text has the result of such a benchmark in it."""
    return any(_BEGIN.fullmatch(line) for line in text.splitlines())


def printed_results(text: str, where: str) -> list[dict[str, Any]]:
    """The blocks of a text, as objects with the keys of the tools' files and the columns of ours above them.

    Raises `InvalidFile` for a block that does not say how many requests were answered.
    """
    found: list[dict[str, Any]] = []
    above: dict[str, str] = {}
    commands: list[str] = []
    after = False
    block: dict[str, Any] | None = None
    for line in _joined(text):
        if _BEGIN.fullmatch(line):
            block = {}
            continue
        if block is not None and not _END.fullmatch(line):
            block.update(_read(line))
            continue
        if block is not None:
            found.append(_with_above(block, above, commands))
            block, after = None, True
            continue
        command, column = _COMMAND.fullmatch(line), _LINE.fullmatch(line)
        if command is not None:
            commands = [] if after else commands  # those of the next run
            commands.append(command["command"])
            after = False
        elif column is not None and column["label"].lower() in COLUMNS:
            above[column["label"].lower()] = column["value"]
    if block is not None:
        found.append(_with_above(block, above, commands))
    if any("completed" not in one for one in found):
        raise InvalidFile(f"{where}: a printed result without a line 'Successful requests:': cut short?")
    return found


def _with_above(block: dict[str, Any], above: dict[str, str], commands: list[str]) -> dict[str, Any]:
    """A block with what is said above it."""
    typed = "; ".join(filter(None, (above.get("policy", ""), *commands)))
    model, engine = _MODEL.search(typed), _ENGINE.search(typed)
    names = {} if model is None else {"model": model["name"]}
    if engine is not None:
        names["stack"] = engine["backend"] or engine["serves"]
    return block | names | above | ({"policy": typed} if typed else {})


def _read(line: str) -> dict[str, Any]:
    """The key and the value of a line of a block; none where it is read by nobody."""
    found = _LINE.fullmatch(line)
    if found is None:
        return {}
    label, value = " ".join(found["label"].lower().split()), found["value"].replace(",", "")
    if label == "backend":
        return {"backend": value}
    time = _TIME.fullmatch(label)
    key = _COUNTS.get(label) or _NUMBERS.get(label)
    if time is not None:
        key = f"{time['of']}_{time['time'].replace(' ', '_')}_ms"
    try:
        number = float(value)
    except ValueError:
        return {}
    if key is None or number != number:  # what was not measured
        return {}
    return {key: int(number) if label in _COUNTS else number}


def _joined(text: str) -> Iterator[str]:
    """Lines, those that end in a backslash with the next."""
    yield from re.sub(r"\\\s*\n", " ", text).splitlines()
