"""Models as files, repositories and tags call them, with the format that these state: `Qwen3-30B-A3B-GGUF:Q4_K_M`.

Nothing here imports numpy.
"""

from __future__ import annotations

import re
from pathlib import Path

from pregate.spellings.names import our_name
from pregate.spellings.ollama_library import dense_tag, of_library
from traces.model.architecture import ModelArchitecture, architecture_names, load_architecture
from traces.model.same_models import SAME_AS

_QUANT = re.compile(
    r"(?P<name>.+?)[-_.](?:smol-)?(?P<quant>(?:UD-)?[IT]?Q\d\w*|MXFP4(?:_MOE)?|NVFP4|BF16|FP?16|FP8(?=-dynamic$|$)|FP4|AWQ(?:-(?:4[-_]?bit|Int4))?|GPTQ(?:-Int[48]|-4[-_]?bit)?|"
    r"(?:quantized[._])?W\dA\d{1,2})"
    r"(?:-dynamic)?",
    re.IGNORECASE,
)
_SPACED = re.compile(r"[\s(]+")
_OF_BENCH = {
    r"qwen3moe\b": "qwen3", r"qwen3next\b": "qwen3-next", r"qwen2moe\b": "qwen2", r"llama (?=8x)": "mixtral ",
    "deepseek2 671B": "deepseek-v3", "deepseek2 236B": "deepseek-v2", "deepseek2 16B": "deepseek-v2-lite",
    r"llama4 17Bx16E \(Scout\)": "llama-4-scout", r"llama4 17Bx128E \(Maverick\)": "llama-4-maverick",
    r"minimax-m2 230B\.A10B": "minimax-m2", r"glm4moe 106B\.A12B": "glm-4.5-air", r"glm4moe 355B\.A32B": "glm-4.5",
}  # fmt: skip
"""What llama.cpp calls an architecture, with the size where that tells models apart, and the model's own name."""

_AS_A_TAG_SAYS = 0.05
"""How far off a size in a tag may be."""
_OF_OLLAMA = re.compile(r"(?P<family>[a-z][\w.-]*):(?P<tag>[a-z0-9][\w.-]*)", re.ASCII | re.IGNORECASE)
_BEFORE_2025 = re.compile(r"mixtral|deepseek-(?:coder-)?v2|qwen(?:1\.5|2)-|olmoe|phi-3\.5")
"""Models that were in Ollama's library when its files without a format in their tag were q4_0, later ones q4_k_m: its
maintainers, https://github.com/ollama/ollama/issues/4626 (May 2024) and /1543 (December 2024), read 2026-11-30; the
26 GB of its mixtral:8x7b (https://kgptalkie.com/tutorials/generative-ai/local-llms-2026-technical-reference-guide, that
day) are q4_0's."""
_FILE_SIZE = re.compile(r"(?:^|[\s(])(?P<number>\d{1,5}(?:\.\d{1,4})?)\s?(?P<unit>[MGT]i?B)\)?$", re.ASCII)
_PLAIN_FORMATS = {
    "f16": "fp16",
    "f32": "fp32",
    "fp16": "fp16",
    "float16": "fp16",
    "half": "fp16",
    "bfloat16": "bf16",
    "float32": "fp32",
    "fp8_e4m3": "fp8",
    "fp8-e4m3": "fp8",
    "e4m3": "fp8",
    "float8": "fp8",
    "fp4": "nvfp4",
    "w4a16": "int4-g128",
    "w8a8": "int8",
    "w8a16": "int8",
    "q4": "q4_k_m",
    "q5": "q5_k_m",
    "q6": "q6_k",
    "q8": "q8_0",
    "awq": "int4-g128-zp",
    "gptq": "int4-g128",
    **dict.fromkeys(("awq-4bit", "awq-4-bit", "awq-4_bit", "awq-int4"), "int4-g128-zp"),
    **dict.fromkeys(("gptq-int4", "gptq-4bit", "gptq-4-bit", "gptq-4_bit"), "int4-g128"),
    "gptq-int8": "int8-g128",
}
"""Other names of formats; of AWQ and GPTQ the width and group that nearly all of their files have, of a width alone
the mix of llama.cpp that is recommended at it."""
_DYNAMIC = {"q2_k_xl": "q2_k_s", "q3_k_xl": "q3_k_m", "q4_k_xl": "q4_k_s", "q5_k_xl": "q5_k_m", "q6_k_xl": "q6_k",
            "q8_k_xl": "q8_0"}  # fmt: skip
