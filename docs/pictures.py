"""Draw the pictures of README.md: `python docs/pictures.py`."""

from __future__ import annotations

from pathlib import Path

import pregate
from pregate.draw import gantt

PICTURES = Path(__file__).parent / "pictures"


def main() -> None:
    """One decode step of on-demand above pre-gated inference, as published: switch-base-64 on an A100."""
    model, hw = pregate.load_model("switch-base-64"), pregate.load_hardware("a100-sxm4-80gb")
    trace = pregate.synthesize(model, input_tokens=32, output_tokens=8, batch=1, seed=0)
    results = pregate.compare(model, hw, trace, ["on_demand", "pregate"])
    gantt({result.policy: result.timeline for result in results}, PICTURES / "timelines.png")


if __name__ == "__main__":
    main()
