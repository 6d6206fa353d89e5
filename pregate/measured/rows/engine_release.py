"""The release of the engine that ran a row, where its engine's name, its note or its source says one."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pregate.spellings.llama_releases import NOW, of_build, of_date, of_pull
from pregate.spellings.names import our_name

_VLLM = re.compile(r"\bvllm\b[ :=@-]*\(?v?0\.(?P<minor>\d{1,2})(?:\.\d+)?\b", re.IGNORECASE | re.ASCII)
_AMX, _OF_GGUF = "ktransformers", "ktransformers-llamafile"
_GGUF = re.compile(r"\s*(?:all=|experts=)?(?:ud-)?i?q\d_", re.IGNORECASE | re.ASCII)
_STEP = "stack.step_s"
_ASYNC_SCHEDULING = 14
"""vLLM 0.14 (January 2026) schedules beside the step before; until then a step waits a millisecond (LIMITATIONS)."""


def with_release(cells: Mapping[str, str], typed: str) -> dict[str, str]:
    """A row whose engine is called llama.cpp, with the stack of the build that its note names, else of the month, else
    of the pull request or issue that it is from, and a note of that. `typed`: what its author calls the engine; by the
    name of a stack of ours he means that stack. vLLM before 0.14 schedules between two steps, and KTransformers has
    experts of a GGUF file multiplied by llamafile's kernels.
    """
    row = dict(cells)
    stack = row.get("stack", "")
    if our_name("stack", stack) == "vllm":
        return _of_vllm(row, typed)
    if typed != _AMX and our_name("stack", stack) == _AMX and _GGUF.match(row.get("formats", "")):
        said = f"stack {_OF_GGUF}, whose kernels take GGUF files"
        return row | {"stack": _OF_GGUF, "note": "; ".join(filter(None, (row.get("note", ""), said)))}
    if typed == NOW or our_name("stack", stack) != NOW or row.get("role"):
        return row
    note = row.get("note", "")
    found, said = of_build(stack)
    for look, where in ((of_build, note), (of_date, stack), (of_date, note), (of_pull, row.get("source", ""))):
        if not found:
            found, said = look(where)
    if found and found != NOW:
        row["stack"] = found
        row["note"] = "; ".join(filter(None, (note, f"stack {found}, of {said}")))
    return row


def _of_vllm(row: dict[str, str], typed: str) -> dict[str, str]:
    """A row of vLLM, with what its host takes between two steps where it is of an older release."""
    told = f"{typed} {row.get('note', '')}"
    version = None if "sglang" in told.lower() else _VLLM.search(told)
    if version is None or int(version["minor"]) >= _ASYNC_SCHEDULING or _STEP in row.get("set", ""):
        return row
    said = f"{_STEP}=1ms, of vLLM 0.{version['minor']}"
    return row | {
        "set": ";".join(filter(None, (row.get("set", ""), f"{_STEP}=1ms"))),
        "note": "; ".join(filter(None, (row.get("note", ""), said))),
    }
