"""Flags of engines in a row, as the project says them.

`-ngl 99 --n-cpu-moe 20 -ub 2048` is `gpu_only@experts=cpu:20@ubatch=2048`. What each flag says stands in `flags.yaml`,
by engine; where a flag is of another column (formats of the cache, how the file is held), it is said there. Patterns of
`-ot` are tried on the names of a layer's three expert tensors, the first that matches winning, as llama.cpp does. A
flag that its engine does not have is an error that names it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from hwmodels.specs.machine_files import load_component, load_machine
from hwmodels.specs.spec import Host
from pregate.engines.command_lines import flags_of_command
from pregate.engines.flag_table import NOTHING, EngineFlags, engine_of, engines
from pregate.engines.host_weights import EXPERTS_ALONE, brought_in_groups, copied_as_they_begin, read_where_they_lie
from pregate.engines.multi_card_flags import N_CARDS, CardsSaid
from pregate.engines.placed_tensors import (
    experts_on_host,
    is_buffer,
    is_pinned,
    is_plain_pattern,
    layers_on_host,
    noted_of_ffns,
)
from pregate.engines.power_limits import PROMPT_METRICS, at_clock, at_power, least
from pregate.engines.unpriced import check_engine
from pregate.engines.writing import NO_OPS
from pregate.named import load_model
from traces.errors import InvalidInput, PregateError
from traces.model.dtypes import find_dtype
from traces.model.model_architecture import ModelArchitecture
from traces.model.tensor_parallel import sharded

_MOST = 2000
_OF_LLAMA = ("llama-cpp", "ik-llama")
_MICRO_BATCH = 512  # tokens, of llama.cpp and its forks where nothing is said
_OFF = ("0", "off")
_UNMAPPED = ("none", "mlock", "dio")
_LOAD_MODES = (*_UNMAPPED, "auto", "mmap", "mmap+mlock")
_FORMATS = {
    "f16": "fp16", "f32": "fp32", "auto": "", "fp8_e4m3": "fp8", "fp8_e5m2": "fp8", "fp8_per_token_head": "fp8",
    "int8_per_token_head": "int8", "int4_per_token_head": "int4-g128", "fp4_e2m1": "mxfp4",
}  # fmt: skip
_WEIGHTS = {
    "fp8": "fp8", "awq": "int4-g128-zp", "awq_marlin": "int4-g128-zp", "gptq": "int4-g128",
    "gptq_marlin": "int4-g128", "mxfp4": "mxfp4", "modelopt": "fp8", "modelopt_fp4": "nvfp4", "bitsandbytes": "nf4",
}  # fmt: skip
"""Formats of weights by what vLLM calls them, of GPTQ and AWQ as nearly all are published."""

_SAID_IN_SET = {
    re.compile(r"^(?:n_)?threads\s*=\s*"): "--threads ",
    re.compile(r"^power[ _-]?limit(?:ed)?\s*(?:=|to|:)?\s*(?P<watts>\d+)\s*W?$", re.IGNORECASE): r"-pl \g<watts>",
}
"""What people write into `set` for flags."""
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]+")
_NO_GRAPHS = re.compile(
    r'cudagraph_mode"?\s*[:=]\s*"?NONE|(?:^|mode"?\s*[:=]|level"?\s*[:=])\s*"?0\s*(?:$|["},])', re.I
)
"""In vLLM's configuration of compilation: passes that are launched kernel by kernel."""


@dataclass(slots=True)
class _Said:
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


def flags_in(cells: Mapping[str, str]) -> str:
    """The flags of a row as typed, those of its policy and those that stand in `set`; "" without any."""
    own = flags_of_command(cells.get("policy", ""))
    return " ".join(filter(None, (own, *(part for part in _parts(cells) if part.startswith("-")))))


def without_flags(cells: Mapping[str, str]) -> dict[str, str]:
    """The cells of a row, flags as policy, formats and set; as they are where that cannot be said."""
    if not flags_in(cells):
        return dict(cells)
    try:
        return _without(cells)
    except PregateError:  # of a row alone: `told_of_flags` says it where the row is predicted
        return dict(cells)


