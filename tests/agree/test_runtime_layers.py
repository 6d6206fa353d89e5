"""What the runtime computes is the model: a plain forward pass over whole sequences, with no cache, gives the same."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pytest

from offload.decode import decode
from offload.execution import EXECUTIONS
from offload.policies import policy_named
from tests.small_models import MODELS, routing
from traces.errors import InvalidInput
from traces.model.architecture import DTYPES, Attention, ModelArchitecture
from traces.phase import Phase
from traces.routing import Provenance, RoutingTrace

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from runtime.backends.cpu import CpuBackend  # noqa: E402
from runtime.model.shapes import expert_shapes, static_shapes  # noqa: E402
from runtime.model.weights import Experts, fill_static  # noqa: E402
from runtime.programs.passes import Passes, plan_passes  # noqa: E402
from runtime.run import MeasuredRun, execute  # noqa: E402

Tensor = torch.Tensor
F = torch.nn.functional


def variant(attention: Attention, **changes: object) -> ModelArchitecture:
    model = MODELS["decoder-only"]
    return dataclasses.replace(model, decoder=dataclasses.replace(model.decoder, attention=attention), **changes)


MLA = Attention("mla", 4, 4, 12, q_lora_rank=10, kv_lora_rank=14, qk_nope_dim=8, qk_rope_dim=4, v_head_dim=6)
SWITCH = MODELS["encoder-decoder"]
VARIANTS = {
    **MODELS,
    "latent attention": variant(MLA),
    "latent attention, plain queries, biases": variant(dataclasses.replace(MLA, q_lora_rank=0, qkv_bias=True)),
    "sinks and biases everywhere": variant(
        Attention("gqa", 4, 2, 8, qkv_bias=True, output_bias=True, sinks=True),
        expert_bias=True, gate_bias=True, head_bias=True, norm_bias=True, tied_embeddings=True,
    ),
    "normed heads, gated shared experts": variant(
        Attention("gqa", 4, 1, 8, qk_norm="head"), n_shared_experts=2, d_ff_shared=16, shared_expert_gate=True
    ),
    "normed queries and keys": variant(Attention("mha", 4, 4, 8, qk_norm="full")),
    "relative positions, dense biases": dataclasses.replace(
        SWITCH,
        encoder=dataclasses.replace(SWITCH.stacks[0], relative_position_buckets=8, ffn_bias=True),
        decoder=dataclasses.replace(SWITCH.decoder, relative_position_buckets=8, ffn_bias=True),
    ),
}  # fmt: skip


def ragged(model: ModelArchitecture, seed: int = 0) -> RoutingTrace:
    """Three sequences with prompts of 3, 5 and 1 tokens; the second stops early and a fourth takes its place."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[int, int, int, int]] = []  # step, sequence, position, phase
    encoding = model.is_encoder_decoder
    prompts = {0: 3, 1: 5, 2: 1, 3: 2}
    at = dict.fromkeys(prompts, 0) if encoding else dict(prompts)
    step = 0
    for joining, running, n_steps in (((0, 1, 2), (0, 1, 2), 2), ((3,), (0, 2, 3), 3)):
        rows += [(step, s, p, Phase.PREFILL) for s in joining for p in range(prompts[s])]
        for _ in range(n_steps):
            step += 1
            rows += [(step, s, at[s], Phase.DECODE) for s in running]
            at = {s: at[s] + (s in running) for s in at}
        step += 1
    steps, sequence, position, phase = (np.array(column) for column in zip(*rows, strict=True))
    shape = (len(rows), model.n_moe_layers)
    chosen = rng.permuted(np.broadcast_to(np.arange(model.n_experts), (*shape, model.n_experts)), axis=2)
    experts = chosen[..., : model.top_k].astype(np.int16)
    experts[..., 1:][rng.random(experts[..., 1:].shape) < 0.1] = -1  # dropped: more tokens than an expert takes
    if encoding:
        n = model.n_encoder_moe_layers
        experts[phase == Phase.PREFILL, n:] = -1
        experts[phase == Phase.DECODE, :n] = -1
    return RoutingTrace(experts, sequence, position, phase, steps, model.n_experts, Provenance("small", "a test"))


