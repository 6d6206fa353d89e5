"""Engines that people name and nothing here prices, and what comes nearest to each."""

from __future__ import annotations

from collections.abc import Mapping

from hwmodels.quantity import ReadOnly
from traces.errors import InvalidInput

_UNPRICED: Mapping[str, str] = ReadOnly(
    {
        "vulkan": "llama-cpp, the back end of the card's maker",
        "sycl": "llama-cpp, whose kernels of CUDA and HIP have constants here",
        "exllama": "all weights in HBM: streams, with --set stack constants that you measured",
        "mlx": "llama-cpp is the engine of Apple's machines that has constants here",
        "mlc": "llama-cpp or vllm",
        "powerinfer": "it computes neurons that a predictor picks, which no design here does",
        "tensorrt": "vllm is the serving engine that has constants here",
        "deepspeed": "pytorch-eager, with policy on_demand@weights=stream",
        "accelerate": "pytorch-eager, with policy on_demand@weights=stream where all weights are on the host",
        "offload_folder": "pytorch-eager, with policy on_demand@weights=stream and expert_tier ssd",
        "gpt4all": "llama-cpp, where it ran on CUDA or Metal: its own back end is Vulkan",
        "text-generation-webui": "the engine that it loaded: llama-cpp, or pytorch-eager",
        "oobabooga": "the engine that it loaded: llama-cpp, or pytorch-eager",
        "open-webui": "the engine behind the page: llama-cpp for Ollama",
        "aphrodite": "vllm, whose engine it began as",
        "tabbyapi": "all weights in HBM: streams, with --set stack constants that you measured",
        "lmdeploy": "vllm is the serving engine that has constants here",
        "mistral.rs": "llama-cpp",
        "fiddler": "pytorch-eager, with policy min_latency/released+static:0.3",
        "hybrimoe": "ktransformers, with policy hybrid_schedule",
        "moe-infinity": "pytorch-eager, with policy activation_aware",
        "moe-gen": "flexgen or moe-lightning",
        "floe": "pytorch-eager, with policy lru_next_gate; channels of experts that are left out cannot be said",
        "pre-gated": "fastertransformer, with policy pregate",
        "localai": "the engine behind it: llama-cpp for GGUF files",
        "gpustack": "the engine behind it: llama-cpp for GGUF files, or vllm",
        "msty": "llama-cpp, by Ollama",
        "tgi": "vllm is the serving engine that has constants here",
        "text-generation-inference": "vllm is the serving engine that has constants here",
        "airllm": "pytorch-eager, with policy on_demand@weights=stream and expert_tier ssd",
    }
)
"""Engines that nothing here prices, by a word of their names: what comes nearest."""


def check_engine(stack: str) -> None:
    """Raises `InvalidInput` for an engine that has no constants here, naming what comes nearest."""
    nearest = next((what for word, what in _UNPRICED.items() if word in stack.lower()), None)
    if nearest is not None:
        raise InvalidInput(f"stack {stack[:60]!r}: no constants of this engine are known here; nearest: {nearest}")
