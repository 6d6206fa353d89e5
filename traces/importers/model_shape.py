"""What a recording may leave out of its model. Nothing here imports arrays: names of formats are listed by it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ModelShape"]


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What a recording may leave out of its model, from whoever reads it. None: what the recording shows."""

    n_layers: int | None = None
    n_moe_layers: int | None = None
    n_experts: int | None = None
    top_k: int | None = None
