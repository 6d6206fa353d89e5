"""Decoders of Hugging Face's with their gates moved ahead: each router reads what the one n blocks before was given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")
transformers = pytest.importorskip("transformers", reason="the extra 'hf' is not installed")

from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForSeq2SeqLM  # noqa: E402

import pregate  # noqa: E402
from runtime.pregated.earlier_input import is_routed  # noqa: E402
from runtime.recording.routers import find_routers  # noqa: E402
from tests.hf.transformers_configs import MODELS  # noqa: E402
from traces.errors import InvalidInput  # noqa: E402

KINDS = sorted(MODELS.keys() - {"switch_transformers"})
IDS = [[5, 6, 7, 8, 9], [11, 12, 13, 14, 15]]


def tiny(model_type: str) -> Any:
    """Random weights, far enough apart that routers choose by token."""
    config = CONFIG_MAPPING[model_type](**MODELS[model_type])
    torch.manual_seed(0)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = kind.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model.eval()


def routers(model: Any) -> list[Any]:
    return [module for name, module in find_routers(model) if not model.config.is_encoder_decoder or "decoder" in name]


def logits(model: Any) -> Any:
    ids = torch.tensor(IDS)
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(input_ids=ids, **more).logits


def given(model: Any) -> list[Any]:
    """What each router reads in one pass, whatever it is handed: hooks run in the order in which they were added."""
    seen: list[Any] = []
    hooks = [
        one.register_forward_hook(lambda module, args, out: seen.append(args[0].clone())) for one in routers(model)
    ]
    logits(model)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("model_type", KINDS)
def test_gates_read_the_input_of_an_earlier_block(model_type: str) -> None:
    model = tiny(model_type)
    n_blocks = len(routers(model))
    assert n_blocks > 1
    moved = pregate.pregate_from(model, 1)
    assert moved.state_dict().keys() == model.state_dict().keys()
    assert moved.config.pregate_lookahead == 1
    own: list[Any] = []  # what each would have read where it lies
    for one in routers(moved):
        one.register_forward_pre_hook(lambda module, args: own.append(args[0].clone()), prepend=True)
    read = given(moved)
    assert len(own) == len(read) == n_blocks
    for block, one in enumerate(read):
        assert torch.equal(one, own[max(block - 1, 0)])
    assert torch.equal(own[0], given(model)[0])
    assert not torch.equal(logits(model), logits(moved))
    assert torch.equal(logits(model), logits(pregate.pregate_from(model, 0)))


def test_it_trains_and_generates_and_is_saved_and_moved_again(tmp_path: Path) -> None:
    moved = pregate.pregate_from(tiny("qwen3_moe"), 1)
    moved.train()
    optimizer = torch.optim.AdamW(moved.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        loss = moved(input_ids=torch.tensor(IDS), labels=torch.tensor(IDS)).loss
        loss.backward()
        gates = [one.weight.grad for one in routers(moved)]
        assert all(grad is not None and grad.abs().max() > 0 for grad in gates)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    moved.eval().save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    again = pregate.pregate_from(loaded.eval(), loaded.config.pregate_lookahead)
    assert torch.allclose(logits(again), logits(moved), atol=1e-5)
    made = [one.generate(torch.tensor(IDS), max_new_tokens=4, do_sample=False) for one in (moved, again)]
    assert torch.equal(*made)
    whole = moved(input_ids=made[0][:, :-1]).logits[:, -1].argmax(1)  # without a cache
    assert torch.equal(whole, made[0][:, -1])


def test_gradient_checkpointing_and_gates_past_the_model_are_refused() -> None:
    moved = pregate.pregate_from(tiny("mixtral"), 1).train()
    enable = getattr(moved, "activation_checkpointing_enable", moved.gradient_checkpointing_enable)
    enable()
    with pytest.raises(InvalidInput, match="need the layers in their order, once"):
        moved(input_ids=torch.tensor(IDS), labels=torch.tensor(IDS)).loss.backward()
    with pytest.raises(InvalidInput, match="lookahead = 3 of 3 MoE blocks"):
        pregate.pregate_from(tiny("mixtral"), 3)


def test_a_dense_model_has_no_gates_to_move() -> None:
    dense = AutoModelForCausalLM.from_config(
        CONFIG_MAPPING["qwen3"](**{**MODELS["qwen3_moe"], "tie_word_embeddings": False})
    )
    assert not is_routed(dense)
    with pytest.raises(InvalidInput, match="has no gates to move"):
        pregate.pregate_from(dense, 1)
