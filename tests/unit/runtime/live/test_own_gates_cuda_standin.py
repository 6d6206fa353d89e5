"""Own gates on the CUDA back end, against a stand-in for streams and events that checks every wait."""

from __future__ import annotations

from functools import cache

import pytest

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from runtime.backends.cuda import CudaBackend  # noqa: E402
from runtime.microbench.live import live_samples  # noqa: E402
from tests.cuda_standin import StandIn  # noqa: E402
from tests.generated_runs import Generated  # noqa: E402
from tests.live_designs import AHEAD, CHANGING, CONVENTIONAL  # noqa: E402
from tests.pregated_models import seeded_model  # noqa: E402
from traces.errors import InvalidInput  # noqa: E402


def make() -> CudaBackend:
    return CudaBackend(device="cpu", api=StandIn())


@cache
def beside_resident(lookahead: int) -> Generated:
    return Generated(seeded_model(3, lookahead), make=make)


@pytest.mark.parametrize(
    ("lookahead", "design"), [*((0, design) for design in CONVENTIONAL), *((1, design) for design in AHEAD)]
)
def test_every_design_makes_the_tokens_of_the_resident_run(lookahead: int, design: str) -> None:
    one = beside_resident(lookahead)
    one.agrees(one.asked(design))


@pytest.mark.parametrize("design", CHANGING)
def test_other_experts_are_executed_the_same_again(design: str) -> None:
    one = Generated(seeded_model(3, top_k=2), make=make)
    runs = [one.run(one.asked(design)) for _ in range(2)]
    assert runs[0].n_changed > 0
    assert runs[0].measured.digest == runs[1].measured.digest


def test_what_deciding_costs_is_measured_alone() -> None:
    assert {one.what for one in live_samples(make)} == {"decide"}


def test_graphs_are_refused_for_what_they_are_made_of() -> None:
    one = Generated(seeded_model(3), make=make)
    one.make = lambda: CudaBackend(graphs=True, device="cpu", api=StandIn())
    with pytest.raises(InvalidInput, match="leave --graphs out"):
        one.run(one.asked("on_demand"))


def test_between_ops_that_come_one_by_one_the_caller_has_its_own_stream() -> None:
    seen = []

    class Looking(CudaBackend):
        """Notes what is current when the caller goes on."""

        def issue(self, op: int) -> None:
            super().issue(op)
            seen.append(list(self._api.current))

    one = Generated(seeded_model(3), make=make)
    one.make = lambda: Looking(device="cpu", api=StandIn())
    one.run(one.asked("on_demand"))
    assert seen
    assert not any(seen)
