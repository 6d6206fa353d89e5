"""A trained model offloaded, its own gates deciding: the same tokens under every design, and its trace's schedule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from offload.ops import OpKind
from offload.policies import policy_named
from offload.policy import BlockView, Fetch
from traces.errors import InvalidInput

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from runtime.live.own_gates import OwnGates  # noqa: E402
from runtime.live.prompts import unrouted  # noqa: E402
from runtime.pregated.transformer import MoeTransformer  # noqa: E402
from runtime.run import OutputMismatch  # noqa: E402
from tests.generated_runs import N_NEW, PROMPTS, Generated, generated  # noqa: E402
from tests.pregated_models import seeded_model  # noqa: E402

CONVENTIONAL = [
    "gpu_only", "on_demand", "prefetch_all", "on_demand+lfu:5:warm", "lru", "lfru", "activation_aware",
    "guess/next_gate(2):more=1", "lru_next_gate", "guess/markov", "on_demand:cpu", "static_cpu", "oracle",
    "gpu_only@experts=cpu", "gpu_only@layers=cpu", "on_demand@layers=cpu:1-2", "lru@layers=cpu:3-3",
    "guess/next_gate(2)@layers=cpu:1-1",
]  # fmt: skip
AHEAD = {
    1: [
        "pregate",
        "pregate+lru:0.3",
        "on_demand",
        "oracle",
        "gpu_only",
        "pregate@layers=cpu:1-1",
        "gpu_only@layers=cpu:2",
    ],
    2: ["pregate(2)", "pregate", "prefetch_all", "pregate(2)@layers=cpu:1", "pregate(2)@layers=cpu:1-2"],
}
KEEPS, FILES = "ssd+lru:5", "ssd:filed+lfu:6:per_layer:admit=second"


def greedy(model: MoeTransformer, prompt: list[int]) -> list[int]:
    """The likeliest tokens by the model as it is trained, all of it computed anew for every token."""
    source = torch.tensor([prompt[:-1]]) if model.encoder is not None else None
    tokens = prompt[-1:] if model.encoder is not None else list(prompt)
    made = []
    with torch.no_grad():
        for _ in range(N_NEW):
            logits, _ = model(torch.tensor([tokens]), source)
            made.append(int(logits[0, -1].argmax()))
            tokens.append(made[-1])
    return made


@pytest.mark.parametrize("policy", CONVENTIONAL)
def test_conventional_gates_make_the_same_tokens_under_every_design(policy: str) -> None:
    one = generated(3)
    one.agrees(one.asked(policy))


@pytest.mark.parametrize(("lookahead", "policy"), [(n, policy) for n, policies in AHEAD.items() for policy in policies])
def test_pregates_make_the_same_tokens_under_every_design(lookahead: int, policy: str) -> None:
    one = generated(3, lookahead)
    one.agrees(one.asked(policy))


@pytest.mark.parametrize(
    ("policy", "encoded", "top_k", "batch"),
    [("pregate", True, 1, 1), ("guess/next_gate", True, 1, 1), ("on_demand", True, 2, 3), ("prefetch_all", True, 2, 3),
     ("pregate", False, 2, 2), ("prefetch_all", False, 2, 2), ("guess/next_gate", True, 2, 3)],
)  # fmt: skip
def test_so_do_encoders_two_experts_and_batches(policy: str, encoded: bool, top_k: int, batch: int) -> None:
    one = generated(4, 1, encoded=encoded, top_k=top_k, batch=batch)
    one.agrees(one.asked(policy))


@pytest.mark.parametrize("policy", ["pregate", "on_demand"])
def test_experts_on_storage_make_the_same_tokens(policy: str, tmp_path: Path) -> None:
    one = generated(3, 1)
    found = one.agrees(one.asked(policy, "ssd"), tmp_path)
    assert np.any(found.schedule.kind == OpKind.DISK_READ)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("policy", "tier"),
    [("pregate", KEEPS), ("pregate", FILES), ("on_demand:cpu", FILES), ("guess/next_gate", KEEPS),
     ("prefetch_all:dram=2", FILES), ("guess/markov:dram=2", KEEPS)],
)  # fmt: skip
def test_host_memory_above_storage_keeps_what_it_keeps_in_a_replay(policy: str, tier: str, tmp_path: Path) -> None:
    one = generated(3, 1)
    found = one.agrees(one.asked(policy, tier), tmp_path)
    kinds = found.schedule.kind
    n_used = np.count_nonzero(np.isin(kinds, [OpKind.FETCH, OpKind.CPU_EXPERT]))
    n_read = np.count_nonzero(kinds == OpKind.DISK_READ)
    assert n_read > 0
    assert np.count_nonzero(kinds == OpKind.FILE) == (n_read if "filed" in tier else 0)
    if "dram" not in policy:  # who reads ahead may read what nobody asks for
        assert n_read < n_used
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("lookahead", "top_k", "encoded"),
    [(0, 1, False), (0, 2, True), (1, 1, True), (1, 2, False), (3, 1, True), (3, 2, False)],
)
def test_the_runtime_makes_the_tokens_of_the_model_as_it_was_trained(lookahead: int, top_k: int, encoded: bool) -> None:
    model = seeded_model(5, lookahead, encoded=encoded, top_k=top_k)
    found = Generated(model, batch=3).resident
    assert found.tokens.tolist() == [greedy(model, prompt.tolist()) for prompt in PROMPTS]


@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize("lookahead", [0, 1, 2])
def test_the_runtime_computes_the_states_and_gates_of_the_model(lookahead: int, encoded: bool) -> None:
    """The same weights on the same tokens: choices equal, gate weights and logits to 1e-5 of fp32."""
    model = seeded_model(6, lookahead, encoded=encoded, top_k=2)
    found = Generated(model, batch=1).resident
    prompt, made = PROMPTS[0].tolist(), found.tokens[0].tolist()
    source = torch.tensor([prompt[:-1]]) if encoded else None
    tokens = [*(prompt[-1:] if encoded else prompt), *made[:-1]]
    with torch.no_grad():
        logits, routing = model(torch.tensor([tokens]), source)
    trace, n_encoder = found.trace, model.architecture.n_encoder_moe_layers
    mine = (trace.sequence == 0) & ((trace.phase == 1) if encoded else True)
    states = torch.from_numpy(found.measured.states[mine])
    assert torch.allclose(states @ model.embedding.T, logits[0], atol=1e-4, rtol=1e-5)
    assert trace.gate_weights is not None
    for block, choice in enumerate(routing.choices):
        assert trace.experts[mine, n_encoder + block].tolist() == choice.experts.tolist()
        assert np.allclose(trace.gate_weights[mine, n_encoder + block], choice.weights.numpy(), atol=1e-5)


def test_guesses_are_the_later_gates_own_and_some_are_wrong() -> None:
    one = generated(3)
    found = one.agrees(one.asked("guess/next_gate"))
    said = {(step, layer) for step, layer in found.guesses}
    steps = list(found.trace.steps())
    assert said == {(step.i_step, layer) for step in steps for layer in range(1, 4)}
    right = [bool(np.isin(steps[i].experts[:, layer], guess).all()) for (i, layer), guess in found.guesses.items()]
    assert 0 < sum(right) < len(right)
    plain = one.agrees(one.asked("on_demand"))
    fetched = [int((run.schedule.kind == OpKind.FETCH).sum()) for run in (plain, found)]
    assert fetched[0] < fetched[1]  # what was guessed wrong crossed the link for nothing


def test_a_policy_that_needs_gates_further_ahead_than_they_sit_is_refused() -> None:
    one = generated(3)
    with pytest.raises(InvalidInput, match=r"policy pregate fetches what gates select 1 blocks ahead, .* look 0 ahead"):
        one.run(one.asked("pregate"))


@pytest.mark.parametrize("design", ["gpu_only@kv=cpu", "on_demand@weights=stream"])
def test_what_streams_or_attends_on_the_host_is_refused(design: str) -> None:
    one = generated(3)
    with pytest.raises(InvalidInput, match="streams no weights, keys or values"):
        one.run(one.asked(design))


def test_layers_on_the_host_that_read_an_encoder_are_refused() -> None:
    one = generated(3, encoded=True)
    with pytest.raises(InvalidInput, match="whose outputs no op hands to layers on the host"):
        one.run(one.asked("gpu_only@layers=cpu"))


def early(view: BlockView) -> list[Fetch]:
    """What `pregate` fetches, by a policy that nobody knows decides by gates alone."""
    ahead = 1 if view.block == 0 else view.block + 1
    experts = view.revealed(ahead) if ahead < view.n_blocks else None
    return [] if experts is None else [Fetch(ahead, experts)]


def test_a_policy_of_ones_own_sees_what_gates_say_as_it_goes() -> None:
    one = generated(3, 1)
    one.agrees(one.asked(replace(policy_named("pregate"), name="early", prefetch=early)))


def test_other_experts_than_the_gates_chose_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    one = generated(3)
    asked = one.asked("on_demand")
    read = OwnGates.read
    monkeypatch.setattr(OwnGates, "read", lambda self, layer: (read(self, layer) + (layer == 2)) % 4)
    with pytest.raises(OutputMismatch, match="MoE layer 2: other experts were executed than the gate chose"):
        one.run(asked)


@pytest.mark.parametrize(
    ("prompts", "n_new", "told"),
    [([], 4, "0 prompts"), ([np.array([], dtype=np.int64)], 4, "prompt 0 has 0 tokens"),
     ([np.array([288])], 4, "has token 288"), ([np.array([3])], 1, "at least 1, 1 and 2")],
)  # fmt: skip
def test_prompts_that_nothing_can_go_on_after_are_refused(
    prompts: list[np.ndarray[tuple[int], np.dtype[np.int64]]], n_new: int, told: str
) -> None:
    with pytest.raises(InvalidInput, match=told):
        unrouted(seeded_model(0).architecture, prompts, n_new)
