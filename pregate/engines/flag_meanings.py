"""What flags of an engine come to, taken one after the other: clauses of a placement, formats, numbers of a machine.

What each flag says stands in `flags.yaml`, by engine; how that is put into the cells of a row, in `reading`.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field

from pregate.engines.flag_table import NOTHING, EngineFlags
from pregate.engines.multi_card_flags import CardsSaid
from pregate.engines.placed_tensors import is_buffer, is_plain_pattern
from pregate.engines.writing import NO_OPS
from traces.errors import InvalidInput

MOST_LETTERS = 2000
_OFF = ("0", "off")
_UNMAPPED = ("none", "mlock", "dio")
_LOAD_MODES = (*_UNMAPPED, "auto", "mmap", "mmap+mlock")
_WEIGHTS = {
    "fp8": "fp8", "awq": "int4-g128-zp", "awq_marlin": "int4-g128-zp", "gptq": "int4-g128",
    "gptq_marlin": "int4-g128", "mxfp4": "mxfp4", "modelopt": "fp8", "modelopt_fp4": "nvfp4", "bitsandbytes": "nf4",
}  # fmt: skip
"""Formats of weights by what vLLM calls them, of GPTQ and AWQ as nearly all are published."""

_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]+")
_NO_GRAPHS = re.compile(
    r'cudagraph_mode"?\s*[:=]\s*"?NONE|(?:^|mode"?\s*[:=]|level"?\s*[:=])\s*"?0\s*(?:$|["},])', re.I
)
"""In vLLM's configuration of compilation: passes that are launched kernel by kernel."""


@dataclass(slots=True)
class FlagMeanings:
    """What flags come to: clauses of a placement, formats of the cache, numbers of the machine, a whole policy."""

    gpu_layers: int | None = None
    cpu_moe: int | None = None
    n_threads: int | None = None
    prompt_threads: int | None = None
    watts: float | None = None
    clock_hz: float | None = None
    has_no_graphs: bool = False
    schedules_between: bool = False
    is_fitted: bool = False
    is_host_alone: bool = False
    is_pageable: bool = False
    on_host_gib: float = 0.0
    on_host_names: str = ""
    copied_gib: float = 0.0
    batch: int | None = None
    brought_names: str = ""
    in_memory: bool = False
    groups: dict[str, int] = field(default_factory=dict)
    overrides: list[tuple[str, str]] = field(default_factory=list)
    clauses: dict[str, str] = field(default_factory=dict)
    formats: dict[str, str] = field(default_factory=dict)
    kv: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    numbers: dict[str, str] = field(default_factory=dict)
    cards: CardsSaid = field(default_factory=CardsSaid)


def meanings_of(text: str, engine: EngineFlags) -> FlagMeanings:
    """What the flags `text` come to. Raises `InvalidInput` naming the flag that cannot be said, with the way out."""
    if len(text) > MOST_LETTERS:
        raise InvalidInput(f"policy {text[:40]!r}...: {len(text)} characters of flags, {MOST_LETTERS} are read")
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InvalidInput(f"policy {text[:60]!r}: {error}") from None
    said = FlagMeanings()
    while words:
        name, equals, value = words.pop(0).partition("=")
        is_variable = bool(equals) and _VARIABLE.fullmatch(name) is not None
        name, _, key = name.partition(".") if name.startswith("-") else (name, "", "")
        flag = engine.read.get(name) or engine.read.get(re.sub(r"(?<=\w)_", "-", name))
        if equals and (name.startswith("--") or flag is not None):
            words.insert(0, value)
        elif equals and not is_variable:
            raise InvalidInput(f"policy {text[:60]!r}: {name}={value[:20]} is no flag")
        why = engine.why_refused(name)
        if flag is None and why:
            raise InvalidInput(f"policy: {name}: {why}: give the row a reason")
        if flag is None and is_variable:
            continue
        if flag is None:
            known = sorted(name for name, one in engine.read.items() if one.says != NOTHING)
            raise InvalidInput(
                f"policy: flag {name[:40]!r} is not known here of {engine.engine}: known are {', '.join(known)}, and "
                f"flags that nothing here depends on; requests at once are batch"
            )
        value = flag.takes(words)
        if flag.noted and (not flag.switch or value in _OFF):
            said.notes.append(f"{name}: {flag.noted}")
        _take(said, flag.says, name, f"{key}={value}" if key else value)
    return said


_KV_LEVELS = {"0": "f16", "1": "q8_0", "2": "q4_0"}
"""What koboldcpp's --quantkv means."""


