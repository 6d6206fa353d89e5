"""The rule of a server of requests that arrive, compiled or as it stands: the same times either way."""

from __future__ import annotations

from typing import Any

from compiled.machine_code import Kernel

__all__ = ["N_WORDS", "SERVE", "prompt_pass_s", "serve"]

SERVE = Kernel(
    __name__,
    "serve",
    (
        "float64[1]", *["int64[1]"] * 3, *["float64[1]"] * 5, "float64[2]", "float64", *["int64"] * 4,
        *["int64[1]"] * 4, *["float64[1]"] * 3,
    ),
    returns=True,
)  # fmt: skip

# What is decided so far: passes, who came and who holds a slot; of those that decode how many, the tokens before theirs
# together and the pass in which the first of them ends; of a prompt that is passed in part who, and what is left.
_STEP, _CAME, _HELD, _DECODING, _CONTEXT, _UNTIL, _WHO, _LEFT = range(8)
# Of the pass decided on last: whether prompts are in it, how many requests have their first token of it, their last.
_HAS_PROMPTS, _BEGINS, _ENDS = range(8, 11)
N_WORDS = 11

_NEVER = 1 << 62


def prompt_pass_s(tokens: Any, seconds: Any, n_tokens: int) -> float:
    """Seconds of a prompt pass of `n_tokens`: on a line between two of `tokens` (n_points,) ascending, before the first
    as that one, beyond the last on the line through the last two where it does not fall.
    """
    last = tokens.size - 1
    if n_tokens <= tokens[0] or last == 0:
        return seconds[0]  # type: ignore[no-any-return]
    if n_tokens >= tokens[last]:
        slope = (seconds[last] - seconds[last - 1]) / (tokens[last] - tokens[last - 1])
        return seconds[last] + max(slope, 0.0) * (n_tokens - tokens[last])  # type: ignore[no-any-return]
    i = 0
    while tokens[i + 1] <= n_tokens:
        i += 1
    slope = (seconds[i + 1] - seconds[i]) / (tokens[i + 1] - tokens[i])
    return slope * (n_tokens - tokens[i]) + seconds[i]  # type: ignore[no-any-return]


def _holds_slot(w: Any, one: int, n_outputs: int, n_inputs: int, who: Any, first_step: Any, done_step: Any) -> None:
    """The prompt of `one` ends in the pass decided on now: it has a token of it and of each pass from there on."""
    i = w[_HELD]
    who[i], first_step[i], done_step[i] = one, w[_STEP], w[_STEP] + n_outputs - 1
    w[_HELD] += 1
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
    for i in range(w[_HELD]):
        if done_step[i] == w[_STEP]:
            one = who[i]
            w[_DECODING] -= 1
            w[_CONTEXT] -= input_tokens[one] + output_tokens[one] - 1
            w[_ENDS] += 1
        elif done_step[i] > w[_STEP]:
            w[_UNTIL] = min(w[_UNTIL], done_step[i])


def _prompts_alone_s(
    w: Any, clock: float, arrival_s: Any, input_tokens: Any, output_tokens: Any, held_tokens: Any, prompt_tokens: Any,
    prompt_s: Any, before_s: Any, slots: int, pass_tokens: int, who: Any, first_step: Any, done_step: Any,
) -> float:  # fmt: skip
    """Decide on whole prompts of those that wait; returns the seconds. Who decodes meanwhile has no token of it."""
    begun, total, seconds = w[_CAME], 0, 0.0
    w[_STEP] += 1
    if w[_DECODING] > 0:
        w[_UNTIL] += 1
        for i in range(w[_HELD]):
            if done_step[i] >= w[_STEP]:
                done_step[i] += 1
    while (
        w[_CAME] < arrival_s.size
        and arrival_s[w[_CAME]] <= clock
        and w[_HELD] < slots
        and (w[_CAME] == begun or total + input_tokens[w[_CAME]] - held_tokens[w[_CAME]] <= pass_tokens)
    ):
        one = w[_CAME]
        left = input_tokens[one] - held_tokens[one]
        total += left
        if held_tokens[one] > 0:
            seconds += prompt_pass_s(prompt_tokens, before_s, left) * held_tokens[one]
        _holds_slot(w, one, output_tokens[one], input_tokens[one], who, first_step, done_step)
        w[_CAME] += 1
    return seconds + prompt_pass_s(prompt_tokens, prompt_s, total)


