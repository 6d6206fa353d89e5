"""Token mixers with a state of fixed size in place of a KV cache: linear attention, state spaces, convolutions."""

from __future__ import annotations

from dataclasses import dataclass

from traces.errors import InvalidInput, unknown_name

LINEAR_KINDS = ("gated_delta_net", "kda", "lightning", "mamba", "mamba2", "short_conv")
MAX_GEMMS = 32
MAX_SIZE = 1 << 40


@dataclass(frozen=True, slots=True)
class LinearMixer:
    """One block by its projections and its state.

    `gemms`: (n_out, k_in) of each projection, the output's last. `vectors`: parameters outside of them (convolutions,
    decays, norms). `state_elements`: numbers kept a sequence, read and written at every step. `flop_per_token`:
    arithmetic outside of the projections (decay, update and read-out of the state). Raises `InvalidInput`.
    """

    kind: str
    gemms: tuple[tuple[int, int], ...]
    vectors: int
    state_elements: int
    flop_per_token: int

    def __post_init__(self) -> None:
        if self.kind not in LINEAR_KINDS:
            raise unknown_name("linear mixer", self.kind, LINEAR_KINDS)
        if not 1 <= len(self.gemms) <= MAX_GEMMS or any(len(shape) != 2 or min(shape) < 1 for shape in self.gemms):
            raise InvalidInput(f"{self.kind}: gemms must be 1 to {MAX_GEMMS} pairs (n_out, k_in) above 0")
        for name in ("vectors", "state_elements", "flop_per_token"):
            if not 0 <= getattr(self, name) <= MAX_SIZE:
                raise InvalidInput(f"{self.kind}: {name} = {getattr(self, name)}, expected 0 to {MAX_SIZE}")

    @property
    def kv_elements_per_token(self) -> int:
        """Nothing grows with the context."""
        return 0

    def gemm_shapes(self, d_model: int) -> tuple[tuple[int, int], ...]:
        """(n_out, k_in) of each projection."""
        return self.gemms

    def matrix_params(self, d_model: int) -> int:
        """Parameters of the projections."""
        return sum(n_out * k_in for n_out, k_in in self.gemms)

    def vector_params(self, d_model: int) -> int:
        """Parameters outside of the projections."""
        return self.vectors


def gated_delta_net(
    d_model: int, key_heads: int, value_heads: int, key_dim: int, value_dim: int, conv: int
) -> LinearMixer:
    """Gated DeltaNet (arXiv 2412.06464) as Qwen3-Next has it: fused q, k, v and gate; one decay and one rate a head.

    The state of a value head is key_dim x value_dim: decayed, corrected by the delta rule and read, some 7 FLOP an
    element and token.
    """
    keys, values = key_heads * key_dim, value_heads * value_dim
    convolved = 2 * keys + values
    state = value_heads * key_dim * value_dim
    return LinearMixer(
        "gated_delta_net",
        ((2 * keys + 2 * values, d_model), (2 * value_heads, d_model), (d_model, values)),
        vectors=convolved * conv + 2 * value_heads + value_dim,
        state_elements=state + convolved * (conv - 1),
        flop_per_token=7 * state + 2 * convolved * conv,
    )


def kimi_delta(
    d_model: int, n_heads: int, head_dim: int, conv: int, *, full_rank_decay: bool = False, full_rank_gate: bool = False
) -> LinearMixer:
    """Kimi Delta Attention (arXiv 2510.26692): gated delta rule. Its decay, one a channel, and its output gate each go
    through a low-rank map or a full one.
    """
    width, state = n_heads * head_dim, n_heads * head_dim * head_dim
    full, low = ((width, d_model),), ((head_dim, d_model), (width, head_dim))
    decay, gate = full if full_rank_decay else low, full if full_rank_gate else low
    return LinearMixer(
        "kda",
        ((3 * width, d_model), *decay, (n_heads, d_model), *gate, (d_model, width)),
        vectors=3 * width * conv + width + n_heads + head_dim,
        state_elements=state + 3 * width * (conv - 1),
        flop_per_token=7 * state + 6 * width * conv,
    )


def kimi_delta_net(
    d_model: int, key_heads: int, value_heads: int, key_dim: int, value_dim: int, conv: int, *, decay_rank: int
) -> LinearMixer:
    """The projections of a Gated DeltaNet with Kimi's decay, one a channel of each value head's key, through a map of
    `decay_rank` (BerryLM: vllm/model_executor/models/berrylm.py, read 2026-12-01).
    """
    keys, values = key_heads * key_dim, value_heads * value_dim
    convolved, decays, state = 2 * keys + values, value_heads * key_dim, value_heads * key_dim * value_dim
    return LinearMixer(
        "kda",
        ((convolved + values, d_model), (value_heads, d_model), (decay_rank, d_model), (decays, decay_rank),
         (d_model, values)),
        vectors=convolved * conv + value_heads + decays + value_dim,
        state_elements=state + convolved * (conv - 1),
        flop_per_token=7 * state + 2 * convolved * conv,
    )  # fmt: skip


def lightning(d_model: int, n_heads: int, head_dim: int) -> LinearMixer:
    """Lightning attention (arXiv 2401.04658) as MiniMax has it: q, k, v, an output gate, one decay a head."""
    width, state = n_heads * head_dim, n_heads * head_dim * head_dim
    return LinearMixer(
        "lightning",
        ((3 * width, d_model), (width, d_model), (d_model, width)),
        vectors=width,
        state_elements=state,
        flop_per_token=5 * state,
    )


def mamba2(d_model: int, n_heads: int, head_dim: int, n_groups: int, d_state: int, conv: int) -> LinearMixer:
    """Mamba-2 (arXiv 2405.21060): one projection of gate, x, B, C and step; a state of head_dim x d_state a head."""
    inner = n_heads * head_dim
    convolved, state = inner + 2 * n_groups * d_state, inner * d_state
    return LinearMixer(
        "mamba2",
        ((inner + convolved + n_heads, d_model), (d_model, inner)),
        vectors=convolved * (conv + 1) + 3 * n_heads + inner,
        state_elements=state + convolved * (conv - 1),
        flop_per_token=5 * state + 2 * convolved * conv,
    )


def mamba(d_model: int, inner: int, d_state: int, dt_rank: int, conv: int) -> LinearMixer:
    """Mamba (arXiv 2312.00752): selective state space over `inner` channels, with a step through `dt_rank`."""
    state = inner * d_state
    return LinearMixer(
        "mamba",
        ((2 * inner, d_model), (dt_rank + 2 * d_state, inner), (inner, dt_rank), (d_model, inner)),
        vectors=state + inner * (conv + 3),
        state_elements=state + inner * (conv - 1),
        flop_per_token=7 * state + 2 * inner * conv,
    )


def short_conv(d_model: int, conv: int) -> LinearMixer:
    """The gated short convolution of LFM2: two gates and a value, a convolution of some tokens, an output."""
    return LinearMixer(
        "short_conv",
        ((3 * d_model, d_model), (d_model, d_model)),
        vectors=d_model * conv,
        state_elements=d_model * (conv - 1),
        flop_per_token=(2 * conv + 2) * d_model,
    )
