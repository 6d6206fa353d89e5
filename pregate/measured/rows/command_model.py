"""The model of a command, for a row: the format that its file's name states, and whether it is the row's model."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pregate.spellings.models import formats_of_file, model_and_format, shipped_architecture
from pregate.spellings.names import our_name

_CALLED = re.compile(
    r"(?:(?<!\S)(?:-m|-hf|-hfr|-hff|--model|--model[-_]path|--hf-repo|--hf-file|--gguf[-_]path|--kt-weight-path)"
    r"(?:\s+|=)|\bvllm\s+serve\s+|\bollama\s+run\s+|\blms\s+load\s+)"
    r"(?P<quote>[\"']?)(?P<name>[^\s\"'-][^\s\"']*)(?P=quote)(?=\s|$)",
    re.ASCII,
)
_STORED_BY_FLAG = re.compile(r"(?<!\S)(?:--quantization|-q)(?=[\s=])")
_FOLDER = re.compile(r"(?P<model>.+-GGUF)/(?P<quant>(?:UD-)?(?:I?Q\d\w*|BF16|F16))", re.ASCII | re.IGNORECASE)
_MOST = 2000
_BITS = re.compile(r"\d+")


def with_command_model(cells: Mapping[str, str]) -> dict[str, str]:
    """A row with what its command calls the model: as its model where it names none, and how that is stored where
    nothing else says it. A reason where the command's is another model, or stored in other bits than the row's column
    has. `cells` as typed: a file whose name says no model of ours says nothing.
    """
    row, command = dict(cells), cells.get("policy", "")
    if len(command) > _MOST or row.get("reason"):
        return row
    found = [model_and_format(_as_a_repository(one["name"])) for one in _CALLED.finditer(command)]
    named = [(model, quant) for model, quant in found if model]
    if not named:
        return row
    model = named[0][0]
    own, own_quant = model_and_format(row.get("model", ""))
    own = own or our_name("model", row.get("model", ""))
    if not own:
        row["model"] = own = model
    elif (theirs := shipped_architecture(own)) is not None and theirs != shipped_architecture(model):
        return row | {"reason": f"the command runs {model}, the row is of {own}: which of them ran?"}
    quant = next((quant for _, quant in named if quant), "")
    if not quant or own_quant or _STORED_BY_FLAG.search(command):
        return row
    if not row.get("formats"):
        note = f"formats {quant} by its command"
        return row | {"formats": quant, "note": "; ".join(filter(None, (row.get("note", ""), note)))}
    stack = our_name("stack", row.get("stack", ""))
    stated, called = (_bits(formats_of_file(model, text, stack)) for text in (row["formats"], quant))
    if stated and called and stated != called:
        why = f"the command's file is {quant}, formats say {row['formats'][:40]}: which of them ran?"
        return row | {"reason": why}
    return row


def _as_a_repository(name: str) -> str:
    """A name with its format behind a colon, where LM Studio has `@` and a folder of files one for each format."""
    folder = _FOLDER.fullmatch(name.replace("\\", "/").rstrip("/"))
    return f"{folder['model']}:{folder['quant']}" if folder else name.replace("\\", "/").replace("@", ":")


def _bits(formats: str) -> str:
    """The width in the name of the one format that all matrices have; "" of a size and of what has none."""
    alone = re.fullmatch(r"all=([a-z][\w-]*)", formats, re.IGNORECASE | re.ASCII)
    width = _BITS.search(alone[1]) if alone else None
    return width[0] if width else ""
