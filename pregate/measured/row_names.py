"""Names in a row as others write them: `RTX 4090` for `rtx-4090`, `llama.cpp` for `llama-cpp`.

What is no name of ours in other letters stays as it is, and is told of where the row is predicted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from hwmodels.specs.device_names import BESIDE_NAMES, words_of
from hwmodels.specs.machine_files import component_names, hardware_names, load_component
from hwmodels.specs.processors import channels_of, is_processor, processor_names
from hwmodels.specs.spec import Accelerator
from hwmodels.stack import stack_names
from pregate.measured.several_cards import on_one_card, several
from pregate.measured.written_cells import host_with_memory
from traces.model.architecture import architecture_names, load_architecture
from traces.model.same_models import SAME_AS

__all__ = ["with_our_names"]

_MAKERS = re.compile(r"\b(nvidia|geforce|amd|radeon|instinct|tesla|intel)\b|\((r|tm)\)")
_SERIES = re.compile(
    r"\b(ryzen)-[3579]-|\b(xeon)-(?:platinum|gold|silver)-|\b(core)-(?:i\d|ultra-\d)-|\bryzen-(threadripper)\b"
)
"""Of the names of processors what ours leave out, and what they keep."""
_SOCKETS = re.compile(
    r"(?:2\s*[x\u00d7]\s*|\(2\)\s*|2s\s+|dual[\s-]+)(?P<name>.*)|(?P<named>.*?)\s+[x\u00d7]\s*2", re.IGNORECASE
)
_PCIE = re.compile(r"(?:pcie|gen)-?(?P<generation>[3-6])(?:-0)?(?:-?x(?P<lanes>\d{1,2}))?")
_QUANT = re.compile(
    r"(?P<name>.+?)[-_.](?P<quant>(?:UD-)?I?Q\d\w*|MXFP4(?:_MOE)?|NVFP4|BF16|FP?16|FP8(?=-dynamic$|$)|AWQ|GPTQ(?:-Int[48])?)"
    r"(?:-dynamic)?",
    re.IGNORECASE,
)
_AS_A_TAG_SAYS = 0.05
"""How far off a size in a tag may be."""
_OF_OLLAMA = re.compile(r"(?P<family>[a-z][\w.-]*):(?P<tag>\d[\w.-]*)", re.ASCII)
_FILE_SIZE = re.compile(r"(?:^|[\s(])(?P<number>\d{1,5}(?:\.\d{1,4})?)\s?(?P<unit>[MGT]i?B)\)?$", re.ASCII)
_PLAIN_FORMATS = {
    "f16": "fp16",
    "f32": "fp32",
    "awq": "int4-g128-zp",
    "gptq": "int4-g128",
    "gptq-int4": "int4-g128",
    "gptq-int8": "int8-g128",
}
"""Other names of formats; of AWQ and GPTQ the width and group that nearly all of their files have."""
_DYNAMIC = {"q2_k_xl": "q2_k_s", "q3_k_xl": "q3_k_m", "q4_k_xl": "q4_k_s", "q5_k_xl": "q5_k_m", "q6_k_xl": "q6_k",
            "q8_k_xl": "q8_0"}  # fmt: skip
"""Of Unsloth's mixes, which no rule says, the mix of llama.cpp whose size comes nearest: 17.7 GB of Qwen3-30B-A3B and
131 of MiniMax-M2.1 in UD-Q4_K_XL are met to 2 %, 212 to 239 GiB of DeepSeek-V3 in UD-Q2_K_XL, which differ by release,
to -1 and -12 %. Sizes: https://huggingface.co/unsloth/DeepSeek-V3.1-GGUF/tree/main/UD-Q2_K_XL and
https://huggingface.co/unsloth/MiniMax-M2.1-GGUF/discussions/7, read 2026-11-29."""
_KEEPS_EXPERTS = re.compile(r"gpt-oss-")
"""Models whose experts every GGUF has as they were published, in mxfp4: files of gpt-oss-120b called Q2_K to F16 have
58.3 to 60.9 GiB (https://ailocalcheck.com/model/unsloth/gpt-oss-120b-GGUF, read 2026-11-29)."""
_BESIDE_CPU = re.compile(
    r"-(?:\d{1,3}-core|with-graphics|w(?:ith)?-\w+-graphics|cpu)\b.*|-processor$|-@.*|\s@.*|^\d\dth-gen-",
    re.IGNORECASE,
)
"""What systems write around the name of a processor."""
_CODENAMES = re.compile(r"\b(?:naples|rome|milan|genoa|bergamo|siena|turin)-(?=\d)")
_BESIDE_CARD = re.compile(
    r"^1\s*[x\u00d7]\s*(?=\D)|\([^()]*\)|\b(?:gddr\w*|hbm\d\w*|graphics card|gpu)\b", re.IGNORECASE
)
"""What is written around the name of a card."""
_FAMILIES = re.compile(r"\b(?:radeon-pro|rtx|gtx|rx|arc|geforce|nvidia|amd|intel|radeon)-?|[^a-z0-9]")
_APPLE = re.compile(r"\bm(?P<n>[1-9])-(?P<kind>max|pro|ultra)\b")
_SIZE = re.compile(r"-(?P<gb>\d{1,3})gb?$")
_FILES = (".yaml", ".yml", ".json", ".gguf", ".safetensors")

