"""Runs of a small model on a device of a few megabytes."""

from __future__ import annotations

from pregate.running.devices import Device
from tests.small_models import MODELS

MODEL = MODELS["shared experts, three matrices"]
"""An expert of it takes four pages and a half."""
HBM_BYTES = 2_000_000
CPU = Device("cpu", HBM_BYTES)
