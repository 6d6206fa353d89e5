"""What a Mixture-of-Experts model is made of, and the parameters and bytes that follow from it.

Shapes and counts only: nothing here knows a machine, a policy or a trace.
"""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import yaml

from traces.errors import InvalidInput
from traces.model.dtypes import Dtype, find_dtype
from traces.model.files.llama_mixes import is_file
from traces.model.formats_by_part import changed_formats, formats_of
from traces.model.layer_formats import LayerFormats
from traces.model.layer_stack import MAX_WIDTH, LayerStack, ffn_vector_params
from traces.model.published_counts import NOT_PUBLISHED, PublishedCounts

MAX_EXPERTS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelArchitecture:
    """A Mixture-of-Experts transformer; `encoder` is None for a decoder-only model.

    Every MoE block has `n_experts` experts of `n_expert_matrices` (2, or 3 when gated) matrices of width
    `d_ff_expert`, a gate that picks `top_k` of them for a token, and `n_shared_experts` that always run, each
    `d_ff_shared` wide. MoE layers are numbered through the model: those of the encoder first.

    Storage: expert matrices in `expert_dtype`; dense FFN matrices in `dtype`, attention and shared experts too unless
    `attention_dtype` or `shared_dtype` says otherwise; gates, norms and biases in `gate_dtype`, the KV cache in
    `kv_dtype`, the input table in `embedding_dtype`, the output head in `head_dtype`, all four in `activation_dtype`
    unless given, which is `dtype` unless given (it must be given below 16 bits); a tied head is the input table.
    Where layers of a decoder differ, `layer_formats` says how, and that of a part is what they have together.
    `other_params`: parameters of parts that no op reads, kept in HBM (tables by layer, say); `table_params`: those of
    tables of n-grams, in `table_dtype`, kept in host memory, of which a token reads a few rows. `d_expert`: the width
    that experts read and write, where a projection to it and back stands around them; 0: `d_model`. `trained_context`:
    tokens of a sequence that the maker's configuration goes to, 0 where nobody says. `pregated_from`: the first layer
    whose experts the gates of the token before choose, in this layer and all after; 0: none. `n_free_experts`: experts
    that a gate chooses among beside the `n_experts` and that compute nothing (LongCat). `norm_bias` tells LayerNorm
    from RMSNorm. Raises `InvalidInput`.
    """

    name: str
    d_model: int
    vocab_size: int
    tied_embeddings: bool
    encoder: LayerStack | None = None
    decoder: LayerStack
    n_experts: int
    top_k: int
    d_ff_expert: int
    n_expert_matrices: int
    n_shared_experts: int = 0
    d_ff_shared: int = 0
    shared_expert_gate: bool = False
    expert_bias: bool = False
    gate_bias: bool = False
    head_bias: bool = False
    norm_bias: bool = False
    dtype: Dtype
    expert_dtype: Dtype
    activation_dtype: Dtype | None = None
    attention_dtype: Dtype | None = None
    shared_dtype: Dtype | None = None
    kv_dtype: Dtype | None = None
    embedding_dtype: Dtype | None = None
    head_dtype: Dtype | None = None
    gate_dtype: Dtype | None = None
    layer_formats: LayerFormats | None = None
    other_params: int = 0
    table_params: int = 0
    table_dtype: Dtype | None = None
    d_expert: int = 0
    trained_context: int = 0
    pregated_from: int = 0
    n_free_experts: int = 0
    published: PublishedCounts = NOT_PUBLISHED
    sources: tuple[str, ...] = ()
    note: str = ""

    def __str__(self) -> str:
        """The model in a line; `repr` has every field."""
        params = f"{self.total_params / 1e9:.4g} B parameters, {self.active_params / 1e9:.3g} B of a token"
        experts = f"{self.n_moe_layers} MoE layers of {self.n_experts} experts, {self.top_k} of a token"
        return f"{self.name}: {params}, {self.total_bytes / 1e9:.4g} GB in {self.expert_dtype.name}, {experts}"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(str(self))}</p>"

    def __post_init__(self) -> None:
        if not self.name:
            raise InvalidInput("an architecture without a name: give it one")
        self._check_range("d_model", 1, MAX_WIDTH)
        self._check_range("vocab_size", 1, MAX_WIDTH)
        self._check_range("n_experts", 1, MAX_EXPERTS)
        self._check_range("top_k", 1, self.n_experts)
        self._check_range("n_free_experts", 0, MAX_EXPERTS)
        self._check_range("d_ff_expert", 1, MAX_WIDTH)
        self._check_range("n_expert_matrices", 2, 3)
        self._check_range("n_shared_experts", 0, MAX_EXPERTS)
        self._check_range("trained_context", 0, 1 << 40)
        self._check_range("pregated_from", 0, self.decoder.n_layers - 1)
        self._check_range("d_ff_shared", 1 if self.n_shared_experts else 0, MAX_WIDTH)
        if not self.n_shared_experts and (self.d_ff_shared or self.shared_expert_gate):
            raise InvalidInput(f"{self.name}: d_ff_shared or shared_expert_gate without shared experts")
        if not self.n_moe_layers:
            raise InvalidInput(f"{self.name}: no MoE layer: list at least one in moe_layers")
        if self.encoder is not None and self.encoder.cross_attention:
            raise InvalidInput(f"{self.name}: the encoder has cross-attention: only a decoder can")
        if self.decoder.cross_attention and self.encoder is None:
            raise InvalidInput(f"{self.name}: cross-attention without an encoder: add one, or set it false")
        if self.layer_formats is not None:
            if self.is_encoder_decoder:
                raise InvalidInput(f"{self.name}: layer_formats of an encoder-decoder: of a decoder alone")
            self.layer_formats.check(self.decoder.n_layers)
        if self.activation_dtype is None and self.dtype.bits < 16:
            raise InvalidInput(f"{self.name}: dtype {self.dtype.name} needs an activation_dtype, such as bf16")

    def _check_range(self, field: str, low: int, high: int) -> None:
        value = getattr(self, field)
        if not low <= value <= high:
            raise InvalidInput(f"{self.name}: {field} = {value}, expected {low} to {high}")

    @property
    def stacks(self) -> tuple[LayerStack, ...]:
        """The encoder, if there is one, then the decoder."""
        return (self.decoder,) if self.encoder is None else (self.encoder, self.decoder)

    @property
    def is_encoder_decoder(self) -> bool:
        """True when an encoder reads the prompt."""
        return self.encoder is not None

    @property
    def n_encoder_moe_layers(self) -> int:
        """MoE layers of the encoder; in a trace they come first."""
        return 0 if self.encoder is None else len(self.encoder.moe_layers)

    @property
    def n_moe_layers(self) -> int:
        """MoE layers of encoder and decoder together."""
        return self.n_encoder_moe_layers + len(self.decoder.moe_layers)

    @property
    def stored_activation_dtype(self) -> Dtype:
        """The format of activations, and of what has none of its own."""
        return self.dtype if self.activation_dtype is None else self.activation_dtype

    @property
    def stored_attention_dtype(self) -> Dtype:
        """The format of the token mixers' matrices."""
        return self.dtype if self.attention_dtype is None else self.attention_dtype

    @property
    def stored_shared_dtype(self) -> Dtype:
        """The format of the shared experts' matrices."""
        return self.dtype if self.shared_dtype is None else self.shared_dtype

    @property
    def stored_kv_dtype(self) -> Dtype:
        """The format of the KV cache."""
        return self.stored_activation_dtype if self.kv_dtype is None else self.kv_dtype

    @property
    def stored_embedding_dtype(self) -> Dtype:
        """The format of the input table."""
        return self.stored_activation_dtype if self.embedding_dtype is None else self.embedding_dtype

    @property
    def stored_head_dtype(self) -> Dtype:
        """The format of the output head's matrix."""
        if self.tied_embeddings:
            return self.stored_embedding_dtype
        return self.stored_activation_dtype if self.head_dtype is None else self.head_dtype

    @property
    def stored_gate_dtype(self) -> Dtype:
        """The format of gates, norms and biases."""
        return self.stored_activation_dtype if self.gate_dtype is None else self.gate_dtype

    @property
    def is_executable(self) -> bool:
        """Whether the runtime executes its layers."""
        windows = self.encoder is not None and any(stack.attention.window for stack in self.stacks)
        return not self.d_expert and not windows and all(stack.is_executable for stack in self.stacks)

    def compute_format(self, stored: Dtype) -> str:
        """The format in which weights stored as `stored` are multiplied: their own from 8 bits on, as fp8 engines
        quantise activations too. Narrower ones and what is packed in blocks or groups become the activations' format.
        """
        if stored.most in ("mxfp8", "fp8-b128"):  # multiplied at the rate of fp8, scales applied on the way
            return "fp8"
        return self.stored_activation_dtype.name if stored.bits < 8 or stored.is_packed else stored.most

    @property
    def expert_width(self) -> int:
        """The width of what an expert reads and writes: `d_model`, or that of a space between (latent MoE)."""
        return self.d_expert or self.d_model

    @property
    def _expert_matrix_params(self) -> int:
        return self.n_expert_matrices * self.expert_width * self.d_ff_expert

    @property
    def _expert_vector_params(self) -> int:
        if not self.expert_bias:
            return 0
        return ffn_vector_params(self.expert_width, self.d_ff_expert, self.n_expert_matrices)

    @property
    def expert_params(self) -> int:
        """Parameters of one expert."""
        return self._expert_matrix_params + self._expert_vector_params

    @property
    def expert_bytes(self) -> int:
        """Bytes of one expert: what a fetch moves."""
        vectors = self._expert_vector_params * self.stored_gate_dtype.bytes_per_param
        return math.ceil(self._expert_matrix_params * self.expert_dtype.bytes_per_param + vectors)

    @property
    def gate_params(self) -> int:
        """Parameters of one MoE block's gate, that of its shared expert and the projections to its experts included."""
        shared_gate = self.d_model if self.shared_expert_gate else 0
        shared_gate += 2 * self.d_model * self.d_expert
        return (self.d_model + self.gate_bias) * (self.n_experts + self.n_free_experts) + shared_gate

    @property
    def shared_expert_params(self) -> int:
        """Parameters of one MoE block's shared experts together."""
        return self.n_shared_experts * self.n_expert_matrices * self.d_model * self.d_ff_shared

    @property
    def embedding_params(self) -> int:
        """Parameters of the input table, which is also the output head when embeddings are tied."""
        return self.vocab_size * self.d_model

    @property
    def head_params(self) -> int:
        """Parameters the output head has of its own."""
        return (0 if self.tied_embeddings else self.embedding_params) + self.head_bias * self.vocab_size

    @property
    def matrix_params(self) -> dict[str, int]:
        """Weights of the matrices of each part that has a format of its own; the head's are 0 where it is tied."""
        mixing = sum(stack.mixer_matrix_params(self.d_model) for stack in self.stacks)
        return {
            "attention": mixing,
            "dense": sum(stack.matrix_params(self.d_model) for stack in self.stacks) - mixing,
            "shared": self.n_moe_layers * self.shared_expert_params,
            "experts": self.n_moe_layers * self.n_experts * self._expert_matrix_params,
            "embedding": self.embedding_params,
            "head": 0 if self.tied_embeddings else self.embedding_params,
        }

    @property
    def _activation_format_params(self) -> int:
        """What no part of the layers' matrices holds: norms, biases, gates, and the two tables."""
        norm_params = self.d_model * (2 if self.norm_bias else 1)
        stacks = sum(stack.vector_params(self.d_model, norm_params) for stack in self.stacks)
        tables = self.embedding_params + self.head_params + self.other_params
        return stacks + self.n_moe_layers * self.gate_params + tables

    @property
    def non_expert_params(self) -> int:
        """Parameters outside the routed experts: shared experts, gates and embeddings are among them."""
        layers = ("attention", "dense", "shared")
        return sum(self.matrix_params[part] for part in layers) + self._activation_format_params

    @property
    def non_expert_bytes(self) -> int:
        """Bytes outside the routed experts: what every offloading design keeps in HBM."""
        return _non_expert_bytes(self)

    @property
    def total_bytes(self) -> int:
        """Bytes of all weights as they are stored."""
        return self.non_expert_bytes + self.n_moe_layers * self.n_experts * self.expert_bytes + self.table_bytes

    @property
    def table_bytes(self) -> int:
        """Bytes of the tables of n-grams, which host memory holds."""
        stored = self.stored_activation_dtype if self.table_dtype is None else self.table_dtype
        return math.ceil(self.table_params * stored.bytes_per_param)

    @property
    def total_params(self) -> int:
        """All parameters."""
        return self.non_expert_params + self.n_moe_layers * self.n_experts * self.expert_params + self.table_params

    @property
    def computed_share(self) -> float:
        """Of a token's choices, the share that computes something: that of experts which do, as training balances them
        (LongCat-Flash, arXiv 2509.01322, section 2.1: 8 of 12 on average, of 512 among 768)."""
        return self.n_experts / (self.n_experts + self.n_free_experts)

    @property
    def active_params(self) -> int:
        """Parameters one token meets: everything outside the experts, and of its `top_k` choices of each MoE layer
        those that compute something, on average.

        Both embedding tables count whole, as in the counts of Qwen3 and Mixtral. An encoder-decoder counts
        both stacks, though one token only passes through one of them: no such count is published.
        """
        chosen = self.n_moe_layers * self.top_k * self.expert_params * self.computed_share
        return self.non_expert_params - self.other_params + round(chosen)

    def _kv_bytes(self) -> int:
        return math.ceil(self.decoder.kv_elements_per_token * self.stored_kv_dtype.bytes_per_param)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of KV cache for one token in the decoder's self-attention, all layers together.

        Every layer counts as full attention: sliding windows and chunks (gpt-oss, Llama 4) keep less.
        """
        return self._kv_bytes()

    @property
    def state_bytes_per_sequence(self) -> int:
        """Bytes of the fixed-size states of linear mixers for one sequence, in fp32 as engines keep them."""
        return 4 * self.decoder.state_elements

    @property
    def cross_kv_bytes_per_token(self) -> int:
        """Bytes of K and V over one encoder token for all decoder layers; 0 without cross-attention."""
        return self._kv_bytes() if self.decoder.cross_attention else 0

    def with_dtype(self, name: str) -> ModelArchitecture:
        """The same model with all matrices stored as `name`; below 16 bits the activation format stays.

        The name of a GGUF file (`q4_k_m`, `q2_k`) is that of all its parts. Published counts are of parameters, so they
        stay. Raises `UnknownName`.
        """
        if is_file(name):
            return self.with_formats({"all": name})
        dtype = find_dtype(name)
        kept = self.stored_activation_dtype if dtype.bits < 16 else None
        return dataclasses.replace(
            self, dtype=dtype, expert_dtype=dtype, activation_dtype=kept, attention_dtype=None, shared_dtype=None,
            embedding_dtype=None, head_dtype=None, gate_dtype=None, layer_formats=None,
        )  # fmt: skip

    def with_expert_dtype(self, name: str) -> ModelArchitecture:
        """The same model with the experts' matrices stored as `name`, the rest as it is. Raises `UnknownName`."""
        return self.with_experts_in(find_dtype(name))

    def with_experts_in(self, dtype: Dtype) -> ModelArchitecture:
        """The same model with the experts of every layer in one format."""
        layers = self.layer_formats
        kept = None if layers is None else layers.without(["experts"]).known()
        return dataclasses.replace(self, expert_dtype=dtype, layer_formats=kept)

    @property
    def formats(self) -> dict[str, Dtype]:
        """The format that each part is stored in, by the names of `with_formats`."""
        return formats_of(self)

    def with_formats(self, formats: Mapping[str, str]) -> ModelArchitecture:
        """The same model with parts stored in other formats: `{"experts": "q4_k", "attention": "q8_0"}`.

        Parts: attention, dense, shared, experts, embedding, head, gates (norms and biases too), kv, activations; `all`
        for every matrix that is not named, a format, a mix whose rule is published (`q4_k_m`), or the size of the whole
        model (`15.4GiB`). Raises `UnknownName`, or `InvalidInput` for activations that no card has.
        """
        return dataclasses.replace(self, **changed_formats(self, formats))

    def with_top_k(self, k: int) -> ModelArchitecture:
        """The same model with `k` experts for a token; published active count goes. Raises `InvalidInput`."""
        published = dataclasses.replace(self.published, active_params=None)
        return dataclasses.replace(self, top_k=k, published=self.published if k == self.top_k else published)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `parse_architecture` reads back as YAML; fields at their default are left out."""
        return {field.name: _plain(value) for field, value in _set_fields(self)}

    def to_yaml(self) -> str:
        """`to_dict` as YAML text."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, width=110)


def _set_fields(value: Any) -> list[tuple[dataclasses.Field[Any], Any]]:
    """Fields of a dataclass that are not at their default, with their values."""
    pairs = ((field, getattr(value, field.name)) for field in dataclasses.fields(value))
    return [(field, item) for field, item in pairs if item != field.default]


def _plain(value: Any) -> Any:
    """A field as YAML has it: formats by name, parts as mappings of what is not at its default."""
    if isinstance(value, Dtype):
        return value.name
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(item) for field, item in _set_fields(value)}
    return value


@lru_cache(64)
def _non_expert_bytes(model: ModelArchitecture) -> int:
    """Counted once a model: every design on every machine asks for it."""
    matrices, formats = model.matrix_params, model.formats
    stored = sum(
        matrices[part] * formats[part].bytes_per_param for part in ("dense", "attention", "shared", "embedding", "head")
    )
    rest = model._activation_format_params - matrices["embedding"] - matrices["head"]
    return math.ceil(stored + rest * model.stored_gate_dtype.bytes_per_param)
