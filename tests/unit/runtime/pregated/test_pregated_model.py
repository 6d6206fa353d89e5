"""The model whose gates look ahead: what they read, by weights set by hand; that moving them by nothing is nothing."""

from __future__ import annotations

import pytest
import torch

from offload.policies import policy_named
from runtime.pregated.gate_positions import gates_at
from runtime.pregated.predictors import Predictors, installed
from runtime.pregated.rewire import pregate_from
from runtime.pregated.training.experiment_plan import SHORT
from runtime.pregated.transformer import ExpertLayer, GateChoice, MoeTransformer, choose_experts
from tests.pregated_models import architecture, model_by_hand, seeded_model
from traces.errors import InvalidInput
from traces.model.architecture import load_architecture


@pytest.mark.parametrize(
    ("lookahead", "wanted"),
    [
        (0, [[0], [1], [2], [3], [4]]),
        (1, [[0, 1], [2], [3], [4], []]),
        (2, [[0, 1, 2], [3], [4], [], []]),
        (3, [[0, 1, 2, 3], [4], [], [], []]),
        (4, [[0, 1, 2, 3, 4], [], [], [], []]),
    ],
)
def test_the_first_block_has_its_gate_and_pregates_the_last_have_none(lookahead: int, wanted: list[list[int]]) -> None:
    assert [list(gates_at(block, lookahead, 5)) for block in range(5)] == wanted


@pytest.mark.parametrize("lookahead", [1, 2, 3])
def test_gates_sit_where_the_pregate_policy_fetches_from(lookahead: int) -> None:
    class View:
        n_blocks = 6

        def __init__(self, block: int) -> None:
            self.block = block

        def revealed(self, block: int) -> tuple[int, ...]:
            return (block,)

    prefetch = policy_named(f"pregate({lookahead})").prefetch
    for block in range(6):
        fetched = [fetch.block for fetch in prefetch(View(block))]  # type: ignore[arg-type]
        assert fetched == [later for later in gates_at(block, lookahead, 6) if later != 0]


def test_a_pregate_reads_the_input_of_the_block_before_by_hand() -> None:
    """Block 0 turns a token's state from axis 0 to axis 1; a gate names the expert of the axis that it sees."""
    here, ahead = model_by_hand(lookahead=0), model_by_hand(lookahead=1)
    token = torch.tensor([[0]])
    _, conventional = here(token)
    _, pregated = ahead(token)
    assert [int(choice.experts) for choice in conventional.choices] == [0, 1]
    assert [int(choice.experts) for choice in pregated.choices] == [0, 0]
    assert torch.equal(pregated.choices[1].logits, pregated.choices[0].logits)  # same gate, same input
    assert torch.equal(conventional.inputs[1], pregated.inputs[1])  # what block 1 runs on is the same
    weight = torch.softmax(pregated.choices[0].logits, 1)[0, 0]
    assert torch.equal(pregated.choices[1].weights, weight.view(1, 1))


def test_moving_gates_by_nothing_is_the_same_model() -> None:
    model = seeded_model(0)
    same = pregate_from(model, 0)
    tokens = torch.arange(12).view(2, 6)
    assert torch.equal(model(tokens)[0], same(tokens)[0])
    with torch.no_grad():
        same.embedding.add_(1.0)
    assert not torch.equal(model.embedding, same.embedding)  # a copy, not a view


@pytest.mark.parametrize("lookahead", [1, 2, 3])
def test_moved_gates_keep_their_weights_and_read_an_earlier_input(lookahead: int) -> None:
    model = seeded_model(1)
    moved = pregate_from(model, lookahead)
    for before, after in zip(model.decoder.gates, moved.decoder.gates, strict=True):
        assert torch.equal(before, after)
    _, routing = moved(torch.arange(12).view(2, 6))
    for block, choice in enumerate(routing.choices):
        read = routing.inputs[max(block - lookahead, 0)]
        assert torch.allclose(choice.logits, read @ moved.decoder.gates[block].t(), atol=1e-6)


def test_a_lookahead_past_the_last_block_is_refused() -> None:
    with pytest.raises(InvalidInput, match="lookahead = 4 of 4 MoE blocks: from 0"):
        pregate_from(seeded_model(0), 4)


