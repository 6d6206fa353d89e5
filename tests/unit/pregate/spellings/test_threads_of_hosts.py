"""How many threads of a host are used, as people write it beside its name."""

from __future__ import annotations

import pytest

from pregate.spellings.host_memory import host_and_numbers
from pregate.spellings.machine_names import machine_and_numbers


@pytest.mark.parametrize(
    ("written", "host", "numbers"),
    [
        ("EPYC 9355 (16 threads used)", "epyc-9355", {"host.n_cores": "16"}),
        ("EPYC 7763 (16 cores used)", "epyc-7763", {"host.n_cores": "16"}),
        ("EPYC 7763, 512GB, 8t", "epyc-7763", {"host.dram_bytes": "512GiB", "host.n_cores": "8"}),
        ("9950X, 8 threads, 96GB DDR5-6000", "ryzen-9950x:6000", {"host.dram_bytes": "96GiB", "host.n_cores": "8"}),
        ("9950X 16 threads", "ryzen-9950x", {}),
        ("Ryzen 9 9950X3D 32t DDR5", "ryzen-9950x3d", {}),
        ("9950X (16C/32T)", "ryzen-9950x", {}),
        ("Xeon w9-3495X (56C/112T)", "xeon-w9-3495x", {}),
        ("a host nobody knows, 8 threads", "a host nobody knows, 8 threads", {}),
    ],
)
def test_fewer_threads_than_cores_are_as_many_cores(written: str, host: str, numbers: dict[str, str]) -> None:
    assert host_and_numbers(written) == (host, numbers)


def test_threads_stand_beside_a_machine() -> None:
    named = machine_and_numbers("RTX 4090 + EPYC 9355 (16 threads used), 768GB")
    assert named == ("rtx-4090", {"host": "epyc-9355", "host.dram_bytes": "768GiB", "host.n_cores": "16"})
