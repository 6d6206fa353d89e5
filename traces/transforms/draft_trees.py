"""Trees of drafted tokens: several proposals for each place, of which a pass that verifies takes one path.

Node 0 is the token before the draft, the others are proposals. Nothing here knows experts.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count, pairwise

from traces.errors import InvalidInput

MAX_DEPTH = 64
"""Longest path of a draft: more tokens than any published one verifies."""

MAX_PROPOSALS = 1024
"""Largest tree: as large as the budgets of SpecExec (arXiv:2406.02532) and Sequoia (arXiv:2402.12374)."""


@dataclass(frozen=True, slots=True)
class Acceptance:
    """How often the model's own token is a draft's first guess at a place, its second, and so on.

    `rates`: a row for each depth of a draft, the last for all below; of each place the probabilities of its ranks,
    which exclude one another, likeliest first; ranks that are not stated are never right. `each`: that a guess is right
    when those before it were wrong, whatever the rank, instead of rows. Raises `InvalidInput` for what is no
    probability, ranks that rise, or a row of more than 1 in all.
    """

    rates: tuple[tuple[float, ...], ...] = ()
    each: float | None = None

    def __post_init__(self) -> None:
        if (self.each is None) == (not self.rates):
            raise InvalidInput("acceptance is one share, or rates by depth and rank")
        if self.each is not None and not 0 <= self.each <= 1:
            raise InvalidInput(f"acceptance = {self.each:g}: the share of proposals that are taken, from 0 to 1")
        if len(self.rates) > MAX_DEPTH:
            raise InvalidInput(f"acceptance has {len(self.rates)} depths: at most {MAX_DEPTH}")
        for depth, row in enumerate(self.rates, 1):
            said = "/".join(f"{rate:g}" for rate in row)
            if not row or not all(0 <= rate <= 1 for rate in row) or sum(row) > 1 + 1e-9:
                raise InvalidInput(f"acceptance {said} at depth {depth}: shares from 0 to 1, together 1 at most")
            if any(later > earlier for earlier, later in pairwise(row)):
                raise InvalidInput(f"acceptance {said} at depth {depth}: the likeliest guess first")

    def rate(self, depth: int, rank: int) -> float:
        """That the token `depth` places (from 1) after the last is guess `rank` (from 0)."""
        if self.each is not None:
            return self.each * (1.0 - self.each) ** rank
        row = self.rates[min(depth, len(self.rates)) - 1]
        return row[rank] if rank < len(row) else 0.0

    def rank(self, depth: int, drawn: float, n_ranks: int) -> int | None:
        """Which of `n_ranks` guesses is the model's token, of a number `drawn` evenly from 0 to 1; None: none of them.

        More acceptance never makes a later rank of the same number.
        """
        below = 0.0
        for rank in range(n_ranks):
            below += self.rate(depth, rank)
            if drawn < below:
                return rank
        return None


@dataclass(frozen=True, slots=True)
class DraftTree:
    """`parent` of each node but the first (n_proposals,), nodes level by level; `depth` of each, the first at 0.

    `children` of each node, likeliest first.
    """

    parent: tuple[int, ...]
    depth: tuple[int, ...] = field(init=False)
    children: tuple[tuple[int, ...], ...] = field(init=False)

    def __post_init__(self) -> None:
        if not 1 <= len(self.parent) <= MAX_PROPOSALS:
            raise InvalidInput(f"a tree of {len(self.parent)} proposals: 1 to {MAX_PROPOSALS} are drafted for a pass")
        depth = [0]
        children: list[list[int]] = [[] for _ in range(len(self.parent) + 1)]
        for node, above in enumerate(self.parent, 1):
            if not 0 <= above < node or depth[above] + 1 < depth[-1]:
                raise InvalidInput(f"a tree of drafts: node {node} comes before the one that it follows, or its level")
            depth.append(depth[above] + 1)
            children[above].append(node)
        if depth[-1] > MAX_DEPTH:
            raise InvalidInput(f"a draft of {depth[-1]} tokens one after the other: 1 to {MAX_DEPTH} are")
        object.__setattr__(self, "depth", tuple(depth))
        object.__setattr__(self, "children", tuple(tuple(of) for of in children))

    def n_to(self, depth: int) -> int:
        """Nodes down to `depth`, the first among them."""
        return sum(one <= depth for one in self.depth) if depth < self.depth[-1] else len(self.depth)

    @property
    def n_read(self) -> tuple[int, ...]:
        """Nodes that the draft reads at each depth, from 0: those with proposals after them."""
        found = [0] * self.depth[-1]
        for node in set(self.parent):
            found[self.depth[node]] += 1
        return tuple(found)


def branching(branches: Sequence[int]) -> DraftTree:
    """Every node of a level has as many proposals after it: the expansion of SpecInfer (arXiv:2305.09781, section 3).

    `branches` of each level; (1, 1, 1) is a chain. Raises `InvalidInput` for none, or too many.
    """
    level, n = [0], 1
    parent: list[int] = []
    if not 1 <= len(branches) <= MAX_DEPTH or min(branches) < 1:
        raise InvalidInput(f"branches of {len(branches)} levels: 1 to {MAX_DEPTH} levels of at least 1 proposal each")
    for width in branches:
        if len(parent) + len(level) * width > MAX_PROPOSALS:
            raise InvalidInput(f"branches {'x'.join(map(str, branches))}: more than {MAX_PROPOSALS} proposals")
        parent += [node for node in level for _ in range(width)]
        level, n = list(range(n, n + len(level) * width)), n + len(level) * width
    return DraftTree(tuple(parent))


def most_likely(n_proposals: int, acceptance: Acceptance) -> DraftTree:
    """The tree of `n_proposals` that makes the most tokens a pass: those likeliest to be taken, with all before them.

    What a proposal adds is the product of the rates on its path, which falls along paths and ranks, so that the best
    are found one after the other; SpecExec (arXiv:2406.02532) goes by the same products of its draft's probabilities,
    Sequoia (arXiv:2402.12374) finds the same tree where rates do not depend on depth. Fewer where no more can be taken.
    Raises `InvalidInput` for a number of proposals that no pass has.
    """
    if not 1 <= n_proposals <= MAX_PROPOSALS:
        raise InvalidInput(f"a tree of {n_proposals} proposals: 1 to {MAX_PROPOSALS} are drafted for a pass")
    taken: list[tuple[int, int, int, int]] = []  # depth, order of the node above, rank, own order of being taken
    turn = count()
    waiting = [(-acceptance.rate(1, 0), 1, next(turn), 0, 0)]  # less likely, depth, turn, order above, rank
    likely = [1.0]  # by order of being taken
    while waiting and len(taken) < n_proposals:
        lost, depth, _, above, rank = heapq.heappop(waiting)
        if lost == 0 and taken:
            break
        order = len(likely)
        likely.append(-lost)
        taken.append((depth, above, rank, order))
        heapq.heappush(waiting, (-likely[above] * acceptance.rate(depth, rank + 1), depth, next(turn), above, rank + 1))
        if depth < MAX_DEPTH:
            heapq.heappush(waiting, (lost * acceptance.rate(depth + 1, 0), depth + 1, next(turn), order, 0))
    number = {0: 0}
    parent: list[int] = []
    for _, above, _, order in sorted(taken, key=lambda one: (one[0], one[1], one[2])):
        number[order] = len(parent) + 1
        parent.append(number[above])
    return DraftTree(tuple(parent))
