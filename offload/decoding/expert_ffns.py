"""Expert FFNs as ops of the compute stream: one by one or fused, in the order in which what they read is there.

Nothing here may know time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from offload.decoding.decoding_pass import HOST_WAITS, DecodingPass, read_back
from offload.decoding.unions import MoeBlock, Union
from offload.execution import Execution, Fusing
from offload.ops import Work
from offload.policy import MissAction


class ExpertOp(NamedTuple):
    """Experts of one op, and the copies that it waits for."""

    union: Union
    fused: bool
    after: tuple[int, ...]


class ExpertFfns:
    """Writes the FFN ops of the blocks of one pass."""

    def __init__(self, loop: DecodingPass) -> None:
        self._loop = loop

    def run(
        self,
        block: MoeBlock,
        union: Union,
        waits: Sequence[int],
        ready: Mapping[int, int] | None = None,
        hits: frozenset[int] = frozenset(),
        freed: int = 0,
        begun: bool = False,
    ) -> int:
        """The FFN ops of `union`; the last one, which is returned, `waits`. Shared experts are first, or in a fused op
        that is first, unless the block has `begun` already.

        `ready`: of experts that are cached (`hits`) or fetched, the last op of the copy, -1 none; None: all live here.
        """
        loop, shared = self._loop, 0
        ops = _expert_ops(loop.execution, union, ready, hits)
        if loop.pass_works.shared is not None and not begun:
            shared = loop.n_tokens
        first_is_fused = ops[0].fused if ops else self._way_of_none(ready) != "each" or not waits
        if shared and not first_is_fused:
            self.shared(block)
            shared = 0
        if not ops:
            last = self._fused(block, Union((), ()), shared > 0, waits, freed)
        splits = bool(loop.memory.copies.pieces)
        for n_left, one in zip(range(len(ops) - 1, -1, -1), ops, strict=True):
            after = one.after if n_left else sorted({*one.after, *waits})
            released = 0 if n_left else freed
            if one.fused:
                last = self._fused(block, one.union, shared > 0, after, released)
                shared = 0
            else:
                (expert,), (n_tokens,) = one.union
                pieces = () if ready is None or not splits else loop.memory.pieces(block.moe_layer, expert)
                last = self.single(block, expert, n_tokens, after, released, pieces)
        if loop.execution.sync_after_ffn:
            loop.host(HOST_WAITS, (last,), block.layer)
        return last

    def shared(self, block: MoeBlock) -> None:
        """Shared experts alone, where the model has them: of all tokens, or of one micro-batch after the other."""
        loop = self._loop
        if loop.pass_works.shared is None:
            return
        if loop.micro is None:
            loop.compute(loop.pass_works.shared, block.layer)
        else:
            loop.micro.shared(block.layer)

    def single(
        self, block: MoeBlock, expert: int, n_tokens: int, after: Sequence[int], freed: int, pieces: Sequence[int] = ()
    ) -> int:
        """The FFN of one expert, as its miss was answered; of one whose matrices come by copies `pieces`, the product
        by each once that is there.
        """
        loop, how = self._loop, block.how.get(expert, MissAction.FETCH)
        if loop.execution.selects_on_host:
            for _ in range(loop.model.n_expert_matrices):
                read_back(loop, loop.last_op, block.layer)
        if pieces:
            *before, last = loop.works.matrices(self._work(n_tokens, how))
            for what, ready in zip(before, pieces, strict=False):
                loop.compute(what, block.layer, (ready,), 0, expert)
            return loop.compute(last, block.layer, after, freed, expert)
        if loop.micro is not None:
            return loop.micro.single(block.i, expert, how, block.layer, after, freed, self._work)
        return loop.compute(self._work(n_tokens, how), block.layer, after, freed, expert)

    def _work(self, n_tokens: int, how: MissAction) -> Work:
        """One expert over `n_tokens`: all of it or a share, at the bits that were fetched."""
        what = self._loop.works.single(n_tokens)
        if how.bits is not None:
            what = what._replace(weight_bits=how.bits)
        return self._loop.works.part(what, how.share) if how.share < 1 else what

    def _fused(self, block: MoeBlock, union: Union, shared: bool, after: Sequence[int], freed: int) -> int:
        """Experts in one op, or in one of each micro-batch; `shared` experts in it too, where it says so."""
        loop = self._loop
        if loop.micro is not None:
            return loop.micro.fused(block.i, union.experts, shared, block.layer, after, freed)
        n_shared = loop.n_tokens if shared else 0
        if loop.execution.sorts_on_host and union.tokens and loop.n_tokens > 1:
            self._sort(block.layer, after)
        return loop.compute(loop.works.grouped(n_shared, union.tokens), block.layer, after, freed)

    def _sort(self, layer: int, weights: Sequence[int]) -> None:
        """The host waits for the ids and sorts the rows by expert, anew for each matrix of the experts.

        The ids come on the stream that their `weights` come on, and behind them.
        """
        loop = self._loop
        for _ in range(loop.model.n_expert_matrices):
            read_back(loop, loop.last_op, layer, weights)
            loop.host(loop.works.sort(loop.n_tokens), (), layer)

    def _way_of_none(self, ready: Mapping[int, int] | None) -> Fusing:
        """How the experts of a block would run of which the device has none."""
        execution = self._loop.execution
        return execution.resident if ready is None else execution.arriving


def _expert_ops(
    execution: Execution, union: Union, ready: Mapping[int, int] | None, hits: frozenset[int]
) -> list[ExpertOp]:
    """The ops that the experts of a block become, in the order in which their copies end."""
    if ready is None and execution.resident != "each":
        return [ExpertOp(union, True, ())] if union.experts else []
    if ready is None:
        ready = dict.fromkeys(union.experts, -1)
        ways: dict[str, Fusing] = {"resident": execution.resident}
        place = dict.fromkeys(union.experts, "resident")
    elif execution.cached == execution.arriving == "each":
        return _one_by_one(union, ready)
    else:
        ways = {"cached": execution.cached, "arriving": execution.arriving}
        place = {expert: "cached" if expert in hits else "arriving" for expert in union.experts}
    fused: dict[str, list[tuple[int, int]]] = {}
    ops = []
    for expert, n_tokens in zip(union.experts, union.tokens, strict=True):
        way = ways[place[expert]]
        if way == "each":
            ops.append(_op([(expert, n_tokens)], ready, fused=False))
        else:
            fused.setdefault(place[expert] if way == "section" else "layer", []).append((expert, n_tokens))
    ops = [*(_op(members, ready, fused=True) for _, members in sorted(fused.items())), *ops]
    return sorted(ops, key=lambda one: max(one.after, default=-1))


def _one_by_one(union: Union, ready: Mapping[int, int]) -> list[ExpertOp]:
    """As `_expert_ops`, of experts none of which share an op."""
    pairs = zip(union.experts, union.tokens, strict=True)
    return [
        ExpertOp(Union((expert,), (n_tokens,)), False, (ready[expert],) if ready[expert] >= 0 else ())
        for expert, n_tokens in sorted(pairs, key=lambda pair: max(ready[pair[0]], -1))
    ]


def _op(members: list[tuple[int, int]], ready: Mapping[int, int], *, fused: bool) -> ExpertOp:
    after = sorted({ready[expert] for expert, _ in members if ready[expert] >= 0})
    return ExpertOp(Union(tuple(e for e, _ in members), tuple(n for _, n in members)), fused, tuple(after))