_KNOWN: Mapping[str, Callable[[], Iterable[str]]] = {
    "model": lambda: (*architecture_names(), *SAME_AS),
    "hardware": hardware_names,
    "host": lambda: (*component_names("host"), *processor_names()),
    "link": lambda: component_names("link"),
    "stack": stack_names,
}
"""Columns of names, and the names that each may have."""


CARDS: Mapping[str, str] = {
    "rtx-pro-6000-blackwell": "rtx-pro-6000",
    "rtx-pro-6000-blackwell-workstation-edition": "rtx-pro-6000",
    "rtx-6000-ada-generation": "rtx-6000-ada",
    "ryzen-ai-max+-395": "strix-halo",
    "8060s": "strix-halo",
    "gb10": "dgx-spark",
    "m2-ultra": "apple-m2-ultra",
    "m3-ultra": "apple-m3-ultra",
    "m4-max": "apple-m4-max",
}
"""Other names of accelerators, as `_plain` writes them."""

STACKS: Mapping[str, str] = {
    "ik-llama-cpp": "ik-llama",
    "ik-llama": "ik-llama",
    "llama-server": "llama-cpp",
    "llama-bench": "llama-cpp",
    "llamacpp": "llama-cpp",
    "lm-studio": "llama-cpp",
    "lmstudio": "llama-cpp",
    "koboldcpp": "llama-cpp",
    "ollama": "llama-cpp",
    "kt-kernel": "ktransformers",
    "ktransformers-sglang": "ktransformers",
    "sglang-ktransformers": "ktransformers",
    "sglang": "vllm",
    "llamafile": "llama-cpp",
    "sglang-kt-kernel": "ktransformers",
    "zero-inference": "pytorch-eager",
    "transformers": "pytorch-eager",
}
"""Other names of engines, as `_plain` writes them: programs of an engine, and engines that ours stand for."""


def with_our_names(cells: Mapping[str, str]) -> dict[str, str]:
    """A row's cells, names of models, machines and stacks as we write them, a bare format as that of all matrices."""
    cells = {**cells, **_of_file(cells)}
    named = {column: _ours(column, cells[column], known) for column, known in _KNOWN.items() if cells.get(column)}
    cells |= _with_more_memory(cells, named)
    memory = cells.pop("memory", "")
    if memory and is_processor(named.get("host", "")) and ":" not in named["host"]:
        named["host"] = host_with_memory(named["host"], memory, *channels_of(named["host"]))
    named["formats"] = _formats(cells.get("formats", ""), named.get("stack", ""))
    if _KEEPS_EXPERTS.match(named.get("model", "")) and "llama" in named.get("stack", ""):
        named["formats"] = re.sub(
            r"^(all=(?!mxfp4)[a-z]\w+)$", r"\1,experts=mxfp4", named["formats"], flags=re.IGNORECASE
        )
    return on_one_card({**cells, **named}, _ours("hardware", several(cells.get("hardware", ""))[1], hardware_names))


def _with_more_memory(cells: Mapping[str, str], named: dict[str, str]) -> dict[str, str]:
    """The numbers of a row whose card was given more memory than it is sold with (`RTX 4090 48GB`), which `named` has
    as that card; none of another row.
    """
    stated = _SIZE.search(_spelled("hardware", cells.get("hardware", "")))
    if stated is None or named["hardware"] in hardware_names() or "hbm_bytes" in cells.get("set", ""):
        return {}
    card = _ours("hardware", stated.string[: stated.start()], hardware_names)
    if card not in component_names("accelerator") or _has_bytes(card, int(stated["gb"])):
        return {}
    found = load_component("accelerator", card)
    if not isinstance(found, Accelerator) or found.hbm_bytes > int(stated["gb"]) * 2**30:
        return {}
    named["hardware"] = card
    return {"set": ";".join(filter(None, (cells.get("set", ""), f"accelerator.hbm_bytes={stated['gb']}GiB")))}


