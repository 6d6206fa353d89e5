from __future__ import annotations

import numpy as np

from pregate.ask.capturing.demands import demands, passes_that_ask
from pregate.named import load_model
from pregate.routing_traces import synthesize
from traces.phase import Phase


def test_passes_that_ask_are_those_of_which_demands_names_an_expert() -> None:
    for name in ("mixtral-8x7b", "switch-base-128", "qwen3-30b-a3b"):  # the last in more than one go
        model = load_model(name)
        trace = synthesize(model, 900, 6, 2, 1)
        counts = np.zeros(model.n_moe_layers * model.n_experts, np.int64)
        for keys in demands(model, trace):
            assert keys == sorted(set(keys))
            assert len({key // model.n_experts for key in keys}) == 1
            counts[keys] += 1
        by_hand = np.zeros((model.n_moe_layers, model.n_experts), np.int64)
        for step in trace.steps():
            for layer in range(model.n_moe_layers):
                named = np.unique(step.experts[:, layer])
                by_hand[layer, named[named >= 0]] += 1
        assert np.array_equal(passes_that_ask(model, trace), by_hand)
        assert np.array_equal(counts.reshape(by_hand.shape), by_hand)
        for phase in Phase:
            alone = passes_that_ask(model, trace.select(phase=phase))
            assert np.array_equal(passes_that_ask(model, trace, phase), alone)
