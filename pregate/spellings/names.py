"""Names of machines, engines and models as people write them: `RTX 4090` for `rtx-4090`, `llama.cpp` for `llama-cpp`.

Whatever is asked for by name goes by here where we have no such name. What is no name of ours in other letters stays as
it is, and is told of by who wanted it. Nothing here imports numpy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from hwmodels.specs.device_names import BESIDE_NAMES, is_module, words_of
from hwmodels.specs.machine_files import cards_of, component_names, hardware_names, load_component, load_machine
from hwmodels.specs.processors import processor_names
from hwmodels.specs.spec import Accelerator
from hwmodels.stack_files import stack_names
from traces.errors import UnknownName, unknown_name
from traces.model.architecture import architecture_names
from traces.model.same_models import SAME_AS

__all__ = [
    "KNOWN",
    "are_different",
    "card_and_memory",
    "is_name_of",
    "machine_and_numbers",
    "our_name",
    "part_as_ours",
    "several",
    "unknown",
]

_MAKERS = re.compile(r"\b(nvidia|geforce|amd|radeon|instinct|tesla|intel)\b|\((r|tm)\)")
_SERIES = re.compile(
    r"\b(ryzen)-[3579]-|\b(xeon)-(?:platinum|gold|silver)-|\b(core)-(?:i\d|ultra-\d)-|\bryzen-(threadripper)\b"
)
"""Of the names of processors what ours leave out, and what they keep."""
_SOCKETS = re.compile(
    r"(?:2\s*[x\u00d7]\s*|\(2\)\s*|2s\s+|dual[\s-]+)(?P<name>.*)|(?P<named>.*?)\s+[x\u00d7]\s*2", re.IGNORECASE
)
_PCIE = re.compile(r"(?:pcie|gen)-?(?P<generation>[3-6])(?:-0)?(?:-?x(?P<lanes>\d{1,2}))?")
_BESIDE_CPU = re.compile(
    r"-(?:\d{1,3}-core|with-graphics|w(?:ith)?-\w+-graphics|cpu)\b.*|-processor$|-@.*|\s@.*|^\d\dth-gen-",
    re.IGNORECASE,
)
"""What systems write around the name of a processor."""
_CODENAMES = re.compile(r"\b(?:naples|rome|milan|genoa|bergamo|siena|turin)-(?=\d)")
_POWER = re.compile(r"\b\d{1,4}\s?W\b", re.ASCII | re.IGNORECASE)
_BESIDE_CARD = re.compile(
    r"^1\s*[x\u00d7]\s*(?=\D)|\((?![^()]*\d\s?W\b)[^()]*\)|"
    r"\b(?:gddr\w*|hbm\d\w*|graphics card|gpu|fe|founders edition)\b",
    re.IGNORECASE,
)
"""What is written around the name of a card, and moves nothing: a limit of its power does."""
_VERSION = re.compile(
    r"-(?:(?:version|build|release|v|b)-?)?(?:v?\d{1,2}-\d{1,3}(?:-\w{1,8})*|(?<=b)\d{3,5}|(?<=build-)\d{3,5})$"
)
"""Of an engine: `0.10.1`, `b6100`, their dots as dashes."""
_FAMILIES = re.compile(r"\b(?:radeon-pro|arc-pro|rtx|gtx|rx|arc|geforce|nvidia|amd|intel|radeon)-?|[^a-z0-9]")
_APPLE = re.compile(r"\bm(?P<n>[1-9])-(?P<kind>max|pro|ultra)\b")
_SIZE = re.compile(r"-(?P<gb>\d{1,3})gb?$")
_GIGABYTES = re.compile(r"-(\d{1,3})(?:-gi?b|gi?b?)$")
_IN_BRACKETS = re.compile(r"\(\s*(\d{1,3}\s*gi?b?)\s*\)", re.IGNORECASE)
_DIFFERENT = re.compile(r"\S\s*\+\s+\S|\S\s+(?:and|&)\s+\S", re.IGNORECASE)
_AND = re.compile(r"\s*\+\s*|\s+(?:and|&)\s+", re.IGNORECASE)
_SEVERAL = re.compile(
    r"(?P<n>\d{1,2})\s+(?P<card>[a-wyz].*)|(?P<m>\d{1,3})\s*[x\u00d7*]\s*(?P<close>[a-z0-9].*)|"
    r"(?P<named>[a-z0-9].*?)\s+\(?[x\u00d7]\s*(?P<k>\d{1,3})\)?|"
    r"(?P<tight>[a-z ]*\d{4}(?:\s?ti)?)[x\u00d7](?P<j>\d{1,2})|(?:dual|two)\s+(?P<both>[a-z0-9].*)",
    re.IGNORECASE,
)
_OF_APPLE = re.compile(r"\b(?:mac|macbook|imac|apple)\b|^m[1-9]\b")
_NO_CARD = ("none", "cpu", "cpu-only", "no-gpu")
_FILES = (".yaml", ".yml", ".json", ".gguf", ".safetensors")

KNOWN: Mapping[str, Callable[[], Iterable[str]]] = {
    "model": lambda: (*architecture_names(), *SAME_AS),
    "hardware": hardware_names,
    "host": lambda: (*component_names("host"), *processor_names()),
    "link": lambda: component_names("link"),
    "stack": stack_names,
}
"""Columns of names, and the names that each may have."""


CARDS: Mapping[str, str] = {
    "gh200-480gb": "gh200",
    "h100": "h100-sxm",
    "h200": "h200-sxm",
    "h800": "h800-sxm",
    "a800": "a800-sxm4-80gb",
    "h200-141gb": "h200-sxm",
    "rtx-6000-blackwell": "rtx-pro-6000",
    "rtx-pro-6000-se": "rtx-pro-6000",
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
    "rtx-8000": "quadro-rtx-8000",
    "rtx-pro-6000-blackwell": "rtx-pro-6000",
    "rtx-pro-6000-blackwell-workstation-edition": "rtx-pro-6000",
    "rtx-6000-ada-generation": "rtx-6000-ada",
    "ryzen-ai-max+-395": "strix-halo",
    "8060s": "strix-halo",
    "gb10": "dgx-spark",
    "m2-ultra": "apple-m2-ultra",
    "m3-ultra": "apple-m3-ultra",
    "m4-max": "apple-m4-max",
    "m4-pro": "apple-m4-pro",
}
"""Other names of accelerators, as `_plain` writes them. A driver's 480 GB of a GH200 are of the processor beside it; an
H100, H200, H800 or A800 of which nothing more is said is the module.
"""

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


def several(hardware: str) -> tuple[int, str]:
    """How many cards `hardware` names, and what one of them is called: `2x RTX 3090`, `dual 3090`, `3090 + 3090`."""
    each = _AND.split(hardware.strip()[:200])
    if len(each) > 1 and len(set(map(_plain, each))) == 1:
        return len(each), each[0]
    match = _SEVERAL.fullmatch(hardware.strip()[:200])
    if match is None:
        return 1, hardware
    name = match["card"] or match["close"] or match["named"] or match["tight"] or match["both"]
    n_cards = int(match["n"] or match["m"] or match["k"] or match["j"] or 2)
    return (n_cards, name) if n_cards else (1, hardware)


def are_different(hardware: str) -> bool:
    """Whether `hardware` names cards that differ: `RTX 3090 + RTX 3060`, `3090+3060`, and not `Ryzen AI Max+ 395`."""
    if several(hardware)[0] > 1 or "max+" in hardware.lower():
        return False
    cards = hardware_names()
    return bool(_DIFFERENT.search(hardware)) or (
        "+" in hardware and all(our_name("hardware", one) in cards for one in _AND.split(hardware[:200]))
    )


def card_and_memory(text: str) -> tuple[str, dict[str, str]]:
    """A card of another memory than ours has, as we call it, and its numbers: of one that was given up to twice what it
    is sold with (`RTX 4090 48GB`), or of a machine of one memory (`M4 Max 64GB`); ("", {}) for any other name.
    """
    plain = _plain(_BESIDE_CARD.sub(" ", _IN_BRACKETS.sub(r" \1", text)))
    stated = _SIZE.search(_GIGABYTES.sub(r"-\1gb", plain))
    if stated is None:
        return "", {}
    n_gib, ours = int(stated["gb"]), our_name("hardware", text)
    if ours in hardware_names():
        return _of_one_memory(ours, n_gib)
    card = our_name("hardware", stated.string[: stated.start()])
    if card not in component_names("accelerator") or _has_bytes(card, n_gib):
        return "", {}
    found = load_component("accelerator", card)
    given = (
        isinstance(found, Accelerator)
        and found.hbm_bytes <= n_gib * 2**30 <= _MOST_GIVEN * found.hbm_bytes
        and found.hbm_bytes_per_s < _ON_THE_PACKAGE_BYTES_PER_S
    )
    return (card, {"accelerator.hbm_bytes": f"{n_gib}GiB"}) if given else ("", {})


_MOST_GIVEN = 2.1
"""What boards were given at most, over what they are sold with, a little more for what drivers keep."""

_ON_THE_PACKAGE_BYTES_PER_S = 1.9e12
"""From here on it is HBM on the package, which no board maker adds to: more of it is another product, and faster."""


def _of_one_memory(name: str, n_gib: int) -> tuple[str, dict[str, str]]:
    """A machine of one memory that is smaller than ours, its accelerator's part as large a share; ("", {}) else."""
    machine = load_machine(name)
    whole = machine.host.dram_bytes
    if not machine.has_one_memory or n_gib * 2**30 >= 0.99 * whole:
        return "", {}
    part = n_gib * machine.accelerator.hbm_bytes / whole
    return name, {"accelerator.hbm_bytes": f"{part:g}GiB", "host.dram_bytes": f"{n_gib}GiB"}


