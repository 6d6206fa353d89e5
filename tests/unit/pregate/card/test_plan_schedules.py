"""The card keeps what it finds of schedules, and says the same whether it reads that or writes them."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

from hwmodels.platform import load_platform
from pregate.ask.capturing.request import request
from pregate.ask.capturing.schedule_cache import ScheduleCache, lasting_key, schedules_in
from pregate.card.job import RequestLoad
from pregate.card.plan import plan
from tests.small_models import MODELS, routing

_ASK = "plan mixtral-mini-8 --hardware rtx-4090 --stack streams --input-tokens 16 --output-tokens 4 --format json"


def _told(home: Path, *more: str) -> str:
    environment = dict(os.environ) | {"HOME": str(home), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "pregate", *_ASK.split(), *more]
    return subprocess.run(words, env=environment, check=True, capture_output=True, text=True).stdout


def test_a_card_is_the_same_with_answers_found_and_read(tmp_path: Path) -> None:
    kept = tmp_path / ".cache" / "pregate" / "schedules"
    plain = _told(tmp_path, "--no-cache")
    assert not kept.exists()
    written = _told(tmp_path)
    files = {path.name: path.stat().st_size for path in kept.glob("*.answer")}
    assert files
    assert written == _told(tmp_path) == plain
    assert files == {path.name: path.stat().st_size for path in kept.glob("*.answer")}


def test_a_home_that_keeps_nothing_is_done_without(tmp_path: Path) -> None:
    (tmp_path / ".cache").write_text("a file where a folder would be")
    assert _told(tmp_path) == _told(tmp_path, "--no-cache")


def test_in_python_a_card_keeps_nothing_unless_it_is_told_where(tmp_path: Path) -> None:
    job = RequestLoad(16, 4)
    assert schedules_in(False) is None
    plain = plan("mixtral-mini-8", "rtx-4090", job, stacks=["streams"])
    kept = plan("mixtral-mini-8", "rtx-4090", job, stacks=["streams"], cache_dir=tmp_path)
    assert list(tmp_path.glob("*.answer"))
    assert kept.to_dict() == plain.to_dict()


def test_what_a_placement_keeps_is_part_of_the_key() -> None:
    model = MODELS["decoder-only"]
    asked = request(model, load_platform("rtx-4090", "streams"), routing(model), "gpu_only@experts=cpu:keep=1")
    other = dataclasses.replace(
        asked, placed=dataclasses.replace(asked.placed, kept=tuple(frozenset({1}) for _ in asked.placed.kept))
    )
    assert asked.placed.kept != other.placed.kept
    assert lasting_key(asked) != lasting_key(other)


def test_a_flipped_bit_in_a_kept_answer_changes_no_card(tmp_path: Path) -> None:
    cache, job = ScheduleCache(tmp_path), RequestLoad(16, 4)
    first = plan("mixtral-mini-8", "rtx-4090", job, stacks=["streams"], cache_dir=cache).to_dict()
    for path in tmp_path.glob("*.answer"):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    assert plan("mixtral-mini-8", "rtx-4090", job, stacks=["streams"], cache_dir=cache).to_dict() == first
