"""What the options of `pregate plan` mean: the model, the machines, the numbers that replace theirs, the requests."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from pregate.card.job import RequestLoad
from pregate.cli.card_question import CardQuestion
from pregate.named import load_model
from pregate.routing_traces import load_trace
from tests.recorded_files import completion
from tests.small_models import MODELS, routing
from traces.errors import InvalidInput
from traces.statistics.popularity import popularity_of
from traces.storage import save_trace

MIXTRAL = "mixtral-8x7b"
MODEL = load_model(MIXTRAL)


def test_only_a_model_need_be_named() -> None:
    asked = CardQuestion(MIXTRAL)
    assert asked.architecture() == MODEL
    assert (asked.machines(), asked.overrides(), asked.stacks()) == ([], {}, None)
    assert asked.requests(MODEL) == {
        "job": RequestLoad(512, 256, 1), "trace": None, "objective": "request", "stacks": None, "popularity": None,
        "seed": 0, "policies": [],
    }  # fmt: skip


def test_a_model_is_in_the_formats_and_of_the_choices_asked_for() -> None:
    assert CardQuestion(MIXTRAL, dtype="int8", top_k=1).architecture() == load_model(MIXTRAL, dtype="int8", top_k=1)
    assert CardQuestion(MIXTRAL, formats="experts=fp8").architecture() == MODEL.with_formats({"experts": "fp8"})


def test_options_of_their_own_are_numbers_of_the_machine_as_set_has_them() -> None:
    asked = CardQuestion(
        MIXTRAL, host="epyc-7763", link="pcie4-x16", hbm="24GB", dram="96GB", sets=["link.latency_s=1e-5"]
    )
    assert asked.overrides() == {
        "link.latency_s": "1e-5", "host": "epyc-7763", "link": "pcie4-x16", "hbm_bytes": "24GB",
        "host.dram_bytes": "96GB",
    }  # fmt: skip
    assert CardQuestion(MIXTRAL, dram="96GB", sets=["host.dram_bytes=96GB"]).overrides() == {"host.dram_bytes": "96GB"}
    with pytest.raises(InvalidInput, match=r"--set host\.dram_bytes is given twice: give it once"):
        CardQuestion(MIXTRAL, dram="96GB", sets=["host.dram_bytes=64GB"]).overrides()


def test_several_machines_have_a_cost_and_one_has_what_runs_now() -> None:
    assert CardQuestion(MIXTRAL, "t4, l4 ", basis="rent", assume=["usd_per_kwh=0.2"]).machines() == ["t4", "l4"]
    assert CardQuestion(MIXTRAL, "t4", now="llama-cpp/gpu_only").machines() == ["t4"]
    assert CardQuestion(MIXTRAL, now="llama-cpp/gpu_only").machines() == []
    with pytest.raises(InvalidInput, match=r"^--hardware"):
        CardQuestion(MIXTRAL, "t4,t4").machines()
    with pytest.raises(InvalidInput, match="--now is what runs on one machine"):
        CardQuestion(MIXTRAL, "t4,l4", now="llama-cpp/gpu_only").machines()
    for of_several in (CardQuestion(MIXTRAL, "t4", basis="own"), CardQuestion(MIXTRAL, assume=["usd_per_kwh=0.2"])):
        with pytest.raises(InvalidInput, match="--basis and --assume are of several machines"):
            of_several.machines()


def test_requests_are_as_long_and_as_many_as_is_said() -> None:
    asked = CardQuestion(
        MIXTRAL, stack="llama-cpp, vllm", objective="tpot", policies="lru, pregate", input_tokens=7, output_tokens=9,
        batch=3, seed=5,
    )  # fmt: skip
    assert asked.requests(MODEL) == {
        "job": RequestLoad(7, 9, 3), "trace": None, "objective": "tpot", "stacks": ["llama-cpp", "vllm"],
        "popularity": None, "seed": 5, "policies": ["lru", "pregate"],
    }  # fmt: skip
    with pytest.raises(InvalidInput, match=r"^--policies"):
        CardQuestion(MIXTRAL, policies="lru,lru").requests(MODEL)


def test_a_recording_takes_the_place_of_requests_in_batches_as_asked_for(tmp_path: Path) -> None:
    model = MODELS["shared experts, three matrices"]
    recorded = tmp_path / "trace.safetensors"
    save_trace(routing(model, batch=2), recorded)
    asked = CardQuestion(MIXTRAL, trace=recorded, batch=1).requests(model)
    assert asked["job"] is None
    np.testing.assert_array_equal(asked["trace"].step, load_trace(recorded, batch=1, model=model).step)
    assert asked["trace"].n_steps > load_trace(recorded, model=model).n_steps


def test_a_recording_is_read_with_what_the_model_says_and_told_of_where_it_is_too_long(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Five tokens without the number of experts: the last pass makes a sixth."""
    (tmp_path / "answer.json").write_text(json.dumps(completion()))
    asked, read = CardQuestion(MIXTRAL, trace=tmp_path / "answer.json"), {}
    for longest in (6, 5):
        model = dataclasses.replace(MODEL, trained_context=longest)
        read[longest] = asked.requests(model)["trace"].n_experts, capsys.readouterr().err
    assert read[6] == (MODEL.n_experts, "")
    assert read[5][1].startswith("note: a sequence of 6 tokens is beyond the 5")


def test_popularity_is_counted_in_a_file_of_the_model(tmp_path: Path) -> None:
    model = MODELS["shared experts, three matrices"]
    trace = routing(model)
    save_trace(trace, tmp_path / "trace.safetensors")
    asked = CardQuestion(MIXTRAL, popularity=tmp_path / "trace.safetensors")
    np.testing.assert_array_equal(asked.requests(model)["popularity"].counts, popularity_of(trace).counts)
    with pytest.raises(InvalidInput, match=MIXTRAL):
        asked.requests(MODEL)


def test_a_request_beyond_the_context_of_a_model_is_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    n_tokens = MODEL.trained_context
    CardQuestion(MIXTRAL, input_tokens=n_tokens - 4, output_tokens=4).requests(MODEL)
    assert capsys.readouterr().err == ""
    CardQuestion(MIXTRAL, input_tokens=n_tokens - 4, output_tokens=5).requests(MODEL)
    assert f"a sequence of {n_tokens + 1:,} tokens is beyond the {n_tokens:,}" in capsys.readouterr().err