class Oracle:
    """Float64, one sequence after the other, every token attending to all before it at once."""

    def __init__(self, model: ModelArchitecture, experts: Experts) -> None:
        self.model = model
        weights = {name: torch.empty(shape) for name, shape in static_shapes(model).items()}
        fill_static(weights, experts.seed)
        self.w = {name: tensor.double() for name, tensor in weights.items()}
        self.experts = experts
        experts.require([(layer, e) for layer in range(model.n_moe_layers) for e in range(model.n_experts)])

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.w[name], self.w.get(f"{name}.bias"))

    def rms(self, name: str, x: Tensor) -> Tensor:
        scale = self.w.get(f"{name}.scale")
        if scale is None:
            return x
        parts = x.reshape(*x.shape[:-1], -1, len(scale))
        normed = parts / (parts.square().mean(-1, keepdim=True) + torch.finfo(torch.float32).eps).sqrt() * scale
        return normed.reshape(x.shape)

    def norm(self, name: str, x: Tensor) -> Tensor:
        if f"{name}.bias" in self.w:
            return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.scale"], self.w[f"{name}.bias"])
        return self.rms(name, x)

    def heads(self, x: Tensor, n: int) -> Tensor:
        return x.view(len(x), n, -1).transpose(0, 1)

    def attention(self, at: str, a: Attention, x: Tensor, memory: Tensor, causal: bool, side: str) -> Tensor:
        """x (n, d_model) attends to memory (m, d_model), decompressing latents where there are any."""
        if a.kind == "mla":
            down = x if not a.q_lora_rank else self.rms(f"{at}query_down", self.linear(f"{at}query_down", x))
            q = self.heads(self.linear(f"{at}query", down), a.n_heads)
            latent = self.linear(f"{at}latent", memory)
            latent, shared = latent[:, : a.kv_lora_rank], latent[:, a.kv_lora_rank :]
            up = self.heads(self.linear(f"{at}latent_up", self.rms(f"{at}latent", latent)), a.n_heads)
            k = torch.cat((up[..., : a.qk_nope_dim], shared.expand(a.n_heads, -1, -1)), dim=-1)
            v = up[..., a.qk_nope_dim :]
        else:
            q = self.heads(self.rms(f"{at}query", self.linear(f"{at}query", x)), a.n_heads)
            k = self.heads(self.rms(f"{at}key", self.linear(f"{at}key", memory)), a.n_kv_heads)
            v = self.heads(self.linear(f"{at}value", memory), a.n_kv_heads)
            k, v = (t.repeat_interleave(a.n_heads // a.n_kv_heads, dim=0) for t in (k, v))
        scores = q @ k.transpose(1, 2) / math.sqrt(a.head_dim)
        if f"{side}.positions" in self.w and at.endswith("self."):
            scores += self.bias(self.w[f"{side}.positions"], len(x), side == "encoder")
        if causal:
            scores = scores.masked_fill(torch.ones(scores.shape[1:], dtype=torch.bool).triu(1), -math.inf)
        if f"{at}sinks" in self.w:
            sinks = self.w[f"{at}sinks"].view(-1, 1, 1).expand(-1, len(x), 1)
            shares = torch.cat((scores, sinks), dim=2).softmax(2)[..., :-1]
        else:
            shares = scores.softmax(2)
        return self.linear(f"{at}output", (shares @ v).transpose(0, 1).reshape(len(x), -1))

    def bias(self, table: Tensor, n: int, both_ways: bool) -> Tensor:
        """T5's buckets, one pair of positions at a time."""
        n_buckets = table.shape[1] // (2 if both_ways else 1)
        bias = torch.zeros(table.shape[0], n, n, dtype=torch.float64)
        for i in range(n):
            for j in range(n):
                far = abs(i - j) if both_ways else max(i - j, 0)
                exact = n_buckets // 2
                grown = exact + int(math.log(max(far, 1) / exact) / math.log(128 / exact) * (n_buckets - exact))
                bucket = far if far < exact else min(grown, n_buckets - 1)
                bias[:, i, j] = table[:, bucket + (n_buckets if both_ways and j > i else 0)]
        return bias

    def ffn(self, weights: dict[str, Tensor], x: Tensor) -> Tensor:
        up = F.linear(x, weights["up"], weights.get("up.bias"))
        gate = F.silu(F.linear(x, weights["gate"], weights.get("gate.bias"))) if "gate" in weights else None
        up = up.relu() if gate is None else gate * up
        return F.linear(up, weights["down"], weights.get("down.bias"))

    def own(self, prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in self.w.items() if name.startswith(prefix)}

    def expert(self, layer: int, expert: int, x: Tensor) -> Tensor:
        flat, weights = self.experts[layer, expert].view(torch.float32).double(), {}
        for name, shape in expert_shapes(self.model).items():
            weights[name], flat = flat[: math.prod(shape)].view(shape), flat[math.prod(shape) :]
        return self.ffn(weights, x)

    def moe(self, at: str, layer: int, x: Tensor, chosen: np.ndarray) -> Tensor:
        logits, out = self.linear(f"{at}gate", x), torch.zeros_like(x)
        for token, experts in enumerate(chosen.tolist()):
            kept = sorted(e for e in experts if e >= 0)
            for share, expert in zip(logits[token, kept].softmax(0), kept, strict=True):
                out[token] += share * self.expert(layer, expert, x[token])
        shared = torch.zeros_like(x)
        for i in range(self.model.n_shared_experts):
            shared += self.ffn(self.own(f"{at}shared.{i}."), x)
        if f"{at}shared.gate" in self.w:
            shared *= F.linear(x, self.w[f"{at}shared.gate"]).sigmoid()
        return out + shared

    def stack(self, side: str, ids: Sequence[int], experts: np.ndarray, memory: Tensor | None) -> Tensor:
        """Final hidden states of one sequence's tokens."""
        stack = self.model.stacks[0] if side == "encoder" else self.model.decoder
        first = 0 if side == "encoder" else self.model.n_encoder_moe_layers
        x = self.w["embedding"][list(ids)]
        for layer in range(stack.n_layers):
            at = f"{side}.{layer}."
            normed = self.norm(f"{at}self.norm", x)
            x = x + self.attention(f"{at}self.", stack.attention, normed, normed, side == "decoder", side)
            if memory is not None:
                normed = self.norm(f"{at}cross.norm", x)
                x = x + self.attention(f"{at}cross.", stack.attention, normed, memory, False, side)
            normed = self.norm(f"{at}ffn.norm", x)
            if layer in stack.moe_layers:
                moe_layer = first + stack.moe_layers.index(layer)
                x = x + self.moe(at, moe_layer, normed, experts[:, moe_layer])
            else:
                x = x + self.ffn(self.own(f"{at}ffn."), normed)
        return self.norm(f"{side}.norm", x)

    def states(self, passes: Passes) -> Tensor:
        """(n_tokens, d_model), in the order of the run."""
        out = torch.zeros(passes.n_tokens, self.model.d_model, dtype=torch.float64)
        found: dict[tuple[str, int], list[tuple[int, int, np.ndarray]]] = {}  # side, sequence -> token, id, experts
        for one in passes.passes:
            ids = np.random.default_rng([self.experts.seed, one.i_step]).integers(
                self.model.vocab_size, size=one.n_tokens
            )
            for s in one.segments:
                mine = found.setdefault(("encoder" if one.encoding else "decoder", s.sequence), [])
                rows = range(s.start, s.start + s.n_tokens)
                mine += [(one.first + row, int(ids[row]), one.experts[row]) for row in rows]
        memory: dict[int, Tensor] = {}
        for (side, sequence), tokens in sorted(found.items(), reverse=True):
            where, ids, experts = zip(*tokens, strict=True)
            x = self.stack(side, ids, np.array(experts), memory.get(sequence) if side == "decoder" else None)
            out[list(where)] = memory[sequence] = x
        return out


def run(model: ModelArchitecture, trace: RoutingTrace, experts: Experts, policy: str = "on_demand") -> MeasuredRun:
    chosen, steps = policy_named(policy), list(trace.steps())
    schedule = decode(model, steps, chosen, EXECUTIONS["streams"], n_buffers=2 * model.n_experts).schedule
    return execute(CpuBackend(), model, steps, schedule, experts=experts)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_runtime_computes_what_a_plain_forward_pass_computes(name: str) -> None:
    model = VARIANTS[name]
    for trace in (routing(model, batch=1, seed=1), ragged(model)):
        experts = Experts(model, seed=3)
        states = run(model, trace, experts).states
        expected = Oracle(model, experts).states(plan_passes(model, trace.steps())).numpy()
        assert np.isfinite(states).all()
        np.testing.assert_allclose(states, expected, atol=2e-5)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_computes_the_same_within_its_own(dtype: str) -> None:
    model = MODELS["shared experts, three matrices"].with_dtype(dtype)
    trace = ragged(model)
    states = run(model, trace, Experts(model)).states
    reference = run(MODELS["shared experts, three matrices"], trace, Experts(MODELS["shared experts, three matrices"]))
    assert np.abs(states - reference.states).max() < 0.1
    assert model.expert_bytes * 2 == MODELS["shared experts, three matrices"].expert_bytes


def test_another_seed_gives_other_states() -> None:
    model, trace = MODELS["decoder-only"], routing(MODELS["decoder-only"])
    digests = {run(model, trace, Experts(model, seed)).digest for seed in (0, 1)}
    assert len(digests) == 2


def test_formats_that_the_runtime_does_not_compute_in_are_refused() -> None:
    model = MODELS["decoder-only"]
    mixed = dataclasses.replace(model, expert_dtype=DTYPES["bf16"])
    with pytest.raises(InvalidInput, match="stored in bf16, fp32: the runtime computes in one of"):
        run(mixed, routing(model), Experts(mixed))
