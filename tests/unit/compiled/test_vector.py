"""How many machines compiled code has side by side goes by the processor."""

from __future__ import annotations

import pytest

from compiled.machine_code import width_of


@pytest.mark.parametrize(
    ("features", "machines"),
    [("+avx2,+avx512f,+fma", 32), ("+avx2,-avx512f", 16), ("-avx2,-avx512f,+sse4.2", 8), ("+neon", 8), ("", 8)],
)
def test_four_registers_of_the_processor_hold_a_vector(features: str, machines: int) -> None:
    assert width_of(features) == machines
