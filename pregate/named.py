"""Models, machines and policies by name or from a file.

Nothing here imports numpy: a name that is not known is told at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hwmodels.fits.fit import Fit
from hwmodels.platform import Platform, load_platform, platform_of
from hwmodels.stacks.stack_files import is_stack_file, load_stack
from traces.errors import InvalidFile, InvalidInput, UnknownName
from traces.model.architecture import ModelArchitecture, load_architecture

if TYPE_CHECKING:
    from offload.policy import Policy


_TOP_K = re.compile(r"top_k=(\d{1,4})", re.ASCII)


def load_model(
    name: str | Path,
    *,
    dtype: str | None = None,
    top_k: int | None = None,
    formats: Mapping[str, str] | str | None = None,
) -> ModelArchitecture:
    """A model by name, YAML file, Hugging Face `config.json`, or its weights (`.gguf`), stored as these are.

    A name may also be that of a repository or a tag, whose format is then the model's where none is given
    (`unsloth/Qwen3-30B-A3B-GGUF:Q4_K_M`). `dtype`, `top_k` replace the published ones, and a name may say the latter
    itself (`deepseek-v3?top_k=6`); `formats` those of parts, as `ModelArchitecture.with_formats` takes them
    (`{"experts": "q4_k", "attention": "q8_0"}`) or as the command line does (`"q4_k_m"`), in place of what `dtype`
    gives them. Raises `UnknownName` with the nearest name, `InvalidFile` or `InvalidInput`.
    """
    name, stated = _name_and_top_k(name)
    if stated is not None and top_k is not None:
        raise InvalidInput(f"{name}?top_k={stated} and a top_k of {top_k}: give one of the two")
    top_k = stated if top_k is None else top_k
    try:
        model = load_architecture(name)
    except InvalidInput as error:
        ours, written = _model_as_ours(name, error)
        model = load_architecture(ours)
        formats = written if formats is None and dtype is None and written else formats
    if dtype is not None:
        model = model.with_dtype(dtype)
    if formats is not None:
        model = model.with_formats(_parts_of(formats, model.name) if isinstance(formats, str) else formats)
    return model if top_k is None else model.with_top_k(top_k)


def _parts_of(formats: str, model: str) -> dict[str, str]:
    """Formats by part, a bare one that of a file: `Q4_K_M`. Raises `InvalidInput`."""
    from pregate.spellings.models import formats_of_file
    from traces.model.formats_by_part import parse_formats

    return parse_formats(formats if "=" in formats else formats_of_file(model, formats, "llama-cpp"))


def _name_and_top_k(name: str | Path) -> tuple[str | Path, int | None]:
    """A model's name without `?top_k=N`, and that number. Raises `InvalidInput` for anything else behind a `?`."""
    if not isinstance(name, str) or "?" not in name or os.path.exists(name):
        return name, None
    bare, _, asked = name.partition("?")
    match = _TOP_K.fullmatch(asked)
    if match is None:
        raise InvalidInput(f"model {name!r}: only ?top_k=N may follow a name, N experts a token")
    return bare, int(match[1])


def _model_as_ours(name: str | Path, error: InvalidInput) -> tuple[str, dict[str, str]]:
    """A model that others call `name`, as we call it, and the formats that this states. Raises `error` with a better
    way out where there is none, or it is a file that is not there.
    """
    from pregate.spellings.models import formats_of_file, model_and_format
    from pregate.spellings.unknown_names import unknown
    from traces.model.formats_by_part import parse_formats

    text = str(name)
    is_file = Path(text).suffix in (".gguf", ".safetensors")
    if isinstance(name, Path) or not (is_file or isinstance(error, UnknownName)):
        raise error
    ours, quant = model_and_format(text)
    formats = formats_of_file(ours, quant, "llama-cpp")
    if ours and is_file and not Path(text).exists():
        raise InvalidFile(f"{error}, or ask about {ours}{f' with --formats {formats}' if formats else ''}") from None
    if not ours:
        raise error if is_file else unknown("model", text) from None
    return ours, parse_formats(formats)


