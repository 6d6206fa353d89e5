"""Experts that a token does without: those whose gate weight matters little at their layer (AdapMoE, ICCAD 2024).

`skip=0.1:sensitivity=1/0.4`. What is left out is neither brought nor computed, for any design: gates of the trace are
thinned before anything is decided. Nothing here may know time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from offload.caches.gate_output import stated_weights
from traces.errors import InvalidInput
from traces.foundation.documents import NUMBER
from traces.foundation.type_checks import check_fields

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from traces.routing import RoutingTrace


_FORM = "skip=THRESHOLD[:sensitivity=FIRST[/...]/LAST], such as skip=0.1:sensitivity=1/0.4"


@dataclass(frozen=True, slots=True)
class Skipping:
    """A token does without an expert where the sensitivity of the layer times its share of gate weight is below
    `threshold`; never without the one that weighs most.

    `sensitivity`: of the MoE layers from the first to the last, in straight lines between as many as are given. The
    paper squares the share of the second of two experts: a threshold on a square is one on the share. Raises
    `InvalidInput` for a threshold outside 0 to 1, or sensitivities that are not above 0.
    """

    threshold: float
    sensitivity: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 < self.threshold <= 1:
            raise InvalidInput(f"skip = {self.threshold:g}: a share of gate weight above 0, at most 1")
        if not self.sensitivity or not all(0 < one < 1e6 for one in self.sensitivity):
            raise InvalidInput(f"sensitivity = {'/'.join(map(str, self.sensitivity))}: numbers above 0, below 1e6")

    def __str__(self) -> str:
        layers = "/".join(repr(one) for one in self.sensitivity)
        return f"skip={self.threshold!r}" + (f":sensitivity={layers}" if self.sensitivity != (1.0,) else "")

    def of(self, trace: RoutingTrace) -> RoutingTrace:
        """`trace` without the choices that are left out, by its gate weights, or `stated_weights` where it has none."""
        import numpy as np

        experts = trace.experts.copy()
        for step in _steps(trace):
            for layer, factor in enumerate(self._factors(trace.n_moe_layers)):
                chosen = trace.experts[step.rows, layer]
                if trace.gate_weights is None:
                    weights: Any = stated_weights(step.i_step, layer, chosen, trace.n_experts)
                else:
                    weights = trace.gate_weights[step.rows, layer].astype(np.float64)
                experts[step.rows, layer] = np.where(self._left_out(chosen, weights, factor), -1, chosen)
        return replace(trace, experts=experts)

    def left_out(
        self, chosen: NDArray[np.int16], weights: NDArray[np.float32], layer: int, n_layers: int
    ) -> NDArray[np.bool_]:
        """Which choices (n_tokens, top_k) of a MoE layer, of `n_layers`, a pass does without, by its gate weights."""
        return self._left_out(chosen, weights.astype("float64"), self._factors(n_layers)[layer])

    def _factors(self, n_layers: int) -> list[float]:
        import numpy as np

        given = np.linspace(0.0, 1.0, len(self.sensitivity)) if len(self.sensitivity) > 1 else np.zeros(1)
        found: list[float] = np.interp(np.linspace(0.0, 1.0, n_layers), given, self.sensitivity).tolist()
        return found

    def _left_out(self, chosen: NDArray[np.int16], weights: NDArray[np.float64], factor: float) -> NDArray[np.bool_]:
        import numpy as np

        own = np.where(chosen >= 0, np.maximum(weights, 0.0), -1.0)
        total = np.maximum(np.where(own > 0, own, 0.0).sum(axis=1, keepdims=True), 1e-300)
        most = np.arange(own.shape[1]) == own.argmax(axis=1)[:, None]
        left: NDArray[np.bool_] = (chosen >= 0) & ~most & (factor * own / total < self.threshold)
        return left


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of one forward pass."""

    i_step: int
    rows: slice


def _steps(trace: RoutingTrace) -> list[_Rows]:
    import numpy as np

    edges = [0, *(np.flatnonzero(np.diff(trace.step)) + 1).tolist(), trace.n_tokens]
    return [_Rows(int(trace.step[start]), slice(start, stop)) for start, stop in pairwise(edges)]


def skipping_named(text: str) -> Skipping:
    """What a user types: `skip=0.1`, `skip=0.1:sensitivity=1/0.4`. Raises `InvalidInput`."""
    said: dict[str, str] = {}
    for clause in text.strip().split(":"):
        word, equals, value = clause.partition("=")
        if word not in ("skip", "sensitivity") or not equals:
            raise InvalidInput(f"{text!r}: {clause!r} is not of the form {_FORM}")
        if word in said:
            raise InvalidInput(f"{text!r} says {word} twice: once is enough")
        said[word] = value
    numbers = [said["skip"], *said.get("sensitivity", "1").split("/")]
    for number in numbers:
        if NUMBER.fullmatch(number) is None:
            raise InvalidInput(f"{text!r}: {number!r} is not a number: {_FORM}")
    return Skipping(float(numbers[0]), tuple(float(one) for one in numbers[1:]))
