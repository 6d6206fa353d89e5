"""Documents from outside are hostile until parsed."""

from __future__ import annotations

from pathlib import Path

import pytest

from traces.errors import InvalidFile, UnknownName
from traces.foundation.documents import MAX_DOCUMENT_BYTES, parse_yaml, read_yaml


def test_values_come_out_typed_and_nothing_is_left() -> None:
    section = parse_yaml("name: a\nn: 3\nrate: 64e9\nflag: true\ninner: {x: 1}\nitems: [1, 2]", "doc")
    assert (section.text("name"), section.integer("n"), section.number("rate")) == ("a", 3, 64e9)
    assert section.flag("flag")
    assert section.section("inner").integer("x") == 1
    assert section.items("items") == [1, 2]
    section.done()


def test_an_unknown_key_is_answered_with_the_nearest_known_one() -> None:
    section = parse_yaml("hbm_byte: 3", "doc.yaml")
    section.take("hbm_bytes", optional=True)
    with pytest.raises(UnknownName, match=r"unknown key 'hbm_byte' in doc.yaml: did you mean 'hbm_bytes'"):
        section.done()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [1]\nb: &y [*x, *x]\nc: [*y, *y]", "an alias within an alias"),
        ("a: 1\na: 2", "given twice"),
        ("!!python/object/apply:os.system [true]", "not valid YAML"),
        ("- 1", "expected a mapping"),
        ("a: [1", "line"),
        ("1: 2", "not text"),
        ("a: " + "[" * 5000, "not valid YAML"),
    ],
)
def test_what_is_not_a_plain_mapping_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(InvalidFile, match=message) as caught:
        parse_yaml(text, "doc")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("value", [".inf", ".nan", "true", "[1]", "x", "1" + "0" * 600])
def test_numbers_are_finite_numbers(value: str) -> None:
    with pytest.raises(InvalidFile, match="a = "):
        parse_yaml(f"a: {value}", "doc").number("a")


def test_a_file_above_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    path.write_bytes(b"#" * (MAX_DOCUMENT_BYTES + 1))
    with pytest.raises(InvalidFile, match="at most"):
        read_yaml(path)


def test_missing_and_binary_files_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="cannot be read"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidFile, match="UTF-8"):
        read_yaml(tmp_path / "binary.yaml")
