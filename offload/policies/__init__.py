"""The designs: a file each, a line in `presets` each. `policy_named` and `cache_named` read what a user types."""

from __future__ import annotations

from offload.policies.cache_names import cache_named, eviction_named, eviction_names
from offload.policies.policy_names import policy_named
from offload.policies.presets import PRESETS

__all__ = ["PRESETS", "cache_named", "eviction_named", "eviction_names", "policy_named"]
