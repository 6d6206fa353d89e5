"""A paced copy moves every byte and is never done before its link would have been."""

from __future__ import annotations

import pytest

from traces.errors import InvalidInput

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

import numpy as np  # noqa: E402

from runtime.backends.pacing import CHUNK_BYTES, Link, now_ns, paced_copy, spin_until_set  # noqa: E402
from runtime.memory import aligned  # noqa: E402


@pytest.mark.parametrize("n_bytes", [1, CHUNK_BYTES, 2 * CHUNK_BYTES + 3])
@pytest.mark.parametrize("link", [Link(), Link(100e6), Link(100e6, latency_s=1e-3), Link(None, latency_s=2e-3)])
def test_every_byte_arrives_and_none_too_soon(n_bytes: int, link: Link) -> None:
    source, target = aligned(n_bytes), aligned(n_bytes + 1)
    source.copy_(torch.from_numpy(np.random.default_rng(0).integers(0, 256, n_bytes).astype(np.uint8)))
    start_ns = now_ns()
    paced_copy(target.data_ptr(), source.data_ptr(), n_bytes, start_ns, link, np.zeros(1, dtype=np.int64))
    least_s = link.latency_s + (n_bytes / link.bytes_per_s if link.bytes_per_s else 0.0)
    assert now_ns() - start_ns >= int(least_s * 1e9)
    assert torch.equal(target[:n_bytes], source)
    assert target[n_bytes] == 0


def test_a_copy_that_is_stopped_leaves_the_rest_alone() -> None:
    source, target = aligned(3 * CHUNK_BYTES).fill_(1), aligned(3 * CHUNK_BYTES)
    paced_copy(target.data_ptr(), source.data_ptr(), len(source), now_ns(), Link(1.0), np.ones(1, dtype=np.int64))
    assert not target.any()


def test_a_spin_ends_with_its_flag_or_its_time() -> None:
    flags = np.array([0, 7], dtype=np.int64)
    assert spin_until_set(flags, 1, 0)
    assert not spin_until_set(flags, 0, 1000)


@pytest.mark.parametrize(
    ("speed", "latency", "message"),
    [
        (0.0, 0.0, "link bytes_per_s = 0.0: it must be above 0, or None for unpaced"),
        (float("nan"), 0.0, "link bytes_per_s = nan"),
        (1e9, -1.0, "link latency_s = -1.0: it must be 0 or above"),
    ],
)
def test_impossible_links_are_refused(speed: float, latency: float, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Link(speed, latency)
