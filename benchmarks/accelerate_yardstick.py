"""The plain PyTorch way: a mixtral-8x7b of few layers under Accelerate's hooks, beside the runtime on the same shape.

`accelerate.cpu_offload` keeps every weight in host memory and copies a module's to the device when its turn comes.
Random weights on both sides, the same prompt and token counts; the model under hooks routes by its own random gate,
top-2 of 8 as the trace does. `python -m benchmarks.accelerate_yardstick BACKEND FILE.json`; says so where either
package is missing, or the back end is the CPU's.
"""

from __future__ import annotations

import json
import statistics
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

import pregate
from pregate.validation.cases import shortened
from traces.model.architecture import ModelArchitecture

N_LAYERS, INPUT_TOKENS, OUTPUT_TOKENS, REPEATS = 3, 8, 6, 2
POLICIES = ("on_demand", "pregate")


def main(backend: str, output: Path) -> None:
    """Time both ways and write tokens per second."""
    missing = [name for name in ("accelerate", "transformers") if find_spec(name) is None]
    if missing or backend != "cuda":
        print(f"no yardstick: {', '.join(missing) + ' missing' if missing else 'it is of a CUDA device'}")
        return
    model = shortened("mixtral-8x7b", "bf16", N_LAYERS)
    hooks = accelerated(model)
    trace = pregate.synthesize(model, INPUT_TOKENS, OUTPUT_TOKENS, 1, seed=0)
    found: dict[str, Any] = {"model": model.name, "accelerate_tokens_per_s": hooks}
    for policy in POLICIES:
        mine = pregate.run(model, trace, policy, device=pregate.Device("cuda"), repeats=REPEATS)
        found[f"{policy}_tokens_per_s"] = mine.tokens_per_s
        found[f"{policy}_over_accelerate"] = mine.tokens_per_s / hooks
    output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(found)


def accelerated(model: ModelArchitecture) -> float:
    """Tokens per second of prompt and greedy decoding under the hooks, median of a few runs after one."""
    from accelerate import cpu_offload

    causal = random_model(model)
    cpu_offload(causal, execution_device=torch.device("cuda"))
    rates = []
    with torch.inference_mode():
        for _ in range(1 + REPEATS):
            torch.cuda.synchronize()
            begin_s = time.perf_counter()
            generate(causal, model)
            torch.cuda.synchronize()
            rates.append(OUTPUT_TOKENS / (time.perf_counter() - begin_s))
    return statistics.median(rates[1:])


def random_model(model: ModelArchitecture) -> Any:
    """The transformers model of the same shape, in host memory, weights drawn on the device, which is quicker."""
    from transformers import MixtralConfig, MixtralForCausalLM

    attention = model.decoder.attention
    config = MixtralConfig(
        vocab_size=model.vocab_size,
        hidden_size=model.d_model,
        intermediate_size=model.d_ff_expert,
        num_hidden_layers=model.decoder.n_layers,
        num_attention_heads=attention.n_heads,
        num_key_value_heads=attention.n_kv_heads,
        num_local_experts=model.n_experts,
        num_experts_per_tok=model.top_k,
    )
    with torch.device("meta"):
        causal = MixtralForCausalLM(config).to(torch.bfloat16)
    causal.to_empty(device="cpu").eval()
    for parameter in causal.parameters():
        scale = parameter.shape[-1] ** -0.5
        parameter.data.copy_(torch.empty_like(parameter, device="cuda").uniform_(-scale, scale))
    least = MixtralForCausalLM(_least(config))  # the rotary frequencies, which are computed, not drawn
    for name, buffer in causal.named_buffers():
        buffer.copy_(least.get_buffer(name))
    return causal


def _least(config: Any) -> Any:
    """The least model with the attention heads of `config`."""
    small = type(config).from_dict(config.to_dict())
    small.num_hidden_layers, small.intermediate_size, small.num_local_experts, small.vocab_size = 1, 8, 2, 8
    return small


def generate(causal: Any, model: ModelArchitecture) -> None:
    """A prompt and greedy decoding, one token a step."""
    tokens = torch.arange(INPUT_TOKENS, device="cuda").view(1, -1) % model.vocab_size
    past = None
    for _ in range(OUTPUT_TOKENS):
        answer = causal(input_ids=tokens, past_key_values=past, use_cache=True)
        past, tokens = answer.past_key_values, answer.logits[:, -1:].argmax(-1)


if __name__ == "__main__":
    from docs.script_arguments import given

    name, path = given(__doc__, "BACKEND", "FILE.json")
    main(name, Path(path))
