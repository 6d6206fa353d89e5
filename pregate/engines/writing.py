"""A design as the flags of the engine that runs it, to copy; and what of it the engine cannot be told.

Every flag stands in `flags.yaml` with the document that names it and the day that it was read. Beyond these:
`src/llama-model.cpp` of llama.cpp (`load_tensors`: the first GPU layer is layers + 1 - ngl, the output counts as the
last), `src/llama.cpp` of ik_llama.cpp (`llm_load_tensors`, commit 00063b7, read 2026-11-29: it is layers - ngl, and the
output is on the device beyond all layers only, as in older builds of llama.cpp), and of vLLM that `--cpu-offload-gb`
copies nothing, while `--offload-group-size` brings whole layers ahead; neither looks at which experts a token
chose.
"""

from __future__ import annotations

import itertools
import math
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hwmodels.platform import Platform
from hwmodels.quantity import ReadOnly
from offload.placing.layers import LayerRange
from offload.placing.placement import Placement
from offload.policies import policy_named
from offload.policy import Policy
from pregate.card.designs import EngineDesign
from pregate.card.job import RequestLoad
from pregate.engines.flag_table import HOST_KERNELS, EngineFlags, engine_of, engines
from pregate.engines.host_weights import EXPERTS_ALONE, budget_of, groups_of
from pregate.engines.multi_card_flags import SHARING_MODES
from traces.model.architecture import ModelArchitecture
from traces.model.tensor_parallel import sharded

_WEIGHTS = "MODEL.gguf"
"""What stands for a file of weights that nobody named."""


@dataclass(frozen=True, slots=True)
class Flags:
    """`command`: what to type, "" where no engine can be told; `left_out`: what of the design it does not say."""

    command: str
    left_out: str

    def of_file(self, weights: str) -> Flags:
        """The same of a file of weights by its path; "": of a stand-in, as written."""
        return Flags(named(self.command, weights), self.left_out)


def named(command: str, weights: str) -> str:
    """A command with the path of a GGUF file in place of its stand-in, where one is known."""
    return command.replace(_WEIGHTS, shlex.quote(weights)) if weights else command


def flags_of(design: EngineDesign, model: ModelArchitecture, hw: Platform, job: RequestLoad) -> Flags:
    """The flags of a design on the engine that its stack is of."""
    policy = policy_named(design.policy)
    engine = engine_of(design.stack)
    writer = _WRITERS.get(design.stack if engine is None else engine.engine)
    if writer is not None:
        flags = writer(policy, model, hw, job)
        if engine is None:
            return flags
        flags = _keeping(flags, engine, model)
        if engine.engine == design.stack:
            return flags
        return _with_doubt(flags, f"flags are those of {engine.engine} today")
    told = f"no engine serves {design.policy}"
    if hw.machine.accelerator.vendor.casefold() == "nvidia":
        told += f"; `pregate run {model.name} --policy {shlex.quote(design.policy)}` runs it layer by layer"
    if _is_plain_lru(policy):
        told += "; the nearest is llama.cpp with --cpu-moe --moe-cache-mib"
    if policy.next_token and model.pregated_from:
        told += "; the model was trained so, and Edge0's own engine reads a pass's experts as it begins"
    elif policy.next_token:
        told += "; its gates have to be trained to choose a token ahead (Edge0, arXiv 2609.18063)"
    elif policy.lookahead:
        told += "; its gates have to be trained to choose ahead (Pre-gated MoE, ISCA 2024, IV-B)"
    return Flags("", told)


def _keeping(flags: Flags, engine: EngineFlags, model: ModelArchitecture) -> Flags:
    """The same with the format of keys and values, where it is no 16 bits and not what the model is computed in."""
    kept = model.stored_kv_dtype.name
    if not flags.command or kept in ("bf16", "fp16", model.stored_activation_dtype.name):
        return flags
    keys = ["kv_format"] if engine.says("kv_format") else ["key_format", "value_format"]
    if model.decoder.attention.kind == "mla":
        keys = keys[:1]  # latents are kept as keys
    names = _CACHES[engine.engine]
    named = "" if kept.startswith("w") else names.get(kept, kept if engine.says("key_format") else "")
    if not named:
        words = " and ".join(engine.written[key] for key in keys)
        return _with_doubt(flags, f"{words} say what keys and values are in, {kept} is a mean")
    return Flags(" ".join([flags.command, *(engine.words(key, named) for key in keys)]), flags.left_out)


def _with_doubt(flags: Flags, doubt: str) -> Flags:
    return Flags(flags.command, "; ".join(filter(None, (flags.left_out, doubt * bool(flags.command)))))


