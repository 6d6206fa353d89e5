"""Passes that are copied are those that the loop would have written, digest for digest."""

from __future__ import annotations

import numpy as np
import pytest

import offload.decoding.decode_loop
from offload.decode import Decoded, decode
from offload.decoding.repeated_passes import RepeatedPasses
from offload.execution import EXECUTIONS
from offload.placing.placement import place
from offload.policies import policy_named
from pregate.api import synthesize
from pregate.named import load_model
from traces.model.architecture import ModelArchitecture

PLACEMENTS = (
    "", "@experts=cpu", "@experts=cpu:1-2", "@experts=cpu:keep=2", "@experts=cpu:keep=2:uniform", "@layers=cpu",
    "@layers=cpu:2@experts=cpu", "@weights=stream", "@weights=stream:1-2@kv=cpu", "@kv=cpu:share=0.3@experts=cpu",
    "@kv=stream:share=0.4@weights=stream", "@experts=cpu@host=beside",
)  # fmt: skip
ONE_KIND = ("olmoe-1b-7b", "deepseek-v2-lite")
MODELS = (*ONE_KIND, "gpt-oss-20b", "qwen3-next-80b-a3b")
N_STEPS = 12


def written(model: ModelArchitecture, text: str, execution: str, batch: int = 1) -> Decoded:
    policy = policy_named(f"gpu_only{text}")
    popularity = np.random.default_rng(1).random((model.n_moe_layers, model.n_experts))
    steps, run = synthesize(model, 5, N_STEPS, batch, 1).steps(), policy.placement.execution(EXECUTIONS[execution])
    return decode(
        model, steps, policy, run, n_buffers=model.n_experts, compiled=False,
        placed=place(model, policy.placement, popularity),
    )  # fmt: skip


def assert_same(one: Decoded, other: Decoded) -> None:
    assert one.schedule.digest == other.schedule.digest
    assert (one.n_lookups, one.n_hits) == (other.n_lookups, other.n_hits)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("execution", ["streams", "llama-cpp", "ktransformers", "vllm"])
def test_a_copied_pass_is_the_one_that_would_be_written(
    name: str, execution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, copied = load_model(name), []
    execution = execution.replace("-", "_")
    copy = RepeatedPasses._copy
    monkeypatch.setattr(RepeatedPasses, "_copy", lambda *given: (copied.append(1), copy(*given)))
    for text in PLACEMENTS:
        if "kv=" in text and name not in ONE_KIND:
            continue
        copied.clear()
        found = written(model, text, execution)
        n_copied = len(copied)
        with monkeypatch.context() as patch:
            patch.setattr(offload.decoding.decode_loop, "may_repeat", lambda *_: False)
            assert_same(found, written(model, text, execution))
        assert n_copied >= N_STEPS - 6 or "keep=" in text, text


def test_passes_that_differ_in_more_than_contexts_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model("olmoe-1b-7b")
    monkeypatch.setattr(RepeatedPasses, "_copy", lambda *_: pytest.fail("copied"))
    written(model, "@experts=cpu", "streams", batch=2)  # no two passes give experts the same tokens
    candidates = RepeatedPasses._candidates
    with monkeypatch.context() as patch:  # a context that nobody explains
        patch.setattr(RepeatedPasses, "_candidates", lambda self, mixing: [[] for _ in candidates(self, mixing)])
        written(model, "@experts=cpu", "streams")
