"""What of an expert is read from storage, and how many of them host memory keeps, counted by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from offload.placing.tiers import DRAM, MAX_DEPTH, SSD, Reads, Tier
from offload.policy import Cache
from tests.small_models import decoder_only
from traces.errors import InvalidInput

MODEL = decoder_only(n_matrices=3)  # three MoE layers of six experts, each three matrices of 32 x 48 fp32
MATRIX = 32 * 48 * 4


@pytest.mark.parametrize(
    ("reads", "pieces"),
    [
        (Reads(), (3 * MATRIX,)),
        (Reads(by_matrix=True), (MATRIX,) * 3),
        (Reads(4096, align_bytes=4096), (4096,) * 4 + (20480 - 4 * 4096,)),  # 18,432 bytes: five pages
        (Reads(align_bytes=4096), (20480,)),
        (Reads(by_matrix=True, align_bytes=4096), (8192,) * 3),  # 6,144 bytes each: two pages
        (Reads(4096, by_matrix=True, align_bytes=4096), (4096,) * 6),
        (Reads(5000), (5000, 5000, 5000, 3432)),
        (Reads(4096, by_matrix=True), (4096, 2048) * 3),
        (Reads(3 * MATRIX), (3 * MATRIX,)),
        (Reads(1 << 20), (3 * MATRIX,)),
        (Reads(9216), (9216, 9216)),
    ],
)
def test_an_expert_is_read_in_pieces(reads: Reads, pieces: tuple[int, ...]) -> None:
    assert MODEL.expert_bytes == 3 * MATRIX
    assert reads.pieces(MODEL) == pieces
    assert reads.expert_bytes(MODEL) == sum(pieces)


def test_matrices_that_do_not_divide_an_expert_are_read_to_the_next_byte() -> None:
    odd: Any = dataclasses.make_dataclass("Odd", ["expert_bytes", "n_expert_matrices"])(100, 3)
    assert Reads(by_matrix=True).pieces(odd) == (34, 34, 34)
    assert Reads(33, by_matrix=True).pieces(odd) == (33, 1) * 3


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"align_bytes": 0}, "align = 0 bytes is no power of two"),
        ({"align_bytes": -4}, "align = -4 bytes is no power of two"),
        ({"align_bytes": 6}, "align = 6 bytes is no power of two"),
        ({"n_bytes": 0}, "read = 0 bytes: at least 1"),
        ({"n_bytes": 6, "align_bytes": 4}, "read = 6 bytes: at least 1, in whole multiples of align = 4"),
        ({"depth": 0}, "depth = 0 reads at once: 1 to 1024"),
        ({"depth": 1025}, "depth = 1025 reads at once: 1 to 1024"),
        ({"mapped": True, "depth": 2}, "mapped and depth = 2"),
        ({"mapped": True, "filed": True}, "mapped and filed"),
    ],
)
def test_reads_that_cannot_be_are_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        Reads(**given)
    assert told in str(refused.value)


def test_the_least_and_the_most_that_can_be_read_are_allowed() -> None:
    assert MAX_DEPTH == 1024
    for reads in (Reads(1), Reads(4, align_bytes=4), Reads(depth=1024), Reads(mapped=True), Reads(filed=True, depth=2)):
        assert not reads.is_whole
    assert Reads().is_whole
    assert Reads(align_bytes=1, depth=1).is_whole


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"name": "a", "reads": Reads(4096)}, "tier 'a': host memory holds every expert, nothing is read"),
        ({"name": "a", "cache": Cache("lru")}, "tier 'a': host memory holds every expert, nothing is read"),
        ({"name": "a", "on_disk": True, "cache_bytes": 0}, "tier 'a': a cache of 0 bytes, leave it out instead"),
    ],
)
def test_tiers_that_cannot_be_are_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        Tier(**given)
    assert told in str(refused.value)


def test_a_cache_of_a_byte_is_one() -> None:
    assert Tier("a", on_disk=True, cache=Cache("lru"), cache_bytes=1).cache_bytes == 1


def test_a_tier_is_plain_where_experts_are_read_whole_and_none_is_kept() -> None:
    assert (DRAM.is_plain, SSD.is_plain, DRAM.on_disk, SSD.on_disk) == (True, True, False, True)
    assert not Tier("a", on_disk=True, reads=Reads(4096)).is_plain
    assert not Tier("a", on_disk=True, cache=Cache("lru")).is_plain


EXPERT = 3 * MATRIX


@pytest.mark.parametrize(
    ("cache", "cache_bytes", "room", "n"),
    [
        (None, None, 100 * EXPERT, 0),
        (Cache("lru"), None, 5 * EXPERT, 5),  # as many as host memory has room for
        (Cache("lru"), None, 6 * EXPERT - 1, 5),
        (Cache("lru"), None, 100 * EXPERT, 18),  # all that there are
        (Cache("lru"), None, EXPERT - 1, 0),
        (Cache("lru"), None, -5 * EXPERT, 0),
        (Cache("lru"), 3 * EXPERT + 1, 5 * EXPERT, 3),  # as many as it is said to hold
        (Cache("lru"), EXPERT, 0, 1),
        (Cache("lru", n_slots=7), None, 0, 7),
        (Cache("lru", n_slots=70), None, 0, 18),
        (Cache("lru", ratio=0.5), None, 0, 9),
    ],
)
def test_host_memory_keeps_as_many_as_are_said_or_have_room(
    cache: Cache | None, cache_bytes: int | None, room: int, n: int
) -> None:
    assert Tier("a", on_disk=True, cache=cache, cache_bytes=cache_bytes).n_slots(MODEL, room) == n


def test_a_kept_expert_takes_what_is_read_of_it() -> None:
    tier = Tier("a", on_disk=True, reads=Reads(4096, align_bytes=4096), cache=Cache("lru"))
    assert tier.n_slots(MODEL, 2 * 20480 - 1) == 1
    small = dataclasses.replace(tier, cache_bytes=20479)
    with pytest.raises(InvalidInput) as refused:
        small.n_slots(MODEL, 1 << 30)
    assert str(refused.value) == (
        "tier 'a': an expert of small-decoder takes 20480 bytes, the cache has 20479: give it more, or leave it out"
    )
    assert dataclasses.replace(tier, cache_bytes=20480).n_slots(MODEL, 0) == 1
