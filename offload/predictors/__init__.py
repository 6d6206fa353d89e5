"""What is expected of a layer before its gate runs: predictors that learn from choices, and stand-ins for others."""

from __future__ import annotations

from offload.predictors.next_gate import NextGate

__all__ = ["NextGate"]
