"""What the FFNs of a transformer layer ask of a machine: experts alone, fused, or a part of one; shared and dense ones.

Counted as `offload.work` says: 2 FLOP per multiply-add, weights read once per GEMM, as they are stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from operator import mul

from offload.ops import FusedExperts, Gemm, OpKind, Work
from traces.model.architecture import LayerStack, ModelArchitecture


def experts_work(
    model: ModelArchitecture,
    tokens_per_expert: Sequence[int],
    n_shared_tokens: int = 0,
    slots_bytes: int = 0,
    *,
    fused: bool = False,
) -> Work:
    """Expert FFNs, one entry of `tokens_per_expert` an active expert; shared experts on `n_shared_tokens`.

    `slots_bytes`: of all slots that experts are fetched into; 0 where every expert has a place of its own. `fused`: one
    op over all of the experts, whatever an engine calls it (grouped GEMM, fused MoE).
    """
    gemms: list[Gemm] = []
    stored = model.expert_dtype if tokens_per_expert else model.stored_shared_dtype
    shape = model.expert_width, model.d_ff_expert, model.n_expert_matrices
    n_rows, most, counts = 0, 0, Counter(tokens_per_expert)
    for n_tokens in sorted(counts):
        n_experts = counts[n_tokens]
        gemms += _ffn(n_tokens, *shape, n_experts)
        n_rows, most = n_rows + n_tokens * n_experts, n_tokens
    weight_bits = stored.bits
    one = None
    if fused and gemms:
        one = FusedExperts(len(tokens_per_expert), n_rows, len(gemms), max(-(-n_rows // model.top_k), most))
    if n_shared_tokens and model.n_shared_experts:
        width = model.d_ff_shared
        shared = _ffn(n_shared_tokens, model.d_model, width, model.n_expert_matrices, model.n_shared_experts)
        if model.stored_shared_dtype.bits != stored.bits:  # two formats in one op: the mean of its parameters' bits
            here, there = (sum(g.n * g.k * g.n_gemms for g in part) for part in (gemms, shared))
            weight_bits = (here * stored.bits + there * model.stored_shared_dtype.bits) / (here + there)
        gemms += shared
    slots_bytes = slots_bytes if tokens_per_expert else 0
    return Work(
        OpKind.EXPERTS, tuple(gemms), model.compute_format(stored), weight_bits, slots_bytes=slots_bytes, fused=one
    )


class GroupedExperts:
    """`experts_work` of many fused ops of one model: what these have in common is asked of it once."""

    def __init__(self, model: ModelArchitecture, slots_bytes: int) -> None:
        self._model, self._slots_bytes = model, slots_bytes
        like = experts_work(model, (1,), 0, slots_bytes, fused=True)
        gemms, fused = Work._fields.index("gemms"), Work._fields.index("fused")
        self._before, self._between, self._after = like[:gemms], like[gemms + 1 : fused], like[fused + 1 :]
        self._one_format = model.stored_shared_dtype.bits == model.expert_dtype.bits
        self._ffns = _FfnsOfRuns(model)
        self._shared: dict[int, tuple[Gemm, ...]] = {}

    def of(self, n_shared: int, served: Sequence[int], n_experts: Sequence[int]) -> Work:
        """The op of experts that serve so many tokens each, ascending, and how many these are; shared experts serve
        `n_shared` tokens.
        """
        model = self._model
        if not served or (n_shared and model.n_shared_experts and not self._one_format):
            each = [n for n, times in zip(served, n_experts, strict=True) for _ in range(times)]
            return experts_work(model, each, n_shared, self._slots_bytes, fused=True)
        gemms = tuple(chain.from_iterable(map(self._ffns.__getitem__, zip(served, n_experts, strict=True))))
        n_rows = sum(map(mul, served, n_experts))
        fused = sum(n_experts), n_rows, len(gemms), max(-(-n_rows // model.top_k), served[-1])
        one = tuple.__new__(FusedExperts, fused)  # a prompt has thousands: their constructors take a quarter of it
        if n_shared:
            if n_shared not in self._shared:
                self._shared[n_shared] = experts_work(model, (), n_shared).gemms
            gemms += self._shared[n_shared]
        return tuple.__new__(Work, (*self._before, gemms, *self._between, one, *self._after))


class _FfnsOfRuns(dict[tuple[int, int], tuple[Gemm, ...]]):
    """The GEMMs of experts that serve so many tokens each, by that and how many these are."""

    def __init__(self, model: ModelArchitecture) -> None:
        self._model = model

    def __missing__(self, run: tuple[int, int]) -> tuple[Gemm, ...]:
        model, (n_tokens, n_experts) = self._model, run
        shape = model.expert_width, model.d_ff_expert, model.n_expert_matrices
        found = self[run] = _ffn(n_tokens, *shape, n_experts)
        return found


def dense_ffn_work(model: ModelArchitecture, stack: LayerStack, n_tokens: int) -> Work:
    """The FFN of a layer without experts."""
    gemms = _ffn(n_tokens, model.d_model, stack.d_ff_dense, stack.n_dense_matrices, 1)
    return Work(OpKind.DENSE_FFN, tuple(gemms), model.compute_format(model.dtype), model.dtype.bits)


def expert_part_work(model: ModelArchitecture, what: Work, share: float) -> Work:
    """`share` of the hidden units of one expert whose FFN is `what`: as many columns up, and rows down."""
    (up, down), n_units = what.gemms, round(share * model.d_ff_expert)
    return what._replace(gemms=(up._replace(n=n_units), down._replace(k=n_units)))


@lru_cache(1 << 14)
def _ffn(n_tokens: int, d_model: int, d_ff: int, n_matrices: int, n_ffns: int) -> tuple[Gemm, Gemm]:
    """Up (and gate) projections, then down: two matrices, or three with a gated activation."""
    return Gemm(n_tokens, d_ff, d_model, n_ffns * (n_matrices - 1)), Gemm(n_tokens, d_model, d_ff, n_ffns)
