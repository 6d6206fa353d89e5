"""Words that are checked by the name of their option: what a command itself takes must pass."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any

import pytest

from pregate.cli.checks.by_option import check_words
from pregate.cli.commands import COMMANDS, _imported


def commands() -> Iterator[tuple[str, Any]]:
    for name in COMMANDS:
        found = _imported(name)
        for sub in getattr(found, "commands", {}).values() or [found]:
            yield sub.name, sub


@pytest.mark.parametrize(("name", "command"), list(commands()), ids=lambda one: one if isinstance(one, str) else "")
def test_the_defaults_of_a_command_may_be_typed(name: str, command: Any) -> None:
    for param in command.params:
        value = param.default() if callable(param.default) else param.default
        if isinstance(value, str | int | float) and not isinstance(value, bool | Enum):
            check_words(name, {param.name: (max(param.opts, key=len), value)})


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
def test_engines_of_public_tables_are_no_engines_of_the_simulator(engine: str) -> None:
    check_words("calibrate", {"engine": ("--engine", engine)})
