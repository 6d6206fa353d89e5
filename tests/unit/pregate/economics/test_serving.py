"""What a design takes to serve requests in batches, by hand: runs of a prompt and of some tokens are made up."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from offload.policies import policy_named
from offload.slots.memory import CapacityExceeded
from pregate.ask.timing.time_errors import TimeError
from pregate.card.designs import EngineDesign
from pregate.card.job import RequestLoad
from pregate.card.judged_design import Expected, PhaseUse
from pregate.economics import serving
from pregate.economics.serving import LatencyPromise, RequestShape, Served, Unserved, serve, served_of
from pregate.named import load_hardware, load_model

MODEL, HW, DESIGN = load_model("switch-mini-16"), load_hardware("a100-sxm4-80gb", "streams"), policy_named("on_demand")


def run(**shown: Any) -> Any:
    """A run of 2 s."""
    values = {
        "timeline": "a run",
        "ttft_s": 1.5, "tpot_s": 0.25, "makespan_s": 2.0, "hit_rate": 0.25, "peak_hbm_bytes": 100,
    }  # fmt: skip
    return SimpleNamespace(**(values | shown))


PROMPT = run()
MIDDLE = run(ttft_s=9.0, tpot_s=0.5, makespan_s=10.0, hit_rate=0.75, peak_hbm_bytes=70)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Every load that is asked for, with its seed; its runs are `PROMPT` and `MIDDLE`."""
    seen: list[tuple[Any, ...]] = []

    def granted(*given: Any) -> Any:
        assert given == (MODEL, HW, "the work", DESIGN)
        return SimpleNamespace(prompt=PROMPT, tokens=MIDDLE, n_at_once=1, n_under_way=1)

    def workpiece(*given: Any) -> str:
        seen.append(given)
        return "the work"

    def interpret(captured: Any, *how: Any, with_intervals: bool) -> Any:
        assert how == (HW, "recurrence")
        assert with_intervals is False
        return captured[1]

    def time_error(captured: Any, *of: Any) -> TimeError:
        """Off by a fifth of the time to the first token, by two of that of others."""
        wanted = {"ttft_s": (PROMPT, 0.2), "tpot_s": (MIDDLE, 0.4)}
        assert of[0] is HW
        run, off = wanted[of[1]]
        assert captured == ("captured", run)
        return TimeError({of[1]: 1.0}, fitted=(off, 2 * off))

    def use_of(result: Any, since_s: float = 0.0) -> PhaseUse:
        """Of the whole prompt, and of what comes after the first token of the middle."""
        assert since_s == (0.0 if result is PROMPT else 9.0)
        return PhaseUse(0.5, 0.25, 3e9) if result is PROMPT else PhaseUse(0.25, 0.75, 2e9)

    monkeypatch.setattr(serving, "use_of", use_of)
    monkeypatch.setattr(serving, "workpiece", workpiece)
    monkeypatch.setattr(serving, "granted", granted)
    monkeypatch.setattr(serving, "capture_request", lambda asked: ("captured", asked))
    monkeypatch.setattr(serving, "interpret", interpret)
    monkeypatch.setattr(serving, "time_error", time_error)
    return seen


def served(n_output: int = 11, batch: int = 3, **how: Any) -> Served:
    found = serve(MODEL, HW, DESIGN, RequestShape(5, n_output), LatencyPromise(), (batch,), **how)
    assert isinstance(found, Served)
    return found


def test_a_request_is_its_prompt_and_then_its_tokens(loads: list[tuple[Any, ...]]) -> None:
    """Two tokens of each request are of the prompt's run; nine more are of the middle's, 4.5 s."""
    found = served(seed=4)
    assert loads == [(MODEL, RequestLoad(5, 11, 3), 4)]
    assert (found.design, found.batch, found.ttft_s, found.tpot_s) == ("on_demand", 3, 1.5, 0.5)
    assert found.request_s == 1.5 + 10 * 0.5
    assert found.requests_per_s == pytest.approx(3 / 6.5)
    whole_s = 2.0 + 4.5 * 1.0
    assert found.compute_share == pytest.approx((1.0 + 4.5 * 0.25) / whole_s)
    assert found.host_share == pytest.approx((0.5 + 4.5 * 0.75) / whole_s)
    assert found.link_bytes == pytest.approx((6e9 + 4.5 * 2e9) / 33)
    assert found.link_bytes_per_s == pytest.approx((6e9 + 4.5 * 2e9) / whole_s)
    assert (found.hit_rate, found.peak_hbm_bytes) == (0.75, 100)
    assert found.error.depends == pytest.approx({"ttft_s": 1.5 / 6.5, "tpot_s": 5 / 6.5})
    assert found.error.fitted == pytest.approx((math.hypot(0.3, 2.0) / 6.5, math.hypot(0.6, 4.0) / 6.5))
    served()
    assert loads[1] == (MODEL, RequestLoad(5, 11, 3), 0)


def test_a_request_for_one_token_or_two_is_the_run_of_its_prompt(loads: list[tuple[Any, ...]]) -> None:
    for n_output, request_s in ((1, 1.5), (2, 2.0)):
        found = served(n_output, 2)
        assert loads[-1][1] == RequestLoad(5, 2, 2)
        assert found.request_s == request_s
        assert found.compute_share == 0.5
        assert found.link_bytes == 6e9 / 4
        assert found.link_bytes_per_s == 3e9


