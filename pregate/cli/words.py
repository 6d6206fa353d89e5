"""Words that need no model, machine or trace to be wrong: told as the command line is read, before the work's imports.

What a command checks itself stays there; here is what it would find out only after a trace, numba or PyTorch is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pregate.ask import choices
from traces.errors import InvalidInput, UnknownName, unknown_name

__all__ = ["check_words"]

Check = Callable[[str, Any], None]
"""What is asked of an option, as it is typed, and its value."""


def check_words(command: str | None, given: Mapping[str, tuple[str, Any]]) -> None:
    """Raise `InvalidInput` or `UnknownName` for a word of `command` that no model, machine or trace can make right.

    `given`: what is typed, by parameter: the option as it is spelt, and its value.
    """
    for name, (option, value) in given.items():
        check = _OF_COMMANDS.get((command or "", name), _OF_ALL.get(name))
        if check is not None and value is not None:
            check(option, value)


def _one_of(what: str, known: Sequence[str]) -> Check:
    def check(option: str, word: str) -> None:
        if word not in known:
            raise unknown_name(what, word, known)

    return check


def _all_of(what: str, known: Sequence[str]) -> Check:
    one = _one_of(what, known)
    return lambda option, text: _each(option, text, one)


def _each(option: str, text: str, check: Check) -> None:
    for word in filter(None, map(str.strip, text.split(","))):
        check(option, word)


def _at_least(low: float) -> Check:
    def check(option: str, number: float) -> None:
        if not number >= low:
            raise InvalidInput(f"{_field(option)} = {number:g} is below {low:g}: it must be at least {low:g}")

    return check


def _field(option: str) -> str:
    """An option's name as Python has it."""
    return option.removeprefix("--").replace("-", "_")


def _share(option: str, number: float) -> None:
    if not 0 < number <= 1:
        raise InvalidInput(f"{_field(option)} = {number:g}: a share above 0, at most 1, such as 0.25")


def _part(option: str, number: float) -> None:
    if not 0 < number < 1:
        raise InvalidInput(f"{_field(option)} = {number:g}: a share between 0 and 1, such as 0.05")


def _above_0(option: str, number: float) -> None:
    if not 0 < number < float("inf"):
        raise InvalidInput(f"{option} {number:g}: it must be above 0, and finite")


def _seconds(option: str, number: float) -> None:
    if not 0 < number < float("inf"):
        raise InvalidInput(f"{option} {number:g} is no time: give seconds above 0")


def _quantity(dimension: str, *, zero_ok: bool = False, but: str | None = None, plausible: bool = False) -> Check:
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


def _batch(option: str, batch: str | int) -> None:
    if batch != "max":
        _at_least(1)(option, int(batch))


def _recording(option: str, path: Path | str) -> None:
    from traces.recorded import recorded_path

    if recorded_path(str(path)) is None:
        _file(option, path)


def _recordings(option: str, paths: Sequence[Path]) -> None:
    for path in paths:
        _recording(option, path)


def _file(option: str, path: Path | str) -> None:
    try:
        there = Path(path).exists()
    except (OSError, ValueError):
        return  # a name that no file can have: said by who opens it
    if not there:
        raise InvalidInput(f"{_named(option, path)}: cannot be read, there is no such file: check the path")


def _folder(option: str, path: Path) -> None:
    if not path.is_dir():
        raise InvalidInput(f"{_named(option, path)}: there is no such folder")


def _named(option: str, path: Path | str) -> str:
    """A path with its option; an argument's place says what it is."""
    return f"{option} {path}" if option.startswith("-") else str(path)


def _picture(option: str, path: Path) -> None:
    from pregate.cli.output_paths import require_picture

    require_picture(path)


def _sets(option: str, texts: Sequence[str]) -> None:
    from hwmodels.specs.sets import parse_sets

    parse_sets(list(texts))


def _new_file(option: str, path: Path) -> None:
    from pregate.cli.output_paths import require_folder

    require_folder(path)


def _cache(option: str, text: str) -> None:
    from offload.policies import cache_named

    cache_named(text)


def _placement(option: str, text: str) -> None:
    from offload.placing.placement import placement_named

    placement_named(text)