def _of_file(cells: Mapping[str, str]) -> dict[str, str]:
    """Model and formats of a row whose model is called as its file or its repository is, where neither is at hand:
    `unsloth/Qwen3-30B-A3B-GGUF:Q4_K_M`.
    """
    text = cells.get("model", "")
    if not text or len(text) > 200 or Path(text).exists():
        return {}
    bare, mark, rest = text.partition("?")
    name = re.sub(r"\.gguf$", "", re.sub(r"-\d{5}-of-\d{5}", "", bare.rpartition("/")[2]), flags=re.IGNORECASE)
    parts = _QUANT.fullmatch(name.replace(":", "-"))
    called, quant = (parts["name"], parts["quant"]) if parts else (name, "")
    called = re.sub(r"[-_.]GGUF$", "", called, flags=re.IGNORECASE)
    tag = _OF_OLLAMA.fullmatch(called)
    known = (*architecture_names(), *SAME_AS)
    spellings = (called, called.partition("_")[2], *(_of_tag(tag["family"], tag["tag"]) if tag else ()))
    ours = next((name for name in (_ours("model", text, _KNOWN["model"]) for text in spellings) if name in known), "")
    if not ours:
        return {}
    return {"model": f"{ours}{mark}{rest}", "formats": cells.get("formats", "") or quant}


def _of_tag(family: str, tag: str) -> list[str]:
    """What a tag of Ollama may be called: `qwen3:30b-a3b`, or its family alone where the tag is its size, as
    `deepseek-r1:671b` is (`deepseek-r1:8b` is another model).
    """
    size = re.fullmatch(r"(\d+(?:\.\d+)?)b", tag)
    whole = _ours("model", family, _KNOWN["model"])
    if size is None or whole not in (*architecture_names(), *SAME_AS):
        return [f"{family}-{tag}"]
    same = abs(load_architecture(whole).total_params / (float(size[1]) * 1e9) - 1) < _AS_A_TAG_SAYS
    return [f"{family}-{tag}", *([whole] if same else [])]


def _formats(text: str, stack: str) -> str:
    """A bare format as that of all matrices, the size of a file as theirs: `UD-Q4_K_XL (17.7 GB)` is `all=17.7GB`."""
    text = text.strip()
    if "=" in text or "," in text or not text:
        return text
    size = _FILE_SIZE.search(text)
    if size is not None:
        return f"all={size['number']}{size['unit']}"
    if text.lower() == "mxfp4":  # of experts; what else there is is of other formats
        return "all=mxfp4_moe" if "llama" in stack else "experts=mxfp4"
    if re.match(r"ud[-_]", text, re.IGNORECASE):
        text = text[3:]
    text = _DYNAMIC.get(text.lower(), text)
    return f"all={_PLAIN_FORMATS.get(text.lower(), text)}"


def _ours(column: str, text: str, known: Callable[[], Iterable[str]]) -> str:
    if text.endswith(_FILES) or "/" in text.replace(" w/ ", " ") or Path(text).exists():
        return text
    bare, mark, rest = text.partition("?")  # ?top_k=N
    names = dict.fromkeys(known())  # a host that has a file of its own is a processor too
    if bare in names:
        return text
    wanted = _spelled(column, bare)
    found = [name for name in names if _plain(name) == wanted]
    if not found and column == "hardware":
        found = _of_one_size(wanted, names) or _as_drivers_say(bare, names) or _by_number(wanted, names)
    if not found and column == "host" and re.search(r"\dp(?:-2s)?$", wanted):  # a 7402P is a 7402 for one socket
        found = [name for name in names if name == re.sub(r"p(-2s)?$", r"\1", wanted)]
    if not found and column == "host" and re.search(r"^core-\d+k?f$", wanted):  # without graphics, else the same
        found = [name for name in names if name == wanted[:-1]]
    if not found and column == "host" and re.search(r"^\d{3,5}[a-z]+\d?[a-z]?$", wanted):  # its number alone
        ends = (f"-{wanted}", f"-{wanted.removesuffix('f')}") if wanted.endswith("kf") else (f"-{wanted}",)
        found = [name for name in names if name.endswith(ends) and not name.startswith("laptop-")]
    return f"{found[0]}{mark}{rest}" if len(found) == 1 else text


