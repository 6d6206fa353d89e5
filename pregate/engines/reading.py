"""Flags of engines in a row, as the project says them.

`-ngl 99 --n-cpu-moe 20 -ub 2048` is `gpu_only@experts=cpu:20@ubatch=2048`. What each flag says, `flag_meanings` reads;
where one is of another column (formats of the cache, how the file is held), it is said there. Patterns of `-ot` are
tried on the names of a layer's three expert tensors, the first that matches winning, as llama.cpp does. A flag that its
engine does not have is an error that names it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from hwmodels.specs.machine_files import load_component, load_machine
from hwmodels.specs.spec import Host
from pregate.engines.command_lines import flags_of_command
from pregate.engines.flag_meanings import MOST_LETTERS, FlagMeanings, meanings_of
from pregate.engines.flag_table import EngineFlags, engine_of, engines
from pregate.engines.host_weights import EXPERTS_ALONE, brought_in_groups, copied_as_they_begin, read_where_they_lie
from pregate.engines.multi_card_flags import N_CARDS
from pregate.engines.placed_tensors import experts_on_host, is_pinned, layers_on_host, noted_of_ffns
from pregate.engines.power_limits import PROMPT_METRICS, at_clock, at_power, least
from pregate.engines.unpriced import check_engine
from pregate.named import load_model
from traces.errors import InvalidInput, PregateError
from traces.model.dtypes import find_dtype
from traces.model.model_architecture import ModelArchitecture
from traces.model.tensor_parallel import sharded

_OF_LLAMA = ("llama-cpp", "ik-llama")
_MICRO_BATCH = 512  # tokens, of llama.cpp and its forks where nothing is said
_BATCH = 2048  # the same of what passes are parts of; they are no larger (src/llama-context.cpp: cparams.n_ubatch)
_FORMATS = {
    "f16": "fp16", "f32": "fp32", "auto": "", "fp8_e4m3": "fp8", "fp8_e5m2": "fp8", "fp8_per_token_head": "fp8",
    "int8_per_token_head": "int8", "int4_per_token_head": "int4-g128", "fp4_e2m1": "mxfp4",
}  # fmt: skip
_SAID_IN_SET = {
    re.compile(r"^(?:n_)?threads\s*=\s*"): "--threads ",
    re.compile(r"^power[ _-]?limit(?:ed)?\s*(?:=|to|:)?\s*(?P<watts>\d+)\s*W?$", re.IGNORECASE): r"-pl \g<watts>",
}
"""What people write into `set` for flags."""


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
    if re.search(r"\w\s+\S*.*\s--?[a-z]", cells.get("policy", "")[:MOST_LETTERS]):
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
    text, stated = flags_in(cells), cells.get("policy", "")
    engine, stack = _engine(text, cells.get("stack", ""), "sglang" in stated)
    said, model = meanings_of(text, engine), load_model(cells["model"])
    if said.gpu_layers and stack in engine.output_is_a_layer:
        said.gpu_layers -= 1
    if said.is_host_alone:  # whatever else places something
        said.gpu_layers, said.cpu_moe, said.overrides, said.is_fitted, stated = 0, None, [], False, ""
        said.clauses = {name: what for name, what in said.clauses.items() if name == "ubatch"} | {"stream": "never"}
    placed = said.overrides or said.cpu_moe or "experts=cpu" in stated
    if said.is_fitted and not placed:
        said.clauses.setdefault("experts", "cpu:fit")
    if said.kv and (kept := _kv_format(said.kv, model)):
        said.formats["kv"] = kept
    pins = said.in_memory and not said.is_pageable and (stack in engine.pins_placed or not placed)
    if pins or any(is_pinned(where) for _, where in said.overrides):
        said.numbers["stack.host_memory"] = "pinned"
    said.notes += filter(None, (noted_of_ffns(said.overrides, model),))
    _set_micro_batch(said, engine, cells)
    _set_numbers(said, engine, cells)
    base = "gpu_only" if not stated or flags_of_command(stated) else stated
    policy = "@".join((base, *_placement(said, engine, base, model, cells)))
    stated_formats = cells.get("formats", "")
    if stated_formats:  # what the row states of the weights counts
        said.formats.pop("all", None)
    formats = ",".join(filter(None, (stated_formats, *(f"{k}={v}" for k, v in said.formats.items()))))
    numbers = [part for part in _parts(cells) if not part.startswith("-")]
    numbers += [f"{k}={v}" for k, v in said.numbers.items() if f"{k}={v}" not in numbers]
    notes = [*said.notes, *said.cards.notes]
    note = "; ".join(filter(None, (cells.get("note", ""), *notes)))
    told = {"policy": policy, "formats": formats, "set": ";".join(numbers), "stack": stack}
    return {**cells, **told, **({"note": note} if notes else {})}


def _set_micro_batch(said: FlagMeanings, engine: EngineFlags, cells: Mapping[str, str]) -> None:
    """Tokens of a pass where flags say none: no more than a batch, and the engine's own of a prompt that is longer."""
    most = said.batch or (_BATCH if engine.engine in _OF_LLAMA else 0)
    if most and most < int(said.clauses.get("ubatch", _MICRO_BATCH)):
        said.clauses["ubatch"] = str(most)
        if not said.batch:
            said.notes.append(f"passes of {most:,} tokens: -ub is no more than -b, which nobody said")
    is_prompt = cells.get("metric", "") in PROMPT_METRICS
    if is_prompt and engine.engine in _OF_LLAMA and int(cells.get("input_tokens") or 1) > _MICRO_BATCH:
        said.clauses.setdefault("ubatch", str(_MICRO_BATCH))


def _set_numbers(said: FlagMeanings, engine: EngineFlags, cells: Mapping[str, str]) -> None:
    """What flags make of the machine of a row: threads, power, clock, launches."""
    metric = cells.get("metric", "")
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


def _placement(
    said: FlagMeanings, engine: EngineFlags, base: str, model: ModelArchitecture, cells: Mapping[str, str]
) -> list[str]:
    """The clauses of a placement, on as many cards as are said; flags are of each card."""
    n_cards = said.cards.n_cards(engine, dict(part.split("=", 1) for part in _parts(cells) if "=" in part))
    n_each = n_cards // (said.cards.turns * said.cards.copies)
    model = sharded(model, n_each, 1 if said.cards.expert_groups is None else n_each)
    if n_cards > 1:
        said.numbers[N_CARDS] = str(n_cards)
    read = read_where_they_lie(said.on_host_gib, said.on_host_names, model) if said.on_host_gib else []
    if said.copied_gib:
        read = copied_as_they_begin(said.copied_gib, model)
    size, groups = said.groups.get("group_size", 0), said.groups
    if size:
        n, step = groups.get("group_brought", 1), groups.get("brought_ahead", 1)
        read = brought_in_groups(size, n, step, EXPERTS_ALONE if engine.engine == "sglang" else said.brought_names)
    on_host = [] if said.gpu_layers is None else layers_on_host(said.gpu_layers, model.decoder)
    said.clauses |= said.cards.clauses(n_cards, [*read, *on_host])
    if "experts" not in said.clauses:
        on_host += experts_on_host(said.overrides, said.cpu_moe, model.decoder)
    clauses = [*read, *on_host, *(f"{name}={what}" for name, what in said.clauses.items())]
    if engine.experts_on_host and base == "gpu_only" and not any(clause.startswith("experts=") for clause in clauses):
        clauses.append("experts=cpu")
    return clauses


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
