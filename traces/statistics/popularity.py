"""How often each expert is chosen: what is left of a routing trace when the order of tokens is thrown away.

It says which experts to keep resident and how skewed a synthetic trace should be, and nothing of reuse in time.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from traces.errors import InvalidInput
from traces.foundation.type_checks import check_value
from traces.routing import MAX_EXPERTS, Provenance, RoutingTrace

if TYPE_CHECKING:
    from traces.model.architecture import ModelArchitecture


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PopularityProfile:
    """Counts (n_moe_layers, n_experts) float64, an encoder's layers first: only shares within a layer matter.

    Raises `InvalidInput` for counts below 0 or not finite, and for a layer without any.
    """

    counts: NDArray[np.float64]
    provenance: Provenance

    def __post_init__(self) -> None:
        check_value("PopularityProfile: provenance", self.provenance, Provenance)
        given = np.asarray(self.counts)
        if given.ndim != 2 or 0 in given.shape or given.dtype.kind not in "iuf":
            raise InvalidInput(f"counts are {given.dtype} {given.shape}: numbers (n_moe_layers, n_experts) are needed")
        if given.shape[1] > MAX_EXPERTS:
            raise InvalidInput(f"counts of {given.shape[1]} experts, at most {MAX_EXPERTS}")
        counts = given.astype(np.float64)
        if not np.isfinite(counts).all() or counts.min() < 0:
            raise InvalidInput("counts are below 0 or not finite")
        if not counts.any(axis=1).all():
            raise InvalidInput(f"layer {int(counts.any(axis=1).argmin())} has no counts: leave out dense layers")
        counts.flags.writeable = False
        object.__setattr__(self, "counts", counts)

    def __repr__(self) -> str:
        return f"PopularityProfile({self.n_moe_layers} x {self.n_experts}, digest {self.digest})"

    @property
    def digest(self) -> str:
        """16 hex digits of the SHA-256 of the counts: what a schedule that they decide depends on."""
        state = hashlib.sha256(repr(self.counts.shape).encode())
        state.update(self.counts.astype("<f8").tobytes())
        return state.hexdigest()[:16]

    @property
    def n_moe_layers(self) -> int:
        """MoE layers."""
        return int(self.counts.shape[0])

    @property
    def n_experts(self) -> int:
        """Experts a layer."""
        return int(self.counts.shape[1])

    @property
    def shares(self) -> NDArray[np.float64]:
        """Each layer's counts as shares of 1, (n_moe_layers, n_experts)."""
        shares: NDArray[np.float64] = self.counts / self.counts.sum(axis=1, keepdims=True)
        return shares

    def hottest(self, n: int) -> list[tuple[int, int]]:
        """The `n` most popular (MoE layer, expert), the most popular first; equal ones in order.

        What a static placement holds. Raises `InvalidInput` for more than there are.
        """
        check_value("hottest: n", n, int)
        if not 0 <= n <= self.counts.size:
            raise InvalidInput(f"{n} experts of {self.counts.size}: ask for 0 to {self.counts.size}")
        order = np.argsort(-self.shares.ravel(), kind="stable")[:n]
        return [divmod(int(place), self.n_experts) for place in order]

    def check_model(self, model: ModelArchitecture) -> None:
        """Raise `InvalidInput` naming both sides when the counts are not of `model`."""
        here, there = self.counts.shape, (model.n_moe_layers, model.n_experts)
        if here != there:
            raise InvalidInput(
                f"popularity of {self.provenance.source} is of {here[0]} MoE layers x {here[1]} experts, model "
                f"{model.name} has {there[0]} x {there[1]}: choose the model it was counted with"
            )


def shared_popularity(trace: RoutingTrace) -> PopularityProfile | None:
    """The popularity in the traffic that a trace is of, where it is known apart from the trace itself."""
    return None if trace.popularity is None else PopularityProfile(trace.popularity, trace.provenance)


def popularity_of(trace: RoutingTrace) -> PopularityProfile:
    """The popularity of experts in a trace, over tokens of both phases."""
    layers = (chosen[chosen >= 0] for chosen in np.moveaxis(trace.experts, 1, 0))
    counts = np.array([np.bincount(used, minlength=trace.n_experts) for used in layers])
    return PopularityProfile(counts, trace.provenance)