def _spelled(column: str, text: str) -> str:
    """A name as ours are written, in the way of its column."""
    plain = _plain(_BESIDE_CARD.sub(" ", text) if column == "hardware" else text)
    match column:
        case "stack":
            plain = re.sub(r"[-+()]+", "-", plain).strip("-")
            plain = re.sub(r"(?<=llama-cpp)-(?:rocm|hip|cuda|cublas|metal)$", "", plain)
            return _plain(STACKS.get(plain, plain))
        case "hardware":
            plain = re.sub(r"-(\d{1,3})-gi?b$", r"-\1gb", plain)
            apple = _APPLE.search(plain)
            if re.search(r"\bai-max\+?-3[89]5\b|^strix-halo\b|^framework-desktop|\bevo-x2\b", plain):
                return "strix-halo"
            if re.search(r"\bgx10\b", plain):
                return "dgx-spark"
            return CARDS.get(plain, f"apple-m{apple['n']}-{apple['kind']}" if apple else plain)
        case "link":
            lanes = _PCIE.fullmatch(plain)
            return f"pcie{lanes['generation']}-x{lanes['lanes'] or 16}" if lanes else plain
        case "host":
            both = _SOCKETS.fullmatch(text.strip())
            name = _BESIDE_CPU.sub("", _plain(both["name"] or both["named"]) if both else plain)
            name = re.sub(r"(?<=\d)v(?=\d$)", "-v", re.sub(r"^tr-(?=pro-)", "threadripper-", _CODENAMES.sub("", name)))
            name = _SERIES.sub(_kept, re.sub(r"^(?=i[3579]-|ultra-[579]-)", "core-", name))
            return f"{name}-2s" if both else name
        case _:
            return plain


def _kept(match: re.Match[str]) -> str:
    """Of a processor's name what ours keep: `ryzen-` of `ryzen-9-`."""
    word: str = next(filter(None, match.groups()))
    return word if word == "threadripper" else f"{word}-"


def _by_number(wanted: str, names: Iterable[str]) -> list[str]:
    """The card whose number is said without its family or without parting the two: `4090`, `RTX4090`, `3080Ti`."""
    key = re.sub(r"(?<=\d)s$", "super", _number(wanted.replace("laptop", "mobile")))
    return [name for name in names if _number(name) == key]


def _number(name: str) -> str:
    return _FAMILIES.sub("", name)


def _of_one_size(wanted: str, names: Iterable[str]) -> list[str]:
    """A card of which one size is known, with or without that said: `rtx-3060` is `rtx-3060-12gb`, and so back."""
    size = _SIZE.search(wanted)
    if size is None:
        return [name for name in names if _SIZE.sub("", name) == wanted and _SIZE.search(name)]
    base = wanted[: size.start()]
    return [name for name in names if name == base and _has_bytes(name, int(size["gb"]))]


def _as_drivers_say(text: str, names: Iterable[str]) -> list[str]:
    """The card that a driver names so, `NVIDIA H100 80GB HBM3`: by the words that tell cards apart, and its memory."""
    words = words_of(text)
    size = next((int(word.removesuffix("gb")) for word in words if re.fullmatch(r"\d{1,3}gb", word)), 0)
    telling = {word for word in words if not BESIDE_NAMES.fullmatch(word)}
    found = [name for name in names if {w for w in words_of(name) if not BESIDE_NAMES.fullmatch(w)} == telling]
    if size:
        found = [name for name in found if _has_bytes(name, size)]
    if size or "pcie" in words:  # a driver that says no PCIe means the module
        found = [name for name in found if ("pcie" in words_of(name)) == ("pcie" in words)] or found
    return found if len(found) == 1 and telling else []


def _has_bytes(name: str, n_gb: int) -> bool:
    """Whether an accelerator has about so many GB; drivers keep some."""
    card = load_component("accelerator", name)
    return isinstance(card, Accelerator) and 0.9 * n_gb <= card.hbm_bytes / 2**30 <= 1.01 * n_gb


def _plain(text: str) -> str:
    """A name in small letters, its words parted by one dash, without its maker."""
    return re.sub(r"[\s_./-]+", "-", _MAKERS.sub(" ", text.lower()).strip())
