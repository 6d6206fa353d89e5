"""Which prompts pass together, and what a pass takes by its size: what every server's kernel decides alike."""

from __future__ import annotations

from typing import Any

# What is decided so far: who came and who holds a slot; of a prompt that is passed in part who, and what is left.
CAME, HELD, WHO, LEFT = range(4)
# Of the pass decided on now: tokens of prompts, and the first whose prompt ends in it and the first behind them.
PASSED, FROM, TO = range(4, 7)


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


def both_pass_s(
    n: int, context: int, passed: int, prompt_tokens: Any, prompt_s: Any, token_s: Any, context_s: Any, beside_s: Any
) -> float:
    """Seconds of a pass of `passed` tokens of prompts and a token of each of `n` requests, which have `context` tokens
    before theirs together; what lies before those of prompts is left out.
    """
    pass_s = prompt_pass_s(prompt_tokens, prompt_s, passed + n)
    if n == 0:
        return pass_s
    pass_s += prompt_pass_s(prompt_tokens, beside_s[n], passed)
    return max(pass_s, token_s[n]) + context_s[n] * (context / n)  # type: ignore[no-any-return]


def whole_prompts_s(
    w: Any, clock: float, arrival_s: Any, input_tokens: Any, held_tokens: Any, prompt_tokens: Any, prompt_s: Any,
    before_s: Any, slots: int, pass_tokens: int,
) -> float:  # fmt: skip
    """Decide on whole prompts of those that wait, one at least; returns the seconds of the pass."""
    w[FROM], w[PASSED], seconds = w[CAME], 0, 0.0
    while (
        w[CAME] < arrival_s.size
        and arrival_s[w[CAME]] <= clock
        and w[HELD] + w[CAME] - w[FROM] < slots
        and (w[CAME] == w[FROM] or w[PASSED] + input_tokens[w[CAME]] - held_tokens[w[CAME]] <= pass_tokens)
    ):
        one = w[CAME]
        left = input_tokens[one] - held_tokens[one]
        w[PASSED] += left
        if held_tokens[one] > 0:
            seconds += prompt_pass_s(prompt_tokens, before_s, left) * held_tokens[one]
        w[CAME] += 1
    w[TO] = w[CAME]
    return seconds + prompt_pass_s(prompt_tokens, prompt_s, w[PASSED])


def parts_of_prompts_s(
    w: Any, clock: float, arrival_s: Any, input_tokens: Any, held_tokens: Any, prompt_tokens: Any, before_s: Any,
    slots: int, room: int,
) -> float:  # fmt: skip
    """Decide on what is left of a prompt and on those that wait, `room` tokens together; returns the seconds for what
    lies before them.
    """
    w[FROM], w[PASSED], seconds = w[CAME], 0, 0.0
    if w[LEFT] > 0:
        one = w[WHO]
        w[PASSED] = min(w[LEFT], room)
        seconds = prompt_pass_s(prompt_tokens, before_s, w[PASSED]) * (input_tokens[one] - w[LEFT])
        w[LEFT] -= w[PASSED]
        w[FROM] = one  # who came last
    while (
        w[LEFT] == 0
        and w[PASSED] < room
        and w[CAME] < arrival_s.size
        and arrival_s[w[CAME]] <= clock
        and w[HELD] + w[CAME] - w[FROM] < slots
    ):
        one = w[CAME]
        left = input_tokens[one] - held_tokens[one]
        part = min(left, room - w[PASSED])
        if held_tokens[one] > 0:
            seconds += prompt_pass_s(prompt_tokens, before_s, part) * held_tokens[one]
        w[PASSED] += part
        w[CAME] += 1
        w[WHO], w[LEFT] = one, left - part
    w[TO] = w[CAME]
    if w[LEFT] > 0:
        w[TO] = w[WHO]
    return seconds
