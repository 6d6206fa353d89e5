"""`python -m benchmarks.cached_tokens`: a token of designs with a cache as cards time it, against whole answers."""

from __future__ import annotations

import numpy as np

import pregate
from pregate.ask.decode_middle import middle_of_decode

CASES = (
    ("qwen3-30b-a3b", "all=q8_0", "rtx-3060-12gb", 512, 256),
    ("qwen3-30b-a3b", "all=q8_0", "rtx-3060-12gb", 128, 64),
    ("gpt-oss-120b", None, "rtx-4090", 512, 256),
    ("gpt-oss-120b", None, "rtx-4090", 512, 1024),
    ("mixtral-8x7b", "all=q4_k_m", "rtx-4090", 512, 256),
    ("deepseek-v2-lite", "all=q8_0", "rtx-3060-12gb", 512, 256),
    ("qwen3-235b-a22b", "all=q4_k_m", "h100-sxm", 512, 256),
)
"""Model, formats, card, tokens of the prompt and of the answer."""

SEEDS = (0, 1, 2)


def main() -> None:
    """Print by how many per cent each is longer, the mean over `SEEDS`."""
    for name, formats, card, n_in, n_out in CASES:
        model, hw = pregate.load_model(name, formats=formats), pregate.load_hardware(card, "streams")
        for policy in ("on_demand+lru", "pregate+lru"):
            timed, whole = (
                np.mean([pregate.simulate(model, hw, trace, policy).tpot_s for trace in traces])
                for traces in (
                    [middle_of_decode(model, n_in, n_out, 1, seed, warmed=True) for seed in SEEDS],
                    [pregate.synthesize(model, n_in, n_out, 1, seed) for seed in SEEDS],
                )
            )
            print(f"{name} on {card}, {n_in} + {n_out} tokens, {policy}: {100 * (timed / whole - 1):+.1f} %")


if __name__ == "__main__":
    from docs.script_arguments import given

    given(__doc__)
    main()