def machine_and_numbers(text: str) -> tuple[str, dict[str, float | str]]:
    """A machine as we call it, and the numbers that its name states beside: the memory of `RTX 4090 48GB`."""
    n, one = several(text)
    card, numbers = card_and_memory(one)
    name = card or our_name("hardware", one)
    if n > 1 and name not in hardware_names():
        return text, {}
    return f"{n}x {name}" if n > 1 else name, dict(numbers)


def is_name_of(column: str, text: str) -> bool:
    """Whether `text` is a name of a column of `KNOWN`, as we write it or as others do."""
    named = machine_and_numbers(text)[0] if column == "hardware" else part_as_ours(column, text)
    if column == "hardware":
        named = cards_of(named)[1]
    return named.partition(":")[0] in KNOWN[column]()


def part_as_ours(column: str, text: str) -> str:
    """`our_name`, of a host with the memory that it states: `EPYC 7763:7x2400`."""
    name, mark, memory = text.partition(":") if column == "host" else (text, "", "")
    return f"{our_name(column, name)}{mark}{memory}"


_READ_FROM = {"model": "its config.json or GGUF file"} | dict.fromkeys(
    ("hardware", "host", "link", "stack"), "a YAML file (docs/extend.md)"
)
"""What describes one of a column that does not ship."""


