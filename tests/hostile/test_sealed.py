"""What is kept on disk is believed only as what it says it is: a flipped bit or another's content is done again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pregate.ask.capturing.request import request
from pregate.ask.capturing.schedule_cache import ScheduleCache, lasting_key
from pregate.named import load_hardware
from pregate.sweeps.sweep import sweep
from tests.small_models import MODELS, routing

MODEL, HW = MODELS["decoder-only"], load_hardware("a100-sxm4-80gb")


def swept(folder: Path) -> Any:
    axes = {"link.h2d_bytes_per_s": np.array([4e9, 8e9]), "batch": [1, 2]}
    return sweep(MODEL, HW, routing(MODEL, batch=2), policies=["on_demand", "pregate"], axes=axes, cache_dir=False,
                 checkpoint=folder)  # fmt: skip


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Any, list[Path]]:
    whole = swept(tmp_path)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) >= 2
    return whole, files


@pytest.mark.parametrize("place", [0.3, 0.6, 0.99])
def test_a_flipped_bit_in_a_checkpoint_is_done_again(kept: tuple[Any, list[Path]], place: float) -> None:
    whole, files = kept
    for path in files:
        data = bytearray(path.read_bytes())
        data[int(place * (len(data) - 1))] ^= 0x10
        path.write_bytes(bytes(data))
    assert whole.identical(swept(files[0].parent))


def test_one_task_in_the_place_of_another_is_done_again(kept: tuple[Any, list[Path]]) -> None:
    whole, files = kept
    for path in files[1:]:
        shutil.copy(files[0], path)
    assert whole.identical(swept(files[0].parent))


def test_a_schedule_under_another_key_is_not_taken(tmp_path: Path) -> None:
    cache = ScheduleCache(tmp_path)
    asked = [request(MODEL, HW, routing(MODEL), policy) for policy in ("on_demand", "pregate")]
    digests = [cache.captured(one).decoded.schedule.digest for one in asked]
    keys = [lasting_key(one) for one in asked]
    paths = [
        next(path for path in tmp_path.rglob("*") if path.is_file() and str(key)[:16] in path.name) for key in keys
    ]
    assert digests[0] != digests[1]
    shutil.copy(paths[0], paths[1])
    assert cache.captured(asked[1]).decoded.schedule.digest == digests[1]