"""Of Unsloth's mixes, which no rule says, the mix of llama.cpp whose size comes nearest: 17.7 GB of Qwen3-30B-A3B and
131 of MiniMax-M2.1 in UD-Q4_K_XL are met to 2 %, 212 to 239 GiB of DeepSeek-V3 in UD-Q2_K_XL, which differ by release,
to -1 and -12 %. Sizes: https://huggingface.co/unsloth/DeepSeek-V3.1-GGUF/tree/main/UD-Q2_K_XL and
https://huggingface.co/unsloth/MiniMax-M2.1-GGUF/discussions/7, read 2026-11-29."""
_DYNAMIC_BELOW = {"tq1_0": "iq1_m", "iq1_s": "iq2_xs", "iq1_m": "iq2_s", "iq2_xxs": "iq2_m"}
"""The same of its mixes below 2.5 bits (`UD-IQ1_S`), which are larger than llama.cpp's of that name by a fifth to two:
9.04, 9.67 and 10.36 GB of Qwen3-30B-A3B (unsloth/Qwen3-30B-A3B-GGUF at d5b1d57b) are met to 0, -4 and -2 %; 162 GB of
DeepSeek-R1-0528 in TQ1_0 (Unsloth's guide of that model, read 2026-12-01) to -8 %."""
_IN_BLOCKS = re.compile(r"qwen3")
"""Models whose maker has published them in fp8 with a scale for 128 x 128 weights, under their name and `-FP8`
(https://github.com/vllm-project/vllm/issues/17569: Qwen3-235B-A22B-FP8; of Qwen3.5 and 3.6 the same)."""
_KEEPS_EXPERTS = re.compile(r"gpt-oss-")
"""Models whose experts every GGUF has as they were published, in mxfp4: files of gpt-oss-120b called Q2_K to F16 have
58.3 to 60.9 GiB (https://ailocalcheck.com/model/unsloth/gpt-oss-120b-GGUF, read 2026-11-29). The one that repositories
recommend is MXFP4, q8_0 beside the experts: 12.1 GB of gpt-oss-20b (bartowski/openai_gpt-oss-20b-GGUF, that day), as
ours; Ollama's tag is as published, 13.8."""


def model_and_format(text: str) -> tuple[str, str]:
    """A model as its file, its repository or a tag calls it, as we call it, and the format that this states ("": none):
    `unsloth/Qwen3-30B-A3B-GGUF:Q4_K_M`. Two empty words for what is no model of ours, or a file that is there.
    """
    if not text or len(text) > 200 or Path(text).exists():
        return "", ""
    bare, mark, rest = text.partition("?")
    name = re.sub(r"\.gguf$", "", re.sub(r"-\d{5}-of-\d{5}", "", bare.rpartition("/")[2]), flags=re.IGNORECASE)
    name = _SPACED.sub("-", _as_in_a_file(name.strip())).rstrip(")")
    parts = _QUANT.fullmatch(name.replace(":", "-"))
    called, quant = (parts["name"], parts["quant"]) if parts else (name, "")
    called, n_files = re.subn(r"[-_.]GGUF$", "", called, flags=re.IGNORECASE)
    tag = _OF_OLLAMA.fullmatch(called)
    known = (*architecture_names(), *SAME_AS)
    maker = bare.rpartition("/")[0].lower()
    library = "" if maker or n_files else of_library(name[: len(called)])
    spellings = (library, called, called.partition("_")[2], *(_of_tag(tag["family"], tag["tag"]) if tag else ()))
    ours = next((name for name in (our_name("model", text) for text in spellings) if name in known), "")
    if n_files and not quant and _KEEPS_EXPERTS.match(ours):
        quant = "MXFP4"
    if (tag or library) and not quant:
        quant = of_ollama(ours)
    if _IN_BLOCKS.match(ours) and name.upper().endswith("-FP8") and maker in ("", "qwen"):
        quant = "fp8-b128"
    return (f"{ours}{mark}{rest}", quant) if ours else ("", "")


