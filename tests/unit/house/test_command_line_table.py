"""The commands that the table of the command line times: those that README and the questions tell to run."""

from __future__ import annotations

import json
import re

from benchmarks.command_line import RESULTS, commands


def test_a_comment_beside_a_command_leaves_no_blanks_on_it() -> None:
    timed = [row["command"] for row in json.loads(RESULTS.read_text("utf-8"))["rows"]]
    for command in (*commands(), *timed):
        assert re.fullmatch(r"pregate( \S+)*", command), repr(command)


def test_the_command_without_words_is_timed_too() -> None:
    assert "pregate" in commands()
