"""The slots of a cache that evict among themselves, counted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PoolShape:
    """Slots that evict among themselves, and the model that they serve."""

    n_slots: int
    n_layers: int
    n_experts: int

    @property
    def n_keys(self) -> int:
        """Experts of all layers."""
        return self.n_layers * self.n_experts
