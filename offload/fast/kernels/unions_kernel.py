"""What gates name as machine code: `offload.decoding.unions`, of many forward passes."""

from __future__ import annotations

from typing import Any


def unions(
    experts: Any, bounds: Any, first: int, n_blocks: int, counts: Any, ptr: Any, found: Any, tokens: Any
) -> None:
    """Distinct experts, ascending, of every (step, block), and the tokens that each serves; `experts` (T, L, k).

    `counts` (n_experts,): zeros, and zeros again.
    """
    n_experts = counts.size
    top_k = experts.shape[2]
    at = 0
    for step in range(len(bounds) - 1):
        low, high = bounds[step], bounds[step + 1]
        for block in range(n_blocks):
            begin = at
            if (high - low) * top_k <= 24:
                for token in range(low, high):
                    for k in range(top_k):
                        expert = experts[token, first + block, k]
                        if expert < 0:
                            continue
                        place = at
                        while place > begin and found[place - 1] > expert:
                            place -= 1
                        if place > begin and found[place - 1] == expert:
                            tokens[place - 1] += 1
                            continue
                        for i in range(at, place, -1):
                            found[i], tokens[i] = found[i - 1], tokens[i - 1]
                        found[place], tokens[place] = expert, 1
                        at += 1
            else:
                for token in range(low, high):
                    for k in range(top_k):
                        expert = experts[token, first + block, k]
                        if expert >= 0:
                            counts[expert] += 1
                for expert in range(n_experts):
                    if counts[expert] > 0:
                        found[at], tokens[at] = expert, counts[expert]
                        counts[expert] = 0
                        at += 1
            ptr[step * n_blocks + block + 1] = at