def of_ollama(model: str) -> str:
    """The format of Ollama's file of a model of ours whose tag states none: "" of what is published in mxfp4."""
    if not model or _KEEPS_EXPERTS.match(model):
        return ""
    return "Q4_0" if _BEFORE_2025.search(f"{model} {SAME_AS.get(model, '')}") else "Q4_K_M"


def _as_in_a_file(text: str) -> str:
    """What llama-bench prints in its column "model", as a file would be called: `qwen3moe 30B.A3B Q4_K - Medium`."""
    for kind, named in _OF_BENCH.items():
        text = re.sub(rf"^{kind}", named, text)
    return re.sub(r" MXFP4 MoE$", " MXFP4", re.sub(r" - (S|M|L)(mall|edium|arge)$", r"_\1", text))


def _of_tag(family: str, tag: str) -> list[str]:
    """What a tag of Ollama may be called: `qwen3:30b-a3b`, or its family alone where the tag is its size, as
    `deepseek-r1:671b` is (`deepseek-r1:8b` is another model).
    """
    size = re.fullmatch(r"(\d+(?:\.\d+)?)b", tag)
    whole = our_name("model", family)
    if tag == "latest":
        return [] if dense_tag(family) else [whole]
    if size is None or whole not in (*architecture_names(), *SAME_AS):
        return [f"{family}-{tag}"]
    same = abs(load_architecture(whole).total_params / (float(size[1]) * 1e9) - 1) < _AS_A_TAG_SAYS
    return [f"{family}-{tag}", *([whole] if same else [])]


def shipped_architecture(model: str) -> ModelArchitecture | None:
    """The architecture of a model that ships, by any spelling of any of its names; None of another."""
    name = our_name("model", model.partition("?")[0])
    name = SAME_AS.get(name, name)
    return load_architecture(name) if name in architecture_names() else None


def formats_as_ours(text: str, stack: str) -> str:
    """A bare format as that of all matrices, the size of a file as theirs: `UD-Q4_K_XL (17.7 GB)` is `all=17.7GB`."""
    text = re.sub(r"(?<=B),\s*[\d.]+\s*bpw(?=\))", "", text.strip())
    if "=" in text or "," in text or not text:
        return text
    text = re.sub(r"^quantized[._]", "", text, flags=re.IGNORECASE)
    text = re.sub(
        r"\s+(?:amx|avx-?512|avx2)$", "", text, flags=re.IGNORECASE
    )  # what the host's processor multiplies with
    text = re.sub(r"\s*\((?:imatrix|i-matrix|static)\)$|\.gguf$", "", text, flags=re.IGNORECASE)
    size = _FILE_SIZE.search(text)
    if size is not None:
        return f"all={size['number']}{size['unit']}"
    if text.lower() == "mxfp4":  # of experts; what else there is is of other formats
        return "all=mxfp4_moe" if "llama" in stack else "experts=mxfp4"
    if re.match(r"ud[-_]", text, re.IGNORECASE):
        text = _DYNAMIC_BELOW.get(text[3:].lower(), text[3:])
    text = _DYNAMIC.get(text.lower(), text)
    return f"all={_PLAIN_FORMATS.get(text.lower(), text)}"


def formats_of_file(model: str, text: str, stack: str) -> str:
    """`formats_as_ours` of a file of `model`: llama.cpp keeps experts that were published in mxfp4, and fp8 of a model
    that was published in blocks of it is what was published.
    """
    formats = formats_as_ours(text, stack)
    if formats.lower() == "all=fp8" and model in (*architecture_names(), *SAME_AS):
        return "" if load_architecture(model).expert_dtype.name == "fp8-b128" else formats
    if not _KEEPS_EXPERTS.match(model) or "llama" not in stack:
        return formats
    return re.sub(r"^(all=(?!mxfp4)[a-z]\w+)$", r"\1,experts=mxfp4", formats, flags=re.IGNORECASE)
