"""Small schedules are written by the definition here, which these tests are about, whatever kernels are loaded."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from compiled.when_it_pays import KEPT_OPS


@pytest.fixture(autouse=True, scope="module")
def definition() -> Iterator[None]:
    """The decode loop in Python, as in a process that has loaded no machine code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("offload.decode._LOADED_OPS", KEPT_OPS)
        yield
