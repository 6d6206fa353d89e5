"""Cards that have layers in turn: which part of a pass each of them computes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from offload.lanes import computes
from offload.placing.cards import stage_of_layers
from offload.timeline import Timeline
from pregate.ask.capturing.request import Request


def stage_shares(
    prompt: Request, prompt_run: Timeline, tokens: Request, tokens_run: Timeline, schedule_s: float
) -> NDArray[np.float64] | None:
    """Shares of the stages in the first pass of one run and the last of another, (2, n_stages), as of `StepTimes`; None
    where there is one stage.
    """
    n_stages = prompt.placed.turns if prompt.execution.shares_layers else 1
    if n_stages == 1:
        return None
    stage = stage_of_layers(prompt.model.decoder.n_layers, n_stages)
    last = int(tokens.trace.step[-1])
    return np.stack([_shares(prompt_run, stage, 0, schedule_s), _shares(tokens_run, stage, last)])


def _shares(run: Timeline, stage: NDArray[np.int64], step: int, began_s: float = 0.0) -> NDArray[np.float64]:
    """Of the seconds of a pass, (n_stages,): from the end of the stage before to that of its own last op. `stage`: of
    each layer, and of the head.
    """
    schedule, end_s = run.schedule, run.end_s
    if step:
        began_s = float(end_s[schedule.step < step].max())
    ops = np.flatnonzero((schedule.step == step) & computes(schedule.lane))
    of_ops = stage[schedule.layer[ops]]  # of the head, -1, the last
    ends_s = [float(end_s[ops[of_ops == one]].max()) for one in range(int(stage[-1]) + 1)]
    found: NDArray[np.float64] = np.diff([began_s, *ends_s]) / (ends_s[-1] - began_s)
    return found
