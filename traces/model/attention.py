"""One attention block: the shapes of its projections, its parameters and what it caches for a token."""

from __future__ import annotations

from dataclasses import dataclass

from traces.errors import InvalidInput, unknown_name

KINDS = ("mha", "gqa", "mla")
QK_NORMS = ("none", "head", "full")
ENTRIES = ("overlapping", "apart", "borrowed")
MAX_HEADS = 4096
MAX_HEAD_DIM = 1 << 16
MAX_WIDTH = 1 << 24


@dataclass(frozen=True, slots=True)
class Attention:
    """Multi-head ("mha"), grouped-query ("gqa") or multi-head latent ("mla") attention.

    `head_dim` is the width of one query and key head; in MLA it is `qk_nope_dim + qk_rope_dim`, and the other MLA
    fields are 0 otherwise. Queries are made through a vector of `q_lora_rank` (MLA, Step-3), 0: directly. `qk_norm`
    scales queries and keys by one vector of `head_dim` ("head", Qwen3) or one of all heads ("full", OLMoE).
    `sinks` adds a learned logit for each head (gpt-oss). In MLA `qkv_bias` sits on the two down-projections.

    `window`: a token sees this many tokens at most, 0 all (sliding windows; chunks count as windows). `output_gate`:
    rows of a projection that gates the output (Qwen3-Next: one a channel, Step: one a head). `shared_key_value`: keys
    serve as values. Outside of MLA `v_head_dim` is the width of a value head where it is not `head_dim`. An indexer of
    `index_heads` x `index_dim` picks `index_topk` tokens to attend to (DeepSeek-V3.2); it keeps `index_dim` a token.

    `compression`: beyond its window a token sees one entry, a key that serves as value, for this many tokens before it
    (DeepSeek-V4); with an indexer those that it picks, made of twice as many tokens. `entries`: "overlapping" so,
    "apart" of no other tokens (DeepSeek-V4.1), "borrowed" of a layer before, whose cache it reads. `output_groups`: the
    heads are projected in so many groups to `output_rank` numbers each before the output projection; 0: at once.

    MLA follows DeepSeek-V2 (arXiv 2405.04434, section 2.1) with K and V decompressed by one matrix.
    Raises `InvalidInput` for shapes that contradict the kind.
    """

    kind: str
    n_heads: int
    n_kv_heads: int
    head_dim: int
    q_lora_rank: int = 0
    kv_lora_rank: int = 0
    qk_nope_dim: int = 0
    qk_rope_dim: int = 0
    v_head_dim: int = 0
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: str = "none"
    sinks: bool = False
    window: int = 0
    output_gate: int = 0
    shared_key_value: bool = False
    index_heads: int = 0
    index_dim: int = 0
    index_topk: int = 0
    compression: int = 0
    output_groups: int = 0
    output_rank: int = 0
    entries: str = "overlapping"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown_name("attention kind", self.kind, KINDS)
        if self.qk_norm not in QK_NORMS:
            raise unknown_name("qk_norm", self.qk_norm, QK_NORMS)
        for name, limit in (("n_heads", MAX_HEADS), ("n_kv_heads", MAX_HEADS), ("head_dim", MAX_HEAD_DIM)):
            value = getattr(self, name)
            if not 1 <= value <= limit:
                raise InvalidInput(f"attention: {name} = {value}, expected 1 to {limit}")
        if not 0 <= self.q_lora_rank <= MAX_HEAD_DIM:
            raise InvalidInput(f"attention: q_lora_rank = {self.q_lora_rank}, expected 0 (none) to {MAX_HEAD_DIM}")
        for name in (
            "window", "output_gate", "index_heads", "index_dim", "index_topk", "compression", "output_rank",
        ):  # fmt: skip
            value = getattr(self, name)
            if not 0 <= value <= MAX_WIDTH:
                raise InvalidInput(f"attention: {name} = {value}, expected 0 to {MAX_WIDTH}")
        if bool(self.index_heads) != bool(self.index_dim) or (self.index_heads and not self.index_topk):
            raise InvalidInput("attention: an indexer has index_heads, index_dim and index_topk, all above 0")
        self._check_compression()
        if self.kind == "mla":
            self._check_mla()
        else:
            self._check_heads()

    def _check_compression(self) -> None:
        if self.compression and not (self.window and self.shared_key_value):
            raise InvalidInput("attention: compression needs a window, and keys that serve as values")
        if self.entries not in ENTRIES:
            raise unknown_name("entries of attention", self.entries, ENTRIES)
        if self.entries != ENTRIES[0] and not self.compression:
            raise InvalidInput(f"attention: entries = {self.entries} without compression: leave it out")
        if bool(self.output_groups) != bool(self.output_rank):
            raise InvalidInput("attention: output_groups and output_rank, both above 0 or both 0")
        if self.output_groups < 0 or (self.output_groups and self.n_heads % self.output_groups):
            raise InvalidInput(
                f"attention: output_groups = {self.output_groups}, expected a divisor of n_heads = {self.n_heads}"
            )
        if self.kind == "mla" and (self.compression or self.output_groups):
            raise InvalidInput("attention: mla with compression or output_groups is not modelled: leave them out")

    def _check_heads(self) -> None:
        if self.kv_lora_rank or self.qk_nope_dim or self.qk_rope_dim:
            raise InvalidInput(f"attention: {self.kind} has no low-rank fields: leave them out, or use mla")
        if self.kind == "mha" and self.n_kv_heads != self.n_heads:
            raise InvalidInput(f"attention: mha with {self.n_kv_heads} KV heads for {self.n_heads} heads: use gqa")
        if self.n_heads % self.n_kv_heads:
            raise InvalidInput(
                f"attention: n_heads = {self.n_heads} is not a multiple of n_kv_heads = {self.n_kv_heads}"
            )

    def _check_mla(self) -> None:
        if not 0 <= self.qk_rope_dim <= MAX_HEAD_DIM:
            raise InvalidInput(f"attention: mla with qk_rope_dim = {self.qk_rope_dim}, expected 0 to {MAX_HEAD_DIM}")
        for name in ("kv_lora_rank", "qk_nope_dim", "v_head_dim"):
            value = getattr(self, name)
            if not 1 <= value <= MAX_HEAD_DIM:
                raise InvalidInput(f"attention: mla with {name} = {value}, expected 1 to {MAX_HEAD_DIM}")
        if self.head_dim != self.qk_nope_dim + self.qk_rope_dim:
            raise InvalidInput(
                f"attention: mla head_dim = {self.head_dim}, expected qk_nope_dim + qk_rope_dim = "
                f"{self.qk_nope_dim + self.qk_rope_dim}"
            )
        if self.n_kv_heads != self.n_heads:
            raise InvalidInput(f"attention: mla with n_kv_heads = {self.n_kv_heads}, expected {self.n_heads}")
        if self.qk_norm != "none" or self.sinks:
            raise InvalidInput("attention: mla with qk_norm or sinks is not modelled: leave them out")

    def gemm_shapes(self, d_model: int) -> tuple[tuple[int, int], ...]:
        """(n_out, k_in) of each projection matrix, in the order they run; the output projection is last.

        MLA: queries (one matrix, or down and up), KV down, KV up, output. Kernels that absorb the KV
        up-projection into its neighbours multiply by the same weights in another order.
        """
        if self.kind != "mla":
            keys, values = self.n_kv_heads * self.head_dim, self.n_kv_heads * self.value_dim
            kept = ((keys, d_model),) if self.shared_key_value else ((keys, d_model), (values, d_model))
            gate = ((self.output_gate, d_model),) if self.output_gate else ()
            compressor = self._compressor(d_model)
            return (*self._queries(d_model), *kept, *gate, *compressor, *self._indexer(d_model), *self._output(d_model))
        return (
            *self._queries(d_model),
            (self.kv_lora_rank + self.qk_rope_dim, d_model),
            self.latent_up,
            *(((self.output_gate, d_model),) if self.output_gate else ()),
            *self._indexer(d_model),
            (d_model, self.n_heads * self.v_head_dim),
        )

    def _queries(self, d_model: int) -> tuple[tuple[int, int], ...]:
        """One matrix, or one down to `q_lora_rank` and one up to all heads."""
        q_width = self.n_heads * self.head_dim
        if not self.q_lora_rank:
            return ((q_width, d_model),)
        return ((self.q_lora_rank, d_model), (q_width, self.q_lora_rank))

    def _indexer(self, d_model: int) -> tuple[tuple[int, int], ...]:
        """The indexer's queries, key and weights of heads (DeepSeek-V3.2, arXiv 2512.02556, section 2.1)."""
        if not self.index_heads:
            return ()
        source = self.q_lora_rank or d_model
        queries, weights = (self.index_heads * self.index_dim, source), (self.index_heads, d_model)
        if self.entries == "borrowed":  # with their keys
            return queries, weights
        if self.entries == "apart":  # keys are made of the entries
            return queries, (self.index_dim, self.head_dim), weights
        return queries, ((4 * self.index_dim if self.compression else self.index_dim), d_model), weights

    def _compressor(self, d_model: int) -> tuple[tuple[int, int], ...]:
        """The entry's numbers and their weights by token, which an entry of one needs none of; of entries that overlap,
        two of each.
        """
        if self.entries == "borrowed":
            return ()
        if self.entries == "apart":
            return ((min(self.compression, 2) * self.head_dim, d_model),)
        return ((2 * self._n_series * self.head_dim, d_model),) if self.compression else ()

    @property
    def _n_series(self) -> int:
        """Entries that each token is in: two where an indexer picks them, as they overlap."""
        return 2 if self.index_heads and self.entries == "overlapping" else 1

    def _output(self, d_model: int) -> tuple[tuple[int, int], ...]:
        """One matrix, or the groups' matrices side by side and one from their ranks."""
        width = self.n_heads * self.value_dim
        if not self.output_groups:
            return ((d_model, width),)
        ranks = self.output_groups * self.output_rank
        return ((ranks, width // self.output_groups), (d_model, ranks))

    @property
    def value_dim(self) -> int:
        """The width of one value head."""
        return self.v_head_dim or self.head_dim

    @property
    def is_plain(self) -> bool:
        """Whether every token attends to all before it, with no gate and no indexer."""
        return not self.window and self.is_executable

    @property
    def is_executable(self) -> bool:
        """Whether the runtime executes it: plain, or plain within a window."""
        extras = (self.output_gate, self.index_topk, self.shared_key_value, self.output_groups)
        return not any(extras) and (self.kind == "mla" or (self.value_dim == self.head_dim and not self.q_lora_rank))

    @property
    def most_attended(self) -> int:
        """Most tokens that one token attends to; 0 without a limit."""
        return self.index_topk or self.window

    @property
    def latent_up(self) -> tuple[int, int]:
        """(n_out, k_in) of the matrix that makes keys and values of latents."""
        return self.n_heads * (self.qk_nope_dim + self.v_head_dim), self.kv_lora_rank

    def matrix_params(self, d_model: int) -> int:
        """Parameters of the projection matrices."""
        return sum(n_out * k_in for n_out, k_in in self.gemm_shapes(d_model))

    def vector_params(self, d_model: int) -> int:
        """Parameters of biases, norms inside the block, and sinks."""
        if self.kind == "mla":
            biased = self.q_lora_rank + self.kv_lora_rank + self.qk_rope_dim
            norms = self.q_lora_rank + self.kv_lora_rank
        else:
            biased = (self.n_heads + 2 * self.n_kv_heads) * self.head_dim
            widths = {"none": 0, "head": 2, "full": self.n_heads + self.n_kv_heads}
            norms = widths[self.qk_norm] * self.head_dim + self.q_lora_rank
        sinks = self.n_heads if self.sinks else 0
        placed = (self.compression + 1) * self._n_series * self.head_dim if self.compression else 0
        if self.entries != "overlapping":  # norms of entries and of their keys
            placed = self.head_dim + self.index_dim if self.entries == "apart" else 0
        return self.qkv_bias * biased + self.output_bias * d_model + norms + sinks + placed

    def params(self, d_model: int) -> int:
        """All parameters of the block."""
        return self.matrix_params(d_model) + self.vector_params(d_model)

    @property
    def score_flop_per_pair(self) -> int:
        """FLOPs of one query-key pair, all heads: the score over the width of a key, then the value's share.

        MLA with the up-projections absorbed into the query and the output, as kernels over a cache of latents do it
        (DeepSeek-V2, arXiv 2405.04434, section 2.1.2): a key is the latent and the shared RoPE part, a value the
        latent. Kernels that decompress a prompt first take `head_dim` and `v_head_dim` instead, fewer.
        """
        if self.kind == "mla":
            return 2 * self.n_heads * (2 * self.kv_lora_rank + self.qk_rope_dim)
        return 2 * self.n_heads * (self.head_dim + self.value_dim)

    @property
    def index_flop_per_pair(self) -> int:
        """FLOPs of the indexer's score of one query-key pair, over all of the context."""
        return 2 * self.index_heads * self.index_dim

    @property
    def kv_elements_per_token(self) -> int:
        """Numbers cached for a token in one layer; of entries that stand for several tokens its share, rounded up; of
        entries that are borrowed none.
        """
        if self.entries == "borrowed":
            return 0
        return -(-self.entry_elements // self.compression) if self.compression else self.entry_elements

    @property
    def entry_elements(self) -> int:
        """Numbers of one entry of the cache: K and V, or in MLA the latent and the shared RoPE key."""
        if self.kind == "mla":
            return self.kv_lora_rank + self.qk_rope_dim + self.index_dim
        values = 0 if self.shared_key_value else self.value_dim
        return self.n_kv_heads * (self.head_dim + values) + self.index_dim
