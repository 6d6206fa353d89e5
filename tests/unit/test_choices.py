"""Words that are told before anything is loaded are those that what is loaded later knows."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from pregate.ask.choices import RUN_FORMATS, SUITE_NAMES
from pregate.check.cases import SUITES
from runtime.memory import TYPES


def test_suites_and_formats_are_those_that_there_are() -> None:
    assert list(SUITE_NAMES) == list(SUITES)
    assert list(RUN_FORMATS) == list(TYPES)
