"""What a workload would cost is said in minutes and bytes from a limit on, and up to it nobody is asked."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from pregate.cli.consent import (
    LARGE_JOB_LAYERS,
    LARGE_SWEEP_POINTS,
    require_consent,
    require_consent_along,
    require_consent_to_points,
)
from pregate.sweeps.axes import LatinHypercube
from pregate.sweeps.workloads import TraceRecipe
from tests.small_models import MODELS
from traces.errors import InvalidInput

MODEL = MODELS["decoder-only"]  # 4 layers, 3 of them of experts, of which a token chooses 2
MOST = LARGE_JOB_LAYERS // 4


def workload(input_tokens: int = 1, output_tokens: int = 1, batch: int | None = 1) -> None:
    require_consent(MODEL, input_tokens=input_tokens, output_tokens=output_tokens, batch=batch)


def test_passes_times_layers_are_counted_and_sequences_run_together() -> None:
    for batch in (None, 0, 1, 10):
        workload(output_tokens=MOST, batch=batch)
    with pytest.raises(InvalidInput) as told:
        workload(output_tokens=MOST + 1)
    assert str(told.value) == (
        "--output-tokens 1250001 x batch 1 is 5e+06 layers to simulate, some 4 minutes and 0.0 GB a design: "
        "add --yes, or take fewer tokens"
    )


def test_a_prompt_alone_is_a_pass() -> None:
    with pytest.raises(InvalidInput, match="--output-tokens 0 x batch 1 is 4 layers to simulate, some 4 minutes"):
        workload(input_tokens=20 * LARGE_JOB_LAYERS // 6 + 1, output_tokens=0)


def test_as_many_choices_as_the_limit_has_are_not_asked_about() -> None:
    model = MODELS["encoder-decoder"]  # four layers of experts in all, of which a token chooses one
    require_consent(model, input_tokens=5 * LARGE_JOB_LAYERS - 1, output_tokens=1, batch=1)
    with pytest.raises(InvalidInput, match="add --yes"):
        require_consent(model, input_tokens=5 * LARGE_JOB_LAYERS, output_tokens=1, batch=1)


@pytest.mark.parametrize("batch", [None, 1, 5])
def test_experts_that_all_tokens_choose_are_counted_at_a_twentieth(batch: int | None) -> None:
    """3 layers of 2 experts a token: of prompts and outputs of every sequence, 4 bytes each."""
    n = 20 * LARGE_JOB_LAYERS // 6 // (batch or 1)
    workload(input_tokens=n - 10, output_tokens=10, batch=batch)
    with pytest.raises(
        InvalidInput, match=rf"x batch {batch or 1} is 44 layers .* some 4 minutes and 0\.4 GB a design"
    ):
        workload(input_tokens=n - 10, output_tokens=11, batch=batch)
    with pytest.raises(InvalidInput, match=r"some 42 minutes and 4\.0 GB a design"):
        workload(input_tokens=10 * n - 10, output_tokens=11, batch=batch)


PROMPT = 20 * LARGE_JOB_LAYERS // 600
"""Tokens of a prompt and its outputs of which a hundred are a large job."""


@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize(
    ("sizes", "axis", "values"),
    [
        ({}, "output_tokens", lambda n: [4, 8, MOST + n, 9]),
        ({}, "output_tokens", lambda n: (4, MOST + n)),
        ({}, "output_tokens", lambda n: (4, MOST + n, "log")),
        ({"output_tokens": 7}, "output_tokens", lambda n: [MOST + n]),
        ({"batch": 100, "output_tokens": 1}, "input_tokens", lambda n: [1, PROMPT - 1 + n]),
        ({"batch": 100, "input_tokens": 1}, "output_tokens", lambda n: [1, PROMPT - 1 + n]),
        ({"input_tokens": PROMPT - 1, "output_tokens": 1}, "batch", lambda n: [1, 100 + n]),
        ({"batch": 101, "input_tokens": PROMPT - 1, "output_tokens": 1}, "batch", lambda n: [100 + n]),
    ],
)  # fmt: skip
def test_along_an_axis_the_largest_workload_is_asked_about(
    sizes: dict[str, Any], axis: str, values: Callable[[int], Any], more: int
) -> None:
    with pytest.raises(InvalidInput, match="take fewer tokens") if more else nullcontext():
        require_consent_along(MODEL, TraceRecipe(**sizes), {axis: values(more)})


@pytest.mark.parametrize("more", [0, 1])
def test_axes_of_the_machine_leave_the_workload_as_it_is(more: int) -> None:
    with pytest.raises(InvalidInput, match="take fewer tokens") if more else nullcontext():
        require_consent_along(MODEL, TraceRecipe(output_tokens=MOST + more), {"link.h2d_bytes_per_s": [1e9, 2e9]})


def test_recordings_and_batches_that_memory_decides_are_not_asked_about(tmp_path: Path) -> None:
    along = {"output_tokens": [MOST + 1]}
    require_consent_along(MODEL, TraceRecipe(path=tmp_path), along)
    require_consent_along(MODEL, TraceRecipe(batch="max"), along)


def test_points_of_a_sweep_are_machines_times_designs() -> None:
    a, b = range(1000), range(LARGE_SWEEP_POINTS // 2000)
    require_consent_to_points({"a": a, "b": b}, None, 2)
    require_consent_to_points({"a": a, "b": b}, LatinHypercube(LARGE_SWEEP_POINTS // 2), 2)
    with pytest.raises(InvalidInput) as told:
        require_consent_to_points({"a": a, "b": [*b, 1]}, None, 2)
    assert str(told.value) == (
        "1,001,000 points x 2 designs are 2,002,000 predictions, some 2 minutes and 0.6 GB: "
        "add --yes, or take fewer values"
    )
    with pytest.raises(
        InvalidInput, match=r"^5,468,750 points x 1 designs are 5,468,750 .* some 5 minutes and 1\.8 GB"
    ):
        require_consent_to_points({"a": [1]}, LatinHypercube(5_468_750), 1)  # 4.56 minutes, 1.75 GB
    with pytest.raises(InvalidInput, match=r"^5,468,750 points x 3 designs are 16,406,250 .* 14 minutes and 5\.2 GB"):
        require_consent_to_points({"a": [1]}, LatinHypercube(5_468_750), 3)
    with pytest.raises(InvalidInput, match=r"^1,000,001 points x 2 designs"):
        require_consent_to_points({"a": [1]}, LatinHypercube(LARGE_SWEEP_POINTS // 2 + 1), 2)
