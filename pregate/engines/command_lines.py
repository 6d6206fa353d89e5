"""A command as it was posted, in flags: what was set before it, what ran it, the program itself.

`sudo nvidia-smi -pl 250 && GGML_CUDA_DISABLE_GRAPHS=1 docker run --gpus all IMAGE -m a.gguf -ngl 99` is
`-pl 250 GGML_CUDA_DISABLE_GRAPHS=1 -m a.gguf -ngl 99`: variables stay as they are, for the table of flags to know.
"""

from __future__ import annotations

import re

_MOST = 2000
_PARTS = re.compile(r""""[^"]*"|'[^']*'|(?P<mark>&&|;(?=\s)|\n)|[^"'&;\n]+|.""", re.DOTALL)
_SMI = re.compile(r"(?:sudo\s+)?nvidia-smi\s", re.ASCII)
_POWER = re.compile(r"(?:-pl|--power-limit)[\s=]*(\d{1,4})", re.ASCII)
_CLOCKS = re.compile(r"(?:-lgc|--lock-gpu-clocks)[\s=]*(?:\d{1,5},)?(\d{1,5})", re.ASCII)
_VARIABLE = re.compile(r"(?:export\s+)?([A-Za-z_]\w*=(?:\"[^\"]*\"|'[^']*'|\S*))(?:\s+|$)", re.ASCII)
_RUNNER = re.compile(
    r"(?:sudo\s+(?:-E\s+)?|time\s+|nohup\s+|env\s+|uvx?\s+(?:run\s+)?(?:--\S+\s+)*|(?:docker|podman)\s+run\s.*?"
    r"\s[\w./:@-]*(?:llama[._-]?cpp|vllm|sglang|ktransformers)[\w./:@-]*(?:\s+(?:--(?:server|run|bench)\s+)?|$)"
    r"(?:[\w.-]+/[\w.-]+\s+(?=-))?|export\s+)",
    re.ASCII | re.IGNORECASE | re.DOTALL,
)
_PROGRAM = re.compile(
    r"(?:\S*/)?(?:llama-[\w-]+|(?<=/)(?:main|server)|vllm|sglang|kt(?=\s+run\s)|koboldcpp\S*|llamafile\S*|python3?(?:\s+-m\s+\S+)?)(?:\.exe)?\s+(?:[^-\s]\S*\s+)*(?=-)",
    re.ASCII,
)


def flags_of_command(text: str) -> str:
    """The flags of a command, "" where `text` is none."""
    if len(text) > _MOST:
        return text if text.startswith("-") else ""
    *before, command = _commands(text)
    told = [flag for part in before for flag in _set_before(part)]
    variables, ran = [], False
    while True:
        variable, runner = _VARIABLE.match(command), _RUNNER.match(command)
        if variable is not None:
            variables.append(variable[1])
        elif runner is None or runner.end() == 0:
            break
        found = variable or runner
        ran, command = True, command[found.end() :] if found is not None else command
    program = _PROGRAM.match(command)
    if program is not None:
        command = command[program.end() :]
    is_command = command.startswith("-") or (not command and (told or ran))
    return " ".join(filter(None, (*told, *variables, command.replace("\\\n", " ")))) if is_command else ""


def _commands(text: str) -> list[str]:
    """The commands of a line, one after the other; marks within quotes part nothing."""
    found = [""]
    for part in _PARTS.finditer(text.strip()):
        if part["mark"] and not found[-1].endswith("\\"):
            found.append("")
        else:
            found[-1] += part[0]
    return [one.strip() for one in found if one.strip()] or [""]


def _set_before(command: str) -> list[str]:
    """What an earlier command of the line changes for the next, as flags and variables."""
    if _SMI.match(command):
        power, clocks = _POWER.search(command), _CLOCKS.search(command)
        return [*([f"-pl {power[1]}"] if power else []), *([f"-lgc {clocks[1]}"] if clocks else [])]
    return [found[1] for found in _VARIABLE.finditer(command)] if command.startswith("export ") else []
