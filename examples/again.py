"""Bring what the last token used in the next MoE block, while this one runs."""

from pregate import BlockView, Buffers, Decisions, Fetch, Policy, RunFacts


def remember(facts: RunFacts) -> Decisions:
    """Made anew for every run."""
    last: dict[int, tuple[int, ...]] = {}

    def prefetch(view: BlockView) -> list[Fetch]:
        last[view.block] = view.active
        after = view.block + 1
        return [Fetch(after, last[after])] if after in last else []

    return Decisions(prefetch=prefetch)


def again(slots: int = 2) -> Policy:
    """With slots for so many blocks."""
    return Policy("again", start=remember, buffers=lambda n_active, n_experts: Buffers(n_active, slots * n_active))
