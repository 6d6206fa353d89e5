"""A card on one screen: 24 lines of 80 columns, whatever the model and the machine.

What is always there is short: the verdict, what to expect, the best three, what binds, the nearest turning point, how
sure and why, the one measurement. The rest comes as far as there are lines for it, the flags of the best first.
"""

from __future__ import annotations

import re

from hwmodels.platform import OF_CUDA
from pregate.card.card import Card
from pregate.card.choice import Ranking, ratio, span_of, times_of
from pregate.card.display.phrases import (
    assumed_hits,
    bound_by,
    changed_by,
    design_row,
    in_words,
    now_in_words,
    rate,
    rates,
    run_lines,
    seconds,
    shown_designs,
)  # fmt: skip
from pregate.card.display.text_layout import command_lines, cut, folded, in_columns
from pregate.draw.render import si

_SPLIT = "cards take turns"
_SHARED = "layers shared, sums claimed"
"""What a prediction for several cards rests on."""

COLUMNS, LINES = 80, 24
"""A screen that every terminal has. On a narrower one words fold to more lines."""

DETAILS = "--details"
"""What `pregate plan` prints the whole card for."""

_SHARES = {
    "what the host computes": "the host's processor",
    "transfers": "stalled",
    "kernels": "kernels",
    "storage reads": "storage",
}
"""The share of the time that tells how much something binds, by what binds."""

_MOST = {
    "title": 2, "verdict": 2, "expected": 2, "designs": 6, "legend": 2, "words": 0, "limit": 1, "binds": 2,
    "changes": 2, "sure": 2, "measure": 2, "run": 1,
}  # fmt: skip
"""Lines of each part at most, in their order: `LINES` in all."""

_GAPS = ("designs", "limit", "expected")
"""Parts with an empty line before them where there is room, in the order of need."""


def screen_of(card: Card, width: int, n_lines: int = LINES) -> str:
    """The card on one screen, where that has `COLUMNS`; `n_lines`: of it, one less than `LINES` at least."""
    parts = {name: folded(text, width, "  ") for name, text in _sentences(card).items()}
    parts["designs"] = in_columns(_designs(card.choice), width, n_left=2)[0]
    parts["legend"] = [line for text in _legend(card.choice) for line in folded(text, width, "  ")]
    longer = _longer(card, width)
    if width < COLUMNS:
        return "\n".join(line for name in _MOST for line in (parts | longer)[name])
    parts = {name: cut(parts[name], most, width) for name, most in _MOST.items()}
    if sum(map(len, parts.values())) > n_lines:
        found = card.narrowing
        measure = f"Measure next: {found.number}, {found.share:.0%} of the doubt ({DETAILS})"
        parts["measure"] = cut(folded(measure, width), 1, width)
    room = n_lines - sum(map(len, parts.values()))
    gaps: list[str] = []
    for name in ("run", "words", "measure", *_GAPS, "changes"):
        more = 1 if name in _GAPS else len(longer[name]) - len(parts[name])
        if more > room:
            continue
        room -= more
        if name in _GAPS:
            gaps.append(name)
        else:
            parts[name] = longer[name]
    return "\n".join(line for name in _MOST for line in (*[""] * (name in gaps), *parts[name]))


def _sentences(card: Card) -> dict[str, str]:
    """What is said in words, each as short as it gets."""
    job, best, limit = card.job, card.best, card.limit
    same, each = limit.token_binds == limit.prompt_binds, " each" * (job.batch > 1)
    token_by, prompt_by = ("" if same else f" ({binds})" for binds in (limit.token_binds, limit.prompt_binds))
    return {
        "title": f"{card.model} on {card.parts}: {job.input_tokens} + {job.output_tokens} tokens, {job.batch} at once",
        "verdict": f"{card.choice.advice(f'{now_in_words(card.choice)} (*)')}.",
        "expected": _expected(card),
        "limit": f"Limit (claimed{f', {limit.token_binds}' * same}): {rate(1 / limit.tpot_s)} tokens/s{each}{token_by},"
        f" TTFT {si(limit.ttft_s, 's')}{prompt_by}; {card.reached:.0%} reached",
        "words": "",
        "binds": f"What binds: tokens: {_mostly(best.token_binds)}; prompt: {_mostly(best.prompt_binds)}",
        "changes": ": ".join(changed_by(card, 1)),
        "sure": f"How sure: {_sure(card)}",
        "measure": f"{_measured(card)}: {DETAILS} has the command",
        "run": f"Run 1: {DETAILS} has the flags of {best.design.stack}",
    }


