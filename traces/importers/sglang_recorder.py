"""SGLang's expert distribution recorder, mode per_token: a file of `torch.save`, a record a forward pass.

Layout (sgl-project/sglang, python/sglang/srt/eplb/expert_distribution.py, Apache-2.0): `records`, each with
forward_pass_id, input_ids, positions, extend_seq_lens (lengths of prefill chunks; None in decode), forward_mode (1
extend, 2 decode) and topk_ids_of_layer int32 [L, n_tokens, 8], padded with -1 beyond the model's k; and
`last_physical_to_logical_map` [L, E]. Ids are physical and are mapped to logical ones.
Layers without experts in any record are dense and left out.

Requests are not named. A chunk that begins at position 0 is a new sequence; any other token goes on with the sequence
that its position is next of, in the order of the batch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.importers.files.arrays import whole_array
from traces.importers.files.torch_archive import read_torch_archive
from traces.importers.recording import MAX_CELLS, ModelShape, Origin, recorded_trace, refused
from traces.phase import Phase
from traces.routing import RoutingTrace


def import_sglang_recorder(path: Path, shape: ModelShape = ModelShape()) -> RoutingTrace:  # noqa: B008 (frozen)
    """The routing of a recorder's file. Raises `InvalidFile`."""
    document = read_torch_archive(path)
    records = document.get("records") if isinstance(document, dict) else None
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise refused(path, "no list of records: recorded in mode per_token?")
    passes = [_Pass(path, i, record) for i, record in enumerate(records)]
    passes = [one for one in passes if one.positions.size]
    if not passes:
        raise refused(path, "no forward pass with tokens: nothing was recorded")
    if len({one.experts.shape[1:] for one in passes}) != 1:
        raise refused(path, "records differ in layers or experts a token")
    columns = _Sequences()
    for i, one in enumerate(passes):
        columns.add(i, one)
    experts = np.concatenate([one.experts for one in passes])  # (n_tokens, n_layers, 8)
    if experts.size > MAX_CELLS:
        raise refused(path, f"more than {MAX_CELLS} choices: record fewer passes a file")
    logical, n_experts = _logical(path, experts, document.get("last_physical_to_logical_map"))
    logical = logical[:, (logical >= 0).any(axis=(0, 2))][:, :, (logical >= 0).any(axis=(0, 1))]
    sequence, position, phase, step = (np.array(column) for column in columns.columns)
    return recorded_trace(
        path,
        Origin("SGLang expert distribution recorder, per token", n_experts=n_experts, notes=("sequences by position",)),
        shape,
        experts=logical,
        sequence=sequence,
        position=position,
        phase=phase,
        step=step,
    )


class _Pass:
    """One record: its tokens' experts, positions and the lengths of its chunks."""

    def __init__(self, path: Path, i: int, record: dict[str, Any]) -> None:
        try:
            chosen, positions = record["topk_ids_of_layer"], record["positions"]
        except KeyError as error:
            raise refused(path, f"record {i} has no {error}") from error
        self.chunks: list[int] = []
        positions = np.asarray(positions)
        if positions.size == 0:
            self.experts, self.positions = np.empty((0, 0, 0), np.int64), positions
            return
        self.positions = whole_array(path, f"positions of record {i}", positions, 1)
        self.experts = whole_array(path, f"topk_ids_of_layer of record {i}", chosen, 3).transpose(1, 0, 2)
        n_tokens = len(self.positions)
        if len(self.experts) != n_tokens or self.positions.min() < 0:
            raise refused(path, f"record {i} has {len(self.experts)} tokens and positions {positions.shape}")
        lengths = record.get("extend_seq_lens")
        self.is_decode = lengths is None or record.get("forward_mode") == 2
        self.chunks = [1] * n_tokens if lengths is None else whole_array(path, "extend_seq_lens", lengths, 1).tolist()
        if min(self.chunks) < 0 or sum(self.chunks) != n_tokens:
            raise refused(path, f"record {i}: extend_seq_lens add up to {sum(self.chunks)}, not {n_tokens} tokens")


class _Sequences:
    """Sequences rebuilt from positions."""

    def __init__(self) -> None:
        self.columns: tuple[list[int], ...] = ([], [], [], [])  # sequence, position, phase, step
        self._next: dict[int, int] = {}  # sequence -> the position it goes on with

    def add(self, i_pass: int, one: _Pass) -> None:
        waiting = list(self._next)
        start = 0
        for length in one.chunks:
            positions = one.positions[start : start + length].tolist()
            start += length
            if not positions:
                continue
            known = next((s for s in waiting if positions[0] and self._next[s] == positions[0]), None)
            sequence = len(self._next) if known is None else known
            if known is not None:
                waiting.remove(known)
            self._next[sequence] = positions[-1] + 1
            decoding = one.is_decode or (length == 1 and known is not None)  # a mixed pass has both
            phase = Phase.DECODE if decoding else Phase.PREFILL
            for position in positions:
                row = (sequence, position, int(phase), i_pass)
                for column, value in zip(self.columns, row, strict=True):
                    column.append(value)


def _logical(path: Path, experts: NDArray[np.int64], mapping: Any) -> tuple[NDArray[np.int64], int | None]:
    """Physical ids as logical ones, and how many of those there are."""
    if mapping is None:
        return experts, None
    table = whole_array(path, "last_physical_to_logical_map", mapping, 2)
    if len(table) != experts.shape[1] or table.min() < 0:
        raise refused(path, f"the map of experts is {table.shape}, the records have {experts.shape[1]} layers")
    if experts.max() >= table.shape[1]:
        raise refused(path, f"physical expert {experts.max()} is not in a map of {table.shape[1]}")
    layer = np.arange(len(table))[None, :, None]
    return np.where(experts >= 0, table[layer, np.maximum(experts, 0)], -1), int(table.max()) + 1
