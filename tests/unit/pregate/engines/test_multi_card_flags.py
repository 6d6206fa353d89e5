"""What flags say of several cards: how many there are, what a placement says of them, and what is noted."""

from __future__ import annotations

import pytest

from pregate.engines.flag_table import engines
from pregate.engines.multi_card_flags import N_CARDS, CardsSaid
from traces.errors import InvalidInput


def said(*flags: tuple[str, str]) -> CardsSaid:
    """Flags by what they say, each with its value."""
    found = CardsSaid()
    for what, value in flags:
        found.take(what, f"--{what}", value, count)
    return found


def count(flag: str, value: str) -> int:
    assert flag.startswith("--")
    return int(value)


@pytest.mark.parametrize(
    ("stack", "row", "flags", "n_cards", "clauses"),
    [
        ("vllm", "", [], 1, {}),
        ("vllm", "4", [], 4, {}),
        ("vllm", "about 4", [("sharing_cards", "2")], 2, {}),
        ("vllm", "\u0664", [("sharing_cards", "2")], 2, {}),  # four, in Arabic
        ("vllm", "4", [("sharing_cards", "4"), ("whole_experts", "")], 4, {"experts": "whole"}),
        ("vllm", "", [("sharing_cards", "1"), ("whole_experts", "")], 1, {}),
        ("vllm", "", [("stages", "2"), ("whole_experts", "")], 2, {"turns": "2"}),
        ("vllm", "", [("sharing_cards", "2"), ("stages", "2"), ("whole_experts", "")], 4,
         {"turns": "2", "experts": "whole"}),
        ("vllm", "", [("copies", "2"), ("copies_here", "2")], 2, {"copies": "2"}),
        ("vllm", "", [("stages", "1"), ("copies", "1"), ("cards", "1")], 1, {}),
        ("sglang", "", [("sharing_cards", "4"), ("copies", "2"), ("copies_within", "")], 4, {"copies": "2"}),
        ("sglang", "", [("sharing_cards", "1"), ("copies", "2"), ("copies_within", "")], 1, {}),
        ("sglang", "", [("sharing_cards", "4"), ("expert_groups", "2")], 4, {"experts": "whole:2"}),
        ("sglang", "", [("sharing_cards", "4"), ("stages", "2"), ("expert_groups", "4")], 8,
         {"turns": "2", "experts": "whole"}),
        ("sglang", "", [("sharing_cards", "4"), ("expert_groups", "1")], 4, {}),
        ("sglang", "", [("sharing_cards", "4"), ("exchange", "none")], 4, {}),
        ("sglang", "", [("sharing_cards", "4"), ("exchange", "deepep"), ("expert_groups", "2")], 4,
         {"experts": "whole"}),
        ("llama-cpp", "2", [("split", "tensor")], 1, {"turns": "1"}),
        ("llama-cpp", "1", [("split", "tensor")], 1, {}),
        ("llama-cpp", "", [("split", "tensor")], 1, {}),
        ("llama-cpp", "2", [("split", "layer")], 1, {}),
        ("llama-cpp", "2", [("split", "none")], 1, {}),
    ],
)  # fmt: skip
def test_flags_of_cards_are_counted_and_said(
    stack: str, row: str, flags: list[tuple[str, str]], n_cards: int, clauses: dict[str, str]
) -> None:
    found = said(*flags)
    assert found.n_cards(engines()[stack], {N_CARDS: row} if row else {}) == n_cards
    assert found.clauses(n_cards, ["kv=cpu"]) == clauses


@pytest.mark.parametrize(
    ("flag", "value", "note"),
    [("stages", "2", "pass the cards together"), ("copies", "2", "spread evenly"), ("exchange", "deepep", "as sums")],
)
def test_what_is_predicted_otherwise_is_noted(flag: str, value: str, note: str) -> None:
    (told,) = said((flag, value)).notes
    assert told.startswith(f"--{flag}: ")
    assert note in told
    assert not said((flag, "none" if flag == "exchange" else "1")).notes


@pytest.mark.parametrize(
    ("stack", "row", "flags", "told"),
    [
        ("vllm", "8", [("sharing_cards", "4")], "of 4 cards together, the row has 8"),
        ("vllm", "", [("copies", "4"), ("copies_here", "2")], "2 of 4 copies of attention on this host"),
        ("sglang", "", [("copies", "2")], "2 copies of the whole model"),
    ],
)
def test_cards_that_are_not_those_of_the_row_are_refused(
    stack: str, row: str, flags: list[tuple[str, str]], told: str
) -> None:
    with pytest.raises(InvalidInput, match=told):
        said(*flags).n_cards(engines()[stack], {N_CARDS: row} if row else {})


@pytest.mark.parametrize("clause", ["experts=cpu:2", "weights=stream", "layers=cpu:2"])
def test_weights_on_the_host_are_said_of_cards_that_share_layers_alone(clause: str) -> None:
    with pytest.raises(InvalidInput, match="all weights stay in HBM"):
        said(("sharing_cards", "2"), ("whole_experts", "")).clauses(2, [clause])
    assert said(("sharing_cards", "2")).clauses(2, [clause]) == {}
    shared = said(("split", "graph"))
    shared.n_cards(engines()["ik-llama"], {N_CARDS: "2"})
    assert shared.clauses(1, [clause]) == {"turns": "1"}


@pytest.mark.parametrize(("flag", "value"), [("split", "row"), ("cards", "2")])
def test_cards_that_share_rows_or_anything_else_are_refused(flag: str, value: str) -> None:
    with pytest.raises(InvalidInput, match=f"--{flag} {value}"):
        said((flag, value))
