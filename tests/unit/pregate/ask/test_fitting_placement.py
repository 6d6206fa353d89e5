"""`experts=cpu:fit`: as much of a model in HBM as there is room for, attention before experts."""

from __future__ import annotations

import pytest

from offload.placing.layers import LayerRange
from offload.placing.placement_clauses import placement_named
from offload.slots.memory import CapacityExceeded
from pregate import load_hardware, load_model, simulate, synthesize
from pregate.ask.capturing.machine_memory import memory_of
from pregate.ask.capturing.request import Request, request
from traces.errors import InvalidInput

MODEL = load_model("olmoe-1b-7b")
TRACE = synthesize(MODEL, 4, 4, 1, 0)


def asked(hbm: str, policy: str = "gpu_only@experts=cpu:fit") -> Request:
    return request(MODEL, memory_of(load_hardware("rtx-4090", "streams", {"hbm_bytes": hbm})), TRACE, policy)


def test_all_is_in_hbm_where_all_fits() -> None:
    assert asked("24GB").placed.is_plain
    assert asked("24GB").plan == asked("24GB", "gpu_only").plan


@pytest.mark.parametrize("hbm", ["12GB", "8GB", "4GB", "2.5GB", "1.3GB", "1GB"])
def test_one_layer_more_would_not_fit(hbm: str) -> None:
    found = asked(hbm)
    n_layers = MODEL.decoder.n_layers
    experts, layers = found.policy.placement.host_experts, found.policy.placement.host_layers
    assert experts is not None
    assert found.plan.static_bytes <= float(hbm.removesuffix("GB")) * 1e9
    if layers is None:  # all attention is there: experts of one layer more are too much
        assert experts.first < n_layers
        more = f"gpu_only@experts=cpu:{experts.first + 1}-" if experts.first + 1 < n_layers else "gpu_only"
    else:  # no experts as long as attention is missing
        assert experts.first == 0
        more = "gpu_only@experts=cpu" + (f"@layers=cpu:{layers.first + 1}-" if layers.first + 1 < n_layers else "")
    assert asked(hbm, f"gpu_only@{found.policy.placement}").plan == found.plan
    with pytest.raises(CapacityExceeded):
        asked(hbm, more)


def test_more_hbm_is_never_slower() -> None:
    machines = (
        load_hardware("rtx-4090", "llama-cpp", {"hbm_bytes": hbm}) for hbm in ("1.5GB", "2.5GB", "6GB", "12GB", "24GB")
    )
    times = [simulate(MODEL, one, TRACE, "gpu_only@experts=cpu:fit").tpot_s for one in machines]
    assert times == sorted(times, reverse=True)
    assert times[-1] < times[0] / 3


def test_where_nothing_fits_it_is_said() -> None:
    with pytest.raises(CapacityExceeded, match="needs"):
        asked("0.5GB")


@pytest.mark.parametrize("text", ["experts=cpu:fit@layers=cpu:2", "experts=cpu:fit:keep=2", "experts=cpu:2:fit"])
def test_what_it_chooses_itself_is_not_named_beside_it(text: str) -> None:
    with pytest.raises(InvalidInput):
        placement_named(text)


def test_it_is_said_as_typed() -> None:
    placement = placement_named("experts=cpu:fit@ubatch=64")
    assert (str(placement), placement.fits) == ("experts=cpu:fit@ubatch=64", True)
    assert placement_named("experts=cpu").host_experts == LayerRange()
