"""A Mixture-of-Experts transformer with gates that look ahead: T5's layout, encoder-decoder or decoder alone.

Shapes come from a `ModelArchitecture`, parts are those of `runtime.model.layers`, so that the runtime executes the
weights: RMS norms, T5's bias by distance, ReLU experts. `gates[j]` chooses the experts of MoE block j wherever it sits;
what it chose and with what weight holds when block j runs (Pre-gated MoE, arXiv 2308.12066, section IV).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from runtime.model.attention import position_bias
from runtime.pregated.gate_positions import check_lookahead, gates_at
from traces.errors import InvalidInput
from traces.model.architecture import LayerStack, ModelArchitecture

_INTO_RESIDUAL = 0.1
"""What enters the residual stream is small at first, so that the token itself is seen through all layers."""


class GateChoice(NamedTuple):
    """What one gate said of n tokens: `logits` (n, n_experts), `experts`, ascending, and `weights` (n, top_k)."""

    logits: Tensor
    experts: Tensor
    weights: Tensor


class Routing(NamedTuple):
    """Of every MoE block of a stack, what was chosen for it and the normed states (n, d_model) that it has run on."""

    choices: list[GateChoice]
    inputs: list[Tensor]


def choose_experts(logits: Tensor, top_k: int) -> GateChoice:
    """The likeliest `top_k` of `logits` (n, n_experts); weights as Switch has one expert's, as Mixtral has several.

    One expert weighs its softmax over all experts (Fedus et al. 2021, section 2.1), several their softmax over those
    chosen (Jiang et al. 2024, section 2.1).
    """
    experts = logits.topk(top_k, dim=1).indices.sort(dim=1).values
    if top_k == 1:
        return GateChoice(logits, experts, logits.softmax(1).gather(1, experts))
    return GateChoice(logits, experts, logits.gather(1, experts).softmax(1))


class ExpertLayer(nn.Module):
    """The experts of one MoE block: up (n_experts, d_ff, d_model), down (n_experts, d_model, d_ff)."""

    def __init__(self, n_experts: int, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.empty(n_experts, d_ff, d_model))
        self.down = nn.Parameter(torch.empty(n_experts, d_model, d_ff))
        nn.init.normal_(self.up, std=d_model**-0.5)
        nn.init.normal_(self.down, std=_INTO_RESIDUAL * d_ff**-0.5)

    def forward(self, x: Tensor, choice: GateChoice) -> Tensor:
        """(n, d_model): each token's experts of `x` (n, d_model), weighted."""
        n_experts, top_k = len(self.up), choice.experts.shape[1]
        flat = choice.experts.reshape(-1)
        order = flat.argsort(stable=True)
        counts = torch.bincount(flat, minlength=n_experts).tolist()
        rows = torch.split(x.index_select(0, order // top_k), counts)
        parts = [
            functional.linear(functional.relu(functional.linear(part, self.up[e])), self.down[e])
            for e, part in enumerate(rows)
            if len(part)
        ]
        gathered = torch.cat(parts) * choice.weights.reshape(-1)[order].unsqueeze(1)
        return torch.zeros_like(x).index_add(0, order // top_k, gathered)


class _Attention(nn.Module):
    """Multi-head attention behind an RMS norm, without biases."""

    def __init__(self, d_model: int, n_heads: int, head_dim: int) -> None:
        super().__init__()
        self.n_heads, width = n_heads, n_heads * head_dim
        self.norm = nn.Parameter(torch.ones(d_model))
        self.query, self.key, self.value = (nn.Parameter(torch.empty(width, d_model)) for _ in range(3))
        self.output = nn.Parameter(torch.empty(d_model, width))
        for matrix in (self.query, self.key, self.value):
            nn.init.normal_(matrix, std=d_model**-0.5)
        nn.init.normal_(self.output, std=_INTO_RESIDUAL * width**-0.5)

    def forward(self, hidden: Tensor, memory: Tensor | None, mask: Tensor | None) -> Tensor:
        """What `hidden` (rows, n, d_model) finds in itself, or in `memory` (rows, m, d_model)."""
        x = functional.rms_norm(hidden, self.norm.shape, self.norm)
        seen = x if memory is None else memory
        query, key, value = (
            functional.linear(of, matrix).view(*of.shape[:2], self.n_heads, -1).transpose(1, 2)
            for of, matrix in ((x, self.query), (seen, self.key), (seen, self.value))
        )
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        found = (scores if mask is None else scores + mask).softmax(-1) @ value
        return functional.linear(found.transpose(1, 2).flatten(2), self.output)


class _Dense(nn.Module):
    """The FFN of a layer without experts."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(d_ff, d_model) * d_model**-0.5)
        self.down = nn.Parameter(torch.randn(d_model, d_ff) * _INTO_RESIDUAL * d_ff**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(functional.relu(functional.linear(x, self.up)), self.down)


class _Layer(nn.Module):
    """Attention to itself, to an encoder where there is one, and an FFN: dense or experts."""

    def __init__(self, model: ModelArchitecture, stack: LayerStack, layer: int) -> None:
        super().__init__()
        shape = model.d_model, stack.attention.n_heads, stack.attention.head_dim
        self.attention = _Attention(*shape)
        self.cross = _Attention(*shape) if stack.cross_attention else None
        self.norm = nn.Parameter(torch.ones(model.d_model))
        self.ffn: ExpertLayer | _Dense
        if layer in stack.moe_layers:
            self.ffn = ExpertLayer(model.n_experts, model.d_model, model.d_ff_expert)
        else:
            self.ffn = _Dense(model.d_model, stack.d_ff_dense)


class Stack(nn.Module):
    """The layers of an encoder or a decoder, whose gates look `lookahead` MoE blocks ahead."""

    def __init__(self, model: ModelArchitecture, stack: LayerStack, lookahead: int, *, causal: bool) -> None:
        super().__init__()
        check_lookahead(lookahead, max(1, len(stack.moe_layers)))
        self.lookahead, self.top_k, self.causal = lookahead, model.top_k, causal
        self.layers = nn.ModuleList(_Layer(model, stack, layer) for layer in range(stack.n_layers))
        self.gates = nn.ParameterList(
            torch.randn(model.n_experts, model.d_model) * model.d_model**-0.5 for _ in stack.moe_layers
        )
        self.norm = nn.Parameter(torch.ones(model.d_model))
        self.positions = nn.Parameter(torch.zeros(stack.attention.n_heads, stack.relative_position_buckets))

    def _mask(self, n: int) -> Tensor:
        """(1, n_heads, n, n): the bias by distance, and nothing of what comes later in a decoder."""
        places = torch.arange(n, device=self.positions.device)
        bias = position_bias(self.positions, places, n, not self.causal).permute(2, 1, 0, 3)
        if self.causal:
            bias = bias.masked_fill(torch.ones(n, n, dtype=torch.bool, device=bias.device).triu(1), -math.inf)
        return bias

    def forward(self, hidden: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Routing]:
        """Final states (rows, n, d_model) of embedded tokens of that shape, and what the gates chose."""
        mask = self._mask(hidden.shape[1])
        ahead: dict[int, GateChoice] = {}  # MoE block -> what its gate has chosen, wherever it sits
        routing = Routing([], [])
        for layer in self.layers:
            assert isinstance(layer, _Layer)
            hidden = hidden + layer.attention(hidden, None, mask)
            if layer.cross is not None:
                hidden = hidden + layer.cross(hidden, memory, None)
            x = functional.rms_norm(hidden, layer.norm.shape, layer.norm)
            if isinstance(layer.ffn, ExpertLayer):
                flat, block = x.flatten(0, 1), len(routing.choices)
                for later in gates_at(block, self.lookahead, len(self.gates)):
                    ahead[later] = choose_experts(functional.linear(flat, self.gates[later]), self.top_k)
                routing.choices.append(ahead.pop(block))
                routing.inputs.append(flat)
                hidden = hidden + layer.ffn(flat, routing.choices[-1]).view_as(hidden)
            else:
                hidden = hidden + layer.ffn(x)
        return functional.rms_norm(hidden, self.norm.shape, self.norm), routing


class MoeTransformer(nn.Module):
    """The model of an architecture, gates `lookahead` MoE blocks ahead in the decoder, conventional in an encoder.

    Raises `InvalidInput` for what it has no parts for: biases, gated or shared experts, latent or grouped attention.
    """

    def __init__(self, architecture: ModelArchitecture, lookahead: int = 0) -> None:
        super().__init__()
        _check_plain(architecture)
        self.architecture, self.lookahead = architecture, lookahead
        self.embedding = nn.Parameter(
            torch.randn(architecture.vocab_size, architecture.d_model) * architecture.d_model**-0.5
        )
        encoder = architecture.encoder
        self.encoder = None if encoder is None else Stack(architecture, encoder, 0, causal=False)
        self.decoder = Stack(architecture, architecture.decoder, lookahead, causal=True)

    def forward(self, tokens: Tensor, source: Tensor | None = None) -> tuple[Tensor, Routing]:
        """Logits (rows, n, vocab) of the token after each of `tokens` (rows, n), and the decoder's routing.

        `source` (rows, m): what an encoder reads; `InvalidInput` is raised where that is missing.
        """
        memory = None
        if self.encoder is not None:
            if source is None:
                raise InvalidInput(f"{self.architecture.name} has an encoder: give it a source")
            memory, _ = self.encoder(functional.embedding(source, self.embedding))
        states, routing = self.decoder(functional.embedding(tokens, self.embedding), memory)
        return functional.linear(states, self.embedding), routing


def _check_plain(model: ModelArchitecture) -> None:
    """Raise `InvalidInput` for an architecture with parts that `MoeTransformer` does not have."""
    for stack in model.stacks:
        attention = stack.attention
        plain = attention.kind == "mha" and attention.n_kv_heads == attention.n_heads and attention.qk_norm == "none"
        plain = plain and not (attention.qkv_bias or attention.output_bias or attention.sinks or attention.window)
        dense = stack.n_dense_matrices == 2 or not stack.d_ff_dense
        if not (plain and stack.is_uniform and stack.relative_position_buckets and dense and not stack.ffn_bias):
            raise InvalidInput(f"{model.name}: a pre-gated model has T5's layers: plain attention, biases by distance")
    experts = model.n_expert_matrices == 2 and not (model.n_shared_experts or model.expert_bias or model.gate_bias)
    if not (experts and model.tied_embeddings and not model.norm_bias and not model.head_bias):
        raise InvalidInput(f"{model.name}: a pre-gated model has ReLU experts of two matrices, no biases, a tied head")
    if not model.decoder.moe_layers:
        raise InvalidInput(f"{model.name} has no MoE block in its decoder: there is no gate to move")
