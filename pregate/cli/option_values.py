"""What the text of options stands for: a model, a machine, a cache, modes, a workload.

Each is imported on use, so that a wrong word is told before what it does not need is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwmodels.specs.set_options import parse_sets
from traces.errors import InvalidInput, unknown_name
from traces.model.files.weights_files import is_folder, is_weights
from traces.model.formats_by_part import parse_formats

if TYPE_CHECKING:
    from hwmodels.platform import Platform
    from offload.policy import Cache
    from pregate.economics.assumptions import Assumptions
    from simulator.modes import Modes
    from traces.model.architecture import ModelArchitecture
    from traces.routing import RoutingTrace


_MODES = {
    "hbm": "hbm_shared",
    "cancel": "cancel",
    "both": "both_ways",
    "dram": "dram_shared",
    "beside": "beside_copies",
}
"""Words of `--modes` that are on or off, and what they are called in `Modes`."""


def build_model(name: str, dtype: str | None, top_k: int | None, formats: str | None = None) -> ModelArchitecture:
    """The model of the options."""
    from pregate.named import load_model

    return load_model(name, dtype=dtype, top_k=top_k, formats=formats_asked(formats, name))


def formats_asked(text: str | None, model: str) -> dict[str, str] | None:
    """Formats by part, None where none is asked for; a bare one is that of a file, `Q4_K_M`. Raises `InvalidInput`."""
    if text is not None and not text.strip():
        raise InvalidInput("--formats '': no format is named: leave the option out, or say such as experts=q4_k")
    if text is not None and "=" not in text:
        from pregate.spellings.models import formats_of_file, model_and_format

        text = formats_of_file(model_and_format(model)[0] or model, text, "llama-cpp")
    return None if text is None else parse_formats(text)


def build_machine(hardware: str, stack: str | None, hbm: str | None, sets: list[str] | None) -> Platform:
    """The machine of the options. Raises `InvalidInput` for a `--set` that is no KEY=VALUE or is given twice."""
    from pregate.named import load_hardware

    overrides: dict[str, float | str] = {**parse_sets(sets)}
    if hbm is not None:
        for key in ("hbm_bytes", "accelerator.hbm_bytes"):
            if key in overrides:
                raise InvalidInput(f"--hbm and --set {key} are the same: give one")
        overrides["hbm_bytes"] = hbm
    return load_hardware(hardware, stack, overrides)


def check_storage(tier: str, storage: Path | None) -> None:
    """Raise `InvalidInput` for a folder of experts that do not wait there."""
    from pregate.ask.capturing.tier_names import tier_named

    if not tier_named(tier).on_disk and storage is not None:
        raise InvalidInput("--storage is for experts that wait there: add --tier ssd, or leave it out")


def build_cache(text: str | None) -> Cache | None:
    """The cache of the options."""
    from offload.policies import cache_named

    return None if text is None else cache_named(text)


def build_modes(text: str | None) -> Modes:
    """The modes of the options: links `shared` or by `priority`, `chunk:1MiB`, `hbm` and `dram` shared, `cancel`,
    `both`, `beside`.

    Raises `UnknownName` for another word, `InvalidInput` for one given twice or two that exclude each other.
    """
    from hwmodels.quantity import parse_override
    from simulator.modes import Modes

    given: dict[str, Any] = {}
    for word in (text or "").split(","):
        name, separator, size = word.strip().partition(":")
        if not word.strip():
            continue
        if name in ("shared", "priority") and not separator:
            if given.setdefault("link", name) != name:
                raise InvalidInput("--modes: a link is shared or by priority, not both")
            continue
        field = "chunk_bytes" if name == "chunk" and separator else None if separator else _MODES.get(name)
        if field is None:
            raise unknown_name("mode", word.strip(), ["shared", "priority", "chunk:1MiB", *_MODES], "--modes")
        if field in given:
            raise InvalidInput(f"--modes: {name} is given twice: give it once")
        given[field] = int(parse_override(size, "size")) if name == "chunk" else True
    return Modes(**given)


def build_trace(
    model: ModelArchitecture,
    path: Path | None,
    *,
    batch: int | None,
    input_tokens: int,
    output_tokens: int,
    active: int | None,
    seed: int,
    popularity: Path | None = None,
    yes: bool = True,
) -> RoutingTrace:
    """The trace of the options: a file (its sequences run at the batch asked for) or a synthetic one."""
    from pregate import routing_traces

    if path is not None:
        return routing_traces.load_trace(path, batch=batch, model=model)
    if not yes:
        from pregate.cli.consent import require_consent

        require_consent(model, input_tokens=input_tokens, output_tokens=output_tokens, batch=batch)
    counted = None if popularity is None else routing_traces.load_popularity(popularity, model=model)
    return routing_traces.synthesize(
        model, input_tokens, output_tokens, 1 if batch is None else batch, seed, n_active=active, popularity=counted
    )


def as_recorded(
    model: ModelArchitecture, trace: RoutingTrace, name: str, dtype: str | None, formats: str | None = None
) -> ModelArchitecture:
    """The model with experts of the size that the trace recorded, unless a format was asked for or is in its name, or
    the model `name` is a file of weights.
    """
    from pregate.ask.recorded_size import with_recorded_experts
    from pregate.spellings.models import model_and_format

    stated = {"experts", "all"} & (formats_asked(formats, name) or {}).keys()
    asked = dtype is not None or stated or model_and_format(name)[1]
    return model if asked or is_weights(name) or is_folder(name) else with_recorded_experts(model, trace)


def listed(text: str) -> list[str]:
    """The words of a list by comma."""
    return [word.strip() for word in text.split(",") if word.strip()]


def distinct(text: str, option: str) -> list[str]:
    """The words of a list by comma. Raises `InvalidInput` for one that is empty, or there twice."""
    return _each_once([word.strip() for word in text.split(",")], text, option)


def _each_once(words: list[str], text: str, option: str) -> list[str]:
    for i, word in enumerate(words):
        if not word or word in words[:i]:
            what = f"has {word} twice" if word else "has an empty place"
            raise InvalidInput(f"{option} {text!r} {what}: name each once, by comma")
    return words


def machine_names(text: str) -> list[str]:
    """The machines of --hardware, by comma, with what stands beside cards. Raises `InvalidInput` as `distinct`."""
    from pregate.spellings.machine_names import machines_listed

    return _each_once(machines_listed(text), text, "--hardware")


def assumed(path: Path | None, texts: Sequence[str] | None) -> Assumptions:
    """What costs are computed from: as it ships, a file's and NAME=NUMBER in place of it. Raises `InvalidInput`."""
    from pregate.economics.assumptions import load_assumptions

    pairs: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or name in pairs:
            raise InvalidInput(f"--assume {text!r} is not NAME=NUMBER, or is given twice")
        pairs[name] = value
    return load_assumptions(path, pairs)
