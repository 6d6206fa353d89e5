"""The configurations that a validation predicts and runs: models, workloads, links, policies.

A link is stated by how its transfers compare with compute: at a ratio of 1 the experts of an MoE block take as long to
fetch as the layers up to the next one take to compute. The predicted compute time decides what link that is.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from pregate.named import load_model
from pregate.routing_traces import DEFAULT_DIALS, load_trace, synthesize
from traces.errors import unknown_name
from traces.model.architecture import ModelArchitecture, PublishedCounts
from traces.routing import RoutingTrace

SUITE_POLICIES = ("gpu_only", "on_demand", "prefetch_all", "pregate", "pregate(2)", "lru")
"""Designs that a suite compares."""

GPU_POLICIES = (*SUITE_POLICIES, "lfu")
_FORCED = ("gpu_only", "on_demand", "pregate", "prefetch_all")
"""Where the same experts are always active, a cache that has them never misses: caches say nothing."""

_MOVING = ("gpu_only", "on_demand", "pregate", "pregate(2)", "lru")
"""Where fetching all of a layer takes too long."""


_LONG_TOKENS = 64
"""Prompts beyond it are named."""


@dataclass(frozen=True, slots=True)
class CaseWorkload:
    """A trace made up or recorded: `n_active` forces how many experts a layer activates.

    `batch`: None is 1, or a recording as it was recorded. `n_steps`: of a recording, the first so many forward passes
    (None: all).
    """

    batch: int | None
    input_tokens: int
    output_tokens: int
    seed: int = 0
    n_active: int | None = None
    path: Path | None = None
    n_steps: int | None = None

    def trace(self, model: ModelArchitecture) -> RoutingTrace:
        """The routing. Raises as `pregate.synthesize` and `pregate.load_trace`."""
        if self.path is not None:
            found = load_trace(self.path, batch=self.batch, model=model)
            return found if self.n_steps is None else _first_steps(found, self.n_steps)
        batch = 1 if self.batch is None else self.batch
        dials = None if self.n_active else DEFAULT_DIALS  # one locality for every model: figures stay comparable
        return synthesize(
            model, self.input_tokens, self.output_tokens, batch, self.seed, dials=dials, n_active=self.n_active
        )

    @property
    def name(self) -> str:
        """Short, for names of cases."""
        if self.path is not None:
            steps = "" if self.n_steps is None else f"-s{self.n_steps}"
            return f"{self.path.stem}{steps}" if self.batch is None else f"{self.path.stem}-b{self.batch}{steps}"
        prompt = f"-p{self.input_tokens}" if self.input_tokens > _LONG_TOKENS else ""
        return f"b{self.batch or 1}{prompt}" + (f"-a{self.n_active}" if self.n_active else "")

    @property
    def description(self) -> str:
        """For people."""
        if self.path is not None:
            steps = "" if self.n_steps is None else f", first {self.n_steps} passes"
            return f"batch {'as recorded' if self.batch is None else self.batch}, {self.path.name}{steps}"
        routing = f"{self.n_active} experts active" if self.n_active else f"routing seed {self.seed}"
        return f"batch {self.batch or 1}, {self.input_tokens} + {self.output_tokens} tokens, {routing}"


@dataclass(frozen=True, slots=True)
class CaseGroup:
    """What policies are compared within. `ratio` or `link_bytes_per_s` says what the link is; neither: as it is.

    `hbm_share`: of the model's experts, what HBM holds under policies that offload. `expert_tier`: where the others
    wait, "dram" or "ssd".
    """

    model: ModelArchitecture
    workload: CaseWorkload
    policies: tuple[str, ...]
    ratio: float | None = None
    link_bytes_per_s: float | None = None
    hbm_share: float = 0.4
    expert_tier: str = "dram"

    def case_name(self, policy: str) -> str:
        """Of one of its cases."""
        return f"{self.name}/{policy}"

    @property
    def name(self) -> str:
        """Model, workload, link."""
        name = f"{self.model.name}/{self.workload.name}" + (
            "" if self.expert_tier == "dram" else f"/{self.expert_tier}"
        )
        if self.ratio is None and self.link_bytes_per_s is None:
            return name
        return f"{name}/ratio{self.ratio:g}" if self.ratio else f"{name}/{(self.link_bytes_per_s or 0) / 1e9:g}GBps"


def _quick_suite() -> list[CaseGroup]:
    """One workload of each model at a middling link: under two minutes on two cores, measurements included."""
    switch, mixtral = load_model("switch-mini-16"), load_model("mixtral-mini-8")
    policies = ("gpu_only", "on_demand", "pregate")
    return [
        CaseGroup(switch, CaseWorkload(1, 16, 10, seed=11), policies, 1.0),
        CaseGroup(mixtral, CaseWorkload(1, 16, 8, seed=12), policies, 3.0),
    ]


def _full_suite() -> list[CaseGroup]:
    """Two layouts, four ratios of transfer to compute, six policies.

    At the lowest ratio the Mixtral-like model decodes a batch that is forced to as few experts as one token uses:
    with one token its experts move slower than they are used, whatever link a processor can imitate.
    """
    switch, mixtral = load_model("switch-mini-16"), load_model("mixtral-mini-8")
    groups = [
        CaseGroup(switch, CaseWorkload(1, 32, n_tokens, seed=21), SUITE_POLICIES, ratio)
        for ratio, n_tokens in ((0.35, 32), (1.0, 24), (3.0, 12), (10.0, 6))
    ]
    groups.append(CaseGroup(switch, CaseWorkload(4, 24, 16, seed=22), SUITE_POLICIES, 1.0))
    groups.append(CaseGroup(mixtral, CaseWorkload(32, 16, 12, n_active=2), SUITE_POLICIES, 0.35))
    groups += [
        CaseGroup(mixtral, CaseWorkload(1, 32, n_tokens, seed=23), SUITE_POLICIES, ratio)
        for ratio, n_tokens in ((1.0, 32), (3.0, 16), (10.0, 8))
    ]
    groups.append(CaseGroup(mixtral, CaseWorkload(4, 24, 12, seed=24), SUITE_POLICIES, 3.0))
    return groups


def _published_suite() -> list[CaseGroup]:
    """First layers of published models whose shapes no probe has: latent attention, shared experts, many experts."""
    switch = shortened("switch-base-8", "fp32")
    deepseek, qwen = shortened("deepseek-v2-lite", "fp32", 4), shortened("qwen3-30b-a3b", "fp32", 2)
    return [
        CaseGroup(switch, CaseWorkload(1, 24, 8, seed=41), _MOVING, 1.0),
        CaseGroup(switch, CaseWorkload(8, 16, 8, seed=42), _MOVING, 1.0),
        CaseGroup(deepseek, CaseWorkload(1, 24, 10, seed=43), _MOVING, 3.0),
        CaseGroup(deepseek, CaseWorkload(4, 16, 8, seed=44), _MOVING, 3.0),
        CaseGroup(qwen, CaseWorkload(1, 24, 10, seed=45), _MOVING, 3.0),
        CaseGroup(qwen, CaseWorkload(4, 8, 8, seed=46), _MOVING, 3.0, hbm_share=0.7),
    ]


def _gpu_suite() -> list[CaseGroup]:
    """Published models on a real link, the most telling first: a budget of time cuts off the end.

    Some have fewer layers than published, so that their experts are made within seconds and the host can hold them. Few
    tokens each: what a run costs beside its tokens (weights, pools, events) is most of its time.
    """
    small, base, single = (
        shortened("switch-base-64", "bf16"),
        shortened("switch-base-128", "bf16"),
        shortened("switch-base-8", "fp32"),
    )
    mixtral, deepseek = shortened("mixtral-8x7b", "bf16", 6), shortened("deepseek-v2-lite", "bf16", 7)
    qwen, windowed = shortened("qwen3-30b-a3b", "bf16", 8), shortened("gpt-oss-20b", "bf16", 8)
    groups = [CaseGroup(small, CaseWorkload(batch, 16, 12, seed=31), GPU_POLICIES) for batch in (1, 4, 16)]
    groups += [CaseGroup(small, CaseWorkload(64, 8, 8, n_active=n), _FORCED) for n in (1, 8, 64)]
    groups += [CaseGroup(qwen, CaseWorkload(1, 16, 8, seed=36), GPU_POLICIES)]
    groups += [CaseGroup(deepseek, CaseWorkload(4, 16, 8, seed=35), GPU_POLICIES)]
    groups += [CaseGroup(windowed, CaseWorkload(1, 512, 8, seed=40), GPU_POLICIES)]
    groups += [CaseGroup(mixtral, CaseWorkload(1, 8, 8, seed=32), GPU_POLICIES, hbm_share=0.6)]
    groups += [
        CaseGroup(mixtral, CaseWorkload(1, n, 4, seed=37), _MOVING[:3], hbm_share=0.6) for n in (256, 1024, 4096)
    ]
    groups += [CaseGroup(single, CaseWorkload(batch, 16, 12, seed=34), GPU_POLICIES) for batch in (1, 16)]
    groups += [CaseGroup(base, CaseWorkload(1, 16, 12, seed=33), GPU_POLICIES)]
    groups.append(CaseGroup(shortened("switch-large-128", "bf16"), CaseWorkload(1, 16, 8, seed=39), _MOVING[1:]))
    recording = CaseWorkload(1, 0, 0, path=Path("gpt-oss-20b-mmlu"), n_steps=16)
    groups.append(
        CaseGroup(shortened("gpt-oss-20b", "bf16"), recording, ("on_demand", "pregate", "lru"), hbm_share=0.5)
    )
    groups += [
        CaseGroup(mixtral, CaseWorkload(batch, 8, n_tokens, seed=32), _MOVING, hbm_share=0.6)
        for batch, n_tokens in ((4, 6), (16, 4))
    ]
    groups += [CaseGroup(small, CaseWorkload(64, 8, 8, n_active=n), _FORCED) for n in (2, 4, 16, 32)]
    groups += [CaseGroup(base, CaseWorkload(16, 16, 12, seed=33), GPU_POLICIES)]
    groups += [CaseGroup(base, CaseWorkload(64, 8, 8, n_active=n), _FORCED[:3]) for n in (1, 8, 64)]
    groups += [CaseGroup(single, CaseWorkload(4, 16, 12, seed=34), GPU_POLICIES)]
    groups += [CaseGroup(deepseek, CaseWorkload(1, 16, 8, seed=35), GPU_POLICIES)]
    groups += [CaseGroup(qwen, CaseWorkload(4, 16, 8, seed=36), GPU_POLICIES)]
    groups += [CaseGroup(windowed, CaseWorkload(1, 16, 8, seed=40), GPU_POLICIES)]
    groups.append(CaseGroup(shortened("switch-base-64", "fp32"), CaseWorkload(1, 16, 12, seed=38), GPU_POLICIES))
    return groups


def _first_steps(trace: RoutingTrace, n_steps: int) -> RoutingTrace:
    """Its tokens of the first `n_steps` forward passes."""
    kept = trace.step < n_steps
    return dataclasses.replace(
        trace,
        experts=trace.experts[kept],
        sequence=trace.sequence[kept],
        position=trace.position[kept],
        phase=trace.phase[kept],
        step=trace.step[kept],
        gate_weights=None if trace.gate_weights is None else trace.gate_weights[kept],
        rejected=None if trace.rejected is None else trace.rejected[kept],
    )


def shortened(name: str, dtype: str, n_layers: int | None = None) -> ModelArchitecture:
    """A model in a format, of its first `n_layers` layers (None: all): "mixtral-8x7b-6l-bf16"."""
    model = load_model(name, dtype=dtype)
    if n_layers is None:
        return dataclasses.replace(model, name=f"{name}-{dtype}")
    stack = model.decoder
    moe_layers = tuple(layer for layer in stack.moe_layers if layer < n_layers)
    mixer_of = stack.mixer_of[:n_layers]
    decoder = dataclasses.replace(stack, n_layers=n_layers, moe_layers=moe_layers, mixer_of=mixer_of)
    published = PublishedCounts()  # those of the whole model
    return dataclasses.replace(model, name=f"{name}-{n_layers}l-{dtype}", decoder=decoder, published=published)


SUITES = {"quick": _quick_suite, "full": _full_suite, "published": _published_suite, "gpu": _gpu_suite}


def suite_named(name: str) -> list[CaseGroup]:
    """The groups of a suite. Raises `UnknownName`."""
    if name not in SUITES:
        raise unknown_name("suite", name, SUITES)
    return SUITES[name]()
