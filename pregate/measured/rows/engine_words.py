"""What people write around flags, in words that the project has: which node ran it, options of Ollama and LM Studio."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pregate.engines.flag_table import engine_of
from pregate.engines.pasted_commands import unpasted
from pregate.engines.power_limits import board_watts

_OPTION = (
    r"(?:-[NmCip]|--(?:cpunodebind|cpubind|membind|physcpubind|interleave|preferred))(?:\s+|=|(?=[\d]))[\w,+-]+|-l|-a|-c"
    r"|--localalloc|--all|0x[0-9a-fA-F]+|\d[\d,-]*"
)
_NUMA = re.compile(
    rf"\s*(?P<variables>(?:\w+=\S*\s+)*)(?:numactl|taskset)\s+(?P<options>(?:(?:{_OPTION})\s+)*)", re.ASCII
)
_WATTS = re.compile(
    r"(?:@|,|\bat\b|\bpower[ -]?limit(?:ed)?(?:\s+(?:to|at|of))?)?\s*(?<![\w.])(\d{1,4})\s?W\b(?!/)"
    r"(?:\s*(?:power[ -]?)?(?:limit|cap|tgp|tdp))?",
    re.ASCII | re.IGNORECASE,
)
_SGLANG = re.compile(r"sg-?lang", re.IGNORECASE)
_ONE_NODE = re.compile(r"(?:-N|-m|--cpunodebind|--membind|--cpubind)(?:[ =]?)\d+(?![\d,-])", re.ASCII)
_LAYERS = re.compile(
    r"(?<![\w-])(?:num_gpu|n_gpu_layers|gpu[ _-]?layers|gpu[ _-]?offload)\s*[=:]?\s*(?P<n>\d{1,4})"
    r"(?:\s*/\s*(?P<of>\d{1,4}))?(?:\s*layers)?",
    re.I | re.A,
)
_OFFLOADED = re.compile(
    r"(?:offloaded\s+)?(?P<n>\d{1,4})\s*/\s*(?P<of>\d{1,4})\s+layers(?:\s+(?:offloaded|on))?(?:\s+(?:to\s+)?(?:the\s+)?GPU)?",
    re.I | re.A,
)
"""What llama.cpp prints: `offloaded 33/49 layers to GPU`."""
_WEIGHTS = r"force (?:the )?(?:model )?(?:expert|moe)s?(?: model)? weights (?:on)?to (?:the )?cpu"
_ALL_FORCED = re.compile(_WEIGHTS, re.IGNORECASE)
_SOME_FORCED = re.compile(
    rf"(?:number of )?layers (?:for which to )?{_WEIGHTS}\s*[:=]?\s*(\d{{1,3}})", re.IGNORECASE | re.ASCII
)
_BARE = re.compile(
    r"(?:\S*/)?(?:vllm\s+serve|llama-(?:server|cli|bench)|python3?\s+-m\s+(?:vllm|sglang)\S*)(?:\s+[^-\s]\S*)*",
    re.IGNORECASE,
)
"""A command of an engine that is told nothing."""
_LM_STUDIO = re.compile(r"\s*lms\s+load\b(?P<options>.*)", re.IGNORECASE | re.DOTALL)
_SHARE_OF_LAYERS = re.compile(r"--gpu[ =]\s*(?P<share>max|off|[\d.]+)", re.ASCII)
_RAMALAMA = re.compile(
    r"\s*ramalama\s+(?:--\S+\s+)*(?:run|serve|bench)\b(?P<options>(?!.*--runtime[ =](?!llama)).*)", re.DOTALL
)
_OF_RAMALAMA = re.compile(
    r"(?:--ngl|--threads|-t)[ =]\d+|--runtime-args[ =](?:\"(?P<double>[^\"]*)\"|'(?P<single>[^']*)'|(?P<bare>\S+))",
    re.ASCII,
)
_RUN = re.compile(r"\s*ollama\s+(?:run|serve)(?:\s+[^-\s]\S*)*(?:\s+--verbose)?", re.IGNORECASE)
_ENVIRONMENT = re.compile(r"(?<!\S)(?:LLAMA_ARG|OLLAMA)_(?P<name>[A-Z_]+)=(?P<value>\S*)\s*", re.ASCII)
_VARIABLES = {
    "N_GPU_LAYERS": "-ngl", "CPU_MOE": "--cpu-moe", "N_CPU_MOE": "--n-cpu-moe", "OVERRIDE_TENSOR": "-ot",
    "UBATCH": "-ub", "BATCH": "-b", "CACHE_TYPE_K": "-ctk", "CACHE_TYPE_V": "-ctv", "KV_CACHE_TYPE": "-ctk",
    "THREADS": "-t", "LOAD_MODE": "-lm", "FIT": "-fit",
}  # fmt: skip
"""Variables of the environment that place something, without LLAMA_ARG_ or OLLAMA_, as flags."""
_SET_SO = re.compile(r"(?<!\S)(?:/set\s+parameter|PARAMETER)(?!\S)")
"""Before an option, in a conversation with Ollama or in its file of a model."""
_OTHERS = re.compile(r"(?:num_ctx|num_batch|num_predict|num_thread)\s*[=:]?\s*\d+", re.IGNORECASE | re.ASCII)


def without_power(hardware: str) -> str:
    """What a row calls its card without the limit of its power, which `in_flags` reads."""
    return _WATTS.sub(" ", hardware).replace("( )", "").strip()


def in_flags(cells: Mapping[str, str], stack: str = "", hardware: str = "") -> dict[str, str]:
    """A row whose policy is what Ollama or LM Studio are told, as flags of llama.cpp; one that ran on one node of two
    sockets (`numactl -N 0 -m 0`), as of a host with one. `stack`: what its author calls the engine, of which SGLang has
    flags of its own; `hardware`: what he calls the card, with the limit of its power perhaps.
    """
    made = _out_of_set(cells)
    made |= {"policy": unpasted(made["policy"])} if made.get("policy") else {}
    watts = _WATTS.search(hardware)
    if watts is not None and board_watts(made.get("hardware", "")) is not None:
        made["set"] = ";".join(filter(None, (made.get("set", ""), f"-pl {watts[1]}")))
    if "--kt-" in made.get("policy", "") and made.get("stack") in ("vllm", ""):  # SGLang with KTransformers' kernels
        made["stack"] = "ktransformers"
    engine = engine_of(made.get("stack", ""))
    stated = made.get("placement") or made.get("reason") or made.get("policy") != "gpu_only"
    if engine is not None and engine.experts_on_host and not stated:
        made["policy"] = "gpu_only@experts=cpu"
    bound = _NUMA.match(made.get("policy", ""))
    if bound is not None:
        made["policy"] = f"{bound['variables']}{made['policy'][bound.end() :]}".strip()
        if _ONE_NODE.search(bound["options"]):
            name, mark, memory = made.get("host", "").partition(":")
            if name.endswith("-2s"):
                half = re.sub(r"^\d+(?=x)", lambda both: str(max(1, int(both[0]) // 2)), memory)
                made["host"] = name.removesuffix("-2s") + mark + half
    if _SGLANG.search(stack) and made.get("stack") == "vllm" and made.get("policy", "").startswith("-"):
        made["policy"] = f"python -m sglang.launch_server {made['policy']}"
    made["policy"] = _in_llama_words(made.get("policy", ""))
    shared = _LM_STUDIO.fullmatch(made["policy"]) and _SHARE_OF_LAYERS.search(made["policy"])
    if shared and not made.get("reason"):
        made["reason"] = f"lms --gpu {shared['share']}: how many layers that is was not said: GPU offload 24/48 is read"
    return made


def _out_of_set(cells: Mapping[str, str]) -> dict[str, str]:
    """A row without a design whose flags, or words of Ollama and LM Studio, stand in `set`: they are its policy."""
    parts = [part.strip() for part in cells.get("set", "").split(";") if part.strip()]
    told = [part for part in parts if part.startswith("-") or _LAYERS.search(part) or _LM_STUDIO.fullmatch(part)]
    if not told or cells.get("placement") or cells.get("policy", "gpu_only") not in ("", "gpu_only"):
        return dict(cells)
    return {**cells, "policy": " ".join(told), "set": ";".join(part for part in parts if part not in told)}


_MOVING: Mapping[str, str] = {
    "flexgen": "on_demand@weights=stream@kv=cpu@micro=4",
    "moe-lightning": "prefetch_all@weights=stream@kv=cpu@micro=4",
    "mixtral-offloading": "lru_next_gate+lru:128:per_layer",
    "pipelined-sharding": "gpu_only@experts=cpu:fit",
}
"""Engines that are run for what does not fit, and a design of each."""
_ZERO = re.compile(r"zero[ _-]?(?:inference|offload)?\b", re.IGNORECASE)


def with_usual_design(cells: Mapping[str, str], stack: str) -> dict[str, str]:
    """A row that states no design, with that of ZeRO-Inference where its author calls the engine so; with a reason
    where its engine moves weights and nothing says which. `cells` as typed; `stack`: the engine as we call it.
    """
    row = dict(cells)
    if row.get("policy") or row.get("placement") or row.get("set") or row.get("reason") or row.get("role"):
        return row
    if stack == "pytorch-eager" and _ZERO.search(row.get("stack", "")):
        return row | {"policy": "prefetch_all@weights=stream"}
    if stack in _MOVING:
        row["reason"] = f"policy is empty, and {stack} moves weights: say which design ran, {_MOVING[stack]} is one"
    return row


def _in_llama_words(policy: str) -> str:
    """What Ollama and LM Studio are told, and variables of the environment, as flags of llama.cpp; else as it is."""
    variables = [_as_flag(one["name"], one["value"]) for one in _ENVIRONMENT.finditer(policy)]
    policy = _ENVIRONMENT.sub("", policy)
    if (loaded := _LM_STUDIO.fullmatch(policy)) is not None:
        share = _SHARE_OF_LAYERS.search(loaded["options"])
        layers_of = {"max": "-ngl 999", "1": "-ngl 999", "1.0": "-ngl 999", "off": "-ngl 0", "0": "-ngl 0"}
        policy = layers_of.get(share["share"], policy) if share else policy
    if (ran := _RAMALAMA.fullmatch(policy)) is not None:
        found = _OF_RAMALAMA.finditer(ran["options"])
        policy = " ".join(one["double"] or one["single"] or one["bare"] or one[0] for one in found) or "gpu_only"
    if _BARE.fullmatch(policy.strip()):
        policy = "gpu_only"
    if _RUN.match(policy):
        policy = _RUN.sub("", policy) or "gpu_only"
    layers = _OFFLOADED.fullmatch(policy.strip()) or _LAYERS.search(policy)
    if layers is not None and not policy.lstrip().startswith("-"):
        n = 9999 if layers["of"] and int(layers["n"]) >= int(layers["of"]) else int(layers["n"])
        rest = _SOME_FORCED.sub(r"--n-cpu-moe \1", policy.replace(layers[0], ""))
        rest = _SET_SO.sub("", _OTHERS.sub("", _ALL_FORCED.sub("--cpu-moe", rest)))
        policy = f"-ngl {n} {re.sub('[,;]', ' ', rest)}".strip()
    said = " ".join(filter(None, variables))
    if not said:
        return policy
    start = policy.find(" -") if not policy.startswith("-") else 0
    return f"{policy} {said}" if start >= 0 else said


def _as_flag(name: str, value: str) -> str:
    """A variable as a flag, "" of one that places nothing."""
    flag = _VARIABLES.get(name)
    if flag is None or (flag == "--cpu-moe" and value in ("0", "false", "off", "")):
        return ""
    if name == "KV_CACHE_TYPE":
        return f"-ctk {value} -ctv {value}"
    return flag if flag == "--cpu-moe" else f"{flag} {value}"