def load_hardware(
    name: str | Path | Fit, stack: str | None = None, overrides: Mapping[str, float | str] | None = None
) -> Platform:
    """A machine by the name of its accelerator (`rtx-4090`, or `RTX 4090`) or YAML file, with a software stack by
    name or YAML file (None: the one it was fitted with).

    A fit that `pregate.calibrate` returned is a machine too, with its own stack only.

    `overrides`: dotted keys, numbers in SI or text with a unit: `{"link.h2d_bytes_per_s": 64e9, "hbm_bytes": "24GiB",
    "stack.sync_s": "5us", "link": "pcie5-x16"}`. Raises `UnknownName` or `InvalidInput`.
    """
    if isinstance(name, str | Path):
        if isinstance(name, str) and "," in name:
            name = _one_machine(name)
        stated = str((overrides or {}).get("host", ""))
        has_memory = (" " in stated or "," in stated) and not os.path.exists(stated)
        try:
            return load_platform(str(name), stack, overrides)
        except InvalidInput as error:
            if isinstance(name, Path) or not (has_memory or isinstance(error, UnknownName)):
                raise
            ours, stack, numbers = _machine_as_ours(name, stack, overrides)
            return load_platform(ours, stack, numbers)
    if stack not in (None, name.stack):
        raise InvalidInput(f"stack {stack}: the fit was made on {name.stack}, leave the stack out")
    return platform_of(name, overrides)


def _one_machine(text: str) -> str:
    """The one machine of a list by comma. Raises `InvalidInput` for several."""
    from pregate.spellings.machine_names import machines_listed
    from pregate.spellings.unknown_names import is_name_of, unknown

    machines = machines_listed(text)
    if len(machines) != 1:
        for one in machines:
            if one and not one.endswith((".yaml", ".yml", ".json")) and not is_name_of("hardware", one):
                raise unknown("hardware", one)
        raise InvalidInput(
            f"hardware {text[:80]!r}: one machine is asked about here: ask once for each, or have "
            f"`pregate plan` rank them"
        )
    return machines[0]


def _machine_as_ours(
    name: str, stack: str | None, overrides: Mapping[str, float | str] | None
) -> tuple[str, str | None, dict[str, float | str]]:
    """What others call a machine, its parts and its software, as we do. Raises `UnknownName` for a machine or a stack
    that we do not have.
    """
    from hwmodels.specs.processors import is_processor
    from pregate.spellings.host_memory import host_and_numbers
    from pregate.spellings.machine_names import machine_and_numbers
    from pregate.spellings.names import KNOWN, our_name
    from pregate.spellings.unknown_names import is_name_of, unknown

    ours, numbers = machine_and_numbers(name)
    if ours == name and not name.endswith((".yaml", ".yml", ".json")) and not is_name_of("hardware", name):
        raise unknown("hardware", name)
    if stack is not None and is_stack_file(stack):
        load_stack(stack)  # whose error it is where it cannot be read
    elif stack is not None and our_name("stack", stack) not in KNOWN["stack"]():
        raise unknown("stack", stack)
    parts: dict[str, float | str] = dict(overrides or {})
    if "link" in parts:
        parts["link"] = our_name("link", str(parts["link"]))
    if "host" in parts:
        stated = str(parts["host"])
        if not stated.endswith((".yaml", ".yml", ".json")) and not is_name_of("host", stated):
            raise unknown("host", stated)
        parts["host"], of_host = host_and_numbers(stated)
        named = str(numbers.get("host", parts["host"]))  # a processor, or a desktop that stands for any
        if named != parts["host"] and (is_processor(named) or "host.dram_bytes_per_s" in numbers):
            raise InvalidInput(
                f"hardware {name[:80]!r} has the host {named}, and {parts['host']} is said beside it: leave one out"
            )
        numbers = {**numbers, **of_host}
    return ours, None if stack is None else our_name("stack", stack), {**numbers, **parts}


def load_policy(text: str) -> Policy:
    """A policy as the command line spells it, code of your own included: `./mine.py:MyPolicy:depth=2+lru:0.1`.

    Executes the file, with all that you may do. Raises `UnknownName`, `InvalidFile` or `InvalidInput`.
    """
    from offload.own_policies.own_policy_names import is_own_name, load_own
    from offload.policies import policy_named

    if is_own_name(text):
        load_own(text)
    return policy_named(text)
