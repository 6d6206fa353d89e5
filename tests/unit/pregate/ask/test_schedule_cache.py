"""Schedules on disk: what is read back is what was written, or it is written again."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from hwmodels.platform import load_platform
from offload.decode import Decoded
from offload.policies import policy_named
from offload.policy import BlockView, Fetch, Policy
from pregate.ask.capturing import schedule_cache
from pregate.ask.capturing.capture import capture_request
from pregate.ask.capturing.request import Request, request
from pregate.ask.capturing.schedule_cache import ScheduleCache, lasting_key
from tests.small_models import MODELS, routing
from traces.errors import InvalidFile, InvalidInput

HW = load_platform("a100-sxm4-80gb", "streams")
MODEL = MODELS["decoder-only"]


def asked(policy: str | Policy = "pregate", seed: int = 0) -> Request:
    return request(MODEL, HW, routing(MODEL, seed=seed), policy)


def key_of(found: Request) -> str:
    key = lasting_key(found)
    assert key is not None
    return key


def test_what_is_read_back_is_the_schedule_and_what_the_loop_counted(tmp_path: Path) -> None:
    cache, wanted = ScheduleCache(tmp_path / "deep" / "folder"), asked("on_demand+lru:0.3")
    first, again = cache.captured(wanted), cache.captured(wanted)
    assert first.decoded.n_lookups > first.decoded.n_hits > 0
    assert again.decoded == first.decoded == capture_request(wanted).decoded
    assert again.decoded.schedule is not first.decoded.schedule
    assert cache.load(key_of(wanted)) == first.decoded


def test_a_hit_writes_no_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ScheduleCache(tmp_path)
    cache.captured(asked())
    monkeypatch.setattr(schedule_cache, "capture_request", lambda _: pytest.fail("decoded again"))
    cache.captured(asked())


def test_the_key_knows_everything_a_schedule_depends_on() -> None:
    plan = dataclasses.replace(asked().plan, n_buffers=2)
    requests = [
        asked(),
        asked("pregate(2)"),
        asked("on_demand"),
        asked("on_demand+lru:0.3"),
        asked("on_demand+lfu:0.3"),
        asked(seed=1),
        dataclasses.replace(asked(), plan=plan),
        dataclasses.replace(asked(), expert_tier="ssd"),
        dataclasses.replace(asked(), model=MODEL.with_dtype("bf16")),
        request(MODEL, load_platform("a100-sxm4-80gb", "fastertransformer"), routing(MODEL), "pregate"),
    ]
    assert len({lasting_key(found) for found in requests}) == len(requests)
    assert lasting_key(asked()) == lasting_key(asked())


def test_another_process_finds_the_same_key() -> None:
    code = (
        "from tests.unit.pregate.ask.test_schedule_cache import *; "
        "print([key_of(asked(name)) for name in ('pregate', 'lru', 'prefetch_all', 'gpu_only')])"
    )
    root = Path(__file__).parents[4]
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root)
    assert done.stdout.strip() == str([key_of(asked(name)) for name in ("pregate", "lru", "prefetch_all", "gpu_only")])


def my_prefetch(view: BlockView) -> list[Fetch]:
    return []


def test_a_policy_of_ones_own_code_is_not_kept(tmp_path: Path) -> None:
    cache = ScheduleCache(tmp_path)
    for prefetch in (my_prefetch, lambda view: []):
        mine = asked(dataclasses.replace(policy_named("pregate"), name="mine", prefetch=prefetch))
        assert lasting_key(mine) is None
        assert len(cache.captured(mine).decoded.schedule) > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ["safetensors", "json"])
@pytest.mark.parametrize("damage", ["cut", "emptied", "foreign", "gone", "other"])
def test_what_is_broken_is_ignored_and_replaced(tmp_path: Path, suffix: str, damage: str) -> None:
    cache, wanted = ScheduleCache(tmp_path), asked()
    whole = cache.captured(wanted).decoded
    path = tmp_path / f"{key_of(wanted)}.{suffix}"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "emptied":
        path.write_bytes(b"")
    elif damage == "foreign":
        path.write_text('["a list"]')
    elif damage == "gone":
        path.unlink()
    else:
        cache.captured(asked(seed=1))
        path.write_bytes((tmp_path / f"{key_of(asked(seed=1))}.{suffix}").read_bytes())
    assert cache.load(key_of(wanted)) is None
    assert cache.captured(wanted).decoded == whole
    assert cache.load(key_of(wanted)) == whole


def test_counts_that_cannot_be_are_not_believed(tmp_path: Path) -> None:
    cache, wanted = ScheduleCache(tmp_path), asked()
    cache.captured(wanted)
    path = tmp_path / f"{key_of(wanted)}.json"
    counted = json.loads(path.read_text())
    for wrong in (-1, 1.5, "many", None, True):
        path.write_text(json.dumps(counted | {"n_hits": wrong}))
        assert cache.load(key_of(wanted)) is None


def test_other_code_finds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ScheduleCache(tmp_path)
    cache.captured(asked())
    before = key_of(asked())
    monkeypatch.setattr(schedule_cache, "_code", lambda: "another version")
    assert cache.load(key_of(asked())) is None
    assert key_of(asked()) != before


def sizes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def test_the_folder_is_bounded_and_the_longest_unused_goes_first(tmp_path: Path) -> None:
    decoded: list[Decoded] = [capture_request(asked(seed=seed)).decoded for seed in range(4)]
    roomy = ScheduleCache(tmp_path)
    for seed in range(3):
        roomy.store(key_of(asked(seed=seed)), decoded[seed])
        past = time.time() - 100 + seed
        os.utime(tmp_path / f"{key_of(asked(seed=seed))}.safetensors", (past, past))
    assert roomy.load(key_of(asked(seed=0))) is not None  # used now
    ScheduleCache(tmp_path / "other").store(key_of(asked(seed=3)), decoded[3])
    oldest = (tmp_path / f"{key_of(asked(seed=1))}.safetensors").stat().st_size
    bounded = ScheduleCache(tmp_path, sizes(tmp_path) + max(sizes(tmp_path / "other") - oldest, 0))
    shutil.rmtree(tmp_path / "other")
    bounded.store(key_of(asked(seed=3)), decoded[3])
    found = [bounded.load(key_of(asked(seed=seed))) is not None for seed in range(4)]
    assert found == [True, False, True, True]
    assert sizes(tmp_path) <= bounded.max_bytes
    assert len(list(tmp_path.iterdir())) == 6


def test_a_folder_is_looked_through_before_it_can_be_full_and_not_at_every_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = [capture_request(asked(seed=seed)).decoded for seed in range(8)]
    looked, trim = list[int](), ScheduleCache._trim
    monkeypatch.setattr(ScheduleCache, "_trim", lambda self: looked.append(1) or trim(self))
    roomy = ScheduleCache(tmp_path / "roomy")
    for seed in range(8):
        roomy.store(key_of(asked(seed=seed)), decoded[seed])
    assert len(looked) == 1
    one = sizes(roomy.folder) // 8
    for n_fit in (1, 3, 40):
        bounded = ScheduleCache(tmp_path / str(n_fit), n_fit * one + one // 2)
        for seed in range(8):
            bounded.store(key_of(asked(seed=seed)), decoded[seed])
            assert sizes(bounded.folder) <= bounded.max_bytes
        assert len(list(bounded.folder.glob("*.json"))) == min(n_fit, 8)


def test_a_schedule_larger_than_the_bound_is_not_kept(tmp_path: Path) -> None:
    ScheduleCache(tmp_path, 100).captured(asked())
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_killed_writers_go(tmp_path: Path) -> None:
    old, new = tmp_path / ".a.safetensors.1.partial", tmp_path / ".b.safetensors.2.partial"
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    ScheduleCache(tmp_path).captured(asked())
    assert (old.exists(), new.exists()) == (False, True)


def test_a_folder_that_cannot_be_written_stops_no_run(tmp_path: Path) -> None:
    cache = ScheduleCache(tmp_path / "folder")
    cache.folder.rmdir()
    assert len(cache.captured(asked()).decoded.schedule) > 0


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidFile, match="--cache-dir"):
        ScheduleCache(tmp_path / "file" / "folder")
    with pytest.raises(InvalidInput, match="-1 bytes"):
        ScheduleCache(tmp_path, -1)


def write_and_read(folder: str) -> list[str]:
    """Digests found while others write the same keys, in a folder that holds two of the three."""
    cache = ScheduleCache(Path(folder), 40_000)
    found = [cache.captured(asked(seed=seed)).decoded for _ in range(4) for seed in range(3)]
    assert all(decoded == capture_request(asked(seed=i % 3)).decoded for i, decoded in enumerate(found))
    return [decoded.schedule.digest for decoded in found]


def test_writers_at_once_never_read_anything_but_the_schedule(tmp_path: Path) -> None:
    alone = [capture_request(asked(seed=seed)).decoded.schedule.digest for _ in range(4) for seed in range(3)]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes, ThreadPoolExecutor(3) as threads:
        runs = [pool.submit(write_and_read, str(tmp_path)) for pool in (processes, threads) for _ in range(3)]
        assert all(run.result() == alone for run in runs)
    assert sizes(tmp_path) <= 40_000
    assert not list(tmp_path.glob(".*"))
