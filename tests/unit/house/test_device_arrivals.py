"""`benchmarks.device_arrivals`: what it writes is of the passes that ran, and of the requests that it was given."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import small_fits
from tests.small_models import MODELS

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from benchmarks import device_arrivals  # noqa: E402


def test_passes_that_take_twice_as_long_as_predicted_are_served_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a link of the predicted speed everything is said twice as fast as it runs, at every rate."""
    fit, table, output = tmp_path / "fit.yaml", tmp_path / "arrivals.csv", tmp_path / "arrivals.json"
    fit.write_text(small_fits.fit().to_yaml(), encoding="utf-8")
    rows = "".join(f"{i * i % 7 + i},{4 + i % 3},{3 + i % 2}\n" for i in range(20))
    table.write_text(f"arrival_s,input_tokens,output_tokens\n{rows}99,5000,3\n", encoding="utf-8")
    predicted: list[Any] = []
    real = device_arrivals.pass_times

    def noted(*words: Any) -> Any:
        predicted.append(real(*words))
        return predicted[-1]

    def doubled(passes: Any, found: Any, policy: str, device: Any) -> Any:
        twice = [dataclasses.replace(one, seconds=2 * one.seconds) for one in found.prompts]
        tokens = tuple(
            tuple(dataclasses.replace(one, seconds=2 * one.seconds) for one in pair) for pair in found.tokens
        )
        return dataclasses.replace(found, prompts=tuple(twice), tokens=tokens)

    monkeypatch.setattr(device_arrivals.pregate, "load_model", lambda _: MODELS["encoder-decoder"])
    monkeypatch.setattr(device_arrivals, "pass_times", noted)
    monkeypatch.setattr(device_arrivals, "run_passes", doubled)
    device_arrivals.main("cpu", str(fit), output, table)
    found = json.loads(output.read_text())
    assert found["n_requests"] == 20, "a prompt that is no single pass is left out"
    assert [one.design for one in predicted] == ["on_demand", "pregate"]
    for one in found["passes"]["pregate"]["tokens"]:
        assert one["measured_s"] == 2 * one["predicted_s"]
    rates = [row["requests_per_s"] for row in found["rates"]]
    assert rates == pytest.approx([rates[0], 2 * rates[0], 3 * rates[0]])
    for row in found["rates"]:
        mine, theirs = row["pregate"]["measured"], row["pregate"]["predicted"]
        assert mine["tpot_p50_s"] >= 1.9 * theirs["tpot_p50_s"]
        assert mine["ttft_p99_s"] >= 1.9 * theirs["ttft_p50_s"]


def test_a_pass_is_timed_by_what_the_runtime_measured_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    run = SimpleNamespace(ttft_s=0.5, tpot_s=0.25)
    monkeypatch.setattr(
        device_arrivals.pregate, "run", lambda model, trace, policy, **rest: asked.append(policy) or run
    )
    fit = small_fits.platform()
    requests = device_arrivals._asked(None, 20, small=True)
    passes = device_arrivals.pass_traces(MODELS["encoder-decoder"], requests, 1, 2048)
    predicted = device_arrivals.pass_times(passes, fit, device_arrivals.policy_named("pregate"))
    found = device_arrivals.run_passes(passes, predicted, "pregate", device_arrivals._device("cpu", fit))
    assert {one.seconds for one in found.prompts} == {0.5}
    assert {one.seconds for pair in found.tokens for one in pair} == {0.25}
    assert asked == ["pregate"] * (len(found.prompts) + 2 * len(found.tokens))
