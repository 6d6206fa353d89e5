"""What an experiment with gate positions is made of: sizes, steps, seeds, arms; and two of them, full and short."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass

from runtime.pregated.gate_positions import check_lookahead
from runtime.pregated.training.training_settings import Schooling
from traces.errors import InvalidInput
from traces.foundation.type_checks import check_fields
from traces.model.architecture import DTYPES, Attention, LayerStack, ModelArchitecture

CONVENTIONAL, PREDICTABLE = "conventional", "predictable"


@dataclass(frozen=True, slots=True)
class ExperimentPlan:
    """One model shape, trained from each seed and then fine-tuned in every arm on the same batches.

    `layout`: decoder or encoder-decoder. Every decoder layer has a MoE block; `lookaheads`: those that arms have.
    `base_steps` of training, `arm_steps` of fine-tuning, `rows` windows of `length` tokens each; `held_out` windows are
    the evaluation set. `predictable`: weight of the loss of the arm whose gates learn to be guessed.
    Raises `InvalidInput`.
    """

    layout: str = "decoder"
    n_tokens: int = 512
    d_model: int = 96
    n_heads: int = 4
    d_ff: int = 192
    n_blocks: int = 6
    n_experts: int = 8
    top_k: int = 1
    n_seeds: int = 6
    base_steps: int = 480
    arm_steps: int = 140
    rows: int = 64
    length: int = 64
    held_out: int = 800
    base_rate: float = 3e-3
    arm_rate: float = 1e-3
    balance: float = 0.01
    predictable: float = 0.1
    lookaheads: tuple[int, ...] = (1, 2, 3)
    docstrings: bool = True

    def __post_init__(self) -> None:
        check_fields(self)
        if self.layout not in ("decoder", "encoder-decoder"):
            raise InvalidInput(f"layout = {self.layout!r}: decoder or encoder-decoder")
        if self.n_seeds < 2:
            raise InvalidInput(f"{self.n_seeds} seeds have no confidence interval: at least 2")
        if self.n_heads < 1 or self.d_model % self.n_heads:
            raise InvalidInput(f"d_model = {self.d_model} is no multiple of {self.n_heads} heads")
        if self.length < 4 or self.held_out < 1:
            raise InvalidInput(f"windows of {self.length} tokens, {self.held_out} held out: at least 4, and 1")
        if (
            not self.lookaheads
            or min(self.lookaheads) < 1
            or self.lookaheads != tuple(range(1, len(self.lookaheads) + 1))
        ):
            raise InvalidInput(f"lookaheads = {self.lookaheads}: 1, 2, ... up to the longest")
        check_lookahead(max(self.lookaheads), self.n_blocks)
        self.base(), self.arm(CONVENTIONAL), self.architecture()  # each checks what it is made of

    @property
    def digest(self) -> str:
        """16 hex digits that two plans share when they are the same."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def arms(self) -> dict[str, int]:
        """The arms that are fine-tuned, and where their gates sit."""
        ahead = {f"pregate_{n}": n for n in self.lookaheads}
        return {CONVENTIONAL: 0} | ahead | {PREDICTABLE: 0}

    def architecture(self) -> ModelArchitecture:
        """The shape of every arm."""
        attention = Attention("mha", self.n_heads, self.n_heads, self.d_model // self.n_heads)
        encoded = self.layout != "decoder"

        def stack(n_layers: int, crosses: bool) -> LayerStack:
            layers = tuple(range(n_layers))
            return LayerStack(n_layers, layers, attention, crosses, 0, 2, relative_position_buckets=32)

        return ModelArchitecture(
            name=f"pregated-{self.layout}-{self.n_blocks}x{self.n_experts}", d_model=self.d_model,
            vocab_size=self.n_tokens, tied_embeddings=True, encoder=stack(2, False) if encoded else None,
            decoder=stack(self.n_blocks, encoded), n_experts=self.n_experts, top_k=self.top_k, d_ff_expert=self.d_ff,
            n_expert_matrices=2, dtype=DTYPES["fp32"], expert_dtype=DTYPES["fp32"],
            sources=("a model of this project's own, for experiments with gate positions",),
        )  # fmt: skip

    def base(self) -> Schooling:
        """How the conventional model is trained from scratch."""
        return Schooling(self.base_steps, self.rows, self.length, self.base_rate, self.balance)

    def arm(self, name: str) -> Schooling:
        """How an arm is fine-tuned: all alike, but for the loss of one."""
        weight = self.predictable if name == PREDICTABLE else 0.0
        return Schooling(self.arm_steps, self.rows, self.length, self.arm_rate, self.balance, weight)


FULL = ExperimentPlan()
SHORT = ExperimentPlan(
    n_tokens=288, d_model=32, n_heads=2, d_ff=64, n_blocks=4, n_experts=4, n_seeds=2, base_steps=30, arm_steps=8,
    rows=16, length=32, held_out=32, lookaheads=(1, 2), docstrings=False,
)  # fmt: skip
"""Seconds, not minutes: that all of it runs, nothing about gates."""
