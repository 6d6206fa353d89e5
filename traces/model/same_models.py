"""Models by other names: those that a shipped architecture is the architecture of, what differs being trained alone.

By the shapes that their makers publish (entered from knowledge, not re-read); a model that changes attention, as
DeepSeek-V3.2 does, is none of them.
"""

from __future__ import annotations

from collections.abc import Mapping

SAME_AS: Mapping[str, str] = {
    "deepseek-r1": "deepseek-v3",
    "deepseek-r1-0528": "deepseek-v3",
    "deepseek-v3-0324": "deepseek-v3",
    "deepseek-v3.1": "deepseek-v3",
    "deepseek-v3.1-terminus": "deepseek-v3",
    "deepseek-v2-chat": "deepseek-v2",
    "deepseek-v2.5": "deepseek-v2",
    "deepseek-v2.5-1210": "deepseek-v2",
    "deepseek-coder-v2": "deepseek-v2",
    "deepseek-coder-v2-instruct": "deepseek-v2",
    "deepseek-r1-zero": "deepseek-v3",
    "deepseek-v3-base": "deepseek-v3",
    "deepseek-v2-lite-chat": "deepseek-v2-lite",
    "deepseek-coder-v2-lite": "deepseek-v2-lite",
    "deepseek-coder-v2-lite-instruct": "deepseek-v2-lite",
    "gemma-4-26b-a4b-it": "gemma-4-26b-a4b",
    "intellect-3": "glm-4.5-air",
    "glm-4.6": "glm-4.5",
    "glm-4.7": "glm-4.5",
    "glm-5": "glm-5.1",
    "gpt-oss-safeguard-20b": "gpt-oss-20b",
    "gpt-oss-safeguard-120b": "gpt-oss-120b",
    "tongyi-deepresearch-30b-a3b": "qwen3-30b-a3b",
    "deepseek-v3.2-exp": "deepseek-v3.2",
    "deepseek-v3.2-speciale": "deepseek-v3.2",
    "kimi-k2-instruct": "kimi-k2",
    "kimi-k2-instruct-0905": "kimi-k2",
    "kimi-k2-base": "kimi-k2",
    "kimi-k2.5": "kimi-k2-thinking",
    "kimi-k2.6": "kimi-k2-thinking",
    "kimi-k2.7-code": "kimi-k2-thinking",
    "llama-4-maverick-17b-128e": "llama-4-maverick",
    "llama-4-maverick-17b-128e-instruct": "llama-4-maverick",
    "llama-4-scout-17b-16e": "llama-4-scout",
    "llama-4-scout-17b-16e-instruct": "llama-4-scout",
    "mimo-v2.6-flash": "mimo-v2-flash",
    "minimax-m2": "minimax-m2.5",
    "minimax-m2.1": "minimax-m2.5",
    "minimax-m2.7": "minimax-m2.5",
    "mixtral-8x7b-instruct": "mixtral-8x7b",
    "mixtral-8x7b-instruct-v0.1": "mixtral-8x7b",
    "dolphin-2.7-mixtral-8x7b": "mixtral-8x7b",
    "nous-hermes-2-mixtral-8x7b-dpo": "mixtral-8x7b",
    "wizardlm-2-8x22b": "mixtral-8x22b",
    "mixtral-8x22b-instruct": "mixtral-8x22b",
    "mixtral-8x22b-instruct-v0.1": "mixtral-8x22b",
    "olmoe-1b-7b-0924": "olmoe-1b-7b",
    "olmoe-1b-7b-0924-instruct": "olmoe-1b-7b",
    "olmoe-1b-7b-0125": "olmoe-1b-7b",
    "olmoe-1b-7b-0125-instruct": "olmoe-1b-7b",
    "phi-3.5-moe-instruct": "phi-3.5-moe",
    "qwen3-30b-a3b-instruct-2507": "qwen3-30b-a3b",
    "qwen3-30b-a3b-thinking-2507": "qwen3-30b-a3b",
    "qwen3-vl-30b-a3b": "qwen3-30b-a3b",
    "qwen3-vl-30b-a3b-instruct": "qwen3-30b-a3b",
    "qwen3-vl-235b-a22b": "qwen3-235b-a22b",
    "qwen3-vl-235b-a22b-instruct": "qwen3-235b-a22b",
    "qwen3-coder-30b-a3b": "qwen3-30b-a3b",
    "qwen3-coder-30b-a3b-instruct": "qwen3-30b-a3b",
    "qwen3-235b-a22b-instruct-2507": "qwen3-235b-a22b",
    "qwen3-235b-a22b-thinking-2507": "qwen3-235b-a22b",
    "qwen3-coder-480b-a35b-instruct": "qwen3-coder-480b-a35b",
    "qwen3-coder-next": "qwen3-next-80b-a3b",
    "qwen3-next-80b-a3b-instruct": "qwen3-next-80b-a3b",
    "qwen3-next-80b-a3b-thinking": "qwen3-next-80b-a3b",
    "qwen3.5-35b-a3b": "qwen3.6-35b-a3b",
}
"""By name, the shipped architecture that it has."""

TRAINED_CONTEXTS: Mapping[str, int] = {
    "deepseek-r1": 163_840,
    "deepseek-v3.1": 163_840,
    "glm-5": 202_752,
    "kimi-k2-instruct": 131_072,
    "kimi-k2.5": 262_144,
    "kimi-k2.6": 262_144,
    "kimi-k2.7-code": 262_144,
    "llama-4-maverick-17b-128e-instruct": 1_048_576,
    "llama-4-scout-17b-16e-instruct": 10_485_760,
    "minimax-m2.7": 204_800,
    "qwen3-coder-480b-a35b-instruct": 262_144,
    "qwen3-vl-235b-a22b-instruct": 262_144,
    "qwen3-vl-30b-a3b-instruct": 262_144,
    "qwen3.5-35b-a3b": 262_144,
}
"""Tokens that the makers' configurations go to, of those that were read: copies of them in aiconfigurator-core 0.12.0
(Apache-2.0), model_configs (read 2026-11-30); of DeepSeek-V3.1, Kimi-K2.6 and K2.7 NVIDIA's quantised ones.
"""
