"""How long, on how much and how fast a model is trained. Nothing here knows a tensor."""

from __future__ import annotations

from dataclasses import dataclass

from traces.errors import InvalidInput
from traces.foundation.type_checks import check_fields


@dataclass(frozen=True, slots=True)
class Schooling:
    """How a model is trained: `steps` of `rows` windows of `length` tokens at most `rate`.

    `balance`, `predictable`: weights of the losses that keep experts even and gates easy to guess, beside the next
    token's. Raises `InvalidInput` for what is not above 0 (weights may be 0).
    """

    steps: int
    rows: int
    length: int
    rate: float
    balance: float = 0.01
    predictable: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("steps", "rows", "length", "rate"):
            if not getattr(self, name) > 0:
                raise InvalidInput(f"{name} = {getattr(self, name)} of a training: above 0")
        if min(self.balance, self.predictable) < 0:
            raise InvalidInput(f"weights of losses, {self.balance} and {self.predictable}: at least 0")
