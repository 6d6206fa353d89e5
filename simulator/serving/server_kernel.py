"""The rule of a server of requests that arrive, compiled or as it stands: the same times either way."""

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

SERVE = Kernel(
    __name__,
    "serve",
    (
        *["float64[1]"] * 2, *["int64[1]"] * 3, *["float64[1]"] * 5, "float64[2]", *["float64"] * 2, *["int64"] * 5,
        *["int64[1]"] * 4, *["float64[1]"] * 3,
    ),
    returns=True,
    sources=("simulator.serving.prompts_kernel",),
)  # fmt: skip

# What is decided so far: passes; of those that decode how many, the tokens before theirs together and the pass in which
# the first of them ends.
_STEP, _DECODING, _CONTEXT, _UNTIL = range(7, 11)
# Of the pass decided on last: whether prompts are in it, how many requests have their first token of it, their last.
_HAS_PROMPTS, _BEGINS, _ENDS = range(11, 14)
N_WORDS = 14

_NEVER = 1 << 62


def _holds_slot(w: Any, one: int, n_outputs: int, n_inputs: int, who: Any, first_step: Any, done_step: Any) -> None:
    """The prompt of `one` ends in the pass decided on now: it has a token of it and of each pass from there on."""
    i = w[HELD]
    who[i], first_step[i], done_step[i] = one, w[_STEP], w[_STEP] + n_outputs - 1
    w[HELD] += 1
    w[_BEGINS] += 1
    if n_outputs == 1:
        w[_ENDS] += 1
        return
    w[_DECODING] += 1
    w[_CONTEXT] += n_inputs
    w[_UNTIL] = min(w[_UNTIL], done_step[i])


def _decode(w: Any, input_tokens: Any, output_tokens: Any, who: Any, done_step: Any) -> None:
    """All that decode have a token of the pass decided on now; those whose last it is decode no longer."""
    w[_CONTEXT] += w[_DECODING]
    if w[_UNTIL] > w[_STEP]:
        return
    w[_UNTIL] = _NEVER
    for i in range(w[HELD]):
        if done_step[i] == w[_STEP]:
            one = who[i]
            w[_DECODING] -= 1
            w[_CONTEXT] -= input_tokens[one] + output_tokens[one] - 1
            w[_ENDS] += 1
        elif done_step[i] > w[_STEP]:
            w[_UNTIL] = min(w[_UNTIL], done_step[i])


def _waits_for_prompts(w: Any, done_step: Any) -> None:
    """Who decodes has no token of the pass decided on now."""
    if w[_DECODING] > 0:
        w[_UNTIL] += 1
        for i in range(w[HELD]):
            if done_step[i] >= w[_STEP]:
                done_step[i] += 1


def _decided_s(
    w: Any, clock: float, arrival_s: Any, input_tokens: Any, output_tokens: Any, held_tokens: Any, prompt_tokens: Any,
    prompt_s: Any, before_s: Any, token_s: Any, context_s: Any, beside_s: Any, slots: int, pass_tokens: int, mixes: int,
    who: Any, first_step: Any, done_step: Any,
) -> float:  # fmt: skip
    """Decide on a pass of those that are there at `clock`; returns its seconds, -1 where there is nothing to do."""
    waits = w[CAME] < arrival_s.size and arrival_s[w[CAME]] <= clock and w[HELD] < slots
    w[_HAS_PROMPTS], w[_BEGINS], w[_ENDS] = 0, 0, 0
    n, context, seconds = w[_DECODING], w[_CONTEXT], 0.0
    if n == 0 and w[LEFT] == 0 and not waits:
        return -1.0
    w[_STEP] += 1
    if mixes == 0 and waits:
        _waits_for_prompts(w, done_step)
        seconds = whole_prompts_s(
            w, clock, arrival_s, input_tokens, held_tokens, prompt_tokens, prompt_s, before_s, slots, pass_tokens
        )
    else:
        _decode(w, input_tokens, output_tokens, who, done_step)
        if w[LEFT] == 0 and not waits:
            return token_s[n] + context_s[n] * (context / n)  # type: ignore[no-any-return]
        seconds = parts_of_prompts_s(
            w, clock, arrival_s, input_tokens, held_tokens, prompt_tokens, before_s, slots, pass_tokens - n
        )
        seconds += both_pass_s(n, context, w[PASSED], prompt_tokens, prompt_s, token_s, context_s, beside_s)
    w[_HAS_PROMPTS] = 1
    for one in range(w[FROM], w[TO]):
        _holds_slot(w, one, output_tokens[one], input_tokens[one], who, first_step, done_step)
    return seconds