def test_memory_is_that_of_the_larger_run(loads: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MIDDLE, "peak_hbm_bytes", 130)
    assert served().peak_hbm_bytes == 130


def at(batch: int, ttft_s: float, tpot_s: float, request_s: float) -> Served:
    return Served("on_demand", batch, ttft_s, tpot_s, request_s, 0.5, 0.5, 1.0, 1.0, 0.5, 1, TimeError())


BY_BATCH = {
    1: at(1, 1.0, 0.1, 2.0), 2: at(2, 2.0, 0.09, 3.0), 4: at(4, 4.0, 0.4, 6.0), 8: at(8, 8.0, 0.8, 16.0)
}  # fmt: skip


def chosen(
    monkeypatch: pytest.MonkeyPatch, promised: LatencyPromise, *batches: int, largest: int = 8, memory: str = "HBM"
) -> tuple[Served | Unserved, list[int]]:
    """What is chosen of batches, of which those above `largest` do not fit, and those that were tried."""
    tried: list[int] = []

    def of_batch(*given: Any) -> Served:
        assert given[:4] == (MODEL, HW, DESIGN, RequestShape(5, 6))
        batch, seed = given[4:]
        assert seed == 0
        tried.append(batch)
        if batch > largest:
            raise CapacityExceeded(f"batch {batch} is too large", batch * 10, memory)
        return BY_BATCH[batch]

    monkeypatch.setattr(serving, "_at", of_batch)
    return serve(MODEL, HW, DESIGN, RequestShape(5, 6), promised, batches), tried


def test_the_batch_that_serves_most_within_the_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    """.5, .67, .67 and .5 requests a second: of equals the smaller batch."""
    free = LatencyPromise()
    assert chosen(monkeypatch, free, 1, 2, 4, 8) == (BY_BATCH[2], [1, 2, 4, 8])
    assert chosen(monkeypatch, free, 8, 4, 1) == (BY_BATCH[4], [1, 4, 8])
    assert chosen(monkeypatch, LatencyPromise(ttft_s=1.5), 1, 2, 4)[0] == BY_BATCH[1]
    assert chosen(monkeypatch, LatencyPromise(tpot_s=0.09), 1, 2, 4)[0] == BY_BATCH[2]


def test_a_batch_that_does_not_fit_keeps_no_smaller_one_from_being_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    free = LatencyPromise()
    assert chosen(monkeypatch, free, 8, 1, 4, largest=1) == (BY_BATCH[1], [1, 4])
    assert chosen(monkeypatch, free, 8, 4, largest=1) == (Unserved("on_demand", "batch 4 is too large", 40), [4])
    assert chosen(monkeypatch, free, 8, 4, largest=1, memory="DRAM")[0] == Unserved(
        "on_demand", "batch 4 is too large", 0
    )


def test_a_promise_that_no_batch_keeps_is_told_with_the_best_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    for largest in (8, 2):
        missed, _ = chosen(monkeypatch, LatencyPromise(0.5, 1.0), 1, 2, 8, largest=largest)
        assert missed == Unserved(
            "on_demand", "on_demand misses the objective at every batch: 1 s to the first token and 0.09 s a token "
            "at best",
        )  # fmt: skip


def test_a_promise_is_kept_to_the_last_digit_and_none_promises_nothing() -> None:
    both = LatencyPromise(1.0, 0.1)
    assert [both.met(*times) for times in ((1.0, 0.1), (1.1, 0.1), (1.0, 0.11), (0.1, 0.01))] == [
        True, False, False, True
    ]  # fmt: skip
    assert LatencyPromise(ttft_s=1.0).met(1.0, 99.0)
    assert LatencyPromise(tpot_s=0.1).met(99.0, 0.1)
    assert LatencyPromise().met(99.0, 99.0)


OFF = TimeError(rows=2.0)


def expected(value: float, error: TimeError | None = None) -> Expected:
    return Expected(value, error or TimeError(), "claimed", "a test")


def judged(request: Expected, prompt: PhaseUse, token: PhaseUse) -> Any:
    """Of 2 s to the first token and .5 s for each of six more, two requests at once."""
    return SimpleNamespace(
        design=EngineDesign("gpu_only", "llama-cpp"), job=RequestLoad(9, 7, 2), ttft=expected(2.0),
        tpot=expected(0.5), request=request, throughput=expected(1.0), hit_rate=0.5, peak_hbm_bytes=77,
        prompt_use=prompt, token_use=token, planned=SimpleNamespace(n_at_once=4, n_under_way=2),
    )  # fmt: skip


def test_a_design_of_a_card_serves_as_its_phases_do() -> None:
    one = judged(expected(5.0, OFF), PhaseUse(0.75, 0.1, 1e9), PhaseUse(0.25, 0.6, 4e9))
    found = served_of(one)
    assert found == Served(
        design=str(one.design), batch=2, ttft_s=2.0, tpot_s=0.5, request_s=5.0,
        compute_share=pytest.approx((2 * 0.75 + 3 * 0.25) / 5), host_share=pytest.approx((2 * 0.1 + 3 * 0.6) / 5),
        link_bytes=pytest.approx((2e9 + 12e9) / 14), link_bytes_per_s=pytest.approx(14e9 / 5),
        hit_rate=0.5, peak_hbm_bytes=77, error=OFF, n_at_once=4, n_under_way=2,
    )  # fmt: skip
