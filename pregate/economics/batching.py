"""How requests are served: what a user says of it, and what the engine of a stack does where nobody says otherwise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from hwmodels.platform import Platform
from hwmodels.stacks.usual_passes import MOST_SLOTS, has_none_within, usual_pass_tokens
from offload.policy import Policy
from simulator.serving.arrivals import Batching
from traces.errors import InvalidInput, unknown_name
from traces.foundation.type_checks import check_fields
from traces.model.architecture import ModelArchitecture
from traces.requests import ArrivalTrace
from traces.transforms.prefix_cache import with_prefix_cache

Prompts = Literal["beside", "alone"]
"""How prompts pass: beside tokens of other requests, in parts, or whole and alone, before these."""


@dataclass(frozen=True, slots=True)
class Server:
    """How requests are served. `slots`: requests side by side at most, each with memory for the longest; `pass_tokens`:
    tokens that pass together at most; `prompts`: "beside" tokens of others, in parts, or "alone" and whole before
    these; None of either: as the engine of the stack has it. `prefix_cache`: tokens of keys and values that memory has
    room for and that are held from one request to the next (`with_prefix_cache`), None: none. Raises `InvalidInput`.
    """

    slots: int = 8
    pass_tokens: int | None = None
    prompts: str | None = None
    prefix_cache: int | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if not 1 <= self.slots <= MOST_SLOTS:
            raise InvalidInput(f"{self.slots} slots: from 1 to {MOST_SLOTS:,}")
        if self.pass_tokens is not None and self.pass_tokens < 1:
            raise InvalidInput(f"passes of {self.pass_tokens} tokens: at least 1")

    def settled(
        self, machine: Platform, model: ModelArchitecture, design: Policy | None = None
    ) -> tuple[Batching, int]:
        """How the engine of `machine` makes passes then, and tokens of one at most, by `design` where that says so.
        Raises `InvalidInput` for fewer of these than slots, and for two numbers of one pass.
        """
        batching = batching_of(machine, model, self.prompts)
        usual = max(usual_pass_tokens(machine.execution, machine.machine.accelerator), self.slots)
        stated = design.placement.micro_batch if design is not None else None
        if stated is not None and not has_none_within(machine.execution):
            stated = max(stated, usual)  # -b is no less than -ub
        elif None not in (stated, self.pass_tokens) and stated != self.pass_tokens:
            raise InvalidInput(
                f"passes of {self.pass_tokens} tokens, and {stated} by the design: {machine.stack.name} has one number "
                f"of both, so leave one out"
            )
        most = self.pass_tokens or stated or usual
        if batching.mixes and most < self.slots:
            raise InvalidInput(
                f"passes of {most} tokens for {self.slots} slots: each request has one in a pass that prompts share, "
                f"so take {self.slots} tokens at least, or fewer slots"
            )
        return batching, most

    def held(self, model: ModelArchitecture, requests: ArrivalTrace) -> ArrivalTrace:
        """`requests` with the tokens of their prompts that are held from earlier ones.

        Raises `InvalidInput` for a model with an encoder.
        """
        if self.prefix_cache is None:
            return requests
        if model.is_encoder_decoder:
            raise InvalidInput(f"{model.name}: an encoder reads its prompt whole, leave out the cache of prefixes")
        if model.state_bytes_per_sequence:
            raise InvalidInput(
                f"{model.name}: layers with a state go on from a prefix only where the engine kept that state (vLLM: "
                f"--mamba-cache-mode), which traces do not say: leave out the cache of prefixes"
            )
        return with_prefix_cache(requests, self.prefix_cache)


def batching_of(machine: Platform, model: ModelArchitecture, prompts: str | None = None) -> Batching:
    """How the engine batches; `prompts`: a word of `Prompts`, None: as the engine does it. An encoder reads its prompt
    whole. Raises `UnknownName` for another word.
    """
    if prompts is not None and prompts not in get_args(Prompts):
        raise unknown_name("way of prompts", prompts, get_args(Prompts))
    execution = machine.execution
    mixes = execution.mixes_prompts if prompts is None else prompts == "beside"
    return Batching(mixes and not model.is_encoder_decoder, execution.schedules_ahead)


def passing(design: Policy, machine: Platform, model: ModelArchitecture, n_tokens: int) -> Policy:
    """`design` with prompts in passes of `n_tokens`, where what is passed together has no smaller passes within."""
    execution = design.placement.execution(machine.execution)
    if model.is_encoder_decoder or not has_none_within(execution) or execution.micro_batch == n_tokens:
        return design
    return replace(design, placement=replace(design.placement, micro_batch=n_tokens))
