"""A stack of transformer layers, some of them with an MoE block; experts and gates are counted elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

from traces.errors import InvalidInput
from traces.model.attention import Attention
from traces.model.linear_mixer import LinearMixer

MAX_LAYERS = 1024
MAX_WIDTH = 1 << 24
"""Largest width of any matrix: far above every published model, and products stay exact in float64."""


def ffn_vector_params(d_model: int, d_ff: int, n_matrices: int) -> int:
    """Biases of one FFN: `d_ff` for every matrix but the last, `d_model` for that one."""
    return (n_matrices - 1) * d_ff + d_model


def every_layer(n_layers: int, first: int = 0, step: int = 1) -> tuple[int, ...]:
    """Layer indices `first, first + step, ...` below `n_layers`. Raises `InvalidInput` if too many."""
    if not 1 <= n_layers <= MAX_LAYERS:
        raise InvalidInput(f"n_layers = {n_layers}, expected 1 to {MAX_LAYERS}")
    if first < 0 or step < 1:
        raise InvalidInput(f"MoE layers from {first} in steps of {step}: expected first >= 0 and step >= 1")
    return tuple(range(first, n_layers, step))


@dataclass(frozen=True, slots=True)
class LayerStack:
    """An encoder or a decoder: `n_layers` equal layers, those in `moe_layers` (indices) with an MoE block.

    A layer is a self-attention, a second attention over the encoder when `cross_attention`, and an FFN: an
    MoE block, or `n_dense_matrices` (2, or 3 when gated) matrices of width `d_ff_dense` (0 if every layer is
    MoE), with biases when `ffn_bias`. Where layers differ, `mixers` holds what mixes tokens in place of `attention` and
    `mixer_of` says by layer which does: 0 `attention`, i the i-th of `mixers`, -1 nothing; empty: 0 everywhere.
    `bare_layers` have no FFN at all. `relative_position_buckets` is T5's bias table, one for the stack.
    Raises `InvalidInput` for anything out of range.
    """

    n_layers: int
    moe_layers: tuple[int, ...]
    attention: Attention
    cross_attention: bool
    d_ff_dense: int
    n_dense_matrices: int
    ffn_bias: bool = False
    relative_position_buckets: int = 0
    mixers: tuple[Attention | LinearMixer, ...] = ()
    mixer_of: tuple[int, ...] = ()
    bare_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.n_layers <= MAX_LAYERS:
            raise InvalidInput(f"n_layers = {self.n_layers}, expected 1 to {MAX_LAYERS}")
        previous = -1
        for layer in self.moe_layers:
            if not previous < layer < self.n_layers:
                raise InvalidInput(
                    f"moe_layers: {layer} after {previous}, expected strictly increasing indices below "
                    f"n_layers = {self.n_layers}"
                )
            previous = layer
        if self.n_dense_matrices not in (2, 3):
            raise InvalidInput(f"n_dense_matrices = {self.n_dense_matrices}, expected 2, or 3 when gated")
        if self.n_dense_layers and not 1 <= self.d_ff_dense <= MAX_WIDTH:
            raise InvalidInput(
                f"d_ff_dense = {self.d_ff_dense} with {self.n_dense_layers} dense layers, expected 1 to {MAX_WIDTH}"
            )
        if not self.n_dense_layers and self.d_ff_dense:
            raise InvalidInput(f"d_ff_dense = {self.d_ff_dense} but every layer is MoE: write 0")
        self._check_mixers()
        if not 0 <= self.relative_position_buckets <= MAX_WIDTH:
            raise InvalidInput(f"relative_position_buckets = {self.relative_position_buckets} is out of range")

    @property
    def n_dense_layers(self) -> int:
        """Layers whose FFN is not an MoE block."""
        return self.n_layers - len(self.moe_layers) - len(self.bare_layers)

    def mixer(self, layer: int) -> Attention | LinearMixer | None:
        """What mixes tokens in `layer`; None: nothing."""
        i = self.mixer_of[layer] if self.mixer_of else 0
        return self.attention if i == 0 else None if i < 0 else self.mixers[i - 1]

    def attention_of(self, layer: int) -> Attention:
        """The attention of `layer`; for stacks that the runtime executes."""
        mixer = self.mixer(layer)
        assert isinstance(mixer, Attention)
        return mixer

    @property
    def all_mixers(self) -> tuple[Attention | LinearMixer | None, ...]:
        """What mixes tokens, by layer."""
        return tuple(self.mixer(layer) for layer in range(self.n_layers))

    @property
    def is_uniform(self) -> bool:
        """Whether every layer has the same plain attention and an FFN."""
        return not self.mixer_of and not self.bare_layers and self.attention.is_plain

    @property
    def is_executable(self) -> bool:
        """Whether the runtime executes it: attention that it knows and an FFN in every layer, no window beside biases
        by distance."""
        mixers = [mixer for mixer in self.all_mixers if isinstance(mixer, Attention) and mixer.is_executable]
        windows = any(mixer.window for mixer in mixers)
        known = len(mixers) == self.n_layers and not self.bare_layers
        return known and not (windows and (self.relative_position_buckets or self.cross_attention))

    @property
    def kv_elements_per_token(self) -> int:
        """Numbers cached for a token in all layers; windows count as if they had no end."""
        return sum(mixer.kv_elements_per_token for mixer in self.all_mixers if mixer is not None)

    @property
    def state_elements(self) -> int:
        """Numbers of fixed-size states kept a sequence in all layers."""
        return sum(mixer.state_elements for mixer in self.all_mixers if isinstance(mixer, LinearMixer))

    def _check_mixers(self) -> None:
        if len(self.mixer_of) not in (0, self.n_layers):
            raise InvalidInput(f"mixer_of names {len(self.mixer_of)} layers of {self.n_layers}: all, or none")
        if self.mixers and not self.mixer_of:
            raise InvalidInput("mixers without mixer_of: say which layer has which")
        if any(not -1 <= i <= len(self.mixers) for i in self.mixer_of):
            raise InvalidInput(f"mixer_of: -1 to {len(self.mixers)}, the number of mixers")
        if self.cross_attention and self.mixer_of:
            raise InvalidInput("cross_attention with mixers: not modelled")
        bare = set(self.bare_layers)
        if bare & set(self.moe_layers) or any(not 0 <= layer < self.n_layers for layer in bare):
            raise InvalidInput("bare_layers: layers of the stack that are not MoE")

    @property
    def n_attention_blocks(self) -> int:
        """Attention blocks: one a layer, two with cross-attention."""
        return self.n_layers * (2 if self.cross_attention else 1)

    def matrix_params(self, d_model: int) -> int:
        """Parameters of attention projections and dense FFN matrices; no MoE block."""
        dense = self.n_dense_layers * self.n_dense_matrices * d_model * self.d_ff_dense
        return self.mixer_matrix_params(d_model) + dense

    def mixer_matrix_params(self, d_model: int) -> int:
        """Parameters of what mixes tokens: the projections."""
        mixing = sum(mixer.matrix_params(d_model) for mixer in self.all_mixers if mixer is not None)
        return (2 if self.cross_attention else 1) * mixing

    def vector_params(self, d_model: int, norm_params: int) -> int:
        """Parameters of biases, position tables and norms: one before every block and one at the end."""
        n_norms = self.n_attention_blocks + self.n_layers + 1
        biases = ffn_vector_params(d_model, self.d_ff_dense, self.n_dense_matrices) if self.ffn_bias else 0
        return (
            (2 if self.cross_attention else 1)
            * sum(mixer.vector_params(d_model) for mixer in self.all_mixers if mixer is not None)
            + self.n_dense_layers * biases
            + self.relative_position_buckets * self.attention.n_heads
            + n_norms * norm_params
        )
