"""What recordings state in places of their own: experts of the model on each row, prompts of each answer, warm-ups."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from traces.errors import InvalidFile
from traces.importers import import_trace
from traces.phase import Phase
from traces.routing import RoutingTrace

CHOSEN = [[[0, 3], [1, 2]], [[2, 5], [6, 7]], [[1, 4], [0, 6]]]  # tokens, layers, experts


def read(path: Path, *records: Any) -> RoutingTrace:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return import_trace(path)


def lines(**more: Any) -> list[dict[str, Any]]:
    return [
        {"token": token, "layer": layer, "experts": experts} | more
        for token, layers in enumerate(CHOSEN)
        for layer, experts in enumerate(layers)
    ]


def test_each_row_may_say_how_many_experts_there_are(tmp_path: Path) -> None:
    assert read(tmp_path / "a.jsonl", *lines(num_experts=16)).n_experts == 16
    with pytest.raises(InvalidFile, match="7"):  # an expert that all tokens share, behind those that are chosen
        read(tmp_path / "a.jsonl", *lines(num_experts=7))
    with pytest.raises(InvalidFile, match="layers of 8 and 16 experts"):
        read(tmp_path / "a.jsonl", *lines(num_experts=16), *lines(num_experts=8))


@pytest.mark.parametrize("words", [("context", "generation"), ("ctx", "gen"), ("P", "D")])
def test_phases_by_the_words_of_engines(words: tuple[str, str], tmp_path: Path) -> None:
    rows = [row | {"phase": words[row["token"] > 1]} for row in lines()]
    assert read(tmp_path / "a.jsonl", *rows).phase.tolist() == [Phase.PREFILL, Phase.PREFILL, Phase.DECODE]


def test_an_answer_says_its_own_prompt(tmp_path: Path) -> None:
    choices = [{"prompt_token_ids": [1] * n, "routed_experts": CHOSEN} for n in (1, 2)]
    assert read(tmp_path / "a.json", {"choices": choices}).phase.tolist() == [0, 1, 1, 0, 0, 1]
    told = read(tmp_path / "a.json", {"choices": [{"routed_experts": CHOSEN}]})
    assert "no prompt is told from answers: every token counts as decode" in told.provenance.note


def test_rows_of_a_warm_up_are_left_out(tmp_path: Path) -> None:
    def row(who: str, token: int, layer: int, experts: list[int], weights: list[float]) -> dict[str, Any]:
        return {
            "type": "route", "req_id": who, "token_idx": token, "layer": layer, "topk_ids": experts,
            "topk_weights": weights,
        }  # fmt: skip

    warm = [row("profile", token, layer, [7, 6], [0.5, 0.5]) for token in range(5) for layer in (0, 1)]
    own = [row("a", one["token"], one["layer"], one["experts"], [0.6, 0.4]) for one in lines()]
    head = {"type": "meta", "model_id": "m", "num_experts": 8}
    found = read(tmp_path / "a.jsonl", head, *warm, *own)
    assert found.experts.tolist() == CHOSEN
    assert "10 rows of the engine's warm-up left out" in found.provenance.note
    assert "warm-up" not in read(tmp_path / "a.jsonl", head, *own).provenance.note
    assert "warm-up" not in read(tmp_path / "a.jsonl", head, *warm).provenance.note  # all are: nothing else to read
