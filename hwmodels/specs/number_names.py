"""Numbers of a machine as people call them: `bandwidth` and `pcie` for `link.h2d_bytes_per_s`."""

from __future__ import annotations

import re
from collections.abc import Collection

_SPEED = r"(?:bandwidth|bw|speed|rate|throughput)"
_MEANT = {
    "accelerator.hbm_bytes_per_s": rf"(?:hbm|vram|gpu|gpu_mem\w*|accelerator)_{_SPEED}",
    "host.dram_bytes_per_s": rf"(?:ram|dram|host|cpu|ddr\d?|mem\w*)_{_SPEED}",
    "storage.read_bytes_per_s": rf"(?:ssd|nvme|disk|storage)_{_SPEED}",
    "link.h2d_bytes_per_s": rf"(?:(?:link|pcie|h2d|bus)_)?{_SPEED}|pcie|(?:link|pcie)_(?:gbps|gb_s|bytes_per_s)",
    "host.dram_bytes": r"ram|dram|(?:host|cpu|system)_(?:memory|ram|bytes)",
    "hbm_bytes": r"vram|hbm|memory|(?:gpu|hbm)_(?:memory|size)",
    "cache_ratio": r"cache|cache_size|cached",
    "input_tokens": r"prompt|prompt_(?:tokens|length)|context\w*|isl",
    "output_tokens": r"generated\w*|answer|osl|max_tokens",
    "batch": r"batch_?size|concurrency|requests|users",
    "hardware": r"gpu|card|machine|device",
}
"""By number, what else it is called, in small letters with strokes below for whatever parts words."""


def number_meant(name: str, known: Collection[str]) -> str:
    """The one of `known` that `name` is likely to mean, "" where nobody calls one so."""
    plain = re.sub(r"[^a-z0-9]+", "_", name[:100].lower()).strip("_")
    return next((key for key, others in _MEANT.items() if key in known and re.fullmatch(others, plain)), "")
