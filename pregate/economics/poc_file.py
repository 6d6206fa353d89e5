"""The file of a proof of concept: the question, what runs now, the candidates, and what is promised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hwmodels.quantity import parse_override
from offload.own_policies.own_policy_names import is_own_name
from offload.policies import policy_named
from traces.errors import InvalidInput
from traces.foundation.documents import Section, read_yaml

_MOST_CANDIDATES = 12


@dataclass(frozen=True, slots=True)
class PocFile:
    """A proof of concept as it is asked for; `now` is the design that runs, the others would take its place."""

    title: str
    model: str
    hardware: str
    stack: str | None
    formats: str | None
    now: str
    candidates: tuple[str, ...]
    input_tokens: int
    output_tokens: int
    requests_per_s: float
    ttft_s: float | None
    tpot_s: float | None
    basis: str
    batches: tuple[int, ...]
    assume: dict[str, str]


def read_poc(path: Path, policies: Sequence[str] = ()) -> PocFile:
    """The file at `path`, with `policies` as candidates more. Raises `InvalidFile` for another form, `UnknownName` for
    a design that is none, `InvalidInput` where the file names code.
    """
    section = read_yaml(path)
    workload = section.section("workload")
    promise = section.optional_section("promise")
    found = PocFile(
        title=section.text("title", "A proof of concept"),
        model=section.text("model"),
        hardware=section.text("hardware"),
        stack=section.text("stack", "") or None,
        formats=section.text("formats", "") or None,
        now=_design(section.text("now"), path),
        candidates=(
            *(_design(str(name), path) for name in section.items("candidates", optional=bool(policies))),
            *(policy_named(name).name for name in policies),
        ),
        input_tokens=workload.integer("input_tokens", minimum=1),
        output_tokens=workload.integer("output_tokens", minimum=2),
        requests_per_s=workload.number("requests_per_s", minimum=1e-9),
        ttft_s=_seconds(promise, "ttft"),
        tpot_s=_seconds(promise, "tpot"),
        basis=section.text("basis", "own"),
        batches=tuple(_whole(one, path) for one in section.items("batches", optional=True)) or (1, 2, 4, 8),
        assume=_assume(section),
    )
    workload.done()
    section.done()
    if len(set(found.batches)) < len(found.batches):
        raise InvalidInput(f"{path}: batches: {list(found.batches)} has one twice: name each once")
    names = [found.now, *found.candidates]
    if not found.candidates or len(names) > _MOST_CANDIDATES or len(set(names)) < len(names):
        raise InvalidInput(
            f"{path}: candidates: 1 to {_MOST_CANDIDATES - 1} designs, each once and other than {found.now}"
        )
    return found


def _design(name: str, path: Path) -> str:
    """A design as a file may name it."""
    if is_own_name(name):
        raise InvalidInput(f"{path}: {name}: a YAML file runs no code, give it by --policies")
    return policy_named(name).name


def _seconds(promise: Section | None, name: str) -> float | None:
    if promise is None or name not in promise:
        return None
    text = promise.text(name)
    try:
        seconds = parse_override(text, "time")
    except InvalidInput as error:
        raise InvalidInput(f"{promise.where}: {name}: {error}") from None
    if not seconds > 0:
        raise InvalidInput(f"{promise.where}: {name} = {text}: a promise is a time above 0, such as 500ms")
    return seconds


def _whole(value: object, path: Path) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 4096:
        raise InvalidInput(f"{path}: batches: {value!r} is no whole number from 1 to 4096")
    return value


def _assume(section: Section) -> dict[str, str]:
    table = section.optional_section("assume")
    return {} if table is None else {name: str(table.take(name)) for name in table.remaining()}
