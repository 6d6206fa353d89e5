"""Answers on disk: what is read back is what was found, or it is found again; a card is the same either way."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from hwmodels.platform import Platform, load_platform
from pregate.ask.capturing import answer_cache
from pregate.ask.capturing.answer_cache import Answer, answer_key, kept_answer
from pregate.ask.capturing.request import request
from pregate.ask.capturing.schedule_cache import ScheduleCache
from pregate.card import design_schedules, speed_limit
from pregate.card.job import RequestLoad
from pregate.card.plan import plan
from tests.grids import some_of
from tests.small_models import MODELS, routing

HW = load_platform("rtx-4090", "streams")
MODEL = MODELS["decoder-only"]
FOUND: Answer = {"times": [0.1, 1 / 3, 5e-324], "tag": "claimed", "n": 3, "nothing": None}


def key_of(question: str = "times", hw: Platform = HW, seed: int = 0, policy: str = "pregate") -> str:
    found = answer_key(question, [request(MODEL, hw, routing(MODEL, seed=seed), policy)], hw)
    assert found is not None
    return found


def never() -> Answer:
    pytest.fail("asked again")


def test_what_is_read_back_is_what_was_found(tmp_path: Path) -> None:
    cache = ScheduleCache(tmp_path)
    assert kept_answer(cache, key_of(), lambda: FOUND) == FOUND
    assert kept_answer(cache, key_of(), never) == FOUND


def test_without_a_folder_or_a_key_it_is_found_every_time(tmp_path: Path) -> None:
    asked = list[int]()
    for cache, key in ((None, key_of()), (ScheduleCache(tmp_path), None)):
        for _ in range(2):
            kept_answer(cache, key, lambda: asked.append(1) or FOUND)  # type: ignore[func-returns-value]
    assert len(asked) == 4
    assert not list(tmp_path.iterdir())


def test_the_key_knows_question_requests_and_every_number_of_the_platform() -> None:
    slower = load_platform("rtx-4090", "streams", {"link.h2d_bytes_per_s": 1e9})
    waits = load_platform("rtx-4090", "streams", {"stack.sync_s": 1e-3})
    fitted = load_platform("a100-sxm4-80gb", "fastertransformer")
    unfitted = dataclasses.replace(fitted, fit=None)
    keys = [
        key_of(), key_of("digests"), key_of(seed=1), key_of(policy="on_demand"), key_of(hw=slower), key_of(hw=waits),
        key_of(hw=load_platform("rtx-4090", "llama-cpp")), key_of(hw=fitted), key_of(hw=unfitted),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)
    assert key_of() == keys[0]


def test_other_code_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key_of()
    monkeypatch.setattr(answer_cache, "_code", lambda: "another version")
    assert key_of() != before


@pytest.mark.parametrize(
    "damage", ["cut", "emptied", "a list", "another's", "a flipped digit", "no seal", "deep", "a folder"]
)
def test_what_is_broken_is_found_again(tmp_path: Path, damage: str) -> None:
    cache, key, other = ScheduleCache(tmp_path), key_of(), key_of(seed=1)
    for one, found in ((key, FOUND), (other, FOUND | {"n": 4})):
        kept_answer(cache, one, lambda found=found: found)  # type: ignore[misc]
    path = tmp_path / f"{key}.answer"
    text = path.read_text()
    if damage == "a folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_text(
            {
                "cut": text[: len(text) // 2],
                "emptied": "",
                "a list": "[1]",
                "another's": (tmp_path / f"{other}.answer").read_text(),
                "a flipped digit": text.replace('"n": 3', '"n": 7'),
                "no seal": json.dumps({"answer": FOUND}),
                "deep": "[" * 100_000,
            }[damage]
        )
    asked = list[int]()
    assert kept_answer(cache, key, lambda: asked.append(1) or FOUND) == FOUND  # type: ignore[func-returns-value]
    assert asked
    if damage != "a folder":
        assert kept_answer(cache, key, never) == FOUND


def test_a_folder_of_answers_is_bounded(tmp_path: Path) -> None:
    kept_answer(ScheduleCache(tmp_path), "0" * 32, lambda: FOUND)
    one = sum(path.stat().st_size for path in tmp_path.iterdir())
    cache = ScheduleCache(tmp_path, 3 * one + one // 2)
    for i in range(1, 9):
        kept_answer(cache, f"{i:032x}", lambda: FOUND)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= cache.max_bytes
    assert kept_answer(cache, f"{8:032x}", never) == FOUND


@pytest.mark.parametrize("hardware", some_of(["rtx-4090", "a100-sxm4-80gb"], kept=["rtx-4090"]))
def test_a_card_is_the_same_and_writes_no_schedule_the_second_time(
    hardware: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job: Any = RequestLoad(16, 4)
    plain = plan("mixtral-mini-8", hardware, job)
    first = plan("mixtral-mini-8", hardware, job, cache_dir=tmp_path)
    told = first.predictions()
    for module in (design_schedules, speed_limit):
        monkeypatch.setattr(module, "capture_request", lambda asked: pytest.fail("a schedule was written again"))
    again = plan("mixtral-mini-8", hardware, job, cache_dir=tmp_path)
    assert again.to_dict() == first.to_dict() == plain.to_dict()
    assert again.text() == first.text() == plain.text()
    assert again.predictions() == told == plain.predictions()
