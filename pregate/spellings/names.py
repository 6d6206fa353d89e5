"""Names of machines, engines and models as people write them, each as ours: `RTX 4090` is `rtx-4090`.

Whatever is asked for by name goes by here where we have no such name. What is no name of ours in other letters stays as
it is, and is told of by who wanted it. Nothing here imports numpy.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache

from hwmodels.specs.machine_files import component_names, hardware_names
from hwmodels.specs.processors import processor_names
from hwmodels.stacks.stack_files import stack_names
from pregate.spellings.plain_names import plain_name, spelled, without_brackets
from pregate.spellings.same_cards import may_be, same_cards
from traces.model.architecture import architecture_names, load_architecture
from traces.model.same_models import SAME_AS

FILES = (".yaml", ".yml", ".json", ".gguf", ".safetensors")
"""How files of models and machines end."""

KNOWN: Mapping[str, Callable[[], Iterable[str]]] = {
    "model": lambda: (*architecture_names(), *SAME_AS),
    "hardware": hardware_names,
    "host": lambda: (*component_names("host"), *processor_names()),
    "link": lambda: component_names("link"),
    "stack": stack_names,
}
"""Columns of names, and the names that each may have."""


def our_name(column: str, text: str) -> str:
    """`text` as we write it, a name of a column of `KNOWN`; as it is where it is none, a path, or may be several."""
    if text.endswith(FILES) or "/" in text.replace(" w/ ", " ") or os.path.exists(text):
        return text
    return _ours(column, text, tuple(KNOWN[column]()))


@lru_cache(1 << 10)
def _ours(column: str, text: str, known: tuple[str, ...]) -> str:
    """`our_name` of a text that is no file: a table says the same few names in every row."""
    bare, mark, rest = text.partition("?")  # ?top_k=N
    if column == "hardware":
        bare = re.sub(r"(?<=\d)\s+(?=gi?b\b)", "", without_brackets(bare), flags=re.IGNORECASE)
    names = dict.fromkeys(known)  # a host that has a file of its own is a processor too
    if bare in names:
        return text
    wanted = spelled(column, bare)
    found = [name for name in names if plain_name(name) == wanted]
    if not found and column == "hardware":
        found = same_cards(bare, wanted, names)
    if column == "hardware":
        found = [name for name in found if may_be(name, bare)]
    if not found and column == "model":
        found = _model_of(wanted, names)
    if not found and column == "host":
        found = _processors(wanted, names)
    return f"{found[0]}{mark}{rest}" if len(found) == 1 else text


def _processors(wanted: str, names: Iterable[str]) -> list[str]:
    """The processors that a name is of which leaves a letter out, or says one more, or is the number alone."""
    if re.search(r"^epyc-.*\dp$", wanted):  # a 7402P is a 7402, for one socket alone
        return [name for name in names if name == wanted[:-1]]
    if re.search(r"^xeon-\d{4}(?:-2s)?$", wanted):  # there is no 8480, but an 8480+
        return [name for name in names if name == re.sub(r"(?<=\d{4})", "+", wanted, count=1)]
    if re.search(r"^core-\d+k?f$", wanted):  # without graphics, else the same
        return [name for name in names if name == wanted[:-1]]
    if re.search(r"^1\d{4}f$", wanted):
        return [name for name in names if name == f"core-{wanted[:-1]}"]
    if re.search(r"^\d{3,5}[a-z]+\d?[a-z]?$", wanted):  # its number alone
        ends = (f"-{wanted}", f"-{wanted.removesuffix('f')}") if wanted.endswith("kf") else (f"-{wanted}",)
        return [name for name in names if name.endswith(ends) and not name.startswith("laptop-")]
    return []


_TRAINED = re.compile(
    r"[-.](?:instruct|inst|it|pt|base|chat|hf|1m)$|(?<=^deepseek-[rv]\d)-671b$|"
    r"(?<=^deepseek-[rv]\d-\d{4})-6(?:71|85)b$|(?<=^llama-4-scout)-109b$|(?<=^llama-4-maverick)-400b$|"
    r"(?<=^mixtral-8x7b)-v0-1$|(?<=^mixtral-8x22b)-v0-1$"
)
"""What the end of a model's name says of its training, or of its size once more, and not of its architecture."""


_SIZED = re.compile(r"(?P<name>.+)-(?P<number>\d+(?:\.\d+)?)(?P<unit>[bt])", re.ASCII)
_AS_A_NAME_SAYS = 0.03
"""How far off the size of a model in its name may be."""


def _is_so_large(name: str, sized: re.Match[str]) -> bool:
    """Whether a model has as many parameters as are said behind its name."""
    said = float(sized["number"]) * {"b": 1e9, "t": 1e12}[sized["unit"]]
    return abs(load_architecture(SAME_AS.get(name, name)).total_params / said - 1) < _AS_A_NAME_SAYS


def _model_of(wanted: str, names: Iterable[str]) -> list[str]:
    """The model whose words are parted otherwise (`Qwen 3 30B A3B`), which says more of its training
    (`ernie-4.5-21b-a3b-pt`), or of whose name the size is the end (`qwen3-30b`) where all that begin so are one
    architecture.
    """
    found, bare = [name for name in names if _joined(name) == _joined(wanted)], wanted
    while not found and _TRAINED.search(bare):
        bare = _TRAINED.sub("", bare)
        found = [name for name in names if _joined(name) == _joined(bare)]
    sized = _SIZED.fullmatch(wanted)
    if not found and sized is not None:
        found = [name for name in names if _joined(name) == _joined(sized["name"]) and _is_so_large(name, sized)]
    if found or not re.search(r"\d(?:x\d+)?b$", wanted):
        return found
    begun = [name for name in names if any(_joined(start) == _joined(wanted) for start in _starts(name))]
    return begun[:1] if len({SAME_AS.get(name, name) for name in begun}) == 1 else []


def _joined(name: str) -> str:
    return plain_name(name).replace("-", "")


def _starts(name: str) -> list[str]:
    """A name without its last word, its last two, and so on."""
    words = plain_name(name).split("-")
    return ["-".join(words[:n]) for n in range(1, len(words))]
