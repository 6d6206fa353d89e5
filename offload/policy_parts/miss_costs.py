"""What a design knows of its machine when an expert is missing: numbers that it measured before it started, no clock.

A policy decides without times. What engines calibrate at start-up (Fiddler's CPU and copy latencies, FreeToken's two
bandwidths, HybriMoE's warm-up) are times of one expert in copies of one expert to the device: ratios, fixed for a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from math import isfinite
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from traces.errors import InvalidInput
from traces.foundation.type_checks import check_fields

if TYPE_CHECKING:
    from offload.policy import BlockView


MOST = 1e9
"""A billion copies: what takes longer is a mistake."""


@dataclass(frozen=True, slots=True)
class MissCosts:
    """Times of one expert's FFN over that of its copy to the device.

    `host`: on the host's processor, its weights being read; `host_token`: there, the arithmetic of one token; `device`,
    `device_token`: the same on the device. An FFN of n tokens takes the larger of the first and n times the second.
    `handover`: activations to the host and back. `beside`: what `host` grows by while processor and link both read host
    memory, which slows each of them. Raises `InvalidInput` for a number that is not finite or below 0, or a
    `host` of 0.
    """

    host: float
    host_token: float = 0.0
    device: float = 0.0
    device_token: float = 0.0
    handover: float = 0.0
    beside: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        for name, value in zip(self.__slots__, astuple(self), strict=True):
            if not (isfinite(value) and 0 <= value <= MOST):
                raise InvalidInput(f"{name} = {value:g} copies of an expert: a number from 0 to {MOST:g}")
        if self.host <= 0:
            raise InvalidInput("host = 0 copies of an expert: no processor computes in no time, give a number above 0")

    def on_host(self, n_tokens: int) -> float:
        """One expert for `n_tokens`, by the host."""
        return max(self.host, n_tokens * self.host_token)

    def on_device(self, n_tokens: int) -> float:
        """One expert for `n_tokens`, by the device, its weights being there."""
        return max(self.device, n_tokens * self.device_token)

    @property
    def fetched_share(self) -> float:
        """B_link / (B_link + B_cpu) of FreeToken, of bandwidths measured while the other runs: the share of missing
        bytes that the link brings meanwhile.
        """
        host = self.host * self.beside
        return host / (1.0 + host)

    def __str__(self) -> str:
        numbers = {name: value for name, value in zip(self.__slots__, astuple(self), strict=True) if name != "beside"}
        told = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        return f"in copies of an expert: {told}" + (f", beside {self.beside:.4g}" if self.beside != 1.0 else "")


@runtime_checkable
class AsksMachine(Protocol):
    """An answer to a miss that knows its machine; `costs`: None until that was asked."""

    @property
    def costs(self) -> MissCosts | None:
        """What it knows."""


class Load(NamedTuple):
    """An expert and the tokens that it serves in this block."""

    expert: int
    n_tokens: int


def loads_of(view: BlockView, experts: Sequence[int]) -> list[Load]:
    """`experts` of the block with their tokens, those that serve most first."""
    tokens = dict(zip(view.active, view.tokens, strict=True))
    return sorted((Load(expert, tokens[expert]) for expert in experts), key=lambda load: (-load.n_tokens, load.expert))


def known(costs: MissCosts | None) -> MissCosts:
    """`costs`. Raises `InvalidInput` where the machine was never asked."""
    if costs is None:
        raise InvalidInput(
            "a design that weighs the host against the link knows its machine: simulate it on one, or state the time "
            "of an expert on the host over that of its copy (on_demand:cheaper=0.4, or costs=MissCosts(0.4))"
        )
    return costs
