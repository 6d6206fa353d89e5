"""The designs that a stack can run, and how much of the model each may keep in HBM: the most that fits."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hwmodels.platform import Platform
from hwmodels.quantity import ReadOnly
from hwmodels.stacks.stack_files import load_stack
from hwmodels.stacks.weight_formats import reads_all, why_unread
from offload.execution import Execution
from offload.placing.host_side import streams_experts
from offload.policies import policy_named
from offload.policy import Policy
from offload.slots.memory import CapacityExceeded
from pregate.ask.capturing.request import Request, request
from pregate.ask.timing.stages import under_way
from pregate.card.job import Workpiece
from pregate.engines.flag_table import HOST_KERNELS, engine_of
from pregate.engines.flag_table import engines as flags_of_engines
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.model.tensor_parallel import sharded

RESEARCH = "streams"
"""The stack of designs that this project's runtime executes and no engine offers."""

_ANY_DRAM = 1 << 50
"""Bytes of a host that holds any model."""

_MOVING = (
    "on_demand",
    "on_demand+lru",
    "on_demand:cpu+static",
    "min_latency/paper",
    "bandwidth_split",
    "hybrid_schedule+lru",
    "pregate",
    "pregate+lru",
    "pregate(2)",
    "prefetch_all",
)
"""Designs that move experts, which no engine offers."""

_PLACED = ("gpu_only", "gpu_only@experts=cpu", "gpu_only@experts=cpu:keep={most}")

ENGINES: Mapping[str, tuple[str, ...]] = ReadOnly(
    {
        "llama-cpp": (
            "gpu_only",
            "gpu_only@experts=cpu:{fewest}",
            "gpu_only@experts=cpu",
            "gpu_only@layers=cpu:{fewest}",
            "gpu_only@layers=cpu",
        ),
        "ik-llama": (
            "gpu_only",
            "gpu_only@experts=cpu:{fewest}",
            "gpu_only@experts=cpu",
            "gpu_only@layers=cpu:{fewest}",
            "gpu_only@layers=cpu",
        ),
        "ktransformers": ("gpu_only@experts=cpu:keep={most}", "gpu_only@experts=cpu"),
        "vllm": (
            "gpu_only",
            "gpu_only@experts=zerocopy:{fewest}",
            "gpu_only@experts=zerocopy",
            "gpu_only@experts=zerocopy:{fewest}@weights=zerocopy:{fewest}",
            "gpu_only@experts=zerocopy@weights=zerocopy",
            "gpu_only@experts=stream:1/{widest}@ahead=1",
            "prefetch_all",
        ),
    }
)
"""What engines offer, by engine. `{fewest}`: as few layers as fit, `{most}`: as many experts a layer as
fit, `{widest}`: groups of as many layers as fit."""

_OPEN = re.compile(r"{(?:fewest|most|widest)}")
"""A number of a design that is still open."""

_LONG: Mapping[str, tuple[str, ...]] = ReadOnly(
    {
        "llama-cpp": ("gpu_only@experts=cpu:{fewest}@ubatch={wide}",),
        "ik-llama": ("gpu_only@experts=cpu:{fewest}@ubatch={wide}",),
        "ktransformers": ("gpu_only@experts=cpu:keep={most}@stream=1024",),
        "vllm": ("gpu_only@experts=zerocopy:{fewest}@ubatch={wide}",),
    }
)
"""What engines offer besides for a prompt that is `_LONG_TOKENS` at least: experts of the host brought once for more of
it (`{wide}`: all of it, as far as `_WIDEST` goes, where the engine's own pass is shorter), or where they never were.
"""

_NEVER_BROUGHT: Mapping[str, tuple[str, ...]] = ReadOnly(
    dict.fromkeys(("llama-cpp", "ik-llama"), ("gpu_only@experts=cpu:{fewest}@stream=never",))
)
"""What engines offer besides where a pass of the prompt has so many tokens that experts of the host are brought for it:
that the host computes them."""

