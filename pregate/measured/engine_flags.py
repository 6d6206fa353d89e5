"""Flags of llama.cpp, ik_llama.cpp and KTransformers in the policy of a row, as the project says them.

`-ngl 99 --n-cpu-moe 20 -ub 2048` is `gpu_only@experts=cpu:20@ubatch=2048`. Where a flag is of another column (formats
of the cache, how the file is held), it is said there. Patterns of `-ot` are tried on the names of a layer's three
expert tensors, the first that matches winning, as llama.cpp does. A flag that is not known is an error that names it.

`-ngl n` is n layers on the device, as ik_llama.cpp and older builds of llama.cpp have it; later ones count the output
as one of them (`pregate.card.flags`, which writes for builds of now).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from pregate.named import load_model
from traces.errors import InvalidInput, PregateError

__all__ = ["FLAGS", "told_of_flags", "without_flags"]

_MOST = 2000
_MOST_QUANTIFIERS = 6
_PATTERN = re.compile(r"[A-Za-z0-9_.\\|()\[\]\-*+?^$]{1,400}", re.ASCII)
_TENSORS = ("gate", "up", "down")
_FORMATS = {"f16": "fp16", "f32": "fp32"}

_WITHOUT_EFFECT: Mapping[str, int] = {
    "-fa": 0, "--flash-attn": 0, "-c": 1, "--ctx-size": 1, "-b": 1, "--batch-size": 1, "-fmoe": 0, "-amb": 1, "-mla": 1,
    "--no-warmup": 0, "--jinja": 0, "-m": 1, "--model": 1, "-mg": 1, "--main-gpu": 1, "--kt-method": 1,
    "--kt-threadpool-count": 1,
}  # fmt: skip
"""Flags that change nothing of a prediction, and the words that follow each."""


@dataclass(slots=True)
class _Said:
    """What flags come to: clauses of a placement, formats of the cache, numbers of the machine."""

    gpu_layers: int | None = None
    cpu_moe: int | None = None
    overrides: list[tuple[str, str]] = field(default_factory=list)
    clauses: dict[str, str] = field(default_factory=dict)
    formats: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, str] = field(default_factory=dict)


def without_flags(cells: Mapping[str, str]) -> dict[str, str]:
    """The cells of a row, flags of its policy as policy, formats and set; as they are where that cannot be said."""
    if not cells.get("policy", "").startswith("-"):
        return dict(cells)
    try:
        return _without(cells)
    except PregateError:  # of a row alone: `told_of_flags` says it where the row is predicted
        return dict(cells)


def told_of_flags(policy: str, model: str) -> None:
    """Raises `InvalidInput` naming the flag of `policy` that cannot be said."""
    if policy.startswith("-"):
        _without({"policy": policy, "model": model})
        raise InvalidInput(f"policy {policy[:60]!r} is flags of an engine: gpu_only@experts=cpu:20 is a policy")


def _without(cells: Mapping[str, str]) -> dict[str, str]:
    said, n_layers = _read(cells["policy"]), load_model(cells["model"]).decoder.n_layers
    clauses = [*_placed(said, n_layers), *(f"{name}={what}" for name, what in said.clauses.items())]
    formats = ",".join(filter(None, (cells.get("formats", ""), *(f"{k}={v}" for k, v in said.formats.items()))))
    numbers = ";".join(filter(None, (cells.get("set", ""), *(f"{k}={v}" for k, v in said.numbers.items()))))
    return {**cells, "policy": "@".join(("gpu_only", *clauses)), "formats": formats, "set": numbers}


def _read(text: str) -> _Said:
    if len(text) > _MOST:
        raise InvalidInput(f"policy {text[:40]!r}...: {len(text)} characters of flags, {_MOST} are read")
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InvalidInput(f"policy {text[:60]!r}: {error}") from None
    said = _Said()
    while words:
        flag, equals, value = words.pop(0).partition("=")
        if equals and flag.startswith("--"):
            words.insert(0, value)
        elif equals:
            raise InvalidInput(f"policy {text[:60]!r}: {flag}={value[:20]} is no flag")
        if flag in _WITHOUT_EFFECT:
            del words[: _WITHOUT_EFFECT[flag]]
            if words and words[0] in ("0", "1", "on", "off", "auto"):  # -fa 1
                words.pop(0)
            continue
        read = FLAGS.get(flag)
        if read is None:
            raise InvalidInput(
                f"policy: flag {flag[:40]!r} is not known here: known are {', '.join(FLAGS)}; threads are "
                f"host.n_cores in set, requests at once are batch"
            )
        n_words, name = read
        if len(words) < n_words:
            raise InvalidInput(f"policy: flag {flag} has no value")
        _take(said, name, flag, words.pop(0) if n_words else "")
    return said


FLAGS: Mapping[str, tuple[int, str]] = {
    **dict.fromkeys(("-ngl", "--n-gpu-layers", "--gpu-layers"), (1, "gpu_layers")),
    **dict.fromkeys(("-ncmoe", "--n-cpu-moe"), (1, "cpu_moe")),
    **dict.fromkeys(("-cmoe", "--cpu-moe"), (0, "all_cpu_moe")),
    **dict.fromkeys(("-ot", "--override-tensor"), (1, "overrides")),
    **dict.fromkeys(("-ub", "--ubatch-size", "--chunked-prefill-size"), (1, "ubatch")),
    **dict.fromkeys(("-nopo", "--no-op-offload", "-rtr"), (0, "never")),
    **dict.fromkeys(("-nkvo", "--no-kv-offload"), (0, "kv")),
    **dict.fromkeys(("-ctk", "--cache-type-k"), (1, "kv_format")),
    **dict.fromkeys(("-ctv", "--cache-type-v"), (1, "kv_format")),
    "--no-mmap": (0, "pinned"),
    "-fit": (1, "fit"),
    "--fit": (1, "fit"),
    "--kt-num-gpu-experts": (1, "keep"),
    "--kt-gpu-prefill-token-threshold": (1, "stream"),
}
"""Flags that are read: the words that follow, and what they say."""


def _take(said: _Said, name: str, flag: str, value: str) -> None:
    match name:
        case "gpu_layers":
            said.gpu_layers = _count(flag, "9999" if value in ("all", "-1") else value)
        case "cpu_moe":
            said.cpu_moe = _count(flag, value)
        case "all_cpu_moe":
            said.overrides.append(("exps", "CPU"))
        case "overrides":
            for one in value.split(","):
                pattern, equals, where = one.rpartition("=")
                if not equals or not _is_plain_pattern(pattern):
                    raise InvalidInput(f"policy: {flag} {one[:60]!r} is no PATTERN=BUFFER that is read here")
                said.overrides.append((pattern, where))
        case "ubatch" | "stream":
            said.clauses[name] = str(_count(flag, value))
        case "never":
            said.clauses["stream"] = "never"
        case "kv":
            said.clauses["kv"] = "cpu"
        case "kv_format":
            wanted = _FORMATS.get(value.lower(), value.lower())
            if said.formats.setdefault("kv", wanted) != wanted:
                raise InvalidInput(f"policy: {flag} {value}: keys and values have one format, kv of formats")
        case "pinned":
            said.numbers["stack.host_memory"] = "pinned"
        case "fit":
            if value == "on":
                said.clauses["experts"] = "cpu:fit"
        case _:
            said.clauses["experts"] = f"cpu:keep={_count(flag, value)}"


def _count(flag: str, value: str) -> int:
    if not re.fullmatch(r"\d{1,7}", value, re.ASCII):
        raise InvalidInput(f"policy: {flag} {value[:20]!r} is not a whole number")
    return int(value)


def _is_plain_pattern(pattern: str) -> bool:
    """Whether a pattern is one that no text can keep busy: no repeated groups, few repetitions."""
    n_repeated = sum(pattern.count(mark) for mark in "*+?")
    if not _PATTERN.fullmatch(pattern) or n_repeated > _MOST_QUANTIFIERS or re.search(r"\)[*+?]", pattern):
        return False
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _placed(said: _Said, n_layers: int) -> list[str]:
    """Clauses of the layers, and of the experts, that are on the host."""
    clauses = []
    if said.gpu_layers is not None and said.gpu_layers < n_layers:
        n_host = n_layers - said.gpu_layers
        clauses.append("layers=cpu" if n_host == n_layers else f"layers=cpu:{n_host}")
    if "experts" in said.clauses:
        return clauses
    overrides = list(said.overrides)
    if said.cpu_moe is not None:
        overrides += [
            (rf"blk\.{layer}\.ffn_(up|down|gate)_exps", "CPU") for layer in range(min(said.cpu_moe, n_layers))
        ]
    hosted = [layer for layer in range(n_layers) if _is_hosted(layer, overrides)]
    if hosted and hosted != list(range(hosted[0], hosted[-1] + 1)):
        raise InvalidInput(
            f"policy: experts of layers {', '.join(map(str, hosted[:12]))} on the host are no range: not said yet"
        )
    if len(hosted) == n_layers:
        clauses.append("experts=cpu")
    elif hosted:
        clauses.append(f"experts=cpu:{hosted[0]}-{hosted[-1]}" if hosted[0] else f"experts=cpu:{len(hosted)}")
    return clauses


def _is_hosted(layer: int, overrides: list[tuple[str, str]]) -> bool:
    """Whether the experts of a layer are on the host. Raises `InvalidInput` where some of its tensors are."""
    homes = set()
    for tensor in _TENSORS:
        name = f"blk.{layer}.ffn_{tensor}_exps.weight"
        where = next((where for pattern, where in overrides if re.search(pattern, name)), "device")
        homes.add(where.startswith("CPU"))
    if len(homes) > 1:
        raise InvalidInput(f"policy: of layer {layer} some expert matrices alone are on the host: not said yet")
    return homes.pop()
