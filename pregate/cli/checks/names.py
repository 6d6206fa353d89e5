"""Names on a command line: designs, machines, and what is chosen from a list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pregate.ask import choices
from pregate.cli.checks.paths import file
from pregate.spellings.figure_words import figure_named
from traces.errors import InvalidInput, UnknownName, unknown_name

Check = Callable[[str, Any], None]
"""What is asked of an option, as it is typed, and its value."""


def one_of(what: str, known: Sequence[str]) -> Check:
    """A name of `known`."""

    def check(option: str, word: str) -> None:
        if word not in known:
            raise unknown_name(what, word, known)

    return check


def all_of(what: str, known: Sequence[str]) -> Check:
    """Names of `known`, by comma."""
    one = one_of(what, known)
    return lambda option, text: each(option, text, one)


def each(option: str, text: str, check: Check) -> None:
    """Each word of a list by comma."""
    for word in filter(None, map(str.strip, text.split(","))):
        check(option, word)


def cache(option: str, text: str) -> None:
    """An expert cache."""

    from offload.policies import cache_named

    cache_named(text)


def placement(option: str, text: str) -> None:
    """Where parts of a model run."""

    from offload.placing.placement_clauses import placement_named

    placement_named(text)


def tier(option: str, text: str) -> None:
    """Where experts wait."""

    from pregate.ask.capturing.tier_names import tier_named

    tier_named(text)


def design(option: str, text: str) -> None:
    """A policy."""

    from offload.policies import policy_named

    policy_named(text)


def today(option: str, text: str) -> None:
    """`STACK/DESIGN`, or a design, which may have a stroke itself."""
    from hwmodels.stacks.stack_files import stack_names
    from offload.policies import policy_named
    from pregate.spellings.names import our_name

    stack, stroke, design = text.partition("/")
    is_command = " -" in text  # one of an engine, with its flags
    if not stack or is_command or (not design and our_name("stack", stack) in stack_names()):
        raise InvalidInput(f"{option} {text!r} names no design: STACK/DESIGN, such as llama-cpp/gpu_only@layers=cpu")
    try:
        policy_named(design if stack in stack_names() else text)
    except UnknownName:
        if stroke and stack not in stack_names():
            raise unknown_name("stack", stack, stack_names(), f"{option} {text}") from None
        raise


def designs(option: str, text: str) -> None:
    """Policies, by comma."""
    each(option, text, design)


def designs_or_all(option: str, text: str) -> None:
    """Policies, by comma, or `all` that ship."""
    if text != "all":
        designs(option, text)


def designs_once(option: str, text: str) -> None:
    """Policies, each named once."""

    from pregate.cli.option_values import distinct

    for name in distinct(text, option):
        design(option, name)


def hardware(option: str, text: str) -> None:
    """Machines by comma, by name or file. Only a name can be wrong: of files there are kinds."""
    from hwmodels.shipped import FITS_DIR, SPECS
    from pregate.spellings.machine_names import machines_listed
    from traces.foundation.yaml_names import yaml_names

    names = yaml_names(SPECS / "accelerators")
    measured = {name.rpartition(".")[0] for name in yaml_names(FITS_DIR)}
    for word in filter(None, machines_listed(text)):
        if word not in measured:
            _named_or_file("hardware", word, names)


def part_of_machine(kind: str) -> Check:
    """A host or link, by name or file."""

    def check(option: str, word: str) -> None:
        from hwmodels.shipped import SPECS
        from traces.foundation.yaml_names import yaml_names

        _named_or_file(kind, word, yaml_names(SPECS / f"{kind}s"))

    return check


def _named_or_file(what: str, word: str, names: Sequence[str]) -> None:
    if word in names:
        return
    if Path(word).suffix in (".yaml", ".yml", ".json"):
        file("", word)
        return
    from pregate.spellings.unknown_names import is_name_of, unknown

    if not is_name_of(what, word):
        raise unknown(what, word)


def stacks(option: str, text: str) -> None:
    """Software stacks, each named once."""

    from hwmodels.shipped import STACKS_DIR
    from pregate.cli.option_values import distinct
    from traces.foundation.yaml_names import yaml_names

    names = yaml_names(STACKS_DIR)
    for word in distinct(text, option):
        if word not in names:
            _named_or_file("stack", word, names)


def sets(option: str, texts: Sequence[str]) -> None:
    """KEY=VALUE of a machine; what a stack's are is known with it."""

    from hwmodels.specs.machine_fields import FIELDS, find_field
    from hwmodels.specs.machine_files import load_component
    from hwmodels.specs.overrides import overriding_figure
    from hwmodels.specs.set_options import parse_sets
    from pregate.spellings.host_memory import host_and_numbers
    from pregate.spellings.names import our_name

    for key, value in parse_sets(list(texts)).items():
        if key in ("host", "link"):
            _named_or_file(key, value, ())
            load_component(key, host_and_numbers(value)[0] if key == "host" else our_name(key, value))
        elif key in FIELDS:
            load_component(key, value)
        elif not key.startswith("stack."):
            overriding_figure(*find_field(key), value)


def predictors(option: str, text: str) -> None:
    """Predictors, or the oracle."""

    from offload.predictors.catalogue import GUESSERS

    all_of("predictor", (*GUESSERS, "oracle"))(option, text)


def modes(option: str, text: str) -> None:
    """Modes of the simulator."""

    from pregate.cli.option_values import build_modes

    build_modes(text)


def experiment(option: str, word: str) -> None:
    """Published tables by name, or one of rows."""
    if word.lower().endswith(choices.TABLE_ENDINGS):
        file(option, word)
    elif word not in choices.EXPERIMENTS:
        raise unknown_name("experiment", word, (*choices.EXPERIMENTS, "TABLE.csv"))


def figures(option: str, names: Sequence[str]) -> None:
    """What an optimum is of."""
    for name in names:
        figure_named("objective", name, choices.FIGURES)


def bounded(option: str, texts: Sequence[str]) -> None:
    """Constraints; what has no sign is said by who reads them."""
    for text in texts:
        name, sign, _ = text.replace(">=", "<=").partition("<=")
        if sign:
            figure_named("constraint on", name.strip(), choices.FIGURES)


def explained(option: str, name: str) -> None:
    """A metric that can be explained."""

    from simulator.explain.explained_metrics import METRICS

    figure_named("metric", name, METRICS)


def objective(option: str, word: str) -> None:
    """What a design is judged by."""
    figure_named("objective", word, choices.OBJECTIVES)


def backend(option: str, word: str) -> None:
    """A back end of the runtime."""

    from pregate.extras import BACKENDS

    one_of("back end", BACKENDS)(option, word)


def its_own(option: str, value: Any) -> None:
    """What a command reads in its own way."""