def unknown(column: str, text: str) -> UnknownName:
    """The error for a name of a column of `KNOWN` that nobody knows: it names the nearest, as we write them."""
    known, wanted = list(KNOWN[column]()), _spelled(column, text)
    if column == "hardware" and wanted in _NO_CARD:
        return UnknownName(
            f"unknown hardware {text!r}: a machine is called by its accelerator; where all runs on the processor, name "
            f"any that is there, and the design gpu_only@layers=cpu of --stack llama-cpp"
        )
    if column == "hardware" and are_different(text):
        for beside in _AND.split(text[:200])[1:]:
            if is_name_of("host", beside):
                return UnknownName(
                    f"unknown hardware {text!r}: a machine is called by its accelerator: name that, and the processor "
                    f"beside it with --set host={beside!r}"
                )
        return UnknownName(f"unknown hardware {text!r}: cards that differ cannot be said, as 2x rtx-3090 can: name one")
    if column == "hardware" and _POWER.search(text):
        return UnknownName(
            f"unknown hardware {text!r}: a limit of power is read in rows of tables alone: name the card and --set "
            f"accelerator.peak_flop_per_s and accelerator.clock_hz of it"
        )
    plain = re.sub(r"-?pcie\b", "", wanted) if column == "hardware" else wanted
    if plain != wanted and (module := _ours("hardware", plain, tuple(known))) in known:
        return UnknownName(f"unknown hardware {text!r}: {module} is a module and no card with a slot: name {module}")
    size = _SIZE.search(wanted) if column == "hardware" else None
    card = _ours("hardware", wanted[: size.start()], tuple(known)) if size is not None else ""
    if card in component_names("accelerator"):
        return UnknownName(
            f"unknown hardware {text!r}: {card} has other memory, and of this one no rate is known: name {card}, and "
            f"--set accelerator.hbm_bytes and accelerator.hbm_bytes_per_s"
        )
    if column == "hardware" and _OF_APPLE.search(wanted):
        known = [name for name in known if name.startswith("apple-")]
    error = unknown_name(column, text, known, spelled=wanted)
    return UnknownName(f"{error}; another is read from {_READ_FROM[column]}")