def serve(
    asked_s: Any,  # (n,) float64, ascending: when each would come whoever else is there
    arrival_s: Any,  # (n,) float64, of all but the first `clients` written: when it comes, infinite so far
    input_tokens: Any,  # (n,) int64
    output_tokens: Any,  # (n,) int64
    held_tokens: Any,  # (n,) int64: of a prompt those that are not read
    prompt_tokens: Any,  # (n_points,) float64, as of `prompt_pass_s`
    prompt_s: Any,
    before_s: Any,  # (n_points,) float64: more for each token that lies before those of a prompt
    token_s: Any,  # (1 + most requests,) float64: of a token of so many requests
    context_s: Any,  # the same, for each token of their mean context
    beside_s: Any,  # (1 + most requests, n_points) float64: more of tokens of so many beside a prompt pass
    schedule_s: float,  # before a pass that was not decided on while another ran
    again_s: float,  # from a last token to the next request of its client
    clients: int,
    slots: int,
    pass_tokens: int,
    mixes: int,  # whether prompts pass beside tokens, in parts
    ahead: int,  # whether a pass is decided on as the one before begins
    w: Any,  # (N_WORDS,) int64 zeros, for use here
    who: Any,  # (slots,) int64, for use here: who holds a slot
    first_step: Any,  # (slots,) int64, for use here: the pass of its first token
    done_step: Any,  # (slots,) int64, for use here: and of its last
    first_s: Any,  # (n,) float64, written: the first token of each
    last_s: Any,  # (n,) float64, written: its last
    spent_s: Any,  # (3,) float64, written: seconds of all passes with prompts, of all others, and of both
) -> int:
    """Serve requests pass by pass; returns how many passes had no prompt in them."""
    clock, prompts_s, tokens_s, seconds, waits_s = 0.0, 0.0, 0.0, -1.0, 0.0
    n_token_passes, sent = 0, clients
    w[_UNTIL] = _NEVER
    while True:
        n = w[_DECODING]
        while (  # passes that nobody begins or ends in, as `_decided_s` and what follows it here would have them
            ahead == 0
            and n > 0
            and w[LEFT] == 0
            and w[_UNTIL] > w[_STEP] + 1
            and (w[HELD] >= slots or w[CAME] >= arrival_s.size or arrival_s[w[CAME]] > clock)
        ):
            token_pass_s = token_s[n] + context_s[n] * (w[_CONTEXT] / n)
            w[_STEP] += 1
            w[_CONTEXT] += n
            clock += schedule_s
            clock += token_pass_s
            tokens_s += schedule_s + token_pass_s
            n_token_passes += 1
        waits_s = 0.0
        if seconds < 0.0:
            waits_s = schedule_s
            seconds = _decided_s(
                w, clock, arrival_s, input_tokens, output_tokens, held_tokens, prompt_tokens, prompt_s, before_s,
                token_s, context_s, beside_s, slots, pass_tokens, mixes, who, first_step, done_step,
            )  # fmt: skip
            if seconds < 0.0 and w[CAME] >= arrival_s.size:
                break
        if seconds < 0.0:
            clock = max(clock, arrival_s[w[CAME]])
        else:
            step, has_prompts, begins, ends = w[_STEP], w[_HAS_PROMPTS], w[_BEGINS], w[_ENDS]
            next_s = -1.0
            clock += waits_s
            if ahead != 0:
                next_s = _decided_s(
                    w, clock, arrival_s, input_tokens, output_tokens, held_tokens, prompt_tokens, prompt_s, before_s,
                    token_s, context_s, beside_s, slots, pass_tokens, mixes, who, first_step, done_step,
                )  # fmt: skip
            clock += seconds
            if has_prompts != 0:
                prompts_s += waits_s + seconds
            else:
                tokens_s += waits_s + seconds
                n_token_passes += 1
            seconds = next_s
            if begins + ends > 0:
                i = 0
                while i < w[HELD]:
                    if first_step[i] == step:
                        first_s[who[i]] = clock
                    if done_step[i] != step:
                        i += 1
                        continue
                    last_s[who[i]] = clock
                    if sent < arrival_s.size:
                        arrival_s[sent] = clock + max(asked_s[sent] - clock, again_s)
                        sent += 1
                    w[HELD] -= 1
                    at = w[HELD]
                    who[i], first_step[i], done_step[i] = who[at], first_step[at], done_step[at]
    spent_s[0], spent_s[1], spent_s[2] = prompts_s, tokens_s, prompts_s + tokens_s
    return n_token_passes
