"""How much recording slows generation: one model with and without hooks on its routers, in turn; prints the ratio.

python -m benchmarks.recording: a Qwen3-MoE of eight layers and 64 experts with random weights, on this machine's CPU.
"""

from __future__ import annotations

import time
from statistics import median

import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from runtime.recording.generation import RouterHooks
from runtime.recording.routers import find_routers

N_OUTPUT = 12
N_ROUNDS = 5


def main() -> None:
    """Print the median time a token without and with hooks, and how they compare."""
    config = Qwen3MoeConfig(
        vocab_size=4096, hidden_size=512, moe_intermediate_size=256, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=4, head_dim=64, num_experts=64, num_experts_per_tok=8, pad_token_id=0, eos_token_id=None,
    )  # fmt: skip
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Qwen3MoeForCausalLM(config).eval()
    prompt = torch.arange(1, 65).reshape(1, -1)
    taken: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(N_ROUNDS):
        for recorded in (False, True):
            hooks = RouterHooks(find_routers(model), 64, 8) if recorded else None
            begun = time.perf_counter()
            with torch.inference_mode():
                model.generate(prompt, max_new_tokens=N_OUTPUT, do_sample=False)
            if hooks is not None:
                hooks.take()
            taken[recorded].append(time.perf_counter() - begun)
            if hooks is not None:
                hooks.close()
    plain, hooked = (median(taken[recorded]) / N_OUTPUT for recorded in (False, True))
    print(f"{1e3 * plain:.2f} ms a token, {1e3 * hooked:.2f} ms recorded: {hooked / plain:.3f} times as long")


if __name__ == "__main__":
    from docs.script_arguments import given

    given(__doc__)
    main()