def _decided_s(
    w: Any, clock: float, arrival_s: Any, input_tokens: Any, output_tokens: Any, held_tokens: Any, prompt_tokens: Any,
    prompt_s: Any, before_s: Any, token_s: Any, context_s: Any, beside_s: Any, slots: int, pass_tokens: int, mixes: int,
    who: Any, first_step: Any, done_step: Any,
) -> float:  # fmt: skip
    """Decide on a pass of those that are there at `clock`; returns its seconds, -1 where there is nothing to do."""
    waits = w[_CAME] < arrival_s.size and arrival_s[w[_CAME]] <= clock and w[_HELD] < slots
    w[_HAS_PROMPTS], w[_BEGINS], w[_ENDS] = 0, 0, 0
    if waits and mixes == 0:
        w[_HAS_PROMPTS] = 1
        return _prompts_alone_s(
            w, clock, arrival_s, input_tokens, output_tokens, held_tokens, prompt_tokens, prompt_s, before_s, slots,
            pass_tokens, who, first_step, done_step,
        )  # fmt: skip
    n, context = w[_DECODING], w[_CONTEXT]
    if n == 0 and w[_LEFT] == 0 and not waits:
        return -1.0
    w[_STEP] += 1
    _decode(w, input_tokens, output_tokens, who, done_step)
    if mixes == 0 or (w[_LEFT] == 0 and not waits):
        return token_s[n] + context_s[n] * (context / n)  # type: ignore[no-any-return]
    w[_HAS_PROMPTS] = 1
    room, passed, seconds = pass_tokens - n, 0, 0.0
    if w[_LEFT] > 0:
        one = w[_WHO]
        passed = min(w[_LEFT], room)
        seconds = prompt_pass_s(prompt_tokens, before_s, passed) * (input_tokens[one] - w[_LEFT])
        w[_LEFT] -= passed
        if w[_LEFT] == 0:
            _holds_slot(w, one, output_tokens[one], input_tokens[one], who, first_step, done_step)
    while (
        w[_LEFT] == 0
        and passed < room
        and w[_CAME] < arrival_s.size
        and arrival_s[w[_CAME]] <= clock
        and w[_HELD] < slots
    ):
        one = w[_CAME]
        left = input_tokens[one] - held_tokens[one]
        part = min(left, room - passed)
        if held_tokens[one] > 0:
            seconds += prompt_pass_s(prompt_tokens, before_s, part) * held_tokens[one]
        passed += part
        w[_CAME] += 1
        w[_WHO], w[_LEFT] = one, left - part
        if w[_LEFT] == 0:
            _holds_slot(w, one, output_tokens[one], input_tokens[one], who, first_step, done_step)
    pass_s = prompt_pass_s(prompt_tokens, prompt_s, passed + n)
    if n > 0:
        pass_s += prompt_pass_s(prompt_tokens, beside_s[n], passed)
        seconds += max(pass_s, token_s[n]) + context_s[n] * (context / n)
    else:
        seconds += pass_s
    return seconds


def serve(
    arrival_s: Any,  # (n,) float64, ascending
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
    spent_s: Any,  # (2,) float64, written: seconds of all passes with prompts, and of all others
) -> int:
    """Serve requests pass by pass; returns how many passes had no prompt in them."""
    clock, prompts_s, tokens_s, seconds, waits_s = 0.0, 0.0, 0.0, -1.0, 0.0
    n_token_passes = 0
    w[_UNTIL] = _NEVER
    while True:
        n = w[_DECODING]
        while (  # passes that nobody begins or ends in, as `_decided_s` and what follows it here would have them
            ahead == 0
            and n > 0
            and w[_LEFT] == 0
            and w[_UNTIL] > w[_STEP] + 1
            and (w[_HELD] >= slots or w[_CAME] >= arrival_s.size or arrival_s[w[_CAME]] > clock)
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
            if seconds < 0.0 and w[_CAME] >= arrival_s.size:
                break
        if seconds < 0.0:
            clock = max(clock, arrival_s[w[_CAME]])
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
                while i < w[_HELD]:
                    if first_step[i] == step:
                        first_s[who[i]] = clock
                    if done_step[i] != step:
                        i += 1
                        continue
                    last_s[who[i]] = clock
                    w[_HELD] -= 1
                    at = w[_HELD]
                    who[i], first_step[i], done_step[i] = who[at], first_step[at], done_step[at]
    spent_s[0], spent_s[1] = prompts_s, tokens_s
    return n_token_passes
