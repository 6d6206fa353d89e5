"""What a setting of `pregate tune` takes by the ops of its prompt: `python -m benchmarks.tune_speed`.

CPU seconds of every setting on recordings and synthetic traces, and the line through them that
`pregate.tuning.settings` keeps: seconds a setting, and seconds an op.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

import pregate
from offload.decode import about_ops
from pregate.tuning import tuned
from pregate.tuning.settings import CPU_S_PER_OP, CPU_S_PER_SETTING, designs_to_try
from traces.routing import RoutingTrace

SIZES = (4, 16, 64)
"""Generated tokens of four sequences."""


def workloads() -> Iterator[tuple[str, str, RoutingTrace]]:
    """Models and machines, each with a trace."""
    for name, hardware in (("switch-base-8", "a100-sxm4-80gb"), ("olmoe-1b-7b", "rtx-4090")):
        for tokens in SIZES:
            yield name, hardware, pregate.synthesize(pregate.load_model(name), 8, tokens, 4)


def main() -> None:
    """Print a line a workload, then the line through all settings and the one that is kept."""
    ops, seconds = [], []
    for name, hardware, trace in workloads():
        model, hw = pregate.load_model(name), pregate.load_hardware(hardware)
        work, _ = tuned.halves(model, trace)
        n_ops = about_ops(model, work.prompt.steps())
        taken = [_seconds(model, hw, work, design) for design in designs_to_try(model)]
        taken_s = [one for one in taken if one is not None]
        ops += [n_ops] * len(taken_s)
        seconds += taken_s
        print(f"{name:16} {n_ops:9,} ops  {np.mean(taken_s):6.3f} s a setting, {max(taken_s):6.3f} s the longest")
    a_setting, an_op = np.linalg.lstsq(np.stack([np.ones(len(ops)), ops], axis=1), np.array(seconds))[0]
    print(f"fitted {a_setting:.3f} s a setting and {an_op:.2g} s an op; kept {CPU_S_PER_SETTING} and {CPU_S_PER_OP}")


def _seconds(model: Any, hw: Any, work: Any, design: str) -> float | None:
    """CPU seconds of one setting, the second time; None where it does not fit."""
    if tuned.judged_setting(model, hw, work, design, asked=False) is None:
        return None
    begin = time.process_time()
    tuned.judged_setting(model, hw, work, design, asked=False)
    return time.process_time() - begin


if __name__ == "__main__":
    from docs.script_arguments import given

    given(__doc__)
    main()