def _longer(card: Card, width: int) -> dict[str, list[str]]:
    """The parts that have more to say where there is room for it."""
    words = in_words(card.best)
    return {
        "words": folded(f"1 is: {words}", width, "  ") if words else [],
        "run": run_lines("Run 1", card.flags, width),
        "measure": command_lines(_measured(card), card.narrowing.command, width),
        "changes": folded(": ".join(changed_by(card, 2)), width, "  "),
    }


def _measured(card: Card) -> str:
    found = card.narrowing
    return f"Measure next, {found.what} ({found.number}, {found.share:.0%} of the doubt)"


def _expected(card: Card) -> str:
    """What the best makes of the requests, with intervals."""
    best, job = card.best, card.job
    each, ttft = best.tpot.inverse(1.0), best.ttft
    said = [
        f"first token {si(ttft.value, 's')} ({seconds(ttft)})",
        f"then {rate(each.value)} tokens/s{' a request' * (job.batch > 1)} ({rates(each)})",
    ]
    if job.batch > 1:
        said.append(f"{rate(best.throughput.value)} of all {job.batch} ({rates(best.throughput)})")
    tags = ttft.tag if ttft.tag == each.tag else f"{ttft.tag}, then {each.tag}"
    return f"Expected of 1 ({tags}, 95 %): {', '.join(said)}"


def _designs(choice: Ranking) -> list[tuple[str, ...]]:
    head = ("", "design", "request", "tokens/s", "TTFT", "HBM")
    return [head, *(design_row(choice, mark, one) for mark, one in shown_designs(choice))]


def _legend(choice: Ranking) -> list[str]:
    """What the numbers of the table rest on, and what its marks say."""
    resting: dict[str, list[str]] = {}
    for mark, one in shown_designs(choice):
        resting.setdefault(one.estimate(choice.objective).tag, []).append(mark or "*")
    tags = (f"{tag}: {', '.join(marks)}" if len(resting) > 1 else tag for tag, marks in resting.items())
    said = [f"{'; '.join(tags)}; * {'now' if choice.is_stated else 'default (or say --now)'}, ~ too close to 1 to tell"]
    other = choice.possible
    if other is not None:
        times, span = ratio(other, choice.best, choice.objective)
        said.append(f"? not proven: {times_of(times)} times 1 ({span_of(span)}); {choice.lacking(other)}")
    elif any(mark == "?" for mark, _ in shown_designs(choice)):
        said[0] += ", ? not proven"
    return said


def _mostly(binds: str) -> str:
    """What binds, and for which share of the time that is busy, or stalled."""
    what, shares = bound_by(binds)
    share = shares.get(_SHARES.get(what, ""), "")
    return f"{what} ({share})" if share else what


def _sure(card: Card) -> str:
    """Where intervals are from, whether anything was fitted here, how experts were chosen, what nobody could read."""
    best = card.best
    hw = best.planned.hw
    is_own = hw.fit is not None and hw.fit.hardware == hw.hardware
    beyond = f"{hw.stack.name} was fitted {'here with other numbers or formats' if is_own else 'elsewhere'}"
    fitted = {"fitted": "fitted here", "extrapolated": beyond}
    said = [
        *([_SHARED if best.planned.tokens.execution.shares_layers else _SPLIT] * (hw.machine.n_cards > 1)),
        *([OF_CUDA] if hw.is_of_cuda else []),
        f"intervals from {best.request.why}",
        fitted.get(best.request.tag, f"{hw.stack.name} was not fitted here"),
        f"routing {re.sub(r' [(].*?[)]', '', card.routing)}" + assumed_hits(card),
        *([f"{n} claims unverified"] if (n := len(hw.unverified)) else []),
    ]
    return "; ".join(said)
