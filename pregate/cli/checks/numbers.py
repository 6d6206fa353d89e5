"""Numbers on a command line, told by the option as it is typed."""

from __future__ import annotations

from pregate.cli.checks.names import Check, each
from traces.errors import InvalidInput


def at_least(low: float) -> Check:
    """A number of `low` or more."""

    def check(option: str, number: float) -> None:
        if not number >= low:
            raise InvalidInput(f"{option} {number:g}: give {low:g} or more")

    return check


def share(option: str, number: float) -> None:
    """A share above 0, 1 included."""
    if not 0 < number <= 1:
        raise InvalidInput(f"{option} {number:g}: a share above 0, at most 1, such as 0.25")


def part(option: str, number: float) -> None:
    """A share between 0 and 1."""
    if not 0 < number < 1:
        raise InvalidInput(f"{option} {number:g}: a share between 0 and 1, such as 0.05")


def above_0(option: str, number: float) -> None:
    """A finite number above 0."""
    if not 0 < number < float("inf"):
        raise InvalidInput(f"{option} {number:g}: it must be above 0, and finite")


def seconds(option: str, number: float) -> None:
    """A time above 0."""
    if not 0 < number < float("inf"):
        raise InvalidInput(f"{option} {number:g} is no time: give seconds above 0")


def quantity(dimension: str, *, zero_ok: bool = False, but: str | None = None, plausible: bool = False) -> Check:
    """A number with the unit of a dimension, such as `16GiB`; `but`: a word that is right too."""

    def check(option: str, text: str) -> None:
        from hwmodels.quantity import check_plausible, parse_override

        if text == but:
            return
        try:
            number = parse_override(text, dimension)
        except InvalidInput as error:
            raise type(error)(f"{option}: {error}") from None
        if not (number >= 0 if zero_ok else number > 0):
            raise InvalidInput(f"{option} {text}: it must be {'0 or ' * zero_ok}above{' 0' * (not zero_ok)}")
        if plausible:
            check_plausible(number, dimension, option)

    return check


def batch(option: str, batch: str | int) -> None:
    """A number of sequences, or `max`."""
    if batch != "max":
        at_least(1)(option, int(batch))


def capacities(option: str, text: str) -> None:
    """Shares of experts, numbers of slots, or `k`."""

    def check(option: str, word: str) -> None:
        if word != "k" and not (word.isascii() and word.isdigit() and int(word)) and not 0 < _number(word) <= 1:
            raise InvalidInput(f"{option} {word!r}: a share of the experts (0.25), slots (64) or k (top-k a layer)")

    each(option, text, check)


def numbers_above_0(option: str, text: str) -> None:
    """Finite numbers above 0, by comma."""

    def check(option: str, word: str) -> None:
        if not 0 < _number(word) < float("inf"):
            raise InvalidInput(f"{option}: {word!r} is not a number above 0, such as 500")

    each(option, text, check)


def _number(word: str) -> float:
    """NaN for what is none."""
    try:
        return float(word)
    except ValueError:
        return float("nan")
