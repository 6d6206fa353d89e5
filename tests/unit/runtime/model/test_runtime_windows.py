"""Layers that see a window: a token finds what a full cache with a band would give it, however its pass is cut."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from tests.grids import one_in
from tests.small_models import decoder_only
from tests.unit.runtime.small_schedules import schedule_of
from traces.errors import InvalidInput
from traces.model.architecture import Attention, ModelArchitecture, load_architecture
from traces.phase import Phase
from traces.routing import Provenance, RoutingTrace

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from runtime import loading  # noqa: E402
from runtime.backends.cpu import CpuBackend  # noqa: E402
from runtime.model import sliding_windows  # noqa: E402
from runtime.model.attention import Block, KvCache  # noqa: E402
from runtime.model.bound_pass import BoundPass  # noqa: E402
from runtime.model.shapes import static_shapes  # noqa: E402
from runtime.model.sliding_windows import bind_window, ring_tokens  # noqa: E402
from runtime.model.window_attention import attend_several  # noqa: E402
from runtime.pools import pool_bytes  # noqa: E402
from runtime.programs.passes import plan_passes  # noqa: E402
from runtime.run import execute  # noqa: E402

KINDS = {
    "grouped": Attention("gqa", n_heads=4, n_kv_heads=2, head_dim=8),
    "sinks": Attention("gqa", n_heads=4, n_kv_heads=2, head_dim=8, sinks=True),
    "latent": Attention(
        "mla", n_heads=2, n_kv_heads=2, head_dim=12, kv_lora_rank=8, qk_nope_dim=8, qk_rope_dim=4, v_head_dim=8
    ),
}
N_TOKENS = 9
CUTS = {
    "one by one": [[1] * N_TOKENS],
    "a prompt": [[7, 1, 1]],
    "chunks": [[4, 3, 1, 1]],
    "short, long": [[2, 6, 1]],
    "two, cut differently": [[7, 1, 1], [1, 1, 5, 1, 1]],
    "two alike": [[3, 4, 1, 1], [3, 4, 1, 1]],
}
"""By sequence, tokens a step."""


def windowed(kind: str, window: int) -> ModelArchitecture:
    """The second and fourth layer in a window, the others not."""
    model, plain = decoder_only(), KINDS[kind]
    mixers = (dataclasses.replace(plain, window=window),) if window else ()
    decoder = dataclasses.replace(
        model.decoder, attention=plain, mixers=mixers, mixer_of=(0, 1, 0, 1) if window else ()
    )
    return dataclasses.replace(model, decoder=decoder)


def cut(model: ModelArchitecture, cuts: Sequence[Sequence[int]]) -> RoutingTrace:
    """Sequences whose tokens run so many a step; experts depend on sequence and position alone."""
    rows = []
    for sequence, sizes in enumerate(cuts):
        starts = np.cumsum([0, *sizes])
        for step, (start, stop) in enumerate(pairwise(starts)):
            rows += [(step, sequence, position) for position in range(start, stop)]
    step, sequence, position = (np.array(column) for column in zip(*sorted(rows), strict=True))
    first = (position * 7 + sequence * 3) % model.n_experts
    chosen = np.stack([np.sort([(first + layer) % 6, (first + layer + 2) % 6], axis=0) for layer in range(3)])
    experts = np.moveaxis(chosen, 2, 0).astype(np.int16)
    phase = np.full(len(rows), Phase.DECODE)
    return RoutingTrace(experts, sequence, position, phase, step, model.n_experts, Provenance("m", "t"))


def states_of(model: ModelArchitecture, trace: RoutingTrace, monkeypatch: pytest.MonkeyPatch) -> dict:
    """Final hidden states by sequence and position, of tokens whose ids depend on these two alone."""
    bind = loading.bind_pass
    monkeypatch.setattr(loading, "bind_pass", lambda *args: _alike(bind(*args)))
    run = execute(CpuBackend(), model, trace.steps(), schedule_of(model, trace, "on_demand").schedule)
    monkeypatch.undo()
    passes = plan_passes(model, trace.steps()).passes
    tokens = [
        (segment.sequence, segment.position + i)
        for one in passes
        for segment in one.segments
        for i in range(segment.n_tokens)
    ]
    return dict(zip(tokens, run.states, strict=True))


def _alike(bound: BoundPass) -> BoundPass:
    ids = [
        (5 * (segment.position + i) + 11 * segment.sequence) % 64
        for segment in bound.one.segments
        for i in range(segment.n_tokens)
    ]
    return dataclasses.replace(bound, ids=torch.tensor(ids))


@pytest.mark.parametrize(("kind", "window"), one_in(2, KINDS, [1, 3, 20]))
def test_a_token_is_as_it_is_alone_however_passes_are_cut(
    kind: str, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = windowed(kind, window)
    alone = states_of(model, cut(model, [CUTS["one by one"][0]] * 2), monkeypatch)
    for name, cuts in CUTS.items():
        for token, state in states_of(model, cut(model, cuts), monkeypatch).items():
            assert np.abs(state - alone[token]).max() < 2e-5, (name, token)


@pytest.mark.parametrize("kind", KINDS)
def test_a_window_longer_than_the_run_hides_nothing_and_a_shorter_one_does(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts = CUTS["two, cut differently"]
    full = states_of(windowed(kind, 0), cut(windowed(kind, 0), cuts), monkeypatch)
    wide = states_of(windowed(kind, N_TOKENS), cut(windowed(kind, N_TOKENS), cuts), monkeypatch)
    narrow = states_of(windowed(kind, 3), cut(windowed(kind, 3), cuts), monkeypatch)
    for token, state in full.items():
        assert np.abs(wide[token] - state).max() < 2e-5
        assert (np.abs(narrow[token] - state).max() > 1e-3) == (token[1] >= 3)


def test_queries_in_groups_find_what_a_band_of_scores_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt of 11 tokens after 6 in two rows, window 5, three queries at once, against scores of all of them."""
    monkeypatch.setattr(sliding_windows, "_QUERIES_AT_ONCE", 3)
    attention = dataclasses.replace(KINDS["grouped"], window=5)
    model = windowed("grouped", 5)
    torch.manual_seed(0)
    prefix = "decoder.1.self."
    weights = {
        name.removeprefix(prefix): torch.randn(shape) / math.sqrt(shape[-1])
        for name, shape in static_shapes(model).items()
        if name.startswith(prefix) and not name.startswith(f"{prefix}norm")
    }
    block = Block(attention, weights)
    x = torch.randn(2, 17, 32)
    query, (keys, values) = block.queries(x.view(-1, 32)), block.keys_values(x.view(-1, 32))
    query, keys, values = query.view(2, 17, 4, 8), keys.view(2, 17, 16), values.view(2, 17, 16)
    ring = KvCache(torch.zeros(2, 5, 16), torch.zeros(2, 5, 16))
    for position in range(1, 6):
        ring.keys[:, position % 5], ring.values[:, position % 5] = keys[:, position], values[:, position]
    trace = cut(model, [[6, 11], [6, 11]])
    seen = bind_window(CpuBackend(), plan_passes(model, trace.steps()).passes[1], 5, 17, torch.float32)
    (several,) = seen.several
    assert [group.stop - group.start for group in several.groups] == [3, 3, 3, 2]
    found = torch.zeros(22, 32)
    own = (part[:, 6:].reshape(22, *part.shape[2:]) for part in (query, keys, values))
    attend_several(block, ring, several, *own, found)
    wanted = _by_bands(block, query, keys, values)[:, 6:].reshape(22, 32)
    assert torch.allclose(found, wanted, atol=1e-5)
    assert seen.single_rows is None
    assert sorted(seen.kept_places.tolist()) == list(range(10))


