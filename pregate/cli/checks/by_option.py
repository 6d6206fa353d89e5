"""Words that need no model, machine or trace to be wrong: told as the command line is read, before the work's imports.

What a command checks itself stays there; here is what it would find out only after a trace or PyTorch is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pregate.ask import choices
from pregate.cli.checks import names, numbers, paths
from pregate.cli.checks.names import Check


def check_words(command: str | None, given: Mapping[str, tuple[str, Any]]) -> None:
    """Raise `InvalidInput` or `UnknownName` for a word of `command` that no model, machine or trace can make right.

    `given`: what is typed, by parameter: the option as it is spelt, and its value.
    """
    for name, (option, value) in given.items():
        check = _OF_COMMANDS.get((command or "", name), _OF_ALL.get(name))
        if check is not None and value is not None:
            check(option, value)


_SPEED = numbers.quantity("bandwidth", but="memory", plausible=True)
_LATENCY = numbers.quantity("time", zero_ok=True, plausible=True)
_OF_ALL: Mapping[str, Check] = {
    "trace": paths.recording,
    "reference": paths.recording,
    "traces": paths.recordings,
    "popularity": paths.file,
    "storage": paths.folder,
    "policy": names.design,
    "policies": names.designs,
    "cache": names.cache,
    "placement": names.placement,
    "modes": names.modes,
    "sets": names.sets,
    "hardware": names.hardware,
    "stack": names.stacks,
    "hbm": numbers.quantity("size", plausible=True),
    "chunk": numbers.quantity("size"),
    "tier": names.tier,
    "engine": names.one_of("engine", tuple(choices.ENGINES)),
    "backend": names.backend,
    "objective": names.objective,
    "batch": numbers.batch,
    "input_tokens": numbers.at_least(1),
    "output_tokens": numbers.at_least(1),
    "active": numbers.at_least(1),
    "top_k": numbers.at_least(1),
    "budget": numbers.seconds,
    "plot": paths.picture,
    "gantt": paths.picture,
}
"""By parameter, where it means the same in every command that has it."""

_OF_COMMANDS: Mapping[tuple[str, str], Check] = {
    ("calibrate", "engine"): names.its_own,
    ("compare", "policies"): names.designs_or_all,
    ("run", "link"): _SPEED,
    ("run", "link_latency"): _LATENCY,
    ("generate", "model"): paths.file,
    ("generate", "prompts"): paths.file,
    ("generate", "policies"): names.designs_once,
    ("generate", "fit"): names.hardware,
    ("generate", "link"): _SPEED,
    ("generate", "link_latency"): _LATENCY,
    ("measure", "link"): _SPEED,
    ("measure", "dtypes"): names.all_of("number format", choices.RUN_FORMATS),
    ("validate", "link"): _SPEED,
    ("validate", "suite"): names.one_of("suite", choices.SUITE_NAMES),
    ("predictors", "metric"): names.one_of("metric", tuple(choices.GUESS_METRICS)),
    ("predictors", "split"): names.one_of("split", choices.GUESS_SPLITS),
    ("monitor", "held"): numbers.share,
    ("monitor", "alpha"): numbers.part,
    ("monitor", "hit_rate_loss"): numbers.share,
    ("monitor", "stall_rise"): numbers.share,
    ("monitor", "permutations"): numbers.at_least(1),
    ("cost", "basis"): names.one_of("basis", choices.BASES),
    ("arrivals", "arrivals"): paths.file,
    ("arrivals", "rates"): numbers.numbers_above_0,
    ("arrivals", "requests"): numbers.at_least(2),
    ("arrivals", "slots"): numbers.at_least(1),
    ("arrivals", "pass_tokens"): numbers.at_least(1),
    ("arrivals", "max_ttft"): numbers.quantity("time"),
    ("arrivals", "max_tpot"): numbers.quantity("time"),
    ("arrivals", "basis"): names.one_of("basis", choices.BASES),
    ("arrivals", "assumptions"): paths.file,
    ("plan", "dram"): numbers.quantity("size", plausible=True),
    ("plan", "basis"): names.one_of("basis", choices.BASES),
    ("cost", "rate"): numbers.above_0,
    ("cost", "max_ttft"): numbers.quantity("time"),
    ("cost", "max_tpot"): numbers.quantity("time"),
    ("cost", "assumptions"): paths.file,
    ("crossover", "metric"): names.explained,
    ("crossover", "points"): numbers.at_least(2),
    ("explain", "metric"): names.explained,
    ("explore", "active"): names.its_own,
    ("explore", "batches"): names.its_own,
    ("predictors", "predictors"): names.predictors,
    ("plan", "now"): names.today,
    ("plan", "host"): names.part_of_machine("host"),
    ("plan", "link"): names.part_of_machine("link"),
    ("fit", "trace"): paths.recording,
    ("import", "file"): paths.file,
    ("poc", "file"): paths.file,
    ("record", "model"): paths.folder,
    ("record", "prompts"): paths.file,
    ("record", "device"): names.backend,
    ("reproduce", "experiment"): names.experiment,
    ("reproduce", "rows"): paths.file,
    ("reproduce", "refit"): paths.new_file,
    ("reproduce", "spreads"): paths.new_file,
    ("sweep", "file"): paths.file,
    ("optimize", "sweep"): paths.file,
    ("optimize", "minimize"): names.figures,
    ("optimize", "maximize"): names.figures,
    ("optimize", "subject_to"): names.bounded,
    ("train", "seeds"): numbers.at_least(2),
    ("train", "base_steps"): numbers.at_least(1),
    ("train", "arm_steps"): numbers.at_least(1),
    ("validate", "max_mape"): numbers.part,
    ("tune", "now"): names.design,
    ("tune", "after"): paths.file,
    ("train", "layout"): names.one_of("layout", choices.LAYOUTS),
    ("train", "text"): paths.file,
    ("residency", "policies"): names.all_of("policy", choices.REPLAYED),
    ("residency", "capacity"): numbers.capacities,
    ("residency", "budgets_mib"): numbers.numbers_above_0,
    ("residency", "train"): numbers.part,
    ("residency", "expert_bytes"): numbers.at_least(1),
    ("sweep", "plot"): names.its_own,
}
"""By command and parameter, where it means something else there, or in that command alone."""
