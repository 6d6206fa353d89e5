from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pregate.measured import trace_cache
from pregate.measured.trace_cache import KeptTraces
from pregate.named import load_model
from pregate.routing_traces import synthesize


def test_kept_traces_are_those_of_synthesize(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    make: Callable[..., Any] = trace_cache.routed_by_dials

    def counted(*asked: Any, **named: Any) -> Any:
        begun.append(len(named["begun"]))
        return make(*asked, **named)

    monkeypatch.setattr(trace_cache, "routed_by_dials", counted)
    traces = KeptTraces(3, 1 << 24)
    few, many, short, long = (30, 4, 5), (30, 4, 9), (50, 2, 1), (70, 2, 1)
    asked = [("mixtral-8x7b", few), ("mixtral-8x7b", many), ("qwen3-30b-a3b", short), ("qwen3-30b-a3b", long)]
    for name, counts in [*asked, *asked, ("switch-base-128", few), ("switch-base-128", many)]:
        found, wanted = traces.of(load_model(name), *counts), synthesize(load_model(name), *counts, 3)
        assert found.digest == wanted.digest
        assert found.provenance == wanted.provenance
    assert begun == [0, 1, 0, 1, 0, 1]


def test_a_prompt_of_random_tokens_asks_for_nearly_all_experts_and_a_text_does_not() -> None:
    traces, model = KeptTraces(3, 1 << 24), load_model("qwen3-235b-a22b")
    text, random_tokens = traces.of(model, 512, 2, 1), traces.of(model, 512, 2, 1, random_tokens=True)
    n_woken = [np.mean([len(np.unique(one.experts[:512, i])) for i in range(20)]) for one in (text, random_tokens)]
    assert n_woken[0] < 100
    assert n_woken[1] > 127
    assert traces.of(model, 512, 2, 1).digest == text.digest