def _by_bands(block: Block, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """(rows, n, d_model): softmax over the last five keys of each query, head by head."""
    out = torch.zeros(*query.shape)
    for row in range(2):
        for i in range(query.shape[1]):
            for head in range(4):
                here = slice(head // 2 * 8, head // 2 * 8 + 8)
                seen = slice(max(0, i - 4), i + 1)
                shares = (keys[row, seen, here] @ query[row, i, head] / math.sqrt(8)).softmax(0)
                out[row, i, head] = shares @ values[row, seen, here]
    return torch.nn.functional.linear(out.flatten(2), block._weights["output"])


def test_a_layer_with_a_window_keeps_no_more_than_that() -> None:
    model = windowed("grouped", 3)
    trace = cut(model, CUTS["a prompt"])
    passes = plan_passes(model, trace.steps())
    full = pool_bytes(windowed("grouped", 0), passes, 1)["KV cache"]
    assert ring_tokens(3, N_TOKENS) == 3
    assert ring_tokens(20, N_TOKENS) == N_TOKENS
    assert pool_bytes(model, passes, 1)["KV cache"] * 4 * N_TOKENS == full * (2 * N_TOKENS + 2 * 3)


def test_a_published_model_with_windows_is_executed_and_one_with_other_mixers_is_refused() -> None:
    assert load_architecture("gpt-oss-20b").is_executable
    hybrid = load_architecture("qwen3.6-35b-a3b")
    assert not hybrid.is_executable
    model = windowed("grouped", 3)
    gated = dataclasses.replace(model.decoder.attention, output_gate=True)
    model = dataclasses.replace(model, decoder=dataclasses.replace(model.decoder, attention=gated))
    trace = cut(model, CUTS["a prompt"])
    with pytest.raises(InvalidInput, match="gates or an indexer in it: the runtime executes plain attention"):
        execute(CpuBackend(), model, trace.steps(), schedule_of(model, trace, "on_demand").schedule)
