"""What an op takes on an A100."""

from __future__ import annotations

from hwmodels.cost import price
from hwmodels.platform import load_platform
from offload.ops import Work
from traces.model.architecture import load_architecture

HW = load_platform("a100-sxm4-80gb", "fastertransformer")
SWITCH = load_architecture("switch-base-64")


def seconds(what: Work) -> float:
    return float(price([what], HW).duration_s[0])
