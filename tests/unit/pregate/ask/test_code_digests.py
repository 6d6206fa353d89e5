"""What is kept on disk is of the code that made it: no room that it depends on is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hwmodels.platform import load_platform
from offload.policies import policy_named
from pregate.ask.capturing import answer_cache, schedule_cache
from pregate.named import load_model
from pregate.page import writing
from pregate.page.subject import PageSubject
from pregate.sweeps import tasks

DECIDES = {"compiled", "offload", "traces"}
"""Rooms that a schedule is written by."""
TIMES = {*DECIDES, "hwmodels", "simulator"}


def page() -> None:
    writing._key(
        PageSubject((load_model("switch-mini-16"),), (load_platform("t4", "streams"),), (policy_named("on_demand"),))
    )


@pytest.mark.parametrize(
    ("module", "ask", "needed"),
    [
        (schedule_cache, lambda: schedule_cache._code.__wrapped__(), DECIDES),
        (answer_cache, lambda: answer_cache._code.__wrapped__(), TIMES),
        (tasks, lambda: tasks._code.__wrapped__(), {*TIMES, "pregate"}),
        (writing, page, {*TIMES, "pregate"}),
    ],
    ids=["schedules", "answers", "sweeps", "pages"],
)
def test_every_room_that_an_entry_depends_on_is_in_its_digest(
    module: Any, ask: Any, needed: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[set[str]]()

    def seen(packages: Any, files: Any = ()) -> str:
        asked.append({Path(package.__file__).parent.name for package in packages})
        return "digest"

    monkeypatch.setattr(module, "source_digest", seen)
    ask()
    assert asked == [needed]
