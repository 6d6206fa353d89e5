"""Hugging Face's Switch model with its gates moved ahead: the same at 0, read earlier at n, trained and generating."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")
transformers = pytest.importorskip("transformers", reason="the extra 'hf' is not installed")

import pregate  # noqa: E402
from runtime.pregated.switch import MovedGates, pregate_switch  # noqa: E402
from traces.errors import InvalidInput  # noqa: E402


def tiny(seed: int = 0, **other: Any) -> Any:
    """Eight layers a side, sparse two of the encoder's and four of the decoder's, four experts."""
    sizes = {
        "vocab_size": 60, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 8, "num_decoder_layers": 8,
        "num_heads": 2, "num_sparse_encoder_layers": 2, "num_sparse_decoder_layers": 4, "num_experts": 4,
        "expert_capacity": 64, "decoder_start_token_id": 0,
    }  # fmt: skip
    torch.manual_seed(seed)
    model = transformers.SwitchTransformersForConditionalGeneration(
        transformers.SwitchTransformersConfig(**sizes | other)
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "router" in name:
                parameter.normal_()
    return model.eval()


def inputs() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    source, target = (torch.randint(1, 60, (2, n), generator=generator) for n in (7, 5))
    return {"input_ids": source, "decoder_input_ids": target}


def logits(model: Any) -> Any:
    with torch.no_grad():
        return model(**inputs()).logits


def sparse(stack: Any) -> list[Any]:
    return [layer for block in stack.block for layer in block.layer if getattr(layer, "is_sparse", False)]


def test_moved_by_nothing_it_is_the_same_model() -> None:
    model = tiny()
    same = pregate.pregate_from(model, 0)
    assert torch.equal(logits(model), logits(same))
    assert model.state_dict().keys() == same.state_dict().keys()
    with torch.no_grad():
        same.decoder.block[1].layer[-1].mlp.router.classifier.weight.zero_()
    assert not torch.equal(logits(model), logits(same))  # a copy
    assert not isinstance(sparse(model.decoder)[0].mlp, MovedGates)


@pytest.mark.parametrize("lookahead", [1, 2, 3])
def test_gates_read_an_earlier_block_and_choose_for_a_later(lookahead: int) -> None:
    model = tiny()
    moved = pregate.pregate_from(model, lookahead)
    read: list[Any] = []
    asked: list[tuple[int, int, Any]] = []
    blocks = sparse(moved.decoder)
    for i, one in enumerate(blocks):
        one.mlp.register_forward_pre_hook(lambda module, args: read.append(args[0].clone()))
        one.mlp.router.register_forward_hook(
            lambda module, args, out, i=i: asked.append((i, len(read) - 1, out[2].clone()))
        )
    logits(moved)
    where = {router: block for router, block, _ in asked}
    assert where == {i: max(i - lookahead, 0) for i in range(4)}  # the first has both, the last none
    for router, block, said in asked:
        assert torch.allclose(said, blocks[router].mlp.router.classifier(read[block]), atol=1e-6)
    assert not torch.equal(logits(model), logits(moved))
    assert all(not isinstance(one.mlp, MovedGates) for one in sparse(moved.encoder))


def test_an_encoder_is_moved_where_that_is_asked_for() -> None:
    moved = pregate_switch(tiny(), 1, encoder=True)
    assert all(isinstance(one.mlp, MovedGates) for one in sparse(moved.encoder))
    assert torch.isfinite(logits(moved)).all()
    with pytest.raises(InvalidInput, match="lookahead = 2 of 2 MoE blocks"):
        pregate_switch(tiny(), 2, encoder=True)


@pytest.mark.parametrize("lookahead", [0, 1, 3])
def test_every_gate_learns_and_labels_have_a_loss(lookahead: int) -> None:
    moved = pregate.pregate_from(tiny(), lookahead).train()
    labels = inputs()["decoder_input_ids"]
    moved(input_ids=inputs()["input_ids"], labels=labels).loss.backward()
    for stack in (moved.encoder, moved.decoder):
        for one in sparse(stack):
            gradient = one.mlp.router.classifier.weight.grad
            assert gradient is not None
            assert gradient.abs().max() > 0


def test_a_step_of_training_lowers_the_loss() -> None:
    moved = pregate.pregate_from(tiny(dropout_rate=0.0), 1)
    optimizer = torch.optim.SGD(moved.parameters(), lr=0.05)
    labels = inputs()["decoder_input_ids"]
    losses = []
    for _ in range(5):
        loss = moved(input_ids=inputs()["input_ids"], labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("lookahead", [0, 1, 3])
def test_it_generates_with_and_without_a_cache_alike(lookahead: int) -> None:
    moved = pregate.pregate_from(tiny(), lookahead)
    made = [
        moved.generate(inputs()["input_ids"], max_new_tokens=6, min_new_tokens=6, do_sample=False, use_cache=cache)
        for cache in (True, False)
    ]
    assert torch.equal(*made)
    assert made[0].shape == (2, 7)


def test_router_logits_come_in_the_order_of_blocks() -> None:
    moved, model = pregate.pregate_from(tiny(), 2), tiny()
    with torch.no_grad():
        here, there = (one(**inputs(), output_router_logits=True).decoder_router_logits for one in (moved, model))
    assert len(here) == len(there)


def test_what_is_saved_is_a_switch_model_whose_gates_are_moved_again(tmp_path: Path) -> None:
    moved = pregate.pregate_from(tiny(), 1)
    moved.save_pretrained(tmp_path)
    loaded = transformers.SwitchTransformersForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert loaded.config.pregate_lookahead == 1
    again = pregate.pregate_from(loaded, loaded.config.pregate_lookahead)
    assert torch.equal(logits(again), logits(moved))
    assert torch.equal(logits(pregate.pregate_from(moved, 1)), logits(moved))  # moved from where they were


def test_other_models_and_looks_too_far_are_refused() -> None:
    with pytest.raises(InvalidInput, match="lookahead = 4 of 4 MoE blocks"):
        pregate.pregate_from(tiny(), 4)
    dense = tiny()
    for one in sparse(dense.decoder):
        one.is_sparse = False
    with pytest.raises(InvalidInput, match="a stack has no sparse layers"):
        pregate.pregate_from(dense, 0)
    with pytest.raises(InvalidInput, match="Linear has no gates to move"):
        pregate.pregate_from(torch.nn.Linear(2, 2), 1)


def test_layers_that_run_twice_are_refused() -> None:
    moved = pregate.pregate_from(tiny(), 1)
    first, second, *_ = sparse(moved.decoder)
    hidden = torch.zeros(1, 1, 16)
    first.mlp(hidden)
    second.mlp(hidden)
    with pytest.raises(InvalidInput, match="MoE block 1: its gate has not run in this pass"):
        second.mlp(hidden)
