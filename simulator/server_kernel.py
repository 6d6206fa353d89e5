"""The rule of a server of requests that arrive, compiled or as it stands: the same times either way."""

from __future__ import annotations

from typing import Any

from compiled.machine_code import Kernel

__all__ = ["SERVE", "prompt_pass_s", "serve"]

SERVE = Kernel(
    __name__,
    "serve",
    (
        "float64[1]", "int64[1]", "int64[1]", *["float64[1]"] * 4, "int64", "int64", "int64[1]", "int64[1]",
        *["float64[1]"] * 3,
    ),
    returns=True,
)  # fmt: skip


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


def serve(
    arrival_s: Any,  # (n,) float64, ascending
    input_tokens: Any,  # (n,) int64
    output_tokens: Any,  # (n,) int64
    prompt_tokens: Any,  # (n_points,) float64, as of `prompt_pass_s`
    prompt_s: Any,
    token_s: Any,  # (1 + most requests,) float64: of a token of so many requests
    context_s: Any,  # the same, for each token of their mean context
    slots: int,
    pass_tokens: int,
    done_step: Any,  # (slots,) int64, for use here: the step at which each that runs is done
    who: Any,  # (slots,) int64, for use here: which it is
    first_s: Any,  # (n,) float64, written: the first token of each
    last_s: Any,  # (n,) float64, written: its last
    spent_s: Any,  # (2,) float64, written: seconds of all prompt passes, and of all tokens
) -> int:
    """Serve requests pass by pass and token by token; returns how many steps of tokens there were."""
    n = arrival_s.size
    clock, prompts_s, tokens_s = 0.0, 0.0, 0.0
    step, context, came, running = 0, 0, 0, 0
    while came < n or running > 0:
        if came < n and running < slots and arrival_s[came] <= clock:
            begun, total = came, 0
            while (
                came < n
                and arrival_s[came] <= clock
                and running + came - begun < slots
                and (came == begun or total + input_tokens[came] <= pass_tokens)
            ):
                total += input_tokens[came]
                came += 1
            pass_s = prompt_pass_s(prompt_tokens, prompt_s, total)
            clock += pass_s
            prompts_s += pass_s
            for one in range(begun, came):
                first_s[one], last_s[one] = clock, clock
                if output_tokens[one] > 1:
                    done_step[running], who[running] = step + output_tokens[one] - 1, one
                    running += 1
                    context += input_tokens[one]
        elif running > 0:
            until, began = done_step[0], clock
            for i in range(1, running):
                until = min(until, done_step[i])
            may_come = came < n and running < slots
            while step < until:
                clock += token_s[running] + context_s[running] * (context / running)
                step += 1
                context += running
                if may_come and arrival_s[came] <= clock:
                    break
            tokens_s += clock - began
            i = 0
            while i < running:
                if done_step[i] > step:
                    i += 1
                    continue
                one = who[i]
                last_s[one] = clock
                context -= input_tokens[one] + output_tokens[one] - 1
                running -= 1
                done_step[i], who[i] = done_step[running], who[running]
        else:
            clock = max(clock, arrival_s[came])
    spent_s[0], spent_s[1] = prompts_s, tokens_s
    return step
