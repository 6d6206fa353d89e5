"""Every published design on every engine and on the runtime, with room for a part of the experts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import pregate
from hwmodels.cost import price
from offload.ops import OpKind
from offload.policies import PRESETS
from tests.small_models import decoder_only, routing, told
from traces.errors import InvalidInput

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from pregate.running.devices import capture_on  # noqa: E402
from pregate.running.measured_run import run  # noqa: E402
from tests.engines import timed_alike  # noqa: E402
from tests.small_runs import CPU  # noqa: E402

MODEL = decoder_only()
TRACE = routing(MODEL, batch=2)
N_SLOTS = 5
"""Of every cache, where the model has three times as many experts."""
SIMULATED_ONLY = {"mixed_precision": "skips or rounds experts", "bandwidth_split/within": "a part of an expert"}


@pytest.fixture(scope="module")
def wanted() -> str:
    return run(MODEL, TRACE, "gpu_only", device=CPU).output_digest


@pytest.mark.parametrize("name", PRESETS)
def test_it_has_the_same_times_on_every_engine_and_the_same_states_on_the_runtime(name: str, wanted: str) -> None:
    policy = told(name)
    if policy.cache is not None:
        policy = dataclasses.replace(policy, cache=dataclasses.replace(policy.cache, n_slots=N_SLOTS))
    schedule = capture_on(CPU, MODEL, TRACE, policy).decoded.schedule
    assert policy.resident or np.any(np.isin(schedule.kind, [OpKind.FETCH, OpKind.CPU_EXPERT]))
    hw = pregate.load_hardware("rtx-4090", "streams")
    timed_alike(schedule, price(schedule.works, hw), hw.machine.accelerator.hbm_bytes)
    if name in SIMULATED_ONLY:
        with pytest.raises(InvalidInput, match=SIMULATED_ONLY[name]):
            run(MODEL, TRACE, policy, device=CPU)
        return
    done = run(MODEL, TRACE, policy, device=CPU)
    assert done.output_digest == wanted
    assert done.schedule_digest == schedule.digest