_SHARING: Mapping[str, tuple[str, ...]] = ReadOnly({"vllm": ("gpu_only@experts=whole", "gpu_only@turns={cards}")})
"""What engines offer besides where several cards share every layer; `{cards}`: as many as there are."""

_LONG_TOKENS = 1024
"""Two passes of llama.cpp, and the tokens from which on KTransformers is asked to bring experts."""

_WIDEST = 4096
"""Tokens of the widest pass looked at: what passes take in HBM grows with them."""

_LOOKED_AT = ("llama-cpp", "ktransformers", "vllm")
"""Engines of which a card looks at the designs where no stack is named; a fork is asked for by name."""

_RELEASED: Mapping[str, tuple[str, ...]] = ReadOnly(
    {"fastertransformer": ("gpu_only", "on_demand", "on_demand+lru", "pregate", "pregate+lru", "prefetch_all")}
)
"""What code that was released with a paper offers, by stack."""


@dataclass(frozen=True, slots=True)
class EngineDesign:
    """A policy with its placement, as the command line spells it, and the software that runs it."""

    policy: str
    stack: str

    def __str__(self) -> str:
        return f"{self.stack}/{self.policy}"


@dataclass(frozen=True, slots=True)
class Planned:
    """A design whose memory is granted: the request for the prompt, and that for a pass of tokens, of which
    `n_under_way` are at the same time.
    """

    design: EngineDesign
    hw: Platform
    prompt: Request
    tokens: Request
    n_under_way: int = 1

    @property
    def n_at_once(self) -> int:
        """Cards that compute tokens at the same time."""
        return self.tokens.n_at_once * self.n_under_way


def stacks_for(
    model: ModelArchitecture, default: str, shipped: tuple[str, ...], vendor: str, capability: str = ""
) -> tuple[str, ...]:
    """The stacks to look at where none is named: engines that run such a model on an accelerator of `vendor`, of
    NVIDIA's `capability`, the machine's own where it reads the model, and the runtime's.

    An encoder-decoder runs on none of the engines.
    """
    engines = [
        name
        for name in _LOOKED_AT
        if name in shipped
        and reads_all(model, load_stack(name))
        and load_stack(name).runs_on(vendor)
        and flags_of_engines()[name].runs_on(capability, model.expert_dtype.name)
    ]
    own = [default] if not why_unread(model, load_stack(default)) else []
    return tuple(dict.fromkeys([*([] if model.is_encoder_decoder else engines), *own, RESEARCH]))


def offered(stack: str) -> tuple[str, ...]:
    """What an engine offers that `stack` is, in whatever build, or code that was released; none where it is neither."""
    return engine_offers(stack) or _RELEASED.get(stack, ())


def engine_offers(stack: str) -> tuple[str, ...]:
    """What an engine offers that `stack` is, in whatever build; none where it is no engine's."""
    return ENGINES.get(_engine(stack), ())


def _engine(stack: str) -> str:
    engine = engine_of(stack)
    return stack if engine is None else engine.engine


def designs_of(
    model: ModelArchitecture, stack: str, n_prompt: int = 0, *, beside_engines: bool = False, n_sharing: int = 1,
    execution: Execution | None = None,
) -> tuple[str, ...]:  # fmt: skip
    """The designs of a stack for `n_prompt` tokens at once, with their numbers still open. An encoder-decoder has no
    placements. `n_sharing` cards share every layer. `execution`: that of a card (None: as the stack has it).

    `beside_engines`: what engines offer is theirs to run, and this project's runtime is asked for the rest.
    """
    named = _keeping_in(model, stack, offered(stack)) or (
        (() if beside_engines and stack == RESEARCH else _PLACED) + _MOVING
    )
    if n_sharing > 1:
        named += tuple(name.replace("{cards}", str(n_sharing)) for name in _SHARING.get(_engine(stack), ()))
    execution = execution or load_stack(stack).execution
    if n_prompt >= _LONG_TOKENS:
        wide = min(1 << (n_prompt - 1).bit_length(), _WIDEST)
        more = [one for one in _for_long_prompts(_engine(stack), model) if _is_wider(one, wide, execution)]
        named += tuple(one.replace("{wide}", str(wide)) for one in more)
    if streams_experts(execution, model, min(n_prompt, execution.micro_batch or n_prompt)):
        named += _NEVER_BROUGHT.get(_engine(stack), ())
    named = with_own_gates(named, model)
    return tuple(name for name in named if not (model.is_encoder_decoder and "@" in name))


