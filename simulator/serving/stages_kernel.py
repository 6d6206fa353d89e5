"""A server whose cards have layers in turn, as many passes under way as there are stages: compiled or as it stands."""

from __future__ import annotations

from typing import Any

from compiled.machine_code import Kernel
from simulator.serving.prompts_kernel import (
    CAME,
    FROM,
    HELD,
    LEFT,
    PASSED,
    TO,
    both_pass_s,
    parts_of_prompts_s,
    whole_prompts_s,
)

STAGES = Kernel(
    __name__,
    "serve_in_stages",
    (
        *["float64[1]"] * 2, *["int64[1]"] * 3, *["float64[1]"] * 5, *["float64[2]"] * 2, *["float64"] * 2,
        *["int64"] * 4, *["int64[1]"] * 4, *["float64[1]"] * 5,
    ),
    returns=True,
    sources=("simulator.serving.prompts_kernel",),
)  # fmt: skip


def _decided_s(
    w: Any, number: int, clock: float, arrival_s: Any, input_tokens: Any, held_tokens: Any, prompt_tokens: Any,
    prompt_s: Any, before_s: Any, token_s: Any, context_s: Any, beside_s: Any, slots: int, pass_tokens: int, mixes: int,
    who: Any, made: Any, under_way: Any,
) -> float:  # fmt: skip
    """Decide on pass `number` of those that are there at `clock` and in none under way; returns its seconds, -1 where
    there is nothing to do.
    """
    waits = w[CAME] < arrival_s.size and arrival_s[w[CAME]] <= clock and w[HELD] < slots
    w[PASSED], w[FROM], w[TO] = 0, 0, 0
    n, context, seconds = 0, 0, -1.0
    if mixes == 0 and waits:
        seconds = whole_prompts_s(
            w, clock, arrival_s, input_tokens, held_tokens, prompt_tokens, prompt_s, before_s, slots, pass_tokens
        )
    else:
        for i in range(w[HELD]):
            if under_way[i] == 0:
                n += 1
                context += input_tokens[who[i]] + made[i] - 1
                made[i] += 1
                under_way[i] = number
        if w[LEFT] > 0 or waits:
            seconds = parts_of_prompts_s(
                w, clock, arrival_s, input_tokens, held_tokens, prompt_tokens, before_s, slots, pass_tokens - n
            )
            seconds += both_pass_s(n, context, w[PASSED], prompt_tokens, prompt_s, token_s, context_s, beside_s)
        elif n > 0:
            seconds = token_s[n] + context_s[n] * (context / n)
    for one in range(w[FROM], w[TO]):
        i = w[HELD]
        who[i], made[i], under_way[i] = one, 1, number
        w[HELD] += 1
    return seconds


def serve_in_stages(
    asked_s: Any,  # as of `simulator.serving.server_kernel.serve`
    arrival_s: Any,
    input_tokens: Any,
    output_tokens: Any,
    held_tokens: Any,
    prompt_tokens: Any,
    prompt_s: Any,
    before_s: Any,
    token_s: Any,
    context_s: Any,
    beside_s: Any,
    shares: Any,  # (2, n_stages) float64: of the seconds of a pass with prompts, and of one without, those of a stage
    schedule_s: float,  # before a pass where nothing ran
    again_s: float,
    clients: int,
    slots: int,
    pass_tokens: int,
    mixes: int,
    w: Any,  # (N_WORDS,) int64 zeros, for use here
    who: Any,  # (slots,) int64, for use here: who holds a slot
    made: Any,  # (slots,) int64, for use here: tokens that passes were decided on for
    under_way: Any,  # (slots,) int64 zeros, for use here: the number of the pass that has one, 0 none
    free_s: Any,  # (n_stages,) float64 zeros, for use here: when each stage is free
    end_s: Any,  # (n_stages,) float64, for use here: when each pass that is under way ends
    first_s: Any,  # (n,) float64, written: the first token of each
    last_s: Any,  # (n,) float64, written: its last
    spent_s: Any,  # (3,) float64, written: seconds of all passes with prompts, of all others, with any under way
) -> int:
    """Serve requests; returns how many passes had no prompt in them."""
    clock, waits_s, seconds, busy_until = 0.0, schedule_s, 0.0, 0.0
    n_token_passes, issued, ended, n_stages, sent = 0, 0, 0, free_s.size, clients
    while True:
        seconds = 0.0
        while seconds >= 0.0 and issued - ended < n_stages:
            seconds = _decided_s(
                w, issued + 1, clock, arrival_s, input_tokens, held_tokens, prompt_tokens, prompt_s, before_s,
                token_s, context_s, beside_s, slots, pass_tokens, mixes, who, made, under_way,
            )  # fmt: skip
            if seconds >= 0.0:
                began = max(busy_until, clock)
                kind = 0
                if w[PASSED] == 0:
                    kind = 1
                    n_token_passes += 1
                spent_s[kind] += waits_s + seconds
                clock += waits_s
                waits_s = 0.0
                at = clock
                for stage in range(n_stages):
                    at = max(at, free_s[stage]) + seconds * shares[kind, stage]
                    free_s[stage] = at
                end_s[issued % n_stages] = at
                busy_until = at
                spent_s[2] += at - began
                issued += 1
        if issued == ended:
            if w[CAME] >= arrival_s.size:
                break
            clock = max(clock, arrival_s[w[CAME]])
            waits_s = schedule_s
        else:
            clock = end_s[ended % n_stages]
            ended += 1
            i = 0
            while i < w[HELD]:
                if under_way[i] != ended:
                    i += 1
                    continue
                one = who[i]
                if made[i] == 1:
                    first_s[one] = clock
                under_way[i] = 0
                if made[i] < output_tokens[one]:
                    i += 1
                    continue
                last_s[one] = clock
                if sent < arrival_s.size:
                    arrival_s[sent] = clock + max(asked_s[sent] - clock, again_s)
                    sent += 1
                w[HELD] -= 1
                end = w[HELD]
                who[i], made[i], under_way[i] = who[end], made[end], under_way[end]
    return n_token_passes
