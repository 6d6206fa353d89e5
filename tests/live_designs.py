"""Designs that a CUDA device runs live as well, where no expert is computed by the host."""

from __future__ import annotations

CONVENTIONAL = ["gpu_only", "on_demand", "prefetch_all", "on_demand+lru:0.3", "lru", "guess/next_gate", "oracle",
    "guess/markov", "activation_aware+lru:5", "finemoe+lfu:5",
]  # fmt: skip
"""Of gates in their own blocks."""

AHEAD = ["pregate", "pregate+lru:0.3", "on_demand", "gpu_only"]
"""Of gates one block ahead."""

CHANGING = ["on_demand+lru:8:resident", "on_demand@skip=0.6", "mixed_precision:high=0.5:low=1:bits=4+lfu:4"]
"""Of two experts a token, that execute others than gates choose, or the same in fewer bits."""