def benchmark_of(stack: str, job: RequestLoad) -> str:
    """The command of an engine's own benchmark that times such requests; "" for a stack without one."""
    tokens = job.input_tokens, job.output_tokens, job.batch
    engine = engine_of(stack)
    return _BENCHMARKS.get(stack if engine is None else engine.engine, "").format(
        *tokens, context=sum(tokens[:2]) * job.batch
    )


def timed_with(benchmark: str, command: str) -> str:
    """llama.cpp's own benchmark with the flags of a design, which place and store as its server's do; another benchmark
    as it is: of a server that runs with them, or one that states them in its own words.
    """
    server = _LLAMA_SERVER.search(command)
    if server is None or "llama-batched-bench" not in benchmark:
        return benchmark
    flags = _OF_SERVERS.sub("", command[server.end() :])
    return f"{command[: server.start()]}{benchmark}{flags}"


_LLAMA_SERVER = re.compile(r"llama-server -m (?:'[^']*'|\S+)")
_OF_SERVERS = re.compile(r" -(?:np|c) \d+(?=\s|$)", re.ASCII)
"""What a server is told of who asks, and its benchmark in other words."""


def _llama_cpp(policy: Policy, model: ModelArchitecture, hw: Platform, job: RequestLoad) -> Flags:
    engine = engines()["llama-cpp"]
    if not policy.resident:
        return _llama_cache(policy, model, engine, _ends(engine, job))
    words, left_out = _placed(policy, model, engine, hw.stack.name, hw.machine.n_cards)
    fitted = (
        [engine.words("fitted", "off")] if hw.stack.name == engine.engine else []
    )  # earlier builds leave nothing open
    return Flags(" ".join([*words, *fitted, _ends(engine, job)]), "; ".join(left_out))


def _ends(engine: EngineFlags, job: RequestLoad) -> str:
    n_tokens = job.batch * (job.input_tokens + job.output_tokens)
    return f"{engine.words('requests', job.batch)} {engine.words('context', n_tokens)}"


def _placed(
    policy: Policy, model: ModelArchitecture, engine: EngineFlags, stack: str, n_cards: int
) -> tuple[list[str], list[str]]:
    """What starts a server with weights where `policy` places them, and what of that it does not say."""
    placement, n_layers = policy.placement, model.decoder.n_layers
    words, left_out = [f"llama-server {engine.words('model', _WEIGHTS)}"], []
    on_host = placement.host_layers
    if on_host is None:
        words.append(engine.words("layers_on_device", 999))
    else:
        output_counts = stack in engine.output_is_a_layer
        n_device = n_layers - len(on_host.of(n_layers))
        words.append(engine.words("layers_on_device", n_device + 1 if n_device and output_counts else n_device))
        if n_device and not output_counts:
            left_out.append("the output layer stays on the host")
        if on_host.first:
            left_out.append("-ngl keeps the first layers on the host, not those asked for")
    if placement.host_experts is not None:
        words.append(_experts(engine, placement.host_experts, n_layers))
    if n_cards > 1:
        words += _on_cards(engine, placement, n_layers, n_cards)
    if placement.n_kept:
        left_out.append(f"a layer's experts are one tensor: {placement.n_kept} of them cannot stay on the device")
    if placement.streamed is not None:
        left_out.append("weights that wait on the host are computed there: streaming them for a token cannot be said")
    if placement.kv == "host":
        words.append(engine.words("kv_on_host"))
    elif placement.kv == "stream":
        left_out.append("a KV cache on the host is attended to there, not streamed")
    if placement.micro_batch:
        words += [engine.words(what, placement.micro_batch) for what in ("batch", "micro_batch")]
    if placement.stream_from == 0:
        told = engine.says("never_streamed")
        words.append(engine.words("never_streamed") if told else engine.words("offloaded_ops", NO_OPS))
    return words, left_out


