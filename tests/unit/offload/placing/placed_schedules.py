"""Schedules of small models under a placement."""

from __future__ import annotations

import numpy as np

from hwmodels.platform import load_platform
from offload.decode import Decoded, decode
from offload.execution import EXECUTIONS
from offload.ops import OpKind
from offload.policies import policy_named
from tests.small_models import MODELS, routing

MODEL = MODELS["shared experts, three matrices"]
TRACE = routing(MODEL, batch=2, seed=3, input_tokens=6)
HW = load_platform("rtx-4090", "streams")


def written(text: str, execution: str = "streams", policy: str = "gpu_only", n_buffers: int = 12) -> Decoded:
    chosen = policy_named(f"{policy}@{text}" if text else policy)
    run = chosen.placement.execution(EXECUTIONS[execution])
    return decode(MODEL, TRACE.steps(), chosen, run, n_buffers=n_buffers)


def count(decoded: Decoded, kind: OpKind) -> int:
    return int(np.count_nonzero(decoded.schedule.kind == kind))
