"""The line for sequences beyond the context of the maker's configuration: said once, on standard error, and no more."""

from __future__ import annotations

import pytest

from tests.command_line import Run
from tests.gguf_files import moe_tensors, write
from traces.model.architecture import load_architecture
from traces.model.same_models import SAME_AS, TRAINED_CONTEXTS

SHORT = ("--input-tokens", "8", "--output-tokens", "4")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write(tmp_path_factory.mktemp("file") / "model.gguf", moe_tensors(), {"context_length": 16}))


@pytest.mark.parametrize(
    "words",
    [
        ("compare", "--policies", "gpu_only"),
        ("simulate", "--policy", "gpu_only"),
        ("plan", "--policies", "gpu_only", "--stack", "llama-cpp"),
        ("arrivals", "--policies", "gpu_only", "--requests", "4"),
        ("cost", "--policies", "gpu_only", "--batches", "1"),
    ],
)
def test_a_sequence_beyond_it_is_told_in_one_line_and_answered(run: Run, model: str, words: tuple[str, ...]) -> None:
    command, *more = words
    asked = [command, model, "--hardware", "rtx-4090", *more]
    status, out, err = run(*asked, "--input-tokens", "14", "--output-tokens", "4")
    assert status == 0, err
    assert err.count("note: a sequence of 18 tokens is beyond the 16 that the configuration of model goes to") == 1
    assert "note:" not in out
    assert "beyond the" not in run(*asked, *SHORT)[2]


def test_files_and_configurations_say_it_and_a_model_of_the_same_shapes_may_go_further(model: str) -> None:
    assert load_architecture(model).trained_context == 16
    assert load_architecture("qwen3-30b-a3b").trained_context == 40_960
    assert load_architecture("qwen3-30b-a3b-instruct-2507").trained_context == 0
    assert load_architecture("qwen3-vl-30b-a3b-instruct").trained_context == 262_144
    assert load_architecture("glm-5.2").trained_context == 1_048_576
    assert load_architecture("minimax-m2.7").trained_context != load_architecture("minimax-m2.5").trained_context


def test_contexts_are_of_models_that_ship() -> None:
    assert set(TRAINED_CONTEXTS) <= set(SAME_AS)