def our_name(column: str, text: str) -> str:
    """`text` as we write it, a name of a column of `KNOWN`; as it is where it is none, a path, or may be several."""
    if text.endswith(_FILES) or "/" in text.replace(" w/ ", " ") or Path(text).exists():
        return text
    return _ours(column, text, tuple(KNOWN[column]()))


@lru_cache(1 << 10)
def _ours(column: str, text: str, known: tuple[str, ...]) -> str:
    """`our_name` of a text that is no file: a table says the same few names in every row."""
    bare, mark, rest = text.partition("?")  # ?top_k=N
    names = dict.fromkeys(known)  # a host that has a file of its own is a processor too
    if bare in names:
        return text
    wanted = _spelled(column, bare)
    found = [name for name in names if _plain(name) == wanted]
    if not found and column == "hardware":
        found = _of_one_size(wanted, names) or _as_drivers_say(bare, names) or _by_number(wanted, names)
        size = _SIZE.search(wanted)
        if not found and size is not None:  # of a name that is short, with the memory that it has: `A6000 48GB`
            found = [name for name in _by_number(wanted[: size.start()], names) if _has_bytes(name, int(size["gb"]))]
    if not found and column == "model":
        found = _model_of(wanted, names)
    of_one_socket = column == "host" and re.search(r"^epyc-.*\dp(?:-2s)?$", wanted)  # a 7402P is a 7402
    if not found and of_one_socket:
        found = [name for name in names if name == re.sub(r"p(-2s)?$", r"\1", wanted)]
    if not found and column == "host" and re.search(r"^xeon-\d{4}(?:-2s)?$", wanted):  # there is no 8480, but an 8480+
        found = [name for name in names if name == re.sub(r"(?<=\d{4})", "+", wanted, count=1)]
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
            plain = _VERSION.sub("", re.sub(r"[-+()]+", "-", plain).strip("-"))
            plain = re.sub(r"(?<=llama-cpp)-(?:rocm|hip|cuda|cublas|metal)$", "", plain)
            return _plain(STACKS.get(plain, plain))
        case "hardware":
            plain = _GIGABYTES.sub(r"-\1gb", plain)
            apple = _APPLE.search(plain)
            if re.search(r"\bai-max\+?-(?:pro-)?395\b|^strix-halo\b|^framework-desktop|\bevo-x2\b", plain):
                return "strix-halo"
            if re.search(r"\bgx10\b", plain):
                return "dgx-spark"
            return CARDS.get(plain, f"apple-m{apple['n']}-{apple['kind']}" if apple else plain)
        case "link":
            lanes = _PCIE.fullmatch(plain)
            return f"pcie{lanes['generation']}-x{lanes['lanes'] or 16}" if lanes else plain
        case "host":
            both = _SOCKETS.fullmatch(text.strip())
            name = _plain(both["name"] or both["named"]) if both else plain
            name = _BESIDE_CPU.sub("", re.sub(r"\bxeon-cpu-(?=e)", "xeon-", name))
            name = re.sub(r"(?<=\d)v(?=\d$)", "-v", re.sub(r"^tr-(?=pro-)", "threadripper-", _CODENAMES.sub("", name)))
            name = _SERIES.sub(_kept, re.sub(r"^(?=i[3579]-|ultra-[579]-)", "core-", name))
            name = re.sub(r"^xeon-6-(?=\d{4}[pe])", "xeon-", name)
            name = re.sub(r"^(?=w[3579]?-\d{4}x?e?$)", "xeon-", name)
            name = re.sub(r"^threadripper-(?=[3-9]\d{3}wx\b)", "threadripper-pro-", name)  # from 3000WX on all are
            return f"{name}-2s" if both else name
        case _:
            return plain


