"""Names in a row as others write them: `RTX 4090` for `rtx-4090`, `llama.cpp` for `llama-cpp`.

What is no name of ours in other letters stays as it is, and is told of where the row is predicted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from hwmodels.machine_files import hardware_names
from hwmodels.shipped import SPECS, shipped
from hwmodels.stack import stack_names
from traces.errors import InvalidInput
from traces.model.architecture import architecture_names
from traces.model.same_models import SAME_AS

__all__ = ["check_no_flag", "check_one_card", "with_our_names"]

_MAKERS = re.compile(r"\b(nvidia|geforce|amd|intel)\b")
_SEVERAL = re.compile(
    r"\d{1,3}\s*[x\u00d7]\s*(?P<card>[a-z].*)|(?P<named>[a-z].*?)\s+[x\u00d7]\s*\d{1,3}", re.IGNORECASE
)
_FILES = (".yaml", ".yml", ".json", ".gguf", ".safetensors")

_KNOWN: Mapping[str, Callable[[], Iterable[str]]] = {
    "model": lambda: (*architecture_names(), *SAME_AS),
    "hardware": hardware_names,
    "host": lambda: shipped(SPECS / "hosts"),
    "link": lambda: shipped(SPECS / "links"),
    "stack": stack_names,
}
"""Columns of names, and the names that each may have."""


def with_our_names(cells: dict[str, str]) -> dict[str, str]:
    """A row's cells, names of models, machines and stacks as we write them."""
    return {**cells, **{column: _ours(cells[column], known) for column, known in _KNOWN.items() if cells.get(column)}}


def check_one_card(hardware: str) -> None:
    """Raises `InvalidInput` where a row is of several cards: `2x rtx-3090`."""
    match = _SEVERAL.fullmatch(hardware.strip())
    if match is not None:
        raise InvalidInput(
            f"hardware {hardware[:60]!r}: a row is of one card. Cards that a token passes through in turn are one with "
            f"the memory of all: {_plain(match['card'] or match['named'])}, and set accelerator.hbm_bytes; cards that "
            f"share a layer cannot be said: give the row a reason"
        )


def check_no_flag(policy: str) -> None:
    """Raises `InvalidInput` where a policy is a flag of an engine."""
    if policy.startswith("-"):
        raise InvalidInput(
            f"policy {policy[:60]!r} is a flag of an engine: experts of the first 20 layers on the host "
            f"(--n-cpu-moe 20) are gpu_only@experts=cpu:20, of all (-ot exps=CPU) gpu_only@experts=cpu, the first 20 "
            f"layers whole (-ngl of all but 20) gpu_only@layers=cpu:20"
        )


def _ours(text: str, known: Callable[[], Iterable[str]]) -> str:
    if text.endswith(_FILES) or "/" in text or Path(text).exists():
        return text
    bare, mark, rest = text.partition("?")  # ?top_k=N
    names = tuple(known())
    if bare in names:
        return text
    wanted = _plain(bare)
    found = [name for name in names if _plain(name) == wanted]
    return f"{found[0]}{mark}{rest}" if len(found) == 1 else text


def _plain(text: str) -> str:
    """A name in small letters, its words parted by one dash, without its maker."""
    return re.sub(r"[\s_./-]+", "-", _MAKERS.sub(" ", text.lower()).strip())
