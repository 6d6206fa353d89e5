"""Which loop fills a synthetic trace, sequence by sequence.

Every sequence has random numbers of its own, so what it chooses depends neither on how many run beside it nor on how
many tokens follow, and the popularity of one sequence at a time is held.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from compiled.machine_code import Kernel, loaded
from compiled.when_it_pays import machine_code_pays
from traces.synthesis.sequence_popularity import SequencePopularity, guides_of
from traces.synthesis.sequence_starts import Start
from traces.synthesis.synthesis_kernel import fill

FILL_MANY = Kernel(
    "traces.synthesis.many_experts_kernel",
    "fill_many",
    (
        "int16[3]", "float64[4]", "float64[2]", "float64[2]", "int16[2]", "int16[2]", "int16[2]", "int8[2]",
        "float64[2]", "float64[2]", "float64[2]", "float64[2]", "int64", "float64", "float64",
    ),
    sources=("traces.synthesis.synthesis_kernel",),
    unrolls=False,
)  # fmt: skip

_CHUNK_DRAWS = 1 << 16
"""Random numbers held at a time (half a MiB), so that they stay in the caches of the processor."""
_WORD = (1 << 32) - 1
"""What a seed takes a number in."""
_SMALL_CELLS = 100_000
"""Routing cells that are filled in plain Python where nothing is compiled: within the second that compiling takes."""
_MANY_CELLS = 1 << 25
"""Routing cells from which a quicker loop is worth compiling."""

Chances = tuple[float, float]
"""That a slot repeats the token before, and that one that does not follows the layer before."""

_Filling = Callable[[NDArray[np.int16], NDArray[np.float64]], object]
"""Fills the next tokens of a sequence: experts (n_tokens, n_layers, top_k), draws."""
_Beginning = Callable[[NDArray[np.float64], NDArray[np.int16]], _Filling]
"""Begins a sequence: its cumulative popularity, and the tokens of it that there are, (n, n_layers, top_k)."""


def fill_sequences(
    experts: NDArray[np.int16],
    runs: Sequence[Sequence[slice]],
    popularity: NDArray[np.float64],
    by_rank: NDArray[np.int16],
    chances: Chances,
    affinity: float,
    key: tuple[int, ...],
    taken: Sequence[Start],
) -> None:
    """Fill `experts` (n_tokens, n_layers, top_k).

    `runs`: of each sequence its tokens, in slices one after another. `popularity` (n_layers, n_active + 1), cumulative
    by rank, and `by_rank` (n_layers, n_experts), the expert of each rank, are shared. `key` and the number of a
    sequence are the seed of its random numbers. `taken`: of the first sequences tokens that are known, whose random
    numbers are skipped.
    """
    n_layers, top_k = experts.shape[1:]
    popularity, by_rank = np.ascontiguousarray(popularity), np.ascontiguousarray(by_rank)
    rows = max(1, _CHUNK_DRAWS // (2 * top_k * n_layers))
    lengths = [sum(len(experts[part]) for part in parts) for parts in runs]
    longest = max(lengths)
    if top_k == 1 and not chances[1] and longest <= rows:
        begin = _alone(by_rank, chances)
    elif _may_take_all_layers(experts, popularity, chances):
        begin = _all_layers(experts, popularity, by_rank, chances)
    else:
        loop = _many_experts if load_if_it_pays(experts.size) else _token_by_token
        begin = loop(experts, popularity, by_rank, chances)
    drawn = SequencePopularity(popularity, affinity, chances[1]).drawn
    words = [number >> shift & _WORD for number in key for shift in range(0, max(1, number.bit_length()), 32)]
    draws = np.empty((min(rows, longest), n_layers, top_k, 2))
    for i, parts in enumerate(runs):
        known = experts[:0]
        if i < len(taken):
            others, tokens_of = taken[i]
            known = others[tokens_of]  # one sequence at a time, which the caches of the processor hold
        n_known = len(known)
        if n_known >= lengths[i]:
            _put(known, experts, parts)
            continue
        seed = np.random.SeedSequence(np.array([*words, i], np.uint32))  # as of (*key, i), a quarter of the time
        rng = np.random.Generator(np.random.PCG64(seed))
        make = begin(drawn(rng), known)
        rng.bit_generator.advance(2 * known.size)  # type: ignore[attr-defined]
        for part in parts:
            tokens = experts[part]
            n = min(n_known, len(tokens))
            tokens[:n], known = known[:n], known[n:]
            n_known -= n
            for start in range(n, len(tokens), rows):
                some = np.ascontiguousarray(tokens[start : start + rows])
                make(some, rng.random(out=draws[: len(some)]))
                if not np.shares_memory(some, tokens):
                    tokens[start : start + rows] = some


def _put(known: NDArray[np.int16], experts: NDArray[np.int16], parts: Sequence[slice]) -> None:
    """A sequence all of whose tokens are known."""
    for part in parts:
        tokens = experts[part]
        tokens[:], known = known[: len(tokens)], known[len(tokens) :]


def load_if_it_pays(n_cells: int) -> bool:
    """Load the machine code that fills `n_cells` routing cells where it is kept or worth compiling; whether it was."""
    pays = machine_code_pays(n_cells, FILL_MANY, compile_above=_SMALL_CELLS, load_above=0)
    if pays:
        loaded(FILL_MANY)
    return pays


def _last_ranks(known: NDArray[np.int16], rank_of: NDArray[np.int16]) -> NDArray[np.int16]:
    """Ranks of the last of some tokens, (n_layers, top_k); of none, any."""
    if not len(known):
        return np.zeros(known.shape[1:], np.int16)
    return np.take_along_axis(rank_of, known[-1].astype(np.intp), axis=1)


def _ranks(by_rank: NDArray[np.int16]) -> NDArray[np.int16]:
    """The rank of each expert, (n_layers, n_experts)."""
    return np.argsort(by_rank, axis=1).astype(np.int16)


def _token_by_token(
    experts: NDArray[np.int16], popularity: NDArray[np.float64], by_rank: NDArray[np.int16], chances: Chances
) -> _Beginning:
    """`fill`."""
    rank_of, (_, n_layers, top_k) = _ranks(by_rank), experts.shape
    scratch = np.zeros((n_layers, popularity.shape[1] - 1), np.int8), np.zeros((n_layers, top_k), np.int64)
    shared = guides_of(popularity)

    def begin(own: NDArray[np.float64], known: NDArray[np.int16]) -> _Filling:
        last, guides = _last_ranks(known, rank_of), shared if own is popularity else guides_of(own)
        n_before = len(known)

        def go_on(part: NDArray[np.int16], draws: NDArray[np.float64]) -> None:
            nonlocal n_before
            fill(part, draws, own, guides, by_rank, last, *scratch, n_before, *chances)
            n_before += len(part)

        return go_on

    return begin


def _many_experts(
    experts: NDArray[np.int16], popularity: NDArray[np.float64], by_rank: NDArray[np.int16], chances: Chances
) -> _Beginning:
    """`fill_many`: the same experts."""
    from compiled.vector import WIDTH

    make, rank_of, (_, n_layers, top_k) = loaded(FILL_MANY), _ranks(by_rank), experts.shape
    n_groups = -(-n_layers // WIDTH)
    n_rows, taken = n_groups * top_k, np.zeros((n_layers, popularity.shape[1] - 1), np.int8)
    scratch = taken, *(np.zeros((n, WIDTH)) for n in (n_rows, n_rows, n_rows, 2 * n_groups))

    def tables(own: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int16]]:
        ends = own[:, 1:].copy()
        ends[:, -1] = np.inf
        return ends, guides_of(own)

    shared = tables(popularity)

    def begin(own: NDArray[np.float64], known: NDArray[np.int16]) -> _Filling:
        last, searched = _last_ranks(known, rank_of), shared if own is popularity else tables(own)
        n_before = len(known)

        def go_on(part: NDArray[np.int16], draws: NDArray[np.float64]) -> None:
            nonlocal n_before
            make(part, draws, own, *searched, by_rank, last, *scratch, n_before, *chances)
            n_before += len(part)

        return go_on

    return begin


def _may_take_all_layers(experts: NDArray[np.int16], popularity: NDArray[np.float64], chances: Chances) -> bool:
    """Whether layers know nothing of one another, and a loop over all of them is there and quicker."""
    if chances[1] or experts.size <= _SMALL_CELLS:
        return False
    from traces.synthesis.layers_kernel import FILL_LAYERS, pays

    (_, n_layers, top_k), n_active = experts.shape, popularity.shape[1] - 1
    return pays(n_layers, top_k, n_active) and machine_code_pays(
        experts.size, FILL_LAYERS, compile_above=_MANY_CELLS, load_above=_SMALL_CELLS
    )


def _all_layers(
    experts: NDArray[np.int16], popularity: NDArray[np.float64], by_rank: NDArray[np.int16], chances: Chances
) -> _Beginning:
    """`fill_layers`: the same experts."""
    from compiled.vector import WIDTH
    from traces.synthesis.layers_kernel import FILL_LAYERS

    make, rank_of, (_, n_layers, top_k) = loaded(FILL_LAYERS), _ranks(by_rank), experts.shape
    n_groups = -(-n_layers // WIDTH)
    filled = np.minimum(np.arange(n_groups * WIDTH), n_layers - 1).reshape(n_groups, 1, WIDTH)
    ranks, slots = np.arange(popularity.shape[1])[:, None], np.arange(top_k)[:, None]
    drawn, chosen, lows, highs = (np.zeros((n, WIDTH)) for n in (2 * top_k * n_groups, top_k, top_k, top_k))

    def begin(own: NDArray[np.float64], known: NDArray[np.int16]) -> _Filling:
        edges = own[filled, ranks].reshape(-1, WIDTH)
        last = _last_ranks(known, rank_of)[filled, slots].swapaxes(0, 1).astype(np.float64, "C").reshape(-1, WIDTH)
        n_before = len(known)

        def go_on(part: NDArray[np.int16], draws: NDArray[np.float64]) -> None:
            nonlocal n_before
            make(part, draws, edges, by_rank, last, drawn, chosen, lows, highs, n_before, chances[0])
            n_before += len(part)

        return go_on

    return begin


def _alone(by_rank: NDArray[np.int16], chances: Chances) -> _Beginning:
    """`fill` of one expert a token that repeats the token before or is drawn by popularity: no loop over tokens, of
    which all are filled at once.
    """
    layers, rank_of = np.arange(len(by_rank)), _ranks(by_rank)

    def begin(own: NDArray[np.float64], known: NDArray[np.int16]) -> _Filling:
        last = _last_ranks(known, rank_of)[:, 0]
        n_before = len(known)

        def go_on(part: NDArray[np.int16], draws: NDArray[np.float64]) -> None:
            nonlocal last, n_before
            ranks = np.empty((len(part) + 1, len(own)), np.int16)
            ranks[0] = last
            for layer, edges in enumerate(own):
                ranks[1:, layer] = np.searchsorted(edges[1:], draws[:, layer, 0, 1], side="right")
            if chances[0]:
                source = np.where(draws[:, :, 0, 0] < chances[0], 0, np.arange(1, len(ranks))[:, None])
                if not n_before:
                    source[0] = 1  # nothing to repeat
                np.maximum.accumulate(source, axis=0, out=source)
                ranks[1:] = np.take_along_axis(ranks, source, axis=0)
            part[:, :, 0] = by_rank[layers, ranks[1:]]
            last, n_before = ranks[-1], n_before + len(part)

        return go_on

    return begin
