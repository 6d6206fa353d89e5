"""What importers share: rows and arrays of any recorder become one `RoutingTrace`, holes and repeats refused."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.errors import InvalidFile, InvalidInput
from traces.importers.choice_arrays import as_choices
from traces.importers.model_shape import ModelShape
from traces.phase import Phase
from traces.routing import MAX_EXPERTS, Provenance, RoutingTrace

__all__ = ["MAX_CELLS", "PHASES_UNKNOWN", "ModelShape", "Origin", "TokenRows", "recorded_trace", "refused"]

MAX_CELLS = 1 << 28
"""Most (token, layer, slot) cells of one recording: 512 MiB of expert ids."""
PHASES_UNKNOWN = "phases are not recorded: every token counts as decode"
_LIMIT = 1 << 31
_MANY = 10  # choices for each expert, of which one is hardly left out by chance


@dataclass(frozen=True, slots=True)
class Origin:
    """What a recording says of itself. `n_experts`: None where it does not say."""

    recorder: str
    model: str = "not stated in the file"
    n_experts: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def refused(path: Path, problem: str, line: int | None = None) -> InvalidFile:
    """The error for a recording that cannot be read."""
    where = "" if line is None else f" line {line}:"
    return InvalidFile(f"{path}:{where} {problem}")


def _recorded_weights(path: Path, weights: NDArray[Any]) -> NDArray[Any] | None:
    """Gate weights; None where any is NaN, which recorders write of those that they have not."""
    if weights.dtype.kind not in "fiu":
        raise refused(path, f"gate_weights is {weights.dtype}: numbers are needed")
    if np.isnan(weights).any():
        return None
    if not np.isfinite(weights).all() or weights.min(initial=0) < 0:
        raise refused(path, "a gate weight is below 0 or infinite: is this the right file?")
    return weights


def _has_both(step: NDArray[Any], phase: NDArray[Any], *others: NDArray[Any] | None) -> bool:
    """Whether any of steps in order has tokens of prompts and of answers; arrays of several lengths are none."""
    lengths = {one.shape[:1] for one in (step, phase, *others) if one is not None}
    if len(lengths) > 1 or not step.size or np.any(np.diff(step) < 0):
        return False
    return bool(np.any((np.diff(step) == 0) & (np.diff(phase) != 0)))


def recorded_trace(
    path: Path,
    origin: Origin,
    shape: ModelShape,
    *,
    experts: NDArray[Any],
    sequence: NDArray[Any],
    position: NDArray[Any],
    phase: NDArray[Any],
    step: NDArray[Any] | None = None,
    gate_weights: NDArray[Any] | None = None,
    expert_bytes: NDArray[Any] | None = None,
) -> RoutingTrace:
    """The trace of token arrays, in the shapes of `RoutingTrace`.

    Without `step` the sequences run one after another: a prompt in one step, every decode token in its own. A step with
    parts of prompts beside tokens of answers, as engines make where prompts share passes, is read as two. Weights of
    which any is NaN were not recorded. Raises `InvalidFile`.
    """
    notes = list(origin.notes)
    if step is None:
        order = np.lexsort((position, phase, sequence))
        sequence, position, phase, experts = (a[order] for a in (sequence, position, phase, experts))
        gate_weights = None if gate_weights is None else gate_weights[order]
        is_new = (np.diff(sequence, prepend=-1) != 0) | (phase == Phase.DECODE)
        step = np.cumsum(is_new) - 1
    elif _has_both(step, phase, sequence, position, experts, gate_weights):
        order = np.lexsort((phase, step))
        sequence, position, phase, experts, step = (a[order] for a in (sequence, position, phase, experts, step))
        gate_weights = None if gate_weights is None else gate_weights[order]
        step = np.cumsum((np.diff(step, prepend=step[0]) != 0) | (np.diff(phase, prepend=phase[0]) != 0))
        notes.append("steps of both phases are read as two passes, prompts and then tokens")
    n_experts = origin.n_experts or shape.n_experts
    if n_experts is None:
        n_experts = int(experts.max(initial=0)) + 1
        notes.append("the number of experts is not recorded: taken as the largest id and one")
        if experts.size >= _MANY * n_experts and not (experts == 0).any():
            notes.append("expert 0 is never chosen: say the model (--model NAME), for experts may be numbered from 1")
    due = shape.n_moe_layers
    if due is not None and experts.shape[1] != due:
        notes.append(f"{experts.shape[1]} of the model's {due} MoE layers: simulations need all of them")
    gate_weights = None if gate_weights is None else _recorded_weights(path, gate_weights)
    if experts.size and experts.max() == n_experts and not (experts == 0).any():
        experts = np.where(experts > 0, experts - 1, experts)
        notes.append(f"experts are numbered from 1 to {n_experts} there: 1 is subtracted")
    if n_experts > MAX_EXPERTS:
        raise refused(path, f"{n_experts} experts, at most {MAX_EXPERTS} are read")
    try:
        return RoutingTrace(
            experts=experts,
            sequence=sequence,
            position=position,
            phase=phase,
            step=step,
            n_experts=n_experts,
            gate_weights=gate_weights,
            expert_bytes=expert_bytes,
            provenance=Provenance(
                model=origin.model,
                source=path.name,
                licence="not stated in the file",
                recorder=origin.recorder,
                versions=origin.versions,
                note="; ".join(notes),
            ),
        )
    except InvalidInput as error:
        raise refused(path, str(error)) from error


class TokenRows:
    """Rows of a recording, one for each token and layer, in any order; `trace` makes them one table."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._cells, self._weights = array("q"), array("f")  # cells: sequence, phase, position, layer, slot, expert
        self._top_k = 0

    def add(
        self,
        line: int,
        sequence: int,
        phase: int,
        position: int,
        layer: int,
        experts: Sequence[Any],
        weights: Sequence[Any] | None = None,
        first_slot: int = 0,
    ) -> None:
        """One token's choice at a layer; `first_slot` where a row is one slot. Raises `InvalidFile` naming `line`."""
        if weights is None:
            weights = (float("nan"),) * len(experts)
        experts = [
            int(one) if type(one) is bool or (type(one) is float and one.is_integer()) else one for one in experts
        ]
        if not experts or len(weights) != len(experts):
            raise refused(self.path, f"{len(experts)} experts and {len(weights)} weights", line)
        for name, value in (("sequence", sequence), ("token", position), ("layer", layer), *_named(experts)):
            if type(value) is not int or not 0 <= value < _LIMIT:
                raise refused(self.path, f"{name} {str(value)[:40]} is not a whole number from 0 to {_LIMIT - 1}", line)
        for slot, (expert, weight) in enumerate(zip(experts, weights, strict=True), start=first_slot):
            if type(weight) not in (int, float):
                raise refused(self.path, f"weight {str(weight)[:40]} is not a number", line)
            self._cells.extend((sequence, phase, position, layer, slot, expert))
            self._weights.append(min(weight, 1e30))
            self._top_k = max(self._top_k, slot + 1)
        if len(self._weights) > MAX_CELLS:
            raise refused(self.path, f"more than {MAX_CELLS} choices: split the recording")

    def trace(self, origin: Origin, shape: ModelShape) -> RoutingTrace:
        """The trace of all rows. Raises `InvalidFile` where rows are missing or come twice."""
        if not self._weights:
            raise refused(self.path, "no rows: nothing was recorded, or the file is cut short")
        cells = np.frombuffer(self._cells, dtype=np.int64).reshape(-1, 6)
        tokens, member = np.unique(cells[:, :3], axis=0, return_inverse=True)
        layers, layer = np.unique(cells[:, 3], return_inverse=True)
        dims = (len(tokens), len(layers), self._top_k)
        if np.prod(dims, dtype=np.float64) > min(MAX_CELLS, 64 * len(cells)):
            raise refused(self.path, f"{len(cells)} choices of {dims} tokens, layers and slots: most of it is missing")
        at = np.ravel_multi_index((member.reshape(-1), layer.reshape(-1), cells[:, 4]), dims)
        self._refuse_repeats(cells, at)
        if (too_big := cells[:, 5].max()) > MAX_EXPERTS:
            raise refused(self.path, f"expert {too_big}: ids are at most {MAX_EXPERTS}")
        experts, weights = np.full(dims, -1, np.int16), np.full(dims, np.nan, np.float32)
        experts.reshape(-1)[at] = cells[:, 5]
        weights.reshape(-1)[at] = np.frombuffer(self._weights, dtype=np.float32)
        ids = as_choices(experts, 3)
        if ids is not experts:  # masks over all experts
            weights = np.take_along_axis(weights, ids, axis=2)
            experts, origin = ids.astype(np.int16), replace(origin, n_experts=origin.n_experts or dims[2])
            dims = experts.shape
        elif dims[2] > 2 and experts.min() >= 0 and experts.max() <= 1:
            raise refused(
                self.path,
                f"masks over {dims[2]} experts whose rows choose unlike many: write the ids of those that were chosen",
            )
        chosen = (experts >= 0).sum(axis=2)
        short = (chosen > 0) & (chosen < dims[2])
        if short.any():
            token, place = np.unravel_index(int(short.argmax()), short.shape)
            raise refused(
                self.path,
                f"token {tokens[token, 2]} of sequence {tokens[token, 0]} has {chosen[token, place]} experts at layer "
                f"{layers[place]}, others {dims[2]}: cut short?",
            )
        weights[experts < 0] = 0.0
        sequence, phase, position = tokens.T
        arrays = {"experts": experts, "sequence": sequence, "position": position, "phase": phase}
        return recorded_trace(self.path, origin, shape, **arrays, gate_weights=weights)

    def _refuse_repeats(self, cells: NDArray[np.int64], at: NDArray[np.intp]) -> None:
        order = np.argsort(at, kind="stable")
        again = np.flatnonzero(np.diff(at[order]) == 0)
        if again.size:
            sequence, _, position, layer, slot, _ = cells[order[again[0] + 1]].tolist()
            raise refused(self.path, f"sequence {sequence} token {position} layer {layer} slot {slot} comes twice")


def _named(experts: Sequence[Any]) -> list[tuple[str, Any]]:
    return [("expert", expert) for expert in experts]