_PREGATE = re.compile(r"^pregate(\(\d+\))?(?=\+|$)")


def with_own_gates(names: Sequence[str], model: ModelArchitecture) -> tuple[str, ...]:
    """`names`, pre-gating being that which the gates of `model` were trained for, where they look ahead."""
    if not model.pregated_from:
        return tuple(names)
    return tuple(dict.fromkeys(_PREGATE.sub("pregate/next_token", name) for name in names))


def _keeping_in(model: ModelArchitecture, stack: str, named: tuple[str, ...]) -> tuple[str, ...]:
    """`named` without those that keep experts in HBM, where these would be in another format than the host's."""
    return named if _has_one_format(_engine(stack), model) else tuple(name for name in named if "keep=" not in name)


def _for_long_prompts(engine: str, model: ModelArchitecture) -> tuple[str, ...]:
    return _LONG.get(engine, ()) if _has_one_format(engine, model) else ()


def _has_one_format(engine: str, model: ModelArchitecture) -> bool:
    """Whether experts are in one format on the device and the host: KTransformers takes those of the device, and those
    that it brings there, from the model as published, and from a GGUF file the host's alone (kt-kernel/README.md).
    """
    return engine != "ktransformers" or model.expert_dtype.name.startswith(tuple(HOST_KERNELS))


def _is_wider(name: str, n_tokens: int, execution: Execution) -> bool:
    """Whether a pass of `n_tokens` is wider than the engine's own, where `name` asks for one."""
    return "{wide}" not in name or not execution.micro_batch or n_tokens > execution.micro_batch


def plan_design(model: ModelArchitecture, hw: Platform, work: Workpiece, name: str) -> Planned:
    """`name` with its open number settled, and its memory granted.

    Raises `CapacityExceeded` where not even the least fits, `InvalidInput` for a design that the model cannot have, or
    whose number is not open (another design is the same).
    """
    if "{fewest}" in name:
        return _settled(model, hw, work, name.replace("{fewest}", "{0}"), range(model.decoder.n_layers - 1, 0, -1))
    if "{widest}" in name:
        return _settled(model, hw, work, name.replace("{widest}", "{0}"), range(2, model.decoder.n_layers + 1))
    if "{most}" in name:
        return _settled(model, hw, work, name.replace("{most}", "{0}"), range(1, model.n_experts))
    return _granted(model, hw, work, name)


def _settled(model: ModelArchitecture, hw: Platform, work: Workpiece, form: str, numbers: range) -> Planned:
    """The last of `numbers` that fits; they ask for more and more HBM, and for less and less of the host's memory.

    Raises `CapacityExceeded` where none does: of the host's memory that the last needs for which there is HBM.
    """
    if not len(numbers):
        raise InvalidInput(f"{form.replace('{0}', 'N')}: {model.name} has nothing to divide")
    found: Planned | CapacityExceeded | None = None
    low, high = 0, len(numbers) - 1
    while low <= high:
        middle = (low + high) // 2 if found is not None else 0  # the least HBM first: its reason is told
        try:
            found, low = _granted(model, hw, work, form.format(numbers[middle])), middle + 1
        except CapacityExceeded as error:
            found = found or error
            low, high = (low, middle - 1) if error.memory == "HBM" else (middle + 1, high)
    if not isinstance(found, Planned):
        assert found is not None
        if found.memory != "DRAM":
            raise found
        found = _settled(model, _with_any_dram(hw), work, form, numbers)
        return _granted(model, hw, work, found.design.policy)
    return found


