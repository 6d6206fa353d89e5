"""A sweep as a YAML file: parsed once, every key known, every number in SI. Files it names are looked for beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from hwmodels.quantity import parse_override
from offload.own_policies.own_policy_names import is_own_name
from offload.policies import cache_named
from pregate.ask.speculative import drafting_named, with_and_without
from pregate.named import load_model
from pregate.spellings.names import FILES
from pregate.sweeps.axes import LatinHypercube, spaced
from pregate.sweeps.machines import MachineRecipe
from pregate.sweeps.workloads import TraceRecipe
from simulator.modes import FIFO, Modes
from traces.errors import InvalidFile, InvalidInput, unknown_name
from traces.foundation.documents import Section, read_yaml
from traces.recorded import recorded_path
from traces.synthesis.dials import Dials


def read_sweep(path: Path, policies: Sequence[str] | None = None) -> dict[str, Any]:
    """The arguments of `pregate.sweep` that the YAML (or JSON) file at `path` states, `policies` in place of its own.

    Keys: model, dtype, formats, top_k, hardware, stack, set, hbm, trace or workload, policies, axes, sample, modes,
    expert_tier, cache, speculative, draws, seed. An axis is a list, or `{values: [...]}`, `{linear: [low, high, n]}`,
    `{log: [low, high, n]}`; with `sample: {n: ..., seed: ...}` a range has no n. Raises `InvalidFile`, `UnknownName`
    naming the nearest key, or `InvalidInput` for a value that cannot be.
    """
    section = read_yaml(path)
    sample = _sample(section.optional_section("sample"))
    cache, drafts = section.text("cache", ""), section.text("speculative", "")
    drafting = drafting_named(drafts) if drafts else None
    arguments = {
        "model": load_model(
            _path_beside(path, section.text("model")),
            dtype=section.text("dtype", "") or None,
            top_k=_optional_count(section, "top_k"),
            formats=_formats(section.optional_section("formats")),
        ),
        "hw": _machine(section, path, {} if drafting is None else drafting.overrides),
        "trace": _trace(section, path),
        "policies": with_and_without(_policies(section, policies), drafting),
        "axes": _axes(section.optional_section("axes"), sample),
        "sample": sample,
        "modes": _modes(section.optional_section("modes")),
        "expert_tier": section.text("expert_tier", "dram"),
        "cache": cache_named(cache) if cache else None,
        "draws": section.integer("draws", 0),
        "seed": section.integer("seed", 0),
    }
    section.done()
    return arguments


def _path_beside(file: Path, name: str) -> str:
    """A name, or a file that stands beside `file` unless its path is absolute."""
    return str(file.parent / name) if name.partition("?")[0].endswith(FILES) else name


def _formats(section: Section | None) -> dict[str, str]:
    """Formats by part of the model; none when absent."""
    return {} if section is None else {part: section.text(part) for part in section.remaining()}


def _machine(section: Section, path: Path, told: Mapping[str, float | str]) -> MachineRecipe:
    overrides = section.optional_section("set")
    given: dict[str, float | str] = {**told}
    for key in overrides.remaining() if overrides is not None else ():
        value = overrides.take(key) if overrides is not None else None
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise InvalidFile(f"{path}: set: {key} = {value!r} is neither a number nor text")
        if key in told:
            raise InvalidFile(f"{path}: set: {key}, and draft_s of speculative, are the same: give one")
        given[key] = value
    hbm = section.take("hbm", optional=True)
    if hbm is not None:
        if "hbm_bytes" in given:
            raise InvalidFile(f"{path}: hbm and set: hbm_bytes are the same: give one")
        given["hbm_bytes"] = hbm
    return MachineRecipe(_path_beside(path, section.text("hardware", "")), section.text("stack", "") or None, given)


def _recording(name: str, path: Path) -> Path | None:
    """A trace that ships by its name, another beside the file at `path`; None for none."""
    if not name:
        return None
    beside = path.parent / name
    return Path(name) if recorded_path(name) and not beside.exists() else beside


def _trace(section: Section, path: Path) -> TraceRecipe:
    recording, load = section.text("trace", ""), section.optional_section("workload")
    if load is None:
        return TraceRecipe(path=_recording(recording, path))
    recipe = TraceRecipe(
        input_tokens=load.integer("input_tokens", 256, minimum=1),
        output_tokens=load.integer("output_tokens", 256, minimum=1),
        batch=_batch(load),
        seed=load.integer("seed", 0),
        dials=_dials(load.optional_section("dials")),
        n_active=_optional_count(load, "n_active"),
        path=_recording(recording, path),
    )
    load.done()
    return recipe


def _optional_count(section: Section, key: str) -> int | None:
    """A count of at least 1, None when absent."""
    return section.integer(key, minimum=1) if key in section else section.take(key, optional=True)


def _batch(section: Section) -> int | Literal["max"] | None:
    """Sequences side by side, or as many as memory holds."""
    if section.unread().get("batch") == "max":
        section.take("batch")
        return "max"
    return _optional_count(section, "batch")


def _dials(section: Section | None) -> Dials | None:
    if section is None:
        return None
    names = ("zipf_exponent", "repeat_probability", "layer_correlation")
    numbers = {name: section.number(name) for name in names}
    rest = {name: section.number(name, value) for name, value in (("active_fraction", 1.0), ("sequence_affinity", 0.0))}
    section.done()
    return Dials(**numbers, **rest)


def _sample(section: Section | None) -> LatinHypercube | None:
    if section is None:
        return None
    sample = LatinHypercube(section.integer("n", minimum=1), section.integer("seed", 0))
    section.done()
    return sample


def _modes(section: Section | None) -> Modes:
    if section is None:
        return FIFO
    link = section.text("link", FIFO.link)
    if link not in ("fifo", "shared", "priority"):
        raise unknown_name("link mode", link, ("fifo", "shared", "priority"), section.where)
    chunk = section.take("chunk_bytes", optional=True)
    if isinstance(chunk, str):
        chunk = int(parse_override(chunk, "size"))
    if chunk is not None and (type(chunk) is not int or chunk < 1):
        raise InvalidFile(f"{section.where}: chunk_bytes = {chunk!r} is not a size of at least 1 byte, such as 1MiB")
    flags = (section.flag(name) for name in ("hbm_shared", "cancel", "both_ways", "dram_shared", "beside_copies"))
    modes = Modes(link, chunk, *flags)  # type: ignore[arg-type]
    section.done()
    return modes


def _axes(section: Section | None, sample: LatinHypercube | None) -> dict[str, Any]:
    if section is None:
        return {}
    return {name: _axis(name, section.take(name), sample, section.where) for name in section.remaining()}


def _axis(name: str, raw: Any, sample: LatinHypercube | None, where: str) -> Any:
    """A list of values, or what `{log: [...]}` stands for."""
    if isinstance(raw, list):
        return raw
    if not isinstance(raw, Mapping) or len(raw) != 1:
        raise InvalidFile(
            f"{where}: {name} is neither a list nor one of {{values: [...]}}, {{linear: [low, high, n]}}, "
            f"{{log: [low, high, n]}}"
        )
    how, values = next(iter(raw.items()))
    if how not in ("values", "linear", "log"):
        raise unknown_name("kind of axis", str(how), ("values", "linear", "log"), f"{where}: {name}")
    if not isinstance(values, list):
        raise InvalidFile(f"{where}: {name}: {how} is not a list")
    if how == "values":
        return values
    wanted = 2 if sample is not None else 3
    if len(values) != wanted or (sample is None and (type(values[2]) is not int)):
        form = "[low, high]: a sample has its own number of points" if sample is not None else "[low, high, n]"
        raise InvalidFile(f"{where}: {name}: {how} takes {form}")
    if sample is not None:
        return (*values, how)
    return spaced(name, how, values[0], values[1], values[2])


def _policies(section: Section, given: Sequence[str] | None) -> list[str]:
    """The policies of the file, or those given. Raises `InvalidInput` where the file names code: it is given only."""
    stated = [] if given is not None and "policies" not in section else _texts(section, "policies")
    for policy in stated if given is None else ():
        if is_own_name(policy):
            raise InvalidInput(f"{section.where}: policies: {policy}: a YAML file runs no code, give it by --policies")
    return stated if given is None else list(given)


def _texts(section: Section, key: str) -> list[str]:
    items = section.items(key)
    for item in items:
        if not isinstance(item, str):
            raise InvalidFile(f"{section.where}: {key}: {item!r} is not text")
    return items
