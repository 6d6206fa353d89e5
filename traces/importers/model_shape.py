"""What a recording may leave out of its model. Nothing here imports arrays: names of formats are listed by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

GPT_OSS_EXPERTS: Mapping[int, int] = {24: 32, 36: 128}
"""openai/gpt-oss-20b and openai/gpt-oss-120b, config.json: num_hidden_layers -> num_local_experts."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What a recording may leave out of its model, from whoever reads it. None: what the recording shows."""

    n_layers: int | None = None
    n_moe_layers: int | None = None
    n_experts: int | None = None
    top_k: int | None = None