def _on_cards(engine: EngineFlags, placement: Placement, n_layers: int, n_cards: int) -> list[str]:
    """A share of every layer on each of several cards, or whole layers: as many where all weigh alike; where experts of
    some are on the host, as many of the others, so that each card holds as much.
    """
    if placement.turns == 1:
        return [engine.words("split", SHARING_MODES[engine.engine])]
    words, on_host = [engine.words("split", "layer")], placement.host_experts
    apart = on_host is not None and 0 < len(on_host.of(n_layers)) < n_layers
    if on_host is None or not apart:
        return words
    light = set(on_host.of(n_layers))
    heavy = [layer for layer in range(n_layers) if layer not in light]
    ends = [
        heavy[min(-(-len(heavy) * i // n_cards), len(heavy) - 1)] for i in range(1, n_cards)
    ]  # the last has the output
    counts = [end - start for start, end in itertools.pairwise([0, *ends, n_layers + bool(engine.output_is_a_layer)])]
    return [*words, engine.words("shares", ",".join(map(str, counts)))]


def _llama_cache(policy: Policy, model: ModelArchitecture, engine: EngineFlags, ends: str) -> Flags:
    """Experts on the host and a cache of them in HBM: the one design of moving experts that llama.cpp has."""
    cache = policy.cache
    if not _is_plain_lru(policy) or cache is None:
        return Flags("", f"llama.cpp moves experts only into an LRU, on demand: {policy.name} cannot be said")
    n_experts = cache.n_slots
    if n_experts is None and cache.ratio is not None:
        n_experts = round(model.n_moe_layers * model.n_experts * cache.ratio)
    size = "MIB" if n_experts is None else str(math.ceil(n_experts * model.expert_bytes / 2**20))
    placed = (
        engine.words("model", _WEIGHTS), engine.words("layers_on_device", 999), engine.words("experts_on_host"),
        engine.words("cache_mib", size), engine.words("fitted", "off"),
    )  # fmt: skip
    return Flags(
        f"llama-server {' '.join(placed)} {ends}",
        "in builds that have --moe-cache-mib" + ("; MIB: what HBM is left" if n_experts is None else ""),
    )


def _is_plain_lru(policy: Policy) -> bool:
    """Whether experts are fetched on demand into an LRU, and nothing else."""
    cached = policy.cache is not None and policy.cache.eviction == "lru"
    return cached and policy.name.split("+")[0] == "on_demand"


def _ik_llama(policy: Policy, model: ModelArchitecture, hw: Platform, job: RequestLoad) -> Flags:
    """As llama.cpp, which it was forked from, but for what either has added since."""
    if not policy.resident:
        return Flags("", f"ik_llama.cpp moves no experts: {policy.name} cannot be said")
    engine = engines()["ik-llama"]
    words, left_out = _placed(policy, model, engine, "ik-llama", hw.machine.n_cards)
    return Flags(" ".join([*words, _ends(engine, job)]), "; ".join(left_out))


def _experts(engine: EngineFlags, where: LayerRange, n_layers: int) -> str:
    """The flag of experts on the host: all, of the first layers, or of others by the names of their tensors."""
    layers = where.of(n_layers)
    if len(layers) == n_layers:
        return engine.words("experts_on_host")
    if layers.start == 0:
        return engine.words("experts_on_host_of", len(layers))
    names = "|".join(str(layer) for layer in layers)
    return engine.words("tensors_placed", f'"blk\\.({names})\\.ffn_.*_exps\\.=CPU"')


_OF_GGUF = "LLAMAFILE"
"""What KTransformers calls its kernels for experts of a GGUF file (kt-kernel/README.md)."""


def _ktransformers(policy: Policy, model: ModelArchitecture, hw: Platform, job: RequestLoad) -> Flags:
    placement = policy.placement
    if not policy.resident or placement.host_experts is None:
        return Flags("", f"KTransformers keeps experts on the host and moves none: {policy.name} cannot be said")
    if len(placement.host_experts.of(model.decoder.n_layers)) < model.decoder.n_layers or placement.host_layers:
        return Flags("", "KTransformers puts experts of all layers on the host, and no whole layers")
    said, host = engines()["ktransformers"].words, hw.machine.host
    native = next((name for start, name in HOST_KERNELS.items() if model.expert_dtype.name.startswith(start)), "")
    method, experts = (native, "MODEL") if native else (_OF_GGUF, "FOLDER")
    words = [
        f"python -m sglang.launch_server {said('model', 'MODEL')} {said('host_weights', experts)}",
        said("host_kernels", method),
        said("experts_kept", placement.n_kept),
        f"{said('threads', host.n_cores)} {said('pools', host.n_sockets or 1)}",
    ]
    if placement.n_kept and placement.uniform:
        words.append(said("kept_by", "uniform"))
    elif placement.n_kept:
        words.append(f"{said('kept_by', 'frequency')} {said('kept_by_counts', 'COUNTS.pt')}")
    if placement.stream_from:
        words.append(said("streamed_from", placement.stream_from))
    if hw.machine.n_cards > 1:
        words.append(said("sharing_cards", hw.machine.n_cards))
    words.append(said("requests", job.batch))
    needs = f"{method} needs a processor with AVX512 (AMXINT4 and AMXINT8 are of weights converted for AMX)"
    gguf = (
        "FOLDER has the GGUF file, of which the host has experts; what the device computes is of MODEL as published, "
        "and takes the HBM of that"
    )
    left_out = [needs if native else gguf]
    if placement.n_kept and not placement.uniform:
        left_out.append("COUNTS.pt is what --record-kt-gpu-expert-distribution wrote before")
    return Flags(" ".join(words), "; ".join(left_out))


def _vllm(policy: Policy, model: ModelArchitecture, hw: Platform, job: RequestLoad) -> Flags:
    said = engines()["vllm"].words
    ends = f"{said('requests', job.batch)} {said('context', job.input_tokens + job.output_tokens)}"
    where, n_cards = policy.placement, hw.machine.n_cards
    if where.micro_batch:
        ends = f"{said('micro_batch', where.micro_batch)} {ends}"
    if n_cards > 1:  # budgets are of each card
        turns, copies, n_beside = where.turns or 1, where.copies, n_cards // (where.turns or 1)
        groups = 1 if where.expert_groups is None else where.expert_groups or n_beside
        if groups not in (1, n_beside):
            return Flags("", f"vLLM has whole experts on each card, or on none: {policy.name} cannot be said")
        model = sharded(model, n_beside // copies, groups, copies)
        counts = {"sharing_cards": n_beside // copies, "stages": turns, "copies": copies}
        evened = [] if where.redundant is None else [said("evened"), said("redundant", where.redundant)]
        told = [said("whole_experts"), *evened] * (groups > 1) + [said(what, n) for what, n in counts.items() if n > 1]
        ends = " ".join([*told, ends])
    plain = not where.host_layers and where.host_experts is None and where.kv == "device"
    if policy.resident and plain and not where.zero_copies and not where.streams:
        return Flags(f"vllm serve MODEL {ends}", "")
    budget = budget_of(where, model)
    if policy.resident and plain and budget is not None:
        gib, alone = budget
        names = f" {said('weights_on_host', EXPERTS_ALONE)}" * alone
        return Flags(f"vllm serve MODEL {said('weights_on_host_gib', f'{gib:g}')}{names} {ends}", "")
    brought = (
        (1, 1, 2, True) if policy.name == "prefetch_all" else groups_of(where) if policy.resident and plain else None
    )
    if brought is not None:
        *sizes, alone = brought
        words = map(said, ("group_size", "group_brought", "brought_ahead"), sizes)
        names = f" {said('weights_brought', EXPERTS_ALONE)}" * alone
        return Flags(f"vllm serve MODEL {' '.join(words)}{names} {ends}", "")
    nearest = "; the nearest is gpu_only@experts=zerocopy" * policy.name.startswith("on_demand")
    return Flags(
        "", f"vLLM offloads whole tensors and computes nothing on the host: {policy.name} cannot be said{nearest}"
    )


def _fastertransformer(policy: Policy, model: ModelArchitecture, hw: Platform, job: RequestLoad) -> Flags:
    return Flags("", f"{policy.name}: the code released with Pre-gated MoE, from its own configuration files")


NO_OPS = "-1,0"
"""What `-op` of ik_llama.cpp is told so that no op leaves its weights."""

_CACHES: Mapping[str, Mapping[str, str]] = ReadOnly(
    {
        "llama-cpp": {"fp32": "f32"},
        "ik-llama": {"fp32": "f32", "q8_kv": "q8_KV"},
        "ktransformers": {"fp8": "fp8_e4m3", "mxfp4": "fp4_e2m1", "mxfp8": "mxfp8"},
        "vllm": {"fp8": "fp8", "int8": "int8_per_token_head", "nvfp4": "nvfp4", "int4-g128": "int4_per_token_head"},
    }
)
"""Formats of keys and values by what engines call them, where llama.cpp and its fork do not call them as here."""

_LLAMA_BENCH = f"llama-batched-bench -m {_WEIGHTS} -c {{context}} -npp {{0}} -ntg {{1}} -npl {{2}}"

_BENCHMARKS: Mapping[str, str] = ReadOnly(
    {
        "llama-cpp": _LLAMA_BENCH,
        "ik-llama": _LLAMA_BENCH,
        "ktransformers": "python -m sglang.bench_serving --backend sglang --dataset-name random "
        "--random-input-len {0} --random-output-len {1} --random-range-ratio 1 --num-prompts {2} --max-concurrency {2}",
        "vllm": "vllm bench latency --model MODEL --input-len {0} --output-len {1} --batch-size {2}",
    }
)
"""What times requests of so many tokens in and out, so many at once, by engine; beside the flags of the design."""


_WRITERS: Mapping[str, Callable[[Policy, ModelArchitecture, Platform, RequestLoad], Flags]] = ReadOnly(
    {
        "llama-cpp": _llama_cpp,
        "ik-llama": _ik_llama,
        "ktransformers": _ktransformers,
        "vllm": _vllm,
        "fastertransformer": _fastertransformer,
    }
)
"""What writes the flags, by engine, or by stack where that is none."""
