"""Recordings with a number changed, lines moved, or arrays of another kind: a trace, or one clear line; never else."""

from __future__ import annotations

import io
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pregate
from tests.recorded_files import EXPERTS, FILES, npy, npz, outcome
from traces.importers.sniffing import OWN_FORMAT, recognise
from traces.routing import Provenance, RoutingTrace

NUMBERS = (
    "-1", "5", "99999999999", "1e308", "-1e9", "nan", "inf", "1.5", "true", "null", '"x"', "[]", "{}", "", "1" * 400,
    "2147483648", "32768", "0x10", "\u0663", "[[[[]]]]",
)  # fmt: skip

NAMES_ITS_TOKENS = ("plain csv", "vllm route log", "policylang", "moe-cache-lab", "speculative-moe")
"""Formats whose rows say of which token and layer they are, so that their order says nothing."""


def is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def written(path: Path, content: bytes) -> RoutingTrace | str:
    path.write_bytes(content)
    found = outcome(path)
    assert isinstance(found, RoutingTrace) or ("\n" not in found and len(found) < 600)
    return found


@pytest.mark.parametrize("name", FILES)
def test_a_changed_number_is_a_trace_or_one_line(name: str, tmp_path: Path) -> None:
    content = FILES[name][1]()
    if not is_text(content):
        pytest.skip("not a text: bytes are flipped elsewhere")
    text, chance = content.decode(), random.Random(0)
    places = list(re.finditer(r"-?\d+(\.\d+)?", text)) or list(re.finditer(".", text))
    for _ in range(60):
        place = chance.choice(places)
        written(tmp_path / "f", (text[: place.start()] + chance.choice(NUMBERS) + text[place.end() :]).encode())


@pytest.mark.parametrize("name", NAMES_ITS_TOKENS)
def test_the_order_of_rows_that_name_their_token_says_nothing(name: str, tmp_path: Path) -> None:
    lines, chance = FILES[name][1]().decode().splitlines(keepends=True), random.Random(0)
    n_head = sum(1 for line in lines[:2] if '"layer"' not in line and '"l"' not in line and not line[0].isdigit())
    for _ in range(10):
        rows = lines[n_head:]
        chance.shuffle(rows)
        found = written(tmp_path / "f", "".join(lines[:n_head] + rows).encode())
        assert isinstance(found, RoutingTrace)
        assert np.array_equal(found.experts, EXPERTS)


@pytest.mark.parametrize("name", ["vllm route log", "policylang", "moe-cache-lab"])
def test_a_header_that_is_not_first_is_missed(name: str, tmp_path: Path) -> None:
    lines = FILES[name][1]().decode().splitlines(keepends=True)
    found = written(tmp_path / "f", "".join([lines[1], lines[0], *lines[2:]]).encode())
    assert isinstance(found, str)


def kinds(array: Any) -> Iterator[np.ndarray]:
    """The same numbers as other kinds, in other shapes, and out of bounds."""
    a = np.atleast_1d(array)
    yield from (a.astype(kind) for kind in (str, "S4", bool, complex, np.float64, "M8[s]", ">i4", np.uint64))
    yield from (a.ravel(), a[None], a[:0], a[:-1], a.T, np.zeros((1,) * a.ndim), np.array(5))
    yield from (np.full(a.shape, np.nan), np.full(a.shape, -np.inf), a.astype(np.int64) * 10**6, a.astype(int) - 10)
    yield a.astype([("a", "i4")])


@pytest.mark.parametrize("name", ["plain npz", "vllm npz"])
def test_an_array_of_another_kind_is_a_trace_or_one_line(name: str, tmp_path: Path) -> None:
    arrays = dict(np.load(io.BytesIO(FILES[name][1]())))
    more = {"gate_weights": EXPERTS, "expert_bytes": np.array([5, 5]), "n_experts": np.array(4)}
    for key, value in {**more, **arrays}.items():
        for other in kinds(value):
            written(tmp_path / "f", npz(**{**arrays, key: other}))
    for key in arrays:
        written(tmp_path / "f", npz(**{other: value for other, value in arrays.items() if other != key}))


def test_a_lone_array_of_another_kind_is_a_trace_or_one_line(tmp_path: Path) -> None:
    for other in kinds(EXPERTS):
        written(tmp_path / "f", npy(other))


def test_a_position_beyond_all_is_named(tmp_path: Path) -> None:
    text = FILES["sglang base64"][1]().decode()
    path = tmp_path / "f"
    path.write_text(re.sub(r'"prompt_tokens": \d+', '"prompt_tokens": 99999999999999999999', text))
    assert '"prompt_tokens": 9999' in path.read_text()
    found = outcome(path)
    assert isinstance(found, str)
    assert "positions are at most" in found


def test_rows_twice_are_refused(tmp_path: Path) -> None:
    lines = FILES["plain csv"][1]().decode().splitlines(keepends=True)
    found = written(tmp_path / "f", "".join([*lines, lines[-1]]).encode())
    assert isinstance(found, str)


def test_a_trace_is_known_however_long_its_header_is(tmp_path: Path) -> None:
    columns = np.zeros((2, 1, 1), int), np.zeros(2, int), np.arange(2), np.ones(2, int), np.arange(2)
    path, lengths = tmp_path / "t.safetensors", set()
    for n in range(0, 264, 8):
        trace = RoutingTrace(*columns, n_experts=8, provenance=Provenance("m", "s" * (n + 1)))
        pregate.save_trace(trace, path)
        lengths.add(path.read_bytes()[0])
        assert recognise(path) == OWN_FORMAT
        assert pregate.load_trace(path).digest == trace.digest
    assert lengths >= set(b"\x08 @x")


ROUTE_TRACE = """# route_trace v1
# model=x.gguf arch=qwen3moe n_layer=1 n_expert=4 n_expert_used=1
# layer=0 expert_bytes=1000 dense_bytes=10
turn,phase,step,layer,slot,expert,weight,residency,expert_bytes
0,0,0,0,0,3,1.0,0,1000
0,1,1,0,0,2,1.0,1,0
"""


@pytest.mark.parametrize(
    ("first", "told"),
    [
        (b"\x1f\x8b\x08", "not a sound gzip file"), (b"\x28\xb5\x2f\xfd", "not a sound zstd file"),
        (b"\xfd7zXZ\0", "not a sound xz file"), (b"BZh9", "not a sound bzip2 file"), (b"7z\xbc\xaf'", "7z x"),
        (b"\0" * 257 + b"ustar", "take the trace out"), (b"\x80\x04\x95", "numpy.savez"),
        (b"\x89HDF\r\n", "numpy.savez"),
        ("layer".encode("utf-16"), "save it as UTF-8"), (b"\xfe\xff\0l", "save it as UTF-8"),
    ],
)  # fmt: skip
def test_what_is_packed_is_told_how_to_unpack(first: bytes, told: str, tmp_path: Path) -> None:
    assert told in str(written(tmp_path / "t.csv", first + b"\0" * 40))


def test_empty_lines_behind_a_route_trace_are_passed_over(tmp_path: Path) -> None:
    content = ROUTE_TRACE.encode()
    found = written(tmp_path / "t.csv", content + b"\n\n")
    assert isinstance(found, RoutingTrace)
    assert found.digest == written(tmp_path / "u.csv", content).digest