def _tier(option: str, text: str) -> None:
    from pregate.ask.capturing.tier_names import tier_named

    tier_named(text)


def _design(option: str, text: str) -> None:
    from offload.policies import policy_named

    policy_named(text)


def _today(option: str, text: str) -> None:
    """`STACK/DESIGN`, or a design, which may have a stroke itself."""
    from hwmodels.stack import stack_names
    from offload.policies import policy_named

    stack, stroke, design = text.partition("/")
    try:
        policy_named(design if stack in stack_names() else text)
    except UnknownName:
        if stroke and stack not in stack_names():
            raise unknown_name("stack", stack, stack_names(), f"{option} {text}") from None
        raise


def _designs(option: str, text: str) -> None:
    _each(option, text, _design)


def _designs_once(option: str, text: str) -> None:
    from pregate.cli.built import distinct

    for name in distinct(text, option):
        _design(option, name)


def _hardware(option: str, text: str) -> None:
    """Machines by comma, by name or file. Only a name can be wrong: of files there are kinds."""
    from hwmodels.shipped import FITS_DIR, SPECS, shipped

    names = shipped(SPECS / "accelerators")
    measured = {name.rpartition(".")[0] for name in shipped(FITS_DIR)}
    _each(option, text, lambda _, word: None if word in measured else _named_or_file("hardware", word, names))


def _part_of_machine(kind: str) -> Check:
    def check(option: str, word: str) -> None:
        from hwmodels.shipped import SPECS, shipped

        _named_or_file(kind, word, shipped(SPECS / f"{kind}s"))

    return check


def _named_or_file(what: str, word: str, names: Sequence[str]) -> None:
    if word in names:
        return
    if Path(word).suffix not in (".yaml", ".yml", ".json"):
        raise unknown_name(what, word, names)
    _file("", word)


def _stacks(option: str, text: str) -> None:
    from hwmodels.shipped import STACKS_DIR, shipped
    from pregate.cli.built import distinct

    check = _one_of("stack", shipped(STACKS_DIR))
    for word in distinct(text, option):
        check(option, word)


def _predictors(option: str, text: str) -> None:
    from offload.predictors.catalogue import GUESSERS

    _all_of("predictor", (*GUESSERS, "oracle"))(option, text)


def _modes(option: str, text: str) -> None:
    from pregate.cli.built import build_modes

    build_modes(text)


def _experiment(option: str, word: str) -> None:
    if word.lower().endswith(".csv"):
        _file(option, word)
    elif word not in choices.EXPERIMENTS:
        raise unknown_name("experiment", word, (*choices.EXPERIMENTS, "TABLE.csv"))


def _figures(option: str, names: Sequence[str]) -> None:
    for name in names:
        _one_of("objective", choices.FIGURES)(option, name)


def _bounded(option: str, texts: Sequence[str]) -> None:
    """Constraints; what has no sign is said by who reads them."""
    for text in texts:
        name, sign, _ = text.replace(">=", "<=").partition("<=")
        if sign:
            _one_of("constraint on", choices.FIGURES)(option, name.strip())


def _explained(option: str, name: str) -> None:
    from simulator.explain.explained_metrics import METRICS

    _one_of("metric", METRICS)(option, name)


def _capacities(option: str, text: str) -> None:
    def check(option: str, word: str) -> None:
        if word != "k" and not (word.isascii() and word.isdigit() and int(word)) and not 0 < _number(word) <= 1:
            raise InvalidInput(f"{option} {word!r}: a share of the experts (0.25), slots (64) or k (top-k a layer)")

    _each(option, text, check)


def _numbers_above_0(option: str, text: str) -> None:
    def check(option: str, word: str) -> None:
        if not 0 < _number(word) < float("inf"):
            raise InvalidInput(f"{option}: {word!r} is not a number above 0, such as 500")

    _each(option, text, check)


def _number(word: str) -> float:
    """NaN for what is none."""
    try:
        return float(word)
    except ValueError:
        return float("nan")


def _its_own(option: str, value: Any) -> None:
    """What a command reads in its own way."""


def _backend(option: str, word: str) -> None:
    from pregate.extras import BACKENDS

    _one_of("back end", BACKENDS)(option, word)