def told_of_flags(cells: Mapping[str, str]) -> None:
    """Raises `InvalidInput` naming the flag of a row that cannot be said."""
    if flags_in(cells):
        _without(cells)
        raise InvalidInput(
            f"policy {cells['policy'][:60]!r} is flags of an engine: gpu_only@experts=cpu:20 is a policy"
        )
    if re.search(r"\w\s+\S*.*\s--?[a-z]", cells.get("policy", "")[:_MOST]):
        raise InvalidInput(
            f"policy {cells['policy'][:60]!r}: no program that is read here: give its flags alone, as llama-server has "
            f"them (-ngl 99 --n-cpu-moe 20), or a policy (gpu_only@experts=cpu:20)"
        )


def _parts(cells: Mapping[str, str]) -> list[str]:
    parts = [part.strip() for part in cells.get("set", "").split(";") if part.strip()]
    for written, flag in _SAID_IN_SET.items():
        parts = [written.sub(flag, part) for part in parts]
    return parts


def _without(cells: Mapping[str, str]) -> dict[str, str]:
    text = flags_in(cells)
    engine, stack = _engine(text, cells.get("stack", ""), "sglang" in cells.get("policy", ""))
    said, model = _read(text, engine), load_model(cells["model"])
    if said.gpu_layers and stack in engine.output_is_a_layer:
        said.gpu_layers -= 1
    stated = cells.get("policy", "")
    if said.is_host_alone:  # whatever else places something
        said.gpu_layers, said.cpu_moe, said.overrides, said.is_fitted, stated = 0, None, [], False, ""
        said.clauses = {name: what for name, what in said.clauses.items() if name == "ubatch"} | {"stream": "never"}
    placed = said.overrides or said.cpu_moe or "experts=cpu" in stated
    if said.is_fitted and not placed:
        said.clauses.setdefault("experts", "cpu:fit")
    if said.kv and (kept := _kv_format(said.kv, model)):
        said.formats["kv"] = kept
    if said.in_memory and not said.is_pageable and (stack in engine.pins_placed or not placed):
        said.numbers["stack.host_memory"] = "pinned"
    said.notes += filter(None, (noted_of_ffns(said.overrides, model),))
    if any(is_pinned(where) for _, where in said.overrides):
        said.numbers["stack.host_memory"] = "pinned"
    base = "gpu_only" if not stated or flags_of_command(stated) else stated
    if said.batch and said.batch < int(said.clauses.get("ubatch", _MICRO_BATCH)):  # no pass has more
        said.clauses["ubatch"] = str(said.batch)
    metric = cells.get("metric", "")
    if metric in PROMPT_METRICS and engine.engine in _OF_LLAMA and int(cells.get("input_tokens") or 1) > _MICRO_BATCH:
        said.clauses.setdefault("ubatch", str(_MICRO_BATCH))  # flags that say none mean the engine's own
    if metric in PROMPT_METRICS and said.prompt_threads is not None:
        said.n_threads = said.prompt_threads
    if said.n_threads is not None:
        said.numbers |= _threads(said.n_threads, cells)
    if said.watts is not None:
        said.numbers |= at_power(cells["hardware"], said.watts, metric)
    if said.clock_hz is not None:
        said.numbers |= least(at_clock(cells["hardware"], said.clock_hz), said.numbers)
    if said.schedules_between:
        said.numbers["stack.step_s"] = engine.step_between
    if said.has_no_graphs:
        said.numbers["stack.launch_s"] = engine.launch_without_graphs
    n_cards = said.cards.n_cards(engine, dict(part.split("=", 1) for part in _parts(cells) if "=" in part))
    n_each = n_cards // (said.cards.turns * said.cards.copies)
    model = sharded(model, n_each, 1 if said.cards.expert_groups is None else n_each)  # flags are of each card
    if n_cards > 1:
        said.numbers[N_CARDS] = str(n_cards)
    read = read_where_they_lie(said.on_host_gib, said.on_host_names, model) if said.on_host_gib else []
    if said.copied_gib:
        read = copied_as_they_begin(said.copied_gib, model)
    size, groups = said.groups.get("group_size", 0), said.groups
    if size:
        n, step = groups.get("group_brought", 1), groups.get("brought_ahead", 1)
        alone = EXPERTS_ALONE if engine.engine == "sglang" else said.brought_names
        read = brought_in_groups(size, n, step, alone)
    on_host = [] if said.gpu_layers is None else layers_on_host(said.gpu_layers, model.decoder)
    said.clauses |= said.cards.clauses(n_cards, [*read, *on_host])
    if "experts" not in said.clauses:
        on_host += experts_on_host(said.overrides, said.cpu_moe, model.decoder)
    clauses = [*read, *on_host, *(f"{name}={what}" for name, what in said.clauses.items())]
    if engine.experts_on_host and base == "gpu_only" and not any(clause.startswith("experts=") for clause in clauses):
        clauses.append("experts=cpu")
    stated = cells.get("formats", "")
    if stated:  # what the row states of the weights counts
        said.formats.pop("all", None)
    formats = ",".join(filter(None, (stated, *(f"{k}={v}" for k, v in said.formats.items()))))
    numbers = [part for part in _parts(cells) if not part.startswith("-")]
    numbers += [f"{k}={v}" for k, v in said.numbers.items() if f"{k}={v}" not in numbers]
    policy = "@".join((base, *clauses))
    notes = [*said.notes, *said.cards.notes]
    note = "; ".join(filter(None, (cells.get("note", ""), *notes)))
    told = {"policy": policy, "formats": formats, "set": ";".join(numbers), "stack": stack}
    return {**cells, **told, **({"note": note} if notes else {})}


