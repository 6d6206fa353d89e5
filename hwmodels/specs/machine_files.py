"""Machines and their components read from files, by name or by path, and written back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from hwmodels.quantity import Quantity, parse_quantity
from hwmodels.shipped import SPECS
from hwmodels.specs.machine_fields import FIELDS, possible_figure
from hwmodels.specs.processors import host_document, is_processor, processor_names
from hwmodels.specs.spec import Accelerator, Component, Host, LinkSpec, MachineSpec, Storage
from traces.errors import InvalidFile, InvalidInput, unknown_name
from traces.foundation.documents import Section, check_name, read_yaml
from traces.foundation.yaml_names import yaml_names

__all__ = [
    "LISTED",
    "SPECS",
    "cards_of",
    "component_names",
    "hardware_names",
    "listed_machine",
    "load_component",
    "load_machine",
    "machine_document",
    "read_machine",
]

_FOLDERS = {"accelerator": "accelerators", "host": "hosts", "link": "links", "storage": "storage"}
PARTS = ("host", "link", "storage")
"""What a machine has beside its accelerator."""

LISTED = ("hbm_bytes", "hbm_bytes_per_s", "price_usd")
"""Figures of an accelerator that a list of machines shows."""

_LABELS = {"accelerator": "hardware", "host": "host", "link": "link", "storage": "storage"}
_BUILDERS: dict[str, Any] = {"accelerator": Accelerator, "host": Host, "link": LinkSpec, "storage": Storage}
_YAML_KEYS = {"price_usd": "price"}

_CARDS = re.compile(r"(?P<n>[1-9]\d?)x (?P<name>.+)", re.ASCII)
_MOST_CARDS = 16

Defaults = dict[str, Any]
"""The host, link and storage that an accelerator's file names or describes."""


def hardware_names() -> tuple[str, ...]:
    """Names that `load_machine` knows: the accelerators, each with its usual host, link and storage."""
    return component_names("accelerator")


def component_names(kind: str) -> tuple[str, ...]:
    """Names of the accelerators, hosts, links or drives that `load_component` knows; `kind`: a key of `FIELDS`."""
    return yaml_names(SPECS / _FOLDERS[kind])


def load_machine(name_or_path: str | Path, parts: Mapping[str, object] | None = None) -> MachineSpec:
    """The machine around an accelerator, by name or from a YAML file of one's own; `2x rtx-3090` has two cards, which a
    token passes through in turn.

    In a file `host`, `link` and `storage` are names or whole mappings; one that it leaves out is as `parts` names it.
    Raises `UnknownName` with the nearest name, `InvalidFile` for a file that is missing, too big, malformed or
    incomplete, `InvalidInput` for a value out of range.
    """
    n, name = cards_of(str(name_or_path))
    accelerator, own, where = _load("accelerator", name if n > 1 else name_or_path)
    if n > 1:
        by_name = Quantity(float(n), "count", "by its name")
        accelerator = replace(accelerator, n_cards=n, sources={**accelerator.sources, "n_cards": by_name})
    given = {part: name for part, name in (parts or {}).items() if part in PARTS}
    return _around(accelerator, given | {part: value for part, value in own.items() if value is not None}, where)


def cards_of(name: str) -> tuple[int, str]:
    """How many cards `2x rtx-3090` names, and what one of them is called. Raises `InvalidInput` for too many."""
    match = _CARDS.fullmatch(name)
    if match is None:
        return 1, name
    if int(match["n"]) > _MOST_CARDS:
        raise InvalidInput(f"hardware {name!r}: {match['n']} cards, at most {_MOST_CARDS}")
    return int(match["n"]), match["name"]


def listed_machine(name: str) -> dict[str, Any]:
    """What a list shows of a shipped machine: `LISTED` of its accelerator, None for what is not known, and the names of
    its usual host, link and storage. No other figure is read.
    """
    section = read_yaml(_shipped_file("accelerator", name))
    table = section.section("sources")
    documents = {key: table.text(key) for key in table.remaining()}
    listed: dict[str, Any] = {}
    for field in LISTED:
        rule, key = FIELDS["accelerator"][field], _YAML_KEYS.get(field, field)
        raw, where = section.take(key, optional=rule.optional), f"{section.where}: {key}"
        found = None if raw is None else parse_quantity(raw, where, rule.dimension, documents)
        listed[field] = None if found is None else possible_figure(found.value, rule, where)
    return listed | {part: section.text(part) for part in PARTS}


def load_component(kind: str, name_or_path: str | Path) -> Component:
    """An accelerator, host, link or drive by name or file. Raises as `load_machine`."""
    component: Component = _load(kind, name_or_path)[0]
    return component


def read_machine(name: str, section: Section) -> MachineSpec:
    """The machine in a section of another file, spelt as a file of its own. Raises as `load_machine`."""
    return _around(*_read("accelerator", name, section), section.where)


