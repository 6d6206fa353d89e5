"""Names in a row as others write them: `RTX 4090` for `rtx-4090`, `llama.cpp` for `llama-cpp`.

What is no name of ours in other letters stays as it is, and is told of where the row is predicted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from hwmodels.specs.machine_files import component_names, hardware_names, load_component
from hwmodels.specs.processors import processor_names
from hwmodels.specs.spec import Accelerator
from hwmodels.stack import stack_names
from traces.errors import InvalidInput
from traces.model.architecture import architecture_names
from traces.model.same_models import SAME_AS

__all__ = ["check_one_card", "with_our_names"]

_MAKERS = re.compile(r"\b(nvidia|geforce|amd|radeon|instinct|tesla|intel)\b|\((r|tm)\)")
_SERIES = re.compile(
    r"\b(ryzen)-[3579]-|\b(xeon)-(?:platinum|gold|silver)-|\b(core)-(?:i\d|ultra-\d)-|\bryzen-(threadripper)\b"
)
"""Of the names of processors what ours leave out, and what they keep."""
_SOCKETS = re.compile(r"(?:2\s*[x\u00d7]\s*|dual[\s-]+)(?P<name>.*)|(?P<named>.*?)\s+[x\u00d7]\s*2", re.IGNORECASE)
_PCIE = re.compile(r"(?:pcie|gen)-?(?P<generation>[3-6])(?:-0)?(?:-?x(?P<lanes>\d{1,2}))?")
_SIZE = re.compile(r"-(?P<gb>\d{1,3})gb?$")
_SEVERAL = re.compile(
    r"\d{1,3}\s*[x\u00d7]\s*(?P<card>[a-z].*)|(?P<named>[a-z].*?)\s+[x\u00d7]\s*\d{1,3}", re.IGNORECASE
)
_NO_CARD = ("", "none", "cpu", "cpu-only", "no-gpu")
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
    "kt-kernel": "ktransformers",
    "ktransformers-sglang": "ktransformers",
    "sglang-ktransformers": "ktransformers",
    "sglang": "vllm",
    "zero-inference": "pytorch-eager",
    "transformers": "pytorch-eager",
}
"""Other names of engines, as `_plain` writes them: programs of an engine, and engines that ours stand for."""


def with_our_names(cells: Mapping[str, str]) -> dict[str, str]:
    """A row's cells, names of models, machines and stacks as we write them, a bare format as that of all matrices."""
    named = {column: _ours(column, cells[column], known) for column, known in _KNOWN.items() if cells.get(column)}
    formats = cells.get("formats", "")
    if formats and "=" not in formats and "," not in formats:
        named["formats"] = f"all={formats.strip()}"
    return {**cells, **named}


def check_one_card(hardware: str) -> None:
    """Raises `InvalidInput` where a row is of several cards, `2x rtx-3090`, or of none."""
    if _plain(hardware) in _NO_CARD:
        raise InvalidInput(
            f"hardware {hardware[:60]!r}: a row is of a card. Where all runs on the processor, name any that was "
            f"there, policy gpu_only@layers=cpu"
        )
    match = _SEVERAL.fullmatch(hardware.strip())
    if match is not None:
        raise InvalidInput(
            f"hardware {hardware[:60]!r}: a row is of one card. Cards that a token passes through in turn are one with "
            f"the memory of all: {_plain(match['card'] or match['named'])}, and set accelerator.hbm_bytes; cards that "
            f"share a layer cannot be said: give the row a reason"
        )


def _ours(column: str, text: str, known: Callable[[], Iterable[str]]) -> str:
    if text.endswith(_FILES) or "/" in text or Path(text).exists():
        return text
    bare, mark, rest = text.partition("?")  # ?top_k=N
    names = dict.fromkeys(known())  # a host that has a file of its own is a processor too
    if bare in names:
        return text
    wanted = _spelled(column, bare)
    found = [name for name in names if _plain(name) == wanted]
    if not found and column == "hardware":
        found = _of_one_size(wanted, names)
    return f"{found[0]}{mark}{rest}" if len(found) == 1 else text


def _spelled(column: str, text: str) -> str:
    """A name as ours are written, in the way of its column."""
    plain = _plain(text)
    match column:
        case "stack":
            plain = re.sub(r"[-+]+", "-", plain)
            return _plain(STACKS.get(plain, plain))
        case "hardware":
            return CARDS.get(plain, plain)
        case "link":
            lanes = _PCIE.fullmatch(plain)
            return f"pcie{lanes['generation']}-x{lanes['lanes'] or 16}" if lanes else plain
        case "host":
            both = _SOCKETS.fullmatch(text.strip())
            name = _SERIES.sub(_kept, _plain(both["name"] or both["named"]) if both else plain)
            return f"{name}-2s" if both else name
        case _:
            return plain


def _kept(match: re.Match[str]) -> str:
    """Of a processor's name what ours keep: `ryzen-` of `ryzen-9-`."""
    word: str = next(filter(None, match.groups()))
    return word if word == "threadripper" else f"{word}-"


def _of_one_size(wanted: str, names: Iterable[str]) -> list[str]:
    """A card of which one size is known, with or without that said: `rtx-3060` is `rtx-3060-12gb`, and so back."""
    size = _SIZE.search(wanted)
    if size is None:
        return [name for name in names if _SIZE.sub("", name) == wanted and _SIZE.search(name)]
    base = wanted[: size.start()]
    return [name for name in names if name == base and _has_bytes(name, int(size["gb"]))]


def _has_bytes(name: str, n_gb: int) -> bool:
    """Whether an accelerator has about so many GB; drivers keep some."""
    card = load_component("accelerator", name)
    return isinstance(card, Accelerator) and 0.9 * n_gb <= card.hbm_bytes / 2**30 <= 1.01 * n_gb


def _plain(text: str) -> str:
    """A name in small letters, its words parted by one dash, without its maker."""
    return re.sub(r"[\s_./-]+", "-", _MAKERS.sub(" ", text.lower()).strip())