def _model_of(wanted: str, names: Iterable[str]) -> list[str]:
    """The model whose words are parted otherwise (`Qwen 3 30B A3B`), or of whose name the size is the end (`qwen3-30b`)
    where all that begin so are one architecture.
    """
    found = [name for name in names if _joined(name) == _joined(wanted)]
    if found or not re.search(r"\d(?:x\d+)?b$", wanted):
        return found
    begun = [name for name in names if any(_joined(start) == _joined(wanted) for start in _starts(name))]
    return begun[:1] if len({SAME_AS.get(name, name) for name in begun}) == 1 else []


def _joined(name: str) -> str:
    return _plain(name).replace("-", "")


def _starts(name: str) -> list[str]:
    """A name without its last word, its last two, and so on."""
    words = _plain(name).split("-")
    return ["-".join(words[:n]) for n in range(1, len(words))]


def _kept(match: re.Match[str]) -> str:
    """Of a processor's name what ours keep: `ryzen-` of `ryzen-9-`."""
    word: str = next(filter(None, match.groups()))
    return word if word == "threadripper" else f"{word}-"


def _by_number(wanted: str, names: Iterable[str]) -> list[str]:
    """The card whose number is said without its family or without parting the two: `4090`, `RTX4090`, `3080Ti`."""
    key = re.sub(r"(?<=\d)s$|(?<=ti)s$", "super", _number(wanted.replace("laptop", "mobile")))
    found = [name for name in names if _number(name) == key]
    return found or [name for name in names if _number(_SIZE.sub("", name)) == key]


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
    words = words_of(re.sub(r"\b(\d{2,3})G\b", r"\1GB", text, flags=re.IGNORECASE))
    if _AND.search(text):  # of several cards
        return []
    size = next((int(word.removesuffix("gb")) for word in words if re.fullmatch(r"\d{1,3}gb", word)), 0)
    telling = {word for word in words if not BESIDE_NAMES.fullmatch(word)}
    found = [name for name in names if {w for w in words_of(name) if not BESIDE_NAMES.fullmatch(w)} == telling]
    if size:
        found = [name for name in found if _has_bytes(name, size)]
    if size or "pcie" in words:  # a driver that says no PCIe means the module
        alike = [name for name in found if ("pcie" in words_of(name)) == ("pcie" in words)]
        found = alike or [name for name in found if not ("pcie" in words and is_module(name))]
    return found if len(found) == 1 and telling else []


def _has_bytes(name: str, n_gb: int) -> bool:
    """Whether an accelerator has about so many GB; drivers keep some."""
    card = load_component("accelerator", name)
    return isinstance(card, Accelerator) and 0.9 * n_gb <= card.hbm_bytes / 2**30 <= 1.01 * n_gb


@lru_cache(1 << 12)
def _plain(text: str) -> str:
    """A name in small letters, its words parted by one dash, without its maker."""
    return re.sub(r"[\s_./-]+", "-", _MAKERS.sub(" ", text.lower()).strip())