def machine_document(machine: MachineSpec) -> dict[str, Any]:
    """What `read_machine` reads back: every figure with its source."""
    card = machine.accelerator
    document: dict[str, Any] = {"name": card.name, "vendor": card.vendor}
    if card.compute_capability:
        document["compute_capability"] = card.compute_capability
    for kind in FIELDS:
        component = getattr(machine, kind)
        figures: dict[str, Any] = document if kind == "accelerator" else {}
        for field, quantity in component.sources.items():
            holder, key = (figures, _YAML_KEYS.get(field, field))
            if "." in field:
                holder, key = figures.setdefault("peak_flop_per_s", {}), field.partition(".")[2]
            marked = {"unverified": True} if quantity.unverified else {}
            holder[key] = {"value": quantity.value, "unit": quantity.unit, "source": quantity.source, **marked}
        if kind != "accelerator":
            document[kind] = figures
    return document


def _around(accelerator: Accelerator, defaults: Defaults, where: str) -> MachineSpec:
    """An accelerator with the host, link and storage that its file names or describes."""
    parts: dict[str, Any] = {}
    _require_all(where, [part for part in PARTS if defaults.get(part) is None], "accelerator")
    for kind in PARTS:
        chosen = defaults[kind]
        if isinstance(chosen, dict):
            parts[kind] = _read(kind, f"{accelerator.name}-{kind}", Section(chosen, f"{where}: {kind}"))[0]
        elif isinstance(chosen, str):
            parts[kind] = _load(kind, chosen, where)[0]
        else:
            known = ", ".join(component_names(kind))
            raise InvalidFile(f"{where}: {kind} is neither a name nor a mapping: known: {known}")
    return MachineSpec(accelerator, **parts)


def _load(kind: str, name_or_path: str | Path, where: str = "") -> tuple[Any, Defaults, str]:
    """A component by name, or from a path that ends in .yaml, .yml or .json; its defaults; its file."""
    name = str(name_or_path)
    if name in component_names(kind):
        return _shipped(kind, name)
    if isinstance(name_or_path, Path) or name.endswith((".yaml", ".yml", ".json")):
        return _file(kind, Path(name_or_path))
    if kind == "host" and is_processor(name):
        return _by_processor(name)
    known = (*component_names(kind), *(processor_names() if kind == "host" else ()))
    raise unknown_name(_LABELS[kind], name, known, where)


@lru_cache(maxsize=512)
def _by_processor(name: str) -> tuple[Any, Defaults, str]:
    """A host that is known by its processor, put together once."""
    return *_read("host", name, Section(host_document(name), f"host {name}")), ""


@lru_cache(maxsize=512)
def _shipped(kind: str, name: str) -> tuple[Any, Defaults, str]:
    """A component that ships, read once."""
    return _file(kind, _shipped_file(kind, name))


def _shipped_file(kind: str, name: str) -> Path:
    return SPECS / _FOLDERS[kind] / f"{name}.yaml"


def _file(kind: str, path: Path) -> tuple[Any, Defaults, str]:
    """A component from its file; its defaults; the file."""
    return *_read(kind, check_name(path.stem, f"the name of {_LABELS[kind]} {path.name!r}"), read_yaml(path)), str(path)


def _read(kind: str, name: str, section: Section) -> tuple[Any, Defaults]:
    """The component in `section`, and what an accelerator names as its host, link and storage."""
    table = section.optional_section("sources")
    documents: dict[str, str] = {}
    if table is not None:
        documents = {key: table.text(key) for key in table.remaining()}
    sources: dict[str, Quantity] = {}
    peaks = section
    if kind == "accelerator":
        peaks = section.optional_section("peak_flop_per_s") or Section({}, f"{section.where}: peak_flop_per_s")
    missing = []
    for field, rule in FIELDS[kind].items():
        holder, key = (peaks, field.partition(".")[2]) if "." in field else (section, _YAML_KEYS.get(field, field))
        raw = holder.take(key, optional=True)
        if raw is None:
            missing += [] if rule.optional else [field]
        else:
            sources[field] = parse_quantity(raw, f"{holder.where}: {key}", rule.dimension, documents)
    given: dict[str, Any] = {}
    if kind == "accelerator":
        given = {"vendor": section.text("vendor", ""), "compute_capability": section.text("compute_capability", "")}
        missing += [] if given["vendor"] else ["vendor"]
    defaults = {part: section.take(part, optional=True) for part in PARTS} if kind == "accelerator" else {}
    peaks.done()
    section.done()
    _require_all(section.where, missing, kind)
    for field, rule in FIELDS[kind].items():
        found = sources.get(field)
        value = None if found is None else possible_figure(found.value, rule, f"{section.where}: {field}")
        if "." not in field:
            given[field] = value
        elif value is not None:
            given.setdefault("peak_flop_per_s", {})[field.partition(".")[2]] = value
    return _BUILDERS[kind](name=name, sources=sources, **given), defaults


def _require_all(where: str, missing: Sequence[str], kind: str) -> None:
    """Raise `InvalidFile` that names all that is missing, and the way to a whole file."""
    if not missing:
        return
    keys = ", ".join(repr(_YAML_KEYS.get(key, key)) for key in missing)
    told = f"{where}: {'keys' if len(missing) > 1 else 'key'} {keys} {'are' if len(missing) > 1 else 'is'} missing"
    parts = [part for part in missing if part in PARTS]
    if parts:
        flags = " ".join(f"--set {part}=NAME" for part in parts)
        raise InvalidFile(f"{told}: name known ones in it (`pregate hardware` lists them), or give {flags}")
    if kind == "accelerator":
        told += ": `pregate hardware show rtx-4090 --format yaml` writes a whole file to edit"
    raise InvalidFile(told)
