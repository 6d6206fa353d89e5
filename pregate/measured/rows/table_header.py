"""The header of a table of measured rows: its columns by our names, whatever others call them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pregate.measured.rows.command_loads import LOAD_COLUMNS
from pregate.measured.rows.metric_aliases import underscored
from pregate.measured.rows.other_tables import FLAG_COLUMNS, METRIC_MARK
from pregate.measured.rows.stated_units import metric_and_unit
from pregate.measured.rows.unread_cells import is_other_metric
from pregate.measured.rows.written_cells import COLUMN_ALIASES, is_metric, unit_of_header
from pregate.spellings.card_memory import sold
from pregate.spellings.host_memory import sizes_of
from pregate.spellings.machine_names import several
from traces.errors import InvalidFile, unknown_name

BESIDE = (
    "date", "author", "user", "os", "driver", "version", "build", "commit", "url", "motherboard", "size", "params",
    "n_kv", "t_pp_s", "t_tg_s", "t_s", "url_or_repo_path", "confidence",
)  # fmt: skip
"""Columns that move no prediction, which become a part of the note."""
_SIZES_OF_CONTEXT = ("ctx", "n_ctx", "ctx_size", "context", "context_length", "context_size", "max_model_len")
"""Columns of which nobody knows whether so many tokens were there."""
_OF_BATCHED_BENCH = {"pp": "input_tokens", "tg": "output_tokens", "b": "batch"}
CARD_MEMORY = "card_memory"
"""A column of the memory of the card, or of what a run took of it."""
_CARD_MEMORY = ("vram", "gpu_memory", "gpu_ram", "vram_gb", "gpu_memory_gb")
_GENERATED = ("gen", "generate", "generation")
_IS_RATE = re.compile(r"\b(?:tg|gen\w*|decode|eval)\b.*(?:/s|per second|tps)", re.IGNORECASE)
"""Beside the rate of an answer a column of that word alone is how long the answer is."""
MEMORY = "memory"
"""A column of the memory of the host, which becomes a part of its name."""


def column_names(header: Sequence[str], ours: Sequence[str], where: str) -> list[str]:
    """The columns that a header names, those of values under the name of their metric or unit too (`decode t/s`)."""
    if {underscored(text) for text in header} >= {"pp", "tg", "b"}:  # of llama-batched-bench
        header = [_OF_BATCHED_BENCH.get(underscored(text), text) for text in header]
    known = [_known_column(text, ours) for text in header]
    if any(FLAG_COLUMNS.get(column) == "-ub" for column in known):  # of llama.cpp: tokens that are handed over together
        known = ["n_batch" if column == "batch" else column for column in known]
    if "output_tokens" not in known and any(is_metric(text) and _IS_RATE.search(text) for text in header):
        known = ["output_tokens" if underscored(text) in _GENERATED else column
                 for text, column in zip(header, known, strict=True)]  # fmt: skip
    named, valued = "metric" in known, "value" in known
    made = []
    for text, column in zip(header, known, strict=True):
        if not column and named and not valued and unit_of_header(text):
            column, valued = "value", True
        is_one = is_metric(text) or is_other_metric(metric_and_unit(text)[0])
        if not column and not named and not valued and (is_one or unit_of_header(text)):
            column = f"{METRIC_MARK}{text if is_one else metric_and_unit(text)[1]}"
        made.append(column or _column(text, ours, where))
    return made


def _known_column(text: str, ours: Sequence[str]) -> str:
    """Our name of a column, "" of one that is none."""
    plain = underscored(re.sub(r"[()]", " ", text))
    if plain in _CARD_MEMORY:
        return CARD_MEMORY
    name = COLUMN_ALIASES.get(underscored(text), underscored(text))
    return name if name in (*ours, *BESIDE, MEMORY, *FLAG_COLUMNS, *LOAD_COLUMNS) else ""


def _column(text: str, ours: Sequence[str], where: str) -> str:
    """A column by its name. Raises `InvalidFile` for a header that is not parted by commas, `UnknownName` otherwise."""
    name = _known_column(text, ours)
    if name:
        return name
    if underscored(text) in _SIZES_OF_CONTEXT:
        raise InvalidFile(
            f"{where}: column {text[:40]!r}: call tokens that were there before context_tokens; leave the size out "
            f"that was set aside for them"
        )
    parted = next((mark for mark in (";", "\t", "|") if mark in text), None)
    if parted is not None:
        raise InvalidFile(
            f"{where}: columns are parted by {parted!r}, not by commas: save it as comma-separated values"
        )
    raise unknown_name("column", text, ours, where)


def with_card_memory(cells: Mapping[str, str], columns: Sequence[str]) -> dict[str, str]:
    """A row whose column of the card's memory is read: what the card is sold with is a part of its name, `RTX 4060 Ti`
    and `16 GB`; all else is what a run took, a measurement of a table with a column a metric, and of others a note.
    """
    made = {column: cell for column, cell in cells.items() if column != CARD_MEMORY}
    stated = cells.get(CARD_MEMORY, "").strip()
    size = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)\s*(?:G(?:i?B)?)?", stated, re.IGNORECASE)
    n, card = several(cells.get("hardware", ""))
    if not stated:
        return made
    if size and card.strip() and any(sold(card, float(size[1]) / k) for k in {1, n}):
        each = float(size[1]) if sold(card, float(size[1])) else float(size[1]) / n
        is_said = bool(sizes_of(card))
        made["hardware"] = cells["hardware"] if is_said else f"{f'{n}x ' * (n > 1)}{card} {each:g}GB"
    elif any(column.startswith(METRIC_MARK) for column in columns) or "metric" not in columns:
        made[f"{METRIC_MARK}peak_hbm_bytes"] = f"{stated} GB" if size and size[1] == stated else stated
    else:
        made["note"] = "; ".join(filter(None, (cells.get("note", ""), f"vram {stated}")))
    return made
