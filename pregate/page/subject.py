"""What a page is about: models, machines, designs, and the values at which its sliders stop."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hwmodels.platform import Platform
from hwmodels.specs.overrides import with_overrides
from hwmodels.stacks.weight_formats import check_weights
from offload.policy import Policy
from pregate.card.job import MAX_TOKENS
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture

AS_ROUTED = 0
"""Active experts as the made-up routing has them, not forced."""

_LEAST_LINK, _MOST_LINK, _PER_DECADE = 1e9, 512e9, 14
"""Ends of the link slider in bytes/s, and its stops a decade."""

_MOST_POINTS = 20_000
"""Points of all structural sliders together: a page of more would take minutes and tens of MB."""


@dataclass(frozen=True, slots=True)
class Stop:
    """One position of all sliders that decide what is scheduled: tokens, and experts forced (`AS_ROUTED`: none)."""

    batch: int
    prompt: int
    active: int


@dataclass(frozen=True, slots=True)
class PageSubject:
    """All combinations that a page answers.

    `hbm_factors`: the HBM of a machine as multiples of its own. `output_tokens`: generated a sequence. `actives` are
    shares of a model's experts above 0, at most 1, forced in each layer, or `AS_ROUTED`. Raises `InvalidInput` for an
    empty list, weights that a stack does not read, a design that cuts copies into chunks or decides by the machine's
    numbers, counts below 1, or combinations beyond the limit.
    """

    models: tuple[ModelArchitecture, ...]
    machines: tuple[Platform, ...]
    designs: tuple[Policy, ...]
    batches: tuple[int, ...] = (1, 4, 16)
    prompts: tuple[int, ...] = (32, 256)
    actives: tuple[float, ...] = (AS_ROUTED, 0.25, 1.0)
    hbm_factors: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
    output_tokens: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("models", "machines", "designs", "batches", "prompts", "actives", "hbm_factors"):
            values = getattr(self, name)
            if not values:
                raise InvalidInput(f"{name}: a page needs one at least")
            if len(set(map(_named, values))) != len(values):
                raise InvalidInput(f"{name}: the same twice: name each once")
        if min(*self.batches, *self.prompts) < 1 or self.output_tokens < 2:
            raise InvalidInput("batches and prompts are 1 or more, output tokens 2 or more")
        batch, prompt = max(self.batches), max(self.prompts)
        if batch * max(prompt, self.output_tokens) > MAX_TOKENS:
            raise InvalidInput(
                f"{batch} requests of {prompt} and {self.output_tokens} tokens: at most {MAX_TOKENS:,} tokens at once"
            )
        for machine in self.machines:
            for model in self.models:
                check_weights(model, machine.stack)
        for design in self.designs:
            if design.chunk_bytes is not None:
                raise InvalidInput(f"{design.name} cuts copies into chunks, which a page does not say: ask compare")
            if design.asks_machine:
                raise InvalidInput(
                    f"{design.name} decides by the machine's numbers, and a page keeps one schedule for all links: ask "
                    "compare or sweep"
                )
        for share in self.actives:
            if not 0 <= share <= 1:
                raise InvalidInput(f"active experts = {share:g}: a share of the experts, 0 (as routed) to 1")
        for factor in self.hbm_factors:
            if not 0 < factor <= 64:
                raise InvalidInput(f"HBM x {factor:g}: above 0, at most 64 times what the machine has")
        n = len(self.models) * len(self.machines) * len(self.designs) * len(self.hbm_factors)
        n *= len(self.batches) * len(self.prompts) * len(self.actives)
        if n > _MOST_POINTS:
            raise InvalidInput(f"{n} schedules on one page, at most {_MOST_POINTS}: give fewer values of a slider")

    def stops(self, model: ModelArchitecture) -> list[Stop]:
        """The positions of batch, prompt and active experts, in that order, the last fastest."""
        return [
            Stop(batch, prompt, active_experts(model, share))
            for batch in self.batches
            for prompt in self.prompts
            for share in self.actives
        ]


def active_experts(model: ModelArchitecture, share: float) -> int:
    """The experts that a share of them is, at least those of one token; `AS_ROUTED` stays."""
    return AS_ROUTED if share == AS_ROUTED else max(model.top_k, round(share * model.n_experts))


def link_stops(machine: Platform) -> NDArray[np.float64]:
    """Bytes/s of the link slider, (n_links,), ascending: even in the logarithm, the machine's own among them."""
    n = round(np.log10(_MOST_LINK / _LEAST_LINK) * _PER_DECADE) + 1
    even = [float(f"{value:.3g}") for value in np.geomspace(_LEAST_LINK, _MOST_LINK, n).tolist()]
    return np.array(sorted({*even, float(machine.machine.link.h2d_bytes_per_s)}))


def _named(value: object) -> object:
    return getattr(value, "hardware", getattr(value, "name", value))


def with_hbm(machine: Platform, factor: float) -> Platform:
    """The machine with `factor` times the HBM of its own."""
    if factor == 1:
        return machine
    n_bytes = round(machine.machine.accelerator.hbm_bytes * factor)
    return replace(machine, machine=with_overrides(machine.machine, {"hbm_bytes": n_bytes}))


def hbm_of(machine: Platform) -> int:
    """Bytes of HBM of all cards of a machine."""
    return machine.machine.n_cards * machine.machine.accelerator.hbm_bytes
