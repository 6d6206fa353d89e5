"""Rows of several cards: those that a token passes through in turn are one with the memory of all, those that share
every layer are as many.

So llama.cpp and ik_llama.cpp split a model by layers, unless they are told otherwise. A prompt whose passes may be in
several cards at once is of so many cards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from hwmodels.specs.machine_files import hardware_names, load_machine
from pregate.engines.flag_table import engine_of
from pregate.engines.multi_card_flags import SHARING_MODES
from pregate.measured.rows.host_alone import NO_CARD
from pregate.spellings.machine_names import are_different, machine_and_numbers, several
from pregate.spellings.names import FILES
from traces.errors import InvalidInput

_IN_TURN = ("llama-cpp", "ik-llama")
_SHARING = ("vllm",)
_SHARING_IF_TOLD = ("ktransformers",)
"""Engines whose cards share every layer where flags say so, and of which else one card computes."""
_TOLD = re.compile(r"(?:^|\s)--(?:tensor-parallel-size|tp-size|tp)[ =]")
_MOST = 16
_ONE_PASS = 512
"""Tokens of a prompt that pass at once where nothing else is said (`-ub` of both engines)."""
_SHARE_ROWS = re.compile(r"(?:-sm|--split-mode)[ =]+row")
_SHARE_LAYERS = re.compile(rf"(?:-sm|--split-mode)[ =]+(?:{'|'.join(SHARING_MODES.values())})|@turns=1")
_ONE_OF_THEM = re.compile(
    r"(?:-sm|--split-mode)[ =]+none\b|CUDA_VISIBLE_DEVICES=[\"']?\d\b(?!,)|(?:-dev|--device)[ =]+[A-Za-z]+\d+\b(?!,)"
    r"|(?:-ts|--tensor-split)[ =]+(?:1(?:[,/]0)+|(?:0[,/])+1)\b"
)
"""What leaves all cards but one idle."""
_LISTED = re.compile(
    r"CUDA_VISIBLE_DEVICES=[\"']?(?P<visible>\d+(?:,\d+)+)"
    r"|(?:-dev|--device)[ =]+(?P<devices>[A-Za-z]+\d+(?:,[A-Za-z]+\d+)+)"
    r"|(?:-ts|--tensor-split)[ =]+(?P<shares>[\d.]+(?:[,/][\d.]+)+)"
)
"""What names several cards, or gives each a share."""
_SAYS_CARDS = re.compile(r"hbm_bytes|n_cards")
_MODELS = re.compile(r"\S\s*[;,]\s*\S|\S\s+(?:\+|and|&)\s+\S", re.IGNORECASE)


def on_one_card(cells: Mapping[str, str], named: str) -> dict[str, str]:
    """A row of `2x rtx-3090` as one of an RTX 3090 with the memory of both, where a token passes through them in turn;
    as it is otherwise. `named`: one of its cards, as we write it.
    """
    n, _ = several(cells.get("hardware", ""))
    engine = engine_of(cells.get("stack", ""))
    used, flag = _used(f"{cells.get('policy', '')} {cells.get('set', '')}")
    if used > n and engine is not None and named in hardware_names() and not _SAYS_CARDS.search(cells.get("set", "")):
        why = f"{flag[:40]!r} is of {used} cards, hardware {cells['hardware'][:40]!r} of {n}: name {used}x {named}"
        return {**cells, "reason": cells.get("reason") or why}
    if 1 < used < n:  # the others are idle
        n = used
    if not 1 < n <= _MOST or named not in hardware_names() or engine is None:
        return dict(cells)
    numbers = cells.get("set", "")
    told = engine.engine in _SHARING_IF_TOLD and _TOLD.search(f"{cells.get('policy', '')} {numbers}") is not None
    if engine.engine not in (*_IN_TURN, *_SHARING) and not told:
        return dict(cells)
    design = f"{cells.get('policy', '')} {cells.get('placement', '')} {numbers}"
    if _SAYS_CARDS.search(numbers) or _SHARE_ROWS.search(design):
        return dict(cells)
    if _ONE_OF_THEM.search(design):
        return {**cells, "hardware": named}
    together = f"accelerator.hbm_bytes={n * load_machine(named).accelerator.hbm_bytes:.0f}"
    told = told or _SHARE_LAYERS.search(design) is not None
    if engine.engine in _SHARING or told or _takes_turns(cells, design):
        together = f"accelerator.n_cards={n}"
    return {**cells, "hardware": named, "set": ";".join(filter(None, (numbers, together)))}


def _used(design: str) -> tuple[int, str]:
    """How many cards flags and variables name or give a share, the fewest where several do, and by which; 0 of none."""
    found = []
    for one in _LISTED.finditer(design):
        shares = re.split(r"[,/]", one["shares"] or "")
        n = sum(1 for share in shares if share.strip("0."))
        found.append((n or 1 + (one["visible"] or one["devices"] or "").count(","), one[0]))
    return min(found, default=(0, ""))


def _takes_turns(cells: Mapping[str, str], design: str) -> bool:
    """Whether passes of a prompt may be in several cards at once: all weights there, and more than one pass of it."""
    n_tokens = cells.get("input_tokens") or "1"
    one_pass = n_tokens.isdigit() and int(n_tokens[:9]) <= _ONE_PASS
    on_host = re.search(r"cpu|-ot |--override-tensor|-n?cmoe|-ngl [0-9]{1,2}\b", design)
    return cells.get("metric") in ("ttft", "prefill_tokens_per_s") and not on_host and not one_pass


def check_one_card(hardware: str, *, measured: bool = False) -> None:
    """Raises `InvalidInput` where a row is of several cards, `2x rtx-3090`, or of none, or of one whose kernels nobody
    measured here, unless the row states constants of its stack (`measured`).
    """
    if hardware.strip().lower() in ("", *NO_CARD):
        raise InvalidInput(
            f"hardware {hardware[:60]!r}: a row is of a card. Where all runs on the processor, hardware is none and "
            f"the processor host, of stacks {' and '.join(_IN_TURN)}; beside a card that waited, gpu_only@layers=cpu"
        )
    if not measured and re.search(r"\barc\b", hardware, re.IGNORECASE):
        raise InvalidInput(
            f"hardware {hardware[:60]!r}: no constants of SYCL or Vulkan are known here: set constants of the stack "
            f"that you measured (stack.launch_s=20us)"
        )
    if hardware not in hardware_names() and not hardware.endswith(FILES):
        machine_and_numbers(hardware)  # raises where its name states what no machine here has
    n, named = several(hardware)
    if n > 1 or are_different(hardware):
        raise InvalidInput(
            f"hardware {hardware[:60]!r}: a row is of one card. Cards that a token passes through in turn (stacks "
            f"{' and '.join(_IN_TURN)}) are one with the memory of all: {named[:40]}, and set accelerator.hbm_bytes; "
            f"those that share every layer (stack {_SHARING[0]}) accelerator.n_cards={max(n, 2)}; cards that share a "
            f"layer otherwise, or that differ, cannot be said: give the row a reason"
        )


def check_one_model(model: str) -> None:
    """Raises `InvalidInput` where a row is of several models."""
    if _MODELS.search(model[:200]):
        raise InvalidInput(f"model {model[:60]!r}: a row is of one model: a row each")
