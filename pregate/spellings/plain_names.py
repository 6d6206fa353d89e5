"""Names of machines, engines and models in the letters of ours: `RTX 4090` is `rtx-4090`, `llama.cpp` `llama-cpp`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from pregate.spellings.llama_releases import NOW, of_build

_MAKERS = re.compile(r"\b(nvidia|geforce|amd|radeon|instinct|tesla|intel)\b|\((r|tm)\)")
_SERIES = re.compile(
    r"\b(ryzen)-[3579]-|\b(xeon)-(?:platinum|gold|silver|bronze)-|\b(core)-(?:i\d|ultra-\d)-|\bryzen-(threadripper)\b"
)
"""Of the names of processors what ours leave out, and what they keep."""
_SOCKETS = re.compile(
    r"(?:2\s*[x\u00d7]\s*|\(2\)\s*|2s\s+|(?:dual|two)[\s-]+(?:socket\s+)?)(?P<name>.*)|"
    r"(?P<named>.*?)\s+(?:[x\u00d7]\s*2|\(?(?:dual|two|2)[\s-]+(?:socket|cpu)s?\)?|\(2\))",
    re.IGNORECASE,
)
_PCIE = re.compile(r"(?:(?:pcie|gen)-?|(?=\d[-.]0))(?P<generation>[3-6])(?:[-.]0)?(?:-?x(?P<lanes>\d{1,2}))?")
_BESIDE_CPU = re.compile(
    r"-(?:\d{1,3}-cores?|\d{1,3}c(?:[-/]\d{1,3}t)?$|with-graphics|w(?:ith)?-\w+-graphics|w-[6-9]\d\dm|w-80\d0s|cpu)\b.*|-processor$|-@.*|\s@.*|^\d\dth-gen-",
    re.IGNORECASE,
)
"""What systems write around the name of a processor."""
_CODENAMES = re.compile(r"\b(?:naples|rome|milan|genoa|bergamo|siena|turin)-(?=\d)")
BESIDE_CARD = re.compile(
    r"^1\s*[x\u00d7]\s*(?=\D)|\((?![^()]*\d\s?W\b(?!/))[^()]*\)|"
    r"\b(?:gddr\w*|hbm\d\w*|vram|each|graphics card|gpu|fe|founders edition|dual[\s-]slot)\b",
    re.IGNORECASE,
)
"""What is written around the name of a card, and moves nothing: a limit of its power does."""
_BRACKETS = re.compile(r"\(([^()]*)\)")
_TELLS_CARDS_APART = re.compile(
    r"\b(?:mobile|laptop|notebook|max-?q|pcie|sxm\d?|nvl|super|ti|pascal|maxwell|ada|blackwell|\d+\s?-?cores?|"
    r"\d{1,3}\s*gi?b?|[x\u00d7]?\s*\d{1,2}\s*[x\u00d7]?|gddr\w*)\b",
    re.IGNORECASE,
)
_SLOT = re.compile(r"pcie\s*(?:gen\s*)?\d(?:\.0)?(?:\s*x\d{1,2})?", re.IGNORECASE)
_N_IN_BRACKETS = re.compile(r"[x\u00d7]?\s*(\d{1,2})\s*[x\u00d7]?", re.IGNORECASE)
_VERSION = re.compile(
    r"-(?:(?:version|build|release|v|b)-?)?(?:v?\d{1,2}-\d{1,3}(?:-\w{1,8})*|(?<=b)\d{3,5}|(?<=build-)\d{3,5})$"
    r"|-(?:main|master|head|git|latest|nightly|dev|stable|upstream|(?:commit-)?(?=[0-9a-f]*\d)[0-9a-f]{7,40})$"
)
"""Of an engine: `0.10.1`, `b6100`, `(main)`, their dots as dashes."""
_OF_LLAMA = re.compile(
    r"(?<=^llama-cpp)(?P<version>-.*?)??-(?:rocm|hip|cuda|cublas|metal|(?:llama-)?(?:server|cli|bench))$"
)
"""Back ends and programs of llama.cpp, which are no other engine."""
_APPLE = re.compile(r"\bm(?P<n>[1-9])(?:-(?P<kind>max|pro|ultra))?\b")
_OF_NVIDIA = re.compile(r"\b(?:nvidia|tesla|quadro)\b", re.IGNORECASE)
"""Whose M4 is no chip of a Mac."""
_SMALLER_MAX: Mapping[str, tuple[str, re.Pattern[str]]] = {
    "m3-max": ("apple-m3-max-30c", re.compile(r"\b(?:30-core|30c|14-core|14c|(?:36|96)-?gi?b)\b")),
    "m4-max": ("apple-m4-max-32c", re.compile(r"\b(?:32-core|32c|14-core|14c|36-?gi?b)\b")),
}
"""Of two chips of a name the one with fewer cores and slower memory: by its cores, or the memory that it alone has."""
SIZE = re.compile(r"-(?P<gb>\d{1,3})gb?$")
GIGABYTES = re.compile(r"-(\d{1,3})(?:-gi?b|gi?b?)$")
"""Memory that a name ends with, and as it may be written."""
AND = re.compile(r"\s*\+\s*|\s+(?:and|&)\s+", re.IGNORECASE)
"""What joins the names of several parts of a machine."""

_CARDS: Mapping[str, str] = {
    "gh200-480gb": "gh200",
    "jetson-thor": "jetson-agx-thor",
    "agx-thor": "jetson-agx-thor",
    "agx-orin": "jetson-agx-orin",
    "orin-nx": "jetson-orin-nx-16gb",
    "orin-nx-16gb": "jetson-orin-nx-16gb",
    "orin-nano-super": "jetson-orin-nano-super",
    "jetson-orin-nano-super-8gb": "jetson-orin-nano-super",
    "gtx-titan-x": "titan-x-maxwell",
    "vega-56": "rx-vega-56",
    "gv100": "quadro-gv100",
    "jetson-t5000": "jetson-agx-thor",
    "h100": "h100-sxm",
    "h200": "h200-sxm",
    "h800": "h800-sxm",
    "a800": "a800-sxm4-80gb",
    "h200-141gb": "h200-sxm",
    "rtx-6000-blackwell": "rtx-pro-6000",
    "rtx-pro-6000-se": "rtx-pro-6000-server",
    "rtx-pro-6000-server-edition": "rtx-pro-6000-server",
    "rtx-pro-6000-blackwell-server": "rtx-pro-6000-server",
    "rtx-pro-6000-blackwell-server-edition": "rtx-pro-6000-server",
    "rtx-pro-6000-blackwell-max-q": "rtx-pro-6000-max-q",
    "rtx-pro-6000-blackwell-max-q-workstation-edition": "rtx-pro-6000-max-q",
    "rtx-2050": "rtx-2050-mobile",
    "rtx-2060": "rtx-2060-6gb",
    "2060": "rtx-2060-6gb",
    "rtx-5090d": "rtx-5090-d",
    "rtx-5090d-v2": "rtx-5090-d-v2",
    "vega-64": "rx-vega-64",
    "r9700": "radeon-ai-pro-r9700",
    "p6000": "quadro-p6000",
    "p5000": "quadro-p5000",
    "p4000": "quadro-p4000",
    "p2000": "quadro-p2000",
    "rtx-8000": "quadro-rtx-8000",
    "rtx-pro-6000-blackwell": "rtx-pro-6000",
    "rtx-pro-6000-blackwell-workstation-edition": "rtx-pro-6000",
    "rtx-6000-ada-generation": "rtx-6000-ada",
    "ryzen-ai-max+-395": "strix-halo",
    "8060s": "strix-halo",
    "gb10": "dgx-spark",
}
"""Other names of accelerators, as `plain_name` writes them. A driver's 480 GB of a GH200 are its processor's; an H100,
H200, H800 or A800 of which nothing more is said is the module.
"""

_HOSTS: Mapping[str, str] = {
    "ryzen-ai-max+-395": "strix-halo-cpu",
    "ryzen-ai-max-395": "strix-halo-cpu",
    "ryzen-ai-max-390": "strix-halo-390-cpu",
    "ryzen-ai-max-385": "strix-halo-385-cpu",
    "strix-halo": "strix-halo-cpu",
    "gb10": "dgx-spark-cpu",
    "dgx-spark": "dgx-spark-cpu",
    "grace": "grace-480gb",
}
"""Other names of hosts that are no processor to buy."""

_STACKS: Mapping[str, str] = {
    "ik-llama-cpp": "ik-llama",
    "ik-llama": "ik-llama",
    "llama-server": "llama-cpp",
    "llama-bench": "llama-cpp",
    "llamacpp": "llama-cpp",
    "lm-studio": "llama-cpp",
    "lmstudio": "llama-cpp",
    "koboldcpp": "llama-cpp",
    "ollama": "llama-cpp",
    "jan": "llama-cpp",
    "llama-cpp-python": "llama-cpp",
    "llama-swap": "llama-cpp",
    "ramalama": "llama-cpp",
    "lemonade": "llama-cpp",
    "kt-kernel": "ktransformers",
    "ktransformers-sglang": "ktransformers",
    "sglang-ktransformers": "ktransformers",
    "sglang": "vllm",
    "llamafile": "llama-cpp",
    "sglang-kt-kernel": "ktransformers",
    "zero-inference": "pytorch-eager",
    "deepspeed-zero-inference": "pytorch-eager",
    "deepspeed-zero": "pytorch-eager",
    "transformers": "pytorch-eager",
}
"""Other names of engines, as `plain_name` writes them: programs of an engine, and engines that ours stand for."""
_MEMORY_IN_BRACKETS = re.compile(r"(\d{1,3}\s*gi?b)(?:\s+(?:v?ram|memory|each))?", re.IGNORECASE)


def without_brackets(hardware: str) -> str:
    """The name of a card whose brackets are open where what they hold tells cards apart: `RTX 3080 (Mobile)`; a number
    alone is how many there are, `(2) RTX 3090`.
    """

    def opened(match: re.Match[str]) -> str:
        inner = match[1].strip()
        if number := _N_IN_BRACKETS.fullmatch(inner):
            return f" x{number[1]}" if hardware[: match.start()].strip() else f"{number[1]}x "
        if memory := _MEMORY_IN_BRACKETS.fullmatch(inner):
            return f" {memory[1]}"
        inner = _SLOT.sub("", inner)
        return f" {inner} " if _TELLS_CARDS_APART.search(inner) else match[0]

    return " ".join(_BRACKETS.sub(opened, hardware).split()) if "(" in hardware else hardware


def spelled(column: str, text: str) -> str:
    """A name as ours are written, in the way of its column."""
    plain = plain_name(BESIDE_CARD.sub(" ", text) if column == "hardware" else text)
    match column:
        case "stack":
            plain, bare = "", re.sub(r"[-+(),@]+", "-", plain).strip("-")
            while bare != plain:
                plain, bare = bare, _OF_LLAMA.sub(r"\g<version>", _VERSION.sub("", bare))
            plain = plain_name(_STACKS.get(plain, plain))
            return (of_build(text)[0] or plain) if plain == NOW and "llama" in text.lower() else plain
        case "hardware":
            plain = GIGABYTES.sub(r"-\1gb", plain)
            apple = None if _OF_NVIDIA.search(text) else _APPLE.search(plain)
            smaller, told = _SMALLER_MAX.get(apple[0] if apple else "", ("", None))
            if told is not None and told.search(plain_name(text)):
                return smaller
            smaller_halo = re.search(r"\b(?:ai-max\+?-(?:pro-)?|strix-halo-)(385|390)\b", plain)
            if smaller_halo:
                return f"strix-halo-{smaller_halo[1]}"
            if re.search(r"\bai-max\+?-(?:pro-)?395\b|^strix-halo\b|^framework-desktop|\bevo-x2\b", plain):
                return "strix-halo"
            if re.search(r"\bgx10\b", plain):
                return "dgx-spark"
            plain = re.sub(r"(?<=^gb[23]00)-nvl\d{1,3}$", "", re.sub(r"(?<=\d{4})m$", "-mobile", plain))
            return _CARDS.get(plain, _apple_chip(apple) if apple else plain)
        case "link":
            lanes = _PCIE.fullmatch(plain_name(re.sub(r"\((?:presumed|assumed|likely)\)", "", text)))
            return f"pcie{lanes['generation']}-x{lanes['lanes'] or 16}" if lanes else plain
        case "host":
            both = _SOCKETS.fullmatch(text.strip())
            name = plain_name(both["name"] or both["named"] or "") if both else plain
            name = _BESIDE_CPU.sub("", re.sub(r"\bxeon-cpu-(?=e|max)", "xeon-", name))
            name = re.sub(
                r"(?<=\d)v(?=\d$)", "-v", re.sub(r"^tr-(?=pro-|\d)", "threadripper-", _CODENAMES.sub("", name))
            )
            name = _SERIES.sub(_kept, re.sub(r"^(?=i[3579]-|ultra-[579]-)", "core-", name))
            name = re.sub(r"^(?=e[357]-\d{4})|^(?:platinum|gold|silver|bronze)-(?=\d{4})", "xeon-", name)
            name = re.sub(r"^(?:aws-)?graviton-?(?=\d)", "graviton-", re.sub(r"^ampere-(?=altra)", "", name))
            name = re.sub(r"^altra-(?=m\d)", "altra-max-", name)
            name = re.sub(r"^xeon-6-(?=\d{4}[pe])", "xeon-", name)
            name = re.sub(r"^(?=w[3579]?-\d{4}x?e?$)", "xeon-", name)
            name = re.sub(r"^(ryzen-ai-max\+?)-pro-", r"\1-", name)
            apple = None if _OF_NVIDIA.search(text) else _APPLE.fullmatch(name.removeprefix("apple-"))
            name = f"{_apple_chip(apple)}-cpu" if apple else _HOSTS.get(name, name)
            name = re.sub(r"^threadripper-(?=[3-9]\d{3}wx\b)", "threadripper-pro-", name)  # from 3000WX on all are
            return f"{name}-2s" if both else name
        case _:
            return plain


def _apple_chip(named: re.Match[str]) -> str:
    """The chip of a Mac as ours are written: `apple-m4-pro`, `apple-m4`."""
    return "-".join(filter(None, ("apple", f"m{named['n']}", named["kind"])))


def _kept(match: re.Match[str]) -> str:
    """Of a processor's name what ours keep: `ryzen-` of `ryzen-9-`."""
    word: str = next(filter(None, match.groups()))
    return word if word == "threadripper" else f"{word}-"


@lru_cache(1 << 12)
def plain_name(text: str) -> str:
    """A name in small letters, its words parted by one dash, without its maker."""
    return re.sub(r"[\s_./-]+", "-", _MAKERS.sub(" ", text.lower()).strip())
