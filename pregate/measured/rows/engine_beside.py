"""The engine of a row that has none in its column: the one that policy, note or source name, as published tables do."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pregate.spellings.names import our_name

_ENGINE = re.compile(
    r"(?<![\w/.-])(?:ik[_-]llama\.cpp|llama\.cpp|llama-bench|llama-server|k-?transformers|vllm|sglang|ollama|"
    r"lm ?studio|koboldcpp)(?![\w/-])(?!\.(?!\s))",
    re.IGNORECASE,
)
_FIRST = re.compile(rf"\s*{_ENGINE.pattern}\s*(?:v?\d[\w.]*\s*)?[:,]?\s+(?=-|[a-z])", re.IGNORECASE)
"""An engine before what it was told: `vLLM -tp 8`, `llama.cpp: all experts on the CPU`."""
_NOT_RAN = re.compile(r"\b(?:over|vs\.?|versus|than|against|like|from|coming)\s*$", re.IGNORECASE)
"""Before an engine that a row is compared with."""


def with_engine_beside(cells: Mapping[str, str]) -> dict[str, str]:
    """A row without a stack, with the engine that its policy, else its note, else its source names, and a note of
    that; a reason where one of these names several. `cells` as typed.
    """
    row = dict(cells)
    if row.get("stack") or row.get("role") or row.get("reason"):
        return row
    for column in ("policy", "note", "source"):
        told = row.get(column, "")
        found = {
            our_name("stack", one[0]) for one in _ENGINE.finditer(told) if not _NOT_RAN.search(told[: one.start()])
        }
        if not found:
            continue
        if len(found) > 1:
            why = f"{column} names {' and '.join(sorted(found))}: put the engine that ran into the column stack"
            return row | {"reason": row.get("reason") or why}
        if column == "policy":
            row["policy"] = _FIRST.sub("", told)
        row["stack"] = found.pop()
        row["note"] = "; ".join(filter(None, (row.get("note", ""), f"stack {row['stack']} by its {column}")))
        return row
    return row
