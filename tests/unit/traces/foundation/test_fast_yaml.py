"""YAML read from events is what PyYAML makes of it, or is left to PyYAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from traces.errors import InvalidFile
from traces.foundation import fast_yaml
from traces.foundation.documents import MAX_NODES, _plain_number, _StrictLoader, parse_yaml
from traces.foundation.fast_yaml import NOTHING_FAST, Unusual, fast_value

ROOT = Path(__file__).parents[4]

pytestmark = pytest.mark.skipif(NOTHING_FAST, reason="PyYAML was built without libyaml")

PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from(["~", "null", "Yes", "off", "<<", "=", "0x1F", "010", "1_000", "1:30", ".inf", "-.NaN"]),
    st.sampled_from(["2026-11-30", "1e5", "1e+5", "+1", "12.", "!a", "&a", "*a"]),
)  # fmt: skip
DOCUMENTS = st.dictionaries(
    st.text(max_size=5),
    st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(PLAIN, inner, max_size=4)),
)


def quick(text: str) -> Any:
    """What is read anew, and not what some test before had read."""
    fast_yaml._plain.cache_clear()
    return fast_value(text, _plain_number, MAX_NODES)


def by_pyyaml(text: str) -> str:
    """What PyYAML reads, its types and order too, or what it says."""
    try:
        return repr(yaml.load(text, Loader=_StrictLoader))  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, ValueError) as error:
        return f"refused: {error}"


@given(DOCUMENTS, st.sampled_from([None, True, False]))
def test_what_is_read_from_events_is_what_pyyaml_reads(document: dict[str, Any], flow: bool | None) -> None:
    text = yaml.safe_dump(document, default_flow_style=flow, allow_unicode=True, sort_keys=False)
    try:
        found = repr(quick(text))
    except (Unusual, yaml.YAMLError, ValueError):
        return
    assert found == by_pyyaml(text)


@given(
    st.lists(st.sampled_from(["a", "1", "0x1F", "~", ".5", ": ", "- ", "\n", "  ", "'", '"', "[", "]", "{", "}", ","]))
)
@example(["a", ": ", "1"])
def test_any_text_is_read_alike_or_left_to_pyyaml(parts: list[str]) -> None:
    text = "".join(parts)
    try:
        found = repr(quick(text))
    except (Unusual, yaml.YAMLError, ValueError):
        return
    assert found == by_pyyaml(text)


def test_what_ships_is_read_from_events() -> None:
    paths = [path for folder in ("hwmodels/specs", "traces/model") for path in sorted((ROOT / folder).rglob("*.yaml"))]
    assert len(paths) > 200
    unusual = []
    for path in paths[::4]:
        text = path.read_text(encoding="utf-8")
        try:
            assert repr(quick(text)) == by_pyyaml(text), path
        except Unusual:
            unusual.append(path)
    assert len(unusual) < 3


@pytest.mark.parametrize(
    "text",
    [
        "a: &x 1\nb: *x", "a: !!str 1", "a: 2026-11-30", "a: 010", "a: {b: 1, b: 2}", "? [1]\n: 2", "<<: {a: 1}\nb: 2",
        "", "a: 1\n---\nb: 2", "a: =",
    ],
)  # fmt: skip
def test_what_says_more_is_left_to_pyyaml(text: str) -> None:
    with pytest.raises(Unusual):
        quick(text)
    told = by_pyyaml(text)
    try:
        found = parse_yaml(text, "here").unread()
    except InvalidFile:
        assert told.startswith("refused") or not told.startswith("{")
    else:
        assert repr(dict(found)) == told


def test_plain_values_of_every_kind_are_read_from_events() -> None:
    text = "a: ~\nb: true\nc: 1\nd: [1.5, .inf]\ne: {f: word, g: '1'}\n"
    read = {"a": None, "b": True, "c": 1, "d": [1.5, float("inf")], "e": {"f": "word", "g": "1"}}
    assert quick(text) == read


def test_so_many_values_are_counted() -> None:
    text = "a: [1, 2, {b: c}]"
    assert fast_value(text, _plain_number, 8) == {"a": [1, 2, {"b": "c"}]}
    with pytest.raises(Unusual):
        fast_value(text, _plain_number, 7)
