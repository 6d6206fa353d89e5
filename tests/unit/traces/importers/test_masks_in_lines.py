"""Choices as masks over all experts in JSON lines and tables: read as the ids that they stand for."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from traces.errors import InvalidFile
from traces.importers import import_trace
from traces.routing import RoutingTrace

N_TOKENS, N_LAYERS, TOP_K, N_EXPERTS = 6, 3, 2, 9
IDS = np.sort(
    [[np.random.default_rng([t, layer]).permutation(N_EXPERTS)[:TOP_K] for layer in range(N_LAYERS)]
     for t in range(N_TOKENS)], axis=2,
)  # fmt: skip
MASKS = np.zeros((N_TOKENS, N_LAYERS, N_EXPERTS), int)
np.put_along_axis(MASKS, IDS, 1, 2)


def read(path: Path, lines: list[dict[str, Any]]) -> RoutingTrace:
    text = "".join(json.dumps(line) + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return import_trace(path)


@pytest.mark.parametrize("kind", [int, float, bool])
@pytest.mark.parametrize("name", ["tokens.jsonl", "tokens.jsonl.gz"])
def test_masks_are_read_as_ids(tmp_path: Path, kind: type, name: str) -> None:
    as_kind = [[list(map(kind, row.tolist())) for row in token] for token in MASKS]
    of_tokens = [{"token": t, "experts": token} for t, token in enumerate(as_kind)]
    of_layers = [
        {"token": t, "layer": layer, "experts": row}
        for t, token in enumerate(as_kind)
        for layer, row in enumerate(token)
    ]
    for lines in (of_tokens, of_layers):
        found = read(tmp_path / name, lines)
        assert found.n_experts == N_EXPERTS
        assert found.top_k == TOP_K
        np.testing.assert_array_equal(np.sort(found.experts, axis=2), IDS)


def test_ids_stay_ids(tmp_path: Path) -> None:
    found = read(tmp_path / "ids.jsonl", [{"token": t, "experts": token.tolist()} for t, token in enumerate(IDS)])
    np.testing.assert_array_equal(found.experts, IDS)
    pairs = read(tmp_path / "two.jsonl", [{"token": t, "experts": [[0, 1], [1, 0]]} for t in range(4)])
    assert (pairs.n_experts, pairs.top_k) == (2, 2)


def test_masks_that_choose_unlike_many_are_refused_as_such(tmp_path: Path) -> None:
    uneven = MASKS.copy()
    uneven[2, 1, IDS[2, 1, 0]] = 0
    lines = [{"token": t, "experts": token.tolist()} for t, token in enumerate(uneven)]
    with pytest.raises(InvalidFile, match="masks over 9 experts whose rows choose unlike many: write the ids"):
        read(tmp_path / "uneven.jsonl", lines)


@pytest.mark.parametrize("key", ["mask", "expert_mask", "routing_map"])
def test_masks_under_a_key_of_their_own_are_told_what_to_call_it(key: str, tmp_path: Path) -> None:
    lines = [{"token": t, "layer": 0, key: token[0].tolist()} for t, token in enumerate(MASKS)]
    with pytest.raises(InvalidFile, match='call their key "experts"'):
        read(tmp_path / "keys.jsonl", lines)
