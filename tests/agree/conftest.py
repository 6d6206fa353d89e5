"""What holds for the tests that run the real runtime: no lane spins, which serves times, and these count none."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="package")
def lanes_wait_asleep() -> Iterator[None]:
    """Each process of tests has its compute lane on the same core, where one that spins keeps the others waiting."""
    with pytest.MonkeyPatch.context() as patch:
        if "runtime.backends.cpu" in sys.modules:
            patch.setattr(sys.modules["runtime.backends.cpu"], "_SPIN_NS", 0)
        yield