def _take(said: FlagMeanings, what: str, flag: str, value: str) -> None:
    match what:
        case "layers_on_device" if flag == "--gpulayers" and value == "-1":
            raise InvalidInput(
                f"policy: {flag} -1: koboldcpp chooses how many: give those that it printed, or 999 for all"
            )
        case "layers_on_device":
            said.is_fitted = value == "auto"
            said.gpu_layers = None if said.is_fitted else _count(flag, "9999" if value in ("all", "-1") else value)
        case "experts_on_host_of":
            said.cpu_moe = _count(flag, value)
        case "experts_on_host":
            said.overrides.append(("exps", "CPU"))
        case "tensors_placed":
            for one in map(str.strip, re.split(r"[,;]", value)):
                pattern, equals, where = one.rpartition("=")
                if not equals or not is_plain_pattern(pattern):
                    raise InvalidInput(f"policy: {flag} {one[:60]!r} is no PATTERN=BUFFER that is read here")
                if not is_buffer(where):
                    raise InvalidInput(f"policy: {flag}: {where[:40]!r} is no buffer of this machine: CPU, CUDA0")
                said.overrides.append((pattern, where))
        case "cache_mib":
            raise InvalidInput(f"policy: {flag}: a cache of experts in HBM is a policy here: on_demand+lru:0.1")
        case "micro_batch":
            said.clauses["ubatch"] = str(_count(flag, value))
            if flag == "--blasbatchsize":  # of both
                said.batch = _count(flag, value)
        case "batch":
            said.batch = _count(flag, value)
        case "streamed_from":
            said.clauses["stream"] = str(_count(flag, value))
        case "never_streamed" if value not in _OFF:
            said.clauses["stream"] = "never"
        case "kv_on_host" if value not in _OFF:
            said.clauses["kv"] = "cpu"
        case "experts_kept":
            said.clauses["experts"] = f"cpu:keep={_count(flag, value)}"
        case "experts_kept_share":
            said.clauses["experts"] = f"cpu:share={1 - _number(flag, value):g}"
        case "fitted":
            if value == "on":
                said.clauses["experts"] = "cpu:fit"
        case "kv_format" | "key_format" | "value_format":
            said.kv |= dict.fromkeys(("key", "value") if what == "kv_format" else (what.partition("_")[0],), value)
        case "kv_level":
            if value not in _KV_LEVELS:
                raise InvalidInput(f"policy: {flag} {value[:20]}: 0 (fp16), 1 (q8_0) or 2 (q4_0)")
            said.kv |= dict.fromkeys(("key", "value"), _KV_LEVELS[value])
        case "threads":
            said.n_threads = None if value == "-1" else _count(flag, value)
        case "prompt_threads":
            said.prompt_threads = None if value == "-1" else _count(flag, value)
        case "weight_format":
            stored = _WEIGHTS.get(value.lower())
            if stored is None:
                raise InvalidInput(f"policy: {flag} {value[:20]}: a format of weights is said in formats, all=int4")
            said.formats["all"] = stored
        case "weights_copied_gib":
            said.copied_gib = _number(flag, value)
        case "weights_on_host_gib":
            said.on_host_gib = _number(flag, value)
        case "weights_on_host":
            said.on_host_names = value
        case "weights_brought":
            said.brought_names = value
        case "group_size" | "group_brought" | "brought_ahead":
            said.groups[what] = _count(flag, value)
        case _:
            _take_of_machine(said, what, flag, value)


_OF_SHAPE = re.compile(r"expert|layers|hidden_size|intermediate|window|heads")
"""Fields of a model that change what a token costs."""


def _take_of_machine(said: FlagMeanings, what: str, flag: str, value: str) -> None:
    """Flags of memory and cards. Raises `InvalidInput` for what cannot be said, with the way out."""
    if what in ("in_memory", "mapped", "load_mode"):
        said.in_memory = _reads_whole(what, flag, value)
    if what == "not_page_locked":
        said.is_pageable = True
    if what == "power_limit":
        said.watts = _number(flag, value.rstrip("wW"))
    if what == "clock":
        said.clock_hz = _number(flag, value.rpartition(",")[2]) * 1e6
    if what == "no_graphs" or (what == "compilation" and _NO_GRAPHS.search(value)):
        said.has_no_graphs = True
    if what == "schedules_between":
        said.schedules_between = True
    if what == "pools":  # of threads, each on the memory of its own socket
        said.numbers["stack.cpu_sockets"] = str(_count(flag, value) or 1)
    if what == "offloaded_ops":
        if value != NO_OPS:
            raise InvalidInput(f"policy: {flag} {value[:20]}: of ops on the device only {NO_OPS}, none, can be said")
        said.clauses["stream"] = "never"
    said.cards.take(what, flag, value, _count)
    if what == "device" and value == "none":
        said.is_host_alone = True
    if what == "offload_mode" and value != "cpu":
        raise InvalidInput(
            f"policy: {flag} {value[:20]}: of layers that are brought only those of the host can be said"
        )
    if what == "computed_format" and value.lower() in ("float", "float32", "fp32"):
        raise InvalidInput(
            f"policy: {flag} {value[:20]}: weights that are kept in 32 bits are said in formats, all=fp32"
        )
    if what == "nodes" and value != "1":
        raise InvalidInput(
            f"policy: {flag} {value[:20]}: cards of several machines cannot be said: give the row a reason"
        )
    if what == "fewer_experts" or (what == "model_changed" and _OF_SHAPE.search(value)):
        raise InvalidInput(f"policy: {flag} {value[:20]}: experts a token are of the model, NAME?top_k=6")


def _reads_whole(what: str, flag: str, value: str) -> bool:
    """Whether a file of weights is read, not mapped. Raises `InvalidInput` for no mode of loading."""
    if what == "load_mode":
        if value not in _LOAD_MODES:
            raise InvalidInput(f"policy: {flag} {value[:20]} is no mode of loading: {', '.join(_LOAD_MODES)}")
        return value in _UNMAPPED
    return (value not in _OFF) if what == "in_memory" else value in _OFF


def _count(flag: str, value: str) -> int:
    if not re.fullmatch(r"\d{1,7}", value, re.ASCII):
        raise InvalidInput(f"policy: {flag} {value[:20]!r} is not a whole number")
    return int(value)


def _number(flag: str, value: str) -> float:
    if not re.fullmatch(r"\d{1,6}(\.\d{1,6})?", value, re.ASCII):
        raise InvalidInput(f"policy: {flag} {value[:20]!r} is not a number of 0 or more")
    return float(value)