_SPEED = _quantity("bandwidth", but="memory", plausible=True)
_LATENCY = _quantity("time", zero_ok=True, plausible=True)
_OF_ALL: Mapping[str, Check] = {
    "trace": _recording,
    "reference": _recording,
    "traces": _recordings,
    "popularity": _file,
    "storage": _folder,
    "policy": _design,
    "policies": _designs,
    "cache": _cache,
    "placement": _placement,
    "modes": _modes,
    "sets": _sets,
    "hardware": _hardware,
    "stack": _stacks,
    "hbm": _quantity("size", plausible=True),
    "chunk": _quantity("size"),
    "tier": _tier,
    "engine": _one_of("engine", tuple(choices.ENGINES)),
    "backend": _backend,
    "objective": _one_of("objective", tuple(choices.OBJECTIVES)),
    "batch": _batch,
    "input_tokens": _at_least(1),
    "output_tokens": _at_least(1),
    "active": _at_least(1),
    "top_k": _at_least(1),
    "budget": _seconds,
    "plot": _picture,
    "gantt": _picture,
}
"""By parameter, where it means the same in every command that has it."""

_OF_COMMANDS: Mapping[tuple[str, str], Check] = {
    ("run", "link"): _SPEED,
    ("run", "link_latency"): _LATENCY,
    ("generate", "model"): _file,
    ("generate", "prompts"): _file,
    ("generate", "policies"): _designs_once,
    ("generate", "fit"): _hardware,
    ("generate", "link"): _SPEED,
    ("generate", "link_latency"): _LATENCY,
    ("measure", "link"): _SPEED,
    ("measure", "dtypes"): _all_of("number format", choices.RUN_FORMATS),
    ("validate", "link"): _SPEED,
    ("validate", "suite"): _one_of("suite", choices.SUITE_NAMES),
    ("predictors", "metric"): _one_of("metric", tuple(choices.GUESS_METRICS)),
    ("predictors", "split"): _one_of("split", choices.GUESS_SPLITS),
    ("monitor", "held"): _share,
    ("monitor", "alpha"): _part,
    ("monitor", "hit_rate_loss"): _share,
    ("monitor", "stall_rise"): _share,
    ("monitor", "permutations"): _at_least(1),
    ("cost", "basis"): _one_of("basis", choices.BASES),
    ("cost", "rate"): _above_0,
    ("cost", "max_ttft"): _quantity("time"),
    ("cost", "max_tpot"): _quantity("time"),
    ("cost", "assumptions"): _file,
    ("crossover", "metric"): _explained,
    ("crossover", "points"): _at_least(2),
    ("explain", "metric"): _explained,
    ("explore", "active"): _its_own,
    ("explore", "batches"): _its_own,
    ("predictors", "predictors"): _predictors,
    ("plan", "now"): _today,
    ("plan", "host"): _part_of_machine("host"),
    ("plan", "link"): _part_of_machine("link"),
    ("fit", "trace"): _recording,
    ("import", "file"): _file,
    ("poc", "file"): _file,
    ("record", "model"): _folder,
    ("record", "prompts"): _file,
    ("record", "device"): _backend,
    ("reproduce", "experiment"): _experiment,
    ("reproduce", "rows"): _file,
    ("reproduce", "refit"): _new_file,
    ("reproduce", "spreads"): _new_file,
    ("sweep", "file"): _file,
    ("optimize", "sweep"): _file,
    ("optimize", "minimize"): _figures,
    ("optimize", "maximize"): _figures,
    ("optimize", "subject_to"): _bounded,
    ("train", "seeds"): _at_least(2),
    ("train", "base_steps"): _at_least(1),
    ("train", "arm_steps"): _at_least(1),
    ("validate", "max_mape"): _part,
    ("tune", "now"): _design,
    ("tune", "after"): _file,
    ("train", "layout"): _one_of("layout", choices.LAYOUTS),
    ("train", "text"): _file,
    ("residency", "policies"): _all_of("policy", choices.REPLAYED),
    ("residency", "capacity"): _capacities,
    ("residency", "budgets_mib"): _numbers_above_0,
    ("residency", "train"): _part,
    ("residency", "expert_bytes"): _at_least(1),
    ("sweep", "plot"): _its_own,
}
"""By command and parameter, where it means something else there, or in that command alone."""