def _engine(text: str, stack: str, sglang: bool) -> tuple[EngineFlags, str]:
    """The engine whose flags they are, and its stack: that of the row, or where it names none the first that has them
    all. `sglang`: whether they are those of SGLang, whose constants are vLLM's.
    """
    engine = engine_of(stack)
    if engine is not None and engine.engine == "vllm" and sglang:
        return engines()["sglang"], stack
    if engine is not None:
        return engine, stack
    if stack:
        check_engine(stack)
        raise InvalidInput(
            f"policy: flags are read of {', '.join(engines())}; {stack} has none here: gpu_only@experts=cpu:20 is a "
            f"policy"
        )
    names = {word.partition("=")[0] for word in text.split() if re.match(r"--?[a-z]", word)}
    knowing = [one for one in engines().values() if one.stacks and names <= one.read.keys()]
    found = knowing[0] if knowing else engines()["llama-cpp"]
    return found, found.stacks[0]


def _read(text: str, engine: EngineFlags) -> _Said:
    if len(text) > _MOST:
        raise InvalidInput(f"policy {text[:40]!r}...: {len(text)} characters of flags, {_MOST} are read")
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InvalidInput(f"policy {text[:60]!r}: {error}") from None
    said = _Said()
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


def _take(said: _Said, what: str, flag: str, value: str) -> None:
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


def _take_of_machine(said: _Said, what: str, flag: str, value: str) -> None:
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


def _kv_format(said: Mapping[str, str], model: ModelArchitecture) -> str:
    """The format of keys and values as flags say them, where they differ the mean of their bits; "" for what is
    computed, as the one is that no flag speaks of. Latents are kept as keys alone.
    """
    formats = {kind: _FORMATS.get(value.lower(), value.lower()) for kind, value in said.items()}
    key, value = formats.get("key", ""), formats.get("value", "")
    if key == value or model.decoder.attention.kind == "mla":
        return key
    bits = [find_dtype(name or "fp16").bits for name in (key, value)]
    return f"w{sum(bits) / 2:g}"


def _threads(n_threads: int, cells: Mapping[str, str]) -> dict[str, str]:
    """Numbers of a host of whose cores fewer compute; none where threads are as many as cores, or more."""
    named = cells.get("host", "")
    host = load_component("host", named) if named else load_machine(cells["hardware"]).host
    assert isinstance(host, Host)
    if not 0 < n_threads < host.n_cores:
        return {}
    flop_per_s = host.peak_flop_per_s * n_threads / host.n_cores
    return {"host.n_cores": str(n_threads), "host.peak_flop_per_s": f"{flop_per_s:.6g}FLOP/s"}


def _count(flag: str, value: str) -> int:
    if not re.fullmatch(r"\d{1,7}", value, re.ASCII):
        raise InvalidInput(f"policy: {flag} {value[:20]!r} is not a whole number")
    return int(value)


def _number(flag: str, value: str) -> float:
    if not re.fullmatch(r"\d{1,6}(\.\d{1,6})?", value, re.ASCII):
        raise InvalidInput(f"policy: {flag} {value[:20]!r} is not a number of 0 or more")
    return float(value)