def _with_any_dram(hw: Platform) -> Platform:
    host = replace(hw.machine.host, dram_bytes=_ANY_DRAM)
    return replace(hw, machine=replace(hw.machine, host=host))


def _granted(model: ModelArchitecture, hw: Platform, work: Workpiece, name: str) -> Planned:
    return granted(model, hw, work, policy_named(name), name)


def granted(
    model: ModelArchitecture, hw: Platform, work: Workpiece, policy: Policy, name: str | None = None
) -> Planned:
    """A design, called `name` (None: as its policy), with the memory that the whole job takes.

    Raises `CapacityExceeded` where that is not there.
    """
    policy = policy.placed(work.popularity)
    prompt = request(model, hw, work.prompt, policy, workload=work.workload)
    tokens, n = work.tokens_for(policy), 1
    if not work.is_recorded:  # whose passes are as they were
        n, batch = under_way(hw, policy, work.job.batch, work.job.input_tokens)
        tokens = tokens if n == 1 else tokens.of_sequences(np.unique(tokens.sequence)[:batch].tolist())
    asked = prompt if tokens is work.prompt else request(model, hw, tokens, policy, workload=work.workload)
    return Planned(EngineDesign(name or policy.name, hw.stack.name), hw, prompt, asked, n)


def n_together(hw: Platform) -> int:
    """Cards of a platform that compute a layer together."""
    return hw.machine.n_cards if hw.execution.shares_layers else 1


def has_turns(stack: str) -> bool:
    """Whether cards that share every layer may have layers in turn under `stack` instead."""
    return any("{cards}" in name for name in _SHARING.get(_engine(stack), ()))


def why_unshared(model: ModelArchitecture, hw: Platform) -> str:
    """Why the cards of a platform cannot share the layers of `model`; "" where they can, or share none."""
    n_cards = n_together(hw)
    try:
        sharded(model, n_cards, n_cards)  # experts as each design has them
    except InvalidInput as error:
        return str(error)
    return ""


def all_planned(
    model: ModelArchitecture,
    work: Workpiece,
    platforms: Mapping[str, Platform],
    say: Callable[[str, CapacityExceeded], None],
    more: Sequence[str] = (),
) -> Iterator[Planned]:
    """Every design of every stack in `platforms` that fits, each once; `say(design, error)` for those that do not.

    Where all fits in HBM nothing of it is put elsewhere by number, and where host and accelerator have one memory
    nothing is copied within it. `more`: designs beside these, on stacks that are no engine's where there is one:
    engines have designs of their own.
    """
    free = [stack for stack in platforms if not offered(stack)] or list(platforms)
    fits_whole = False
    for stack, hw in platforms.items():
        seen: set[str] = set()
        named = designs_of(
            model, stack, work.job.batch * work.job.input_tokens, beside_engines=any(map(offered, platforms)),
            n_sharing=n_together(hw), execution=hw.execution,
        )  # fmt: skip
        for name in (*(one for one in named if not (hw.machine.has_one_memory and brings_weights(one))),
                     *(more if stack in free else ())):  # fmt: skip
            if "{" in name and fits_whole:
                continue
            try:
                planned = plan_design(model, hw, work, name)
            except CapacityExceeded as error:
                say(f"{stack}/{_OPEN.sub('N', name)}", error)
                continue
            except InvalidInput:
                if name in more:
                    raise
                continue
            fits_whole = fits_whole or planned.design.policy == "gpu_only"
            if planned.design.policy not in seen:
                seen.add(planned.design.policy)
                yield planned


def brings_weights(name: str) -> bool:
    """Whether a design is about weights that are brought to the accelerator as it runs."""
    brought = ("=stream", "=zerocopy", "@stream=", "@ubatch=")
    return not name.startswith("gpu_only") or any(word in name for word in brought)
