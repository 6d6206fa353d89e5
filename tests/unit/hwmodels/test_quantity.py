"""Units: what a number with a unit is in SI, and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from hwmodels.quantity import DIMENSIONS, UNITS, Quantity, ReadOnly, parse_override, parse_quantity
from traces.errors import InvalidFile, InvalidInput, UnknownName

SOURCE = "A datasheet, page 1"


def raw(**changes: Any) -> dict[str, Any]:
    return {"value": 2, "unit": "GB/s", "source": SOURCE} | changes


@pytest.mark.parametrize(
    ("text", "dimension", "expected"),
    [
        ("64e9", "bandwidth", 64e9),
        ("64GB/s", "bandwidth", 64e9),
        (" 64 GB/s ", "bandwidth", 64e9),
        ("1.5TB/s", "bandwidth", 1.5e12),
        ("1GiB/s", "bandwidth", 2**30),
        ("24GiB", "size", 24 * 2**30),
        ("24GB", "size", 24e9),
        ("10us", "time", 1e-5),
        ("312TFLOP/s", "compute", 312e12),
        ("130TOP/s", "compute", 130e12),
        ("1.41GHz", "frequency", 1.41e9),
        ("108", "count", 108.0),
        (".5", "ratio", 0.5),
        ("-1", "bandwidth", -1.0),
    ],
)
def test_text_is_read_into_si(text: str, dimension: str, expected: float) -> None:
    assert parse_override(text, dimension) == expected


@pytest.mark.parametrize(
    ("text", "dimension"),
    [("", "size"), ("fast", "size"), ("nan", "size"), ("inf", "size"), ("1e999", "size"), ("1,5GB", "size")],
)
def test_text_that_is_no_finite_number_is_refused_with_a_spelling_that_works(text: str, dimension: str) -> None:
    with pytest.raises(InvalidInput, match="write 24e9 or 24GiB"):
        parse_override(text, dimension)


def test_a_unit_of_another_dimension_is_refused_with_a_spelling_that_works() -> None:
    with pytest.raises(InvalidInput, match=r"GB is a unit of size, expected one of bandwidth.*64GB/s"):
        parse_override("64GB", "bandwidth")


@pytest.mark.parametrize("text", ["64Gb/s", "64gb/s", "64GBps"])
def test_a_misspelt_unit_is_answered_with_a_spelling_that_works(text: str) -> None:
    with pytest.raises(UnknownName, match=r"unknown unit .* write 64e9 or 64GB/s"):
        parse_override(text, "bandwidth")


def test_messages_stay_short_for_long_text() -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_override("x" * 100_000, "size")
    assert len(str(caught.value)) < 200


def test_every_unit_belongs_to_a_known_dimension_and_every_dimension_has_its_si_unit() -> None:
    assert {unit.dimension for unit in UNITS.values()} == set(DIMENSIONS)
    for dimension, si_unit in DIMENSIONS.items():
        assert UNITS[si_unit].factor == 1.0
        assert UNITS[si_unit].dimension == dimension


def test_a_quantity_is_held_in_si_with_its_document_and_note() -> None:
    quantity = parse_quantity(raw(source="sheet", note="half", date="2020-01-02"), "x", "bandwidth", {"sheet": SOURCE})
    assert quantity == Quantity(2e9, "B/s", f"{SOURCE} (half)", "2020-01-02")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"value": -1}, InvalidInput, "x = -1: must be above 0"),
        ({"value": 0}, InvalidInput, "x = 0: must be above 0"),
        ({"value": float("nan")}, InvalidInput, "finite"),
        ({"value": "1e999"}, InvalidInput, "finite"),
        ({"value": 10**400}, InvalidInput, "finite"),
        ({"value": True}, InvalidInput, "must be a number"),
        ({"value": [1]}, InvalidInput, "must be a number"),
        ({"value": "many"}, InvalidInput, "'many': must be a number"),
        ({"value": None}, InvalidFile, "'value' is missing"),
        ({"unit": "GB"}, InvalidInput, "GB is a unit of size"),
        ({"unit": "Gb/s"}, UnknownName, "unknown unit 'Gb/s'"),
        ({"unit": None}, InvalidFile, "'unit' is missing"),
        ({"source": None}, InvalidFile, "'source' is missing"),
        ({"source": "  "}, InvalidFile, "source is empty"),
        ({"source": "shet"}, UnknownName, "did you mean 'sheet'"),
        ({"sorce": "y"}, UnknownName, "did you mean 'source'"),
    ],
)
def test_a_bad_quantity_is_refused_by_one_line_that_says_where(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    documents = {"sheet": SOURCE} if changes.get("source") == "shet" else {}
    with pytest.raises(error, match=message) as caught:
        parse_quantity(raw(**changes), "x", "bandwidth", documents)
    assert "\n" not in str(caught.value)
    assert "x" in str(caught.value)


def test_a_bare_number_is_no_quantity() -> None:
    with pytest.raises(InvalidFile, match=r"write \{value"):
        parse_quantity(5, "x", "bandwidth")


def test_a_quantity_without_a_source_cannot_be_made() -> None:
    with pytest.raises(InvalidInput, match="no source"):
        Quantity(1.0, "B", " ")


def test_a_read_only_mapping_is_hashable_copied_whole_and_cannot_be_changed() -> None:
    items = {"a": 1}
    table = ReadOnly(items)
    items["a"] = 2
    assert table == {"a": 1}
    assert copy.deepcopy(table) == table
    assert hash(copy.deepcopy(table)) == hash(table)
    with pytest.raises(TypeError):
        table["a"] = 3  # type: ignore[index]
