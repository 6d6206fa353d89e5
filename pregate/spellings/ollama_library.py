"""Tags of Ollama's library that are no name of a model with its size: `mixtral`, `deepseek-v2:16b`, `llama4:latest`."""

from __future__ import annotations

from collections.abc import Mapping

_TAGS: Mapping[str, str] = {
    "mixtral": "mixtral-8x7b",
    "dolphin-mixtral": "mixtral-8x7b",
    "dolphin-mixtral:8x7b": "mixtral-8x7b",
    "dolphin-mixtral:8x22b": "mixtral-8x22b",
    "nous-hermes2-mixtral": "mixtral-8x7b",
    "nous-hermes2-mixtral:8x7b": "mixtral-8x7b",
    "notux": "mixtral-8x7b",
    "notux:8x7b": "mixtral-8x7b",
    "deepseek-v2:latest": "deepseek-v2-lite",
    "deepseek-v2:16b": "deepseek-v2-lite",
    "deepseek-coder-v2:latest": "deepseek-coder-v2-lite",
    "deepseek-coder-v2:16b": "deepseek-coder-v2-lite",
    "gpt-oss": "gpt-oss-20b",
    "gpt-oss-safeguard": "gpt-oss-safeguard-20b",
    "llama4": "llama-4-scout",
    "llama4:scout": "llama-4-scout",
    "llama4:maverick": "llama-4-maverick",
    "llama4:16x17b": "llama-4-scout",
    "llama4:128x17b": "llama-4-maverick",
    "qwen3-coder:latest": "qwen3-coder-30b-a3b",
    "qwen3-next": "qwen3-next-80b-a3b",
    "nemotron-3-nano": "nemotron-3-nano-30b-a3b",
    "granite4:small-h": "granite-4.0-h-small",
    "granite4:32b-a9b-h": "granite-4.0-h-small",
}
"""Tag: the model. A family alone is its tag `latest`. The bare `deepseek-v2` is what DeepSeek calls so, the model of
236 billion, and the bare `qwen3-coder` either of two. Sizes that say so, read 2026-11-30: 26 GB of `mixtral`, 24 of
`nemotron-3-nano`
(https://kgptalkie.com/tutorials/generative-ai/local-llms-2026-technical-reference-guide), 14 of `gpt-oss`
(https://b-lab.team/en/content/99172e10-6837-4e68-ab97-2b1909a752a5), 67 of `llama4:scout` in q4_k_m
(https://canitrun.net/models/llama-4-scout); the others entered from knowledge, not re-read."""

_DENSE = (
    "qwen3",
    "qwen3-vl",
    "qwen3.5",
    "qwen3.6",
    "deepseek-r1",
    "gemma4",
    "qwen2",
    "nemotron-3-nano:4b",
    "wizardlm2",
)
"""Families whose `latest` is no mixture of experts, and tags that are none."""
_OF_DENSE = ("0.6b", "0.8b", "1.5b", "1.7b", "2b", "4b", "7b", "8b", "9b", "14b", "27b", "32b", "70b")
"""Sizes of theirs that none of these has as a mixture of experts."""


def of_library(tag: str) -> str:
    """The model of a tag, with whatever the tag says beside its size (`16b-lite-chat`); "" where it is none of these,
    or runs on Ollama's own machines (`120b-cloud`).
    """
    family, colon, rest = tag.lower().partition(":")
    words = rest.split("-")
    if "cloud" in words:
        return ""
    if not colon or rest == "latest":
        return _TAGS.get(f"{family}:latest" if colon else family, _TAGS.get(family, ""))
    return next((_TAGS[named] for named in (f"{family}:{part}" for part in (rest, *words)) if named in _TAGS), "")


def dense_tag(tag: str) -> bool:
    """Whether a tag is a dense model, whose family has mixtures of experts too."""
    family, _, rest = tag.lower().partition(":")
    return tag.lower() in _DENSE or (family in _DENSE and (rest in ("", "latest") or rest.split("-")[0] in _OF_DENSE))
