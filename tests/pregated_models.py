"""Small models whose gates look ahead, with weights set by hand or by a seed."""

from __future__ import annotations

from dataclasses import replace

import torch

from runtime.pregated.training.experiment_plan import SHORT
from runtime.pregated.transformer import MoeTransformer
from traces.model.architecture import ModelArchitecture


def architecture(*, encoded: bool = False, top_k: int = 1) -> ModelArchitecture:
    """Four blocks of four experts, 288 tokens."""
    return replace(SHORT, layout="encoder-decoder" if encoded else "decoder", top_k=top_k).architecture()


def seeded_model(seed: int, lookahead: int = 0, *, encoded: bool = False, top_k: int = 1) -> MoeTransformer:
    """Random weights, gates far apart so that choices differ from token to token."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MoeTransformer(architecture(encoded=encoded, top_k=top_k), lookahead)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith(("positions", "norm")):
                    parameter.add_(0.3 * torch.randn(parameter.shape))
    return model.eval()


def model_by_hand(lookahead: int) -> MoeTransformer:
    """Two blocks of two experts in two dimensions: expert 0 turns axis 0 to axis 1; a gate names the axis it sees."""
    plan = replace(
        SHORT, d_model=2, n_heads=1, d_ff=1, n_blocks=2, n_experts=2, lookaheads=(1,), n_tokens=256,
    )  # fmt: skip
    model = MoeTransformer(plan.architecture(), lookahead)
    with torch.no_grad():
        for layer in model.decoder.layers:
            layer.attention.output.zero_()
            layer.ffn.up.zero_()
            layer.ffn.down.zero_()
        model.embedding.zero_()
        model.embedding[0] = torch.tensor([1.0, 0.0])
        first = model.decoder.layers[0].ffn
        first.up[0] = torch.tensor([[1.0, 0.0]])
        first.down[0] = torch.tensor([[-1.0], [100.0]])
        for gate in model.decoder.gates:
            gate.copy_(torch.eye(2))
    return model