@pytest.mark.parametrize("lookahead", [0, 1, 3])
@pytest.mark.parametrize("encoded", [False, True])
def test_every_weight_learns_wherever_gates_sit(lookahead: int, encoded: bool) -> None:
    model = MoeTransformer(architecture(encoded=encoded), lookahead)
    source = torch.randint(0, 32, (8, 6), generator=torch.Generator().manual_seed(1)) if encoded else None
    tokens = torch.randint(0, 32, (8, 9), generator=torch.Generator().manual_seed(0))
    logits, _ = model(tokens, source)
    logits.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        if "gates" in name:
            assert parameter.grad.abs().max() > 0, name


def test_gradients_of_experts_are_those_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(3)
    layer = ExpertLayer(3, 4, 5).double()
    x = torch.randn(6, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    logits = torch.randn(6, 3, dtype=torch.float64, generator=generator, requires_grad=True)

    def of(x: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return layer(x, choose_experts(logits, 2))  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(of, (x, logits))


@pytest.mark.parametrize("top_k", [1, 2])
def test_experts_are_what_a_loop_over_tokens_makes(top_k: int) -> None:
    generator = torch.Generator().manual_seed(4)
    layer = ExpertLayer(4, 8, 6)
    x, logits = torch.randn(7, 8, generator=generator), torch.randn(7, 4, generator=generator)
    choice = choose_experts(logits, top_k)
    wanted = torch.stack(
        [
            sum(
                weight * (layer.down[e] @ torch.relu(layer.up[e] @ row))
                for e, weight in zip(experts.tolist(), weights, strict=True)
            )
            for row, experts, weights in zip(x, choice.experts, choice.weights, strict=True)
        ]
    )
    assert torch.allclose(layer(x, choice), wanted, atol=1e-5)


def test_one_expert_weighs_its_softmax_several_share_theirs() -> None:
    logits = torch.log(torch.tensor([[1.0, 2.0, 5.0]]))
    one, two = choose_experts(logits, 1), choose_experts(logits, 2)
    assert one.experts.tolist() == [[2]]
    assert one.weights.tolist() == [[pytest.approx(5 / 8)]]
    assert two.experts.tolist() == [[1, 2]]
    assert two.weights.tolist() == [[pytest.approx(2 / 7), pytest.approx(5 / 7)]]
    assert isinstance(one, GateChoice)


def test_a_decoder_sees_nothing_of_what_comes_later() -> None:
    model = seeded_model(5)
    tokens = torch.arange(10).view(1, 10)
    changed = tokens.clone()
    changed[0, 6:] = 31
    assert torch.allclose(model(tokens)[0][:, :6], model(changed)[0][:, :6], atol=1e-5)
    assert not torch.allclose(model(tokens)[0][:, 6:], model(changed)[0][:, 6:], atol=1e-2)


def test_a_decoder_reads_all_of_its_encoder() -> None:
    model = MoeTransformer(architecture(encoded=True), 1)
    tokens, source = torch.arange(6).view(1, 6), torch.arange(8).view(1, 8)
    other = source.clone()
    other[0, -1] = 30
    assert not torch.equal(model(tokens, source)[0], model(tokens, other)[0])
    with pytest.raises(InvalidInput, match="has an encoder: give it a source"):
        model(tokens)


def test_predictors_start_as_gates_and_are_executed_as_pregates() -> None:
    model = seeded_model(6)
    predictors = Predictors(list(model.decoder.gates), (1, 2))
    tokens = torch.arange(12).view(2, 6)
    assert torch.equal(installed(model, predictors, 2)(tokens)[0], pregate_from(model, 2)(tokens)[0])
    with torch.no_grad():
        predictors.maps["2_3"].neg_()
    moved = installed(model, predictors, 2)
    assert torch.equal(moved.decoder.gates[3], -model.decoder.gates[3])
    assert torch.equal(moved.decoder.gates[1], model.decoder.gates[1])


@pytest.mark.parametrize("name", ["mixtral-8x7b", "switch-xxl-128", "deepseek-v2-lite"])
def test_an_architecture_with_other_parts_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match=r"a pre-gated model has (T5's layers|ReLU experts)"):
        MoeTransformer(load_architecture(name))


def test_the_short_plan_is_a_model_of_the_runtime() -> None:
    assert all(stack.is_uniform for stack in SHORT.architecture().stacks)
