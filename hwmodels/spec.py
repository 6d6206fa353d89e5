"""The machine as its makers claim it: accelerator, host, link and storage, each number with its source.

What a machine was measured to do is another file (`fits/`): no number in here is an efficiency.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hwmodels.quantity import (
    DIMENSIONS,
    Quantity,
    ReadOnly,
    check_plausible,
    parse_override,
    parse_quantity,
    positive_number,
)
from traces.documents import Section, check_name, read_yaml
from traces.errors import InvalidFile, InvalidInput, unknown_name

__all__ = [
    "FIELDS",
    "PEAK_DTYPES",
    "Accelerator",
    "Host",
    "LinkSpec",
    "MachineSpec",
    "Storage",
    "check_figure",
    "computes_in",
    "find_field",
    "hardware_names",
    "host_names",
    "link_names",
    "load_accelerator",
    "load_host",
    "load_link",
    "load_machine",
    "load_storage",
    "machine_document",
    "read_machine",
    "storage_names",
]

SPECS = Path(__file__).parent / "specs"
PEAK_DTYPES = ("fp32", "tf32", "bf16", "fp16", "fp8", "fp4", "int8", "int4")
"""Number formats a peak rate can be stated for; only fp32 must be."""

_WIDER: dict[str, tuple[str, ...]] = {
    "fp4": ("fp8", "bf16", "fp16", "fp32"),
    "fp8": ("bf16", "fp16", "fp32"),
    "int4": ("int8", "bf16", "fp16", "fp32"),
    "int8": ("bf16", "fp16", "fp32"),
    "bf16": ("fp16", "fp32"),
    "fp16": ("bf16", "fp32"),
}
"""What a card that has no rate for a format computes it in: the first of these that it has. Weights of any format can
be stored and unpacked; a T4 has no bf16, so engines run such models in fp16 there."""

Defaults = dict[str, Any]


def computes_in(compute: str, stated: Collection[str]) -> str:
    """The format in which a card with rates for `stated` multiplies what asks for `compute`; fp32 at last."""
    if compute in stated:
        return compute
    return next((wider for wider in _WIDER.get(compute, ()) if wider in stated), "fp32")


@dataclass(frozen=True, slots=True)
class Field:
    """One figure of a component: its dimension, whether it may be missing and whether it may be 0."""

    dimension: str
    optional: bool = False
    zero_ok: bool = False


FIELDS: dict[str, dict[str, Field]] = {
    "accelerator": {
        "hbm_bytes": Field("size"),
        "hbm_bytes_per_s": Field("bandwidth"),
        **{f"peak_flop_per_s.{dtype}": Field("compute", optional=dtype != "fp32") for dtype in PEAK_DTYPES},
        "n_sm": Field("count"),
        "clock_hz": Field("frequency"),
        "l2_bytes": Field("size"),
        "price_usd": Field("price", optional=True),
    },
    "host": {
        "dram_bytes": Field("size"),
        "dram_bytes_per_s": Field("bandwidth"),
        "n_cores": Field("count"),
        "peak_flop_per_s": Field("compute"),
    },
    "link": {
        "h2d_bytes_per_s": Field("bandwidth"),
        "d2h_bytes_per_s": Field("bandwidth"),
        "copy_latency_s": Field("time", optional=True, zero_ok=True),
    },
    "storage": {
        "read_bytes_per_s": Field("bandwidth"),
        "read_latency_s": Field("time", optional=True, zero_ok=True),
    },
}
"""The figures of each component. A YAML file spells them the same, but the price is `price`."""

ALIASES = {"hbm_bytes": "accelerator.hbm_bytes"}
_YAML_KEYS = {"price_usd": "price"}


@dataclass(frozen=True, slots=True)
class Accelerator:
    """A GPU as its datasheet has it. Raises `InvalidInput` for a figure that is not finite and above 0.

    `hbm_bytes` is the whole memory, before what a driver reserves; `peak_flop_per_s` the dense peak by dtype
    (`PEAK_DTYPES`), fp32 without tensor cores, 16-bit formats with fp32 accumulation; `n_sm` multiprocessors or compute
    units at `clock_hz`, the highest boost clock; `price_usd` the price of it alone, launch or market as its source
    says, None where none could be cited. `sources` has a `Quantity` for every figure, by field name.
    """

    name: str
    vendor: str
    hbm_bytes: int
    hbm_bytes_per_s: float
    peak_flop_per_s: Mapping[str, float]
    n_sm: int
    clock_hz: float
    l2_bytes: int
    price_usd: float | None
    sources: Mapping[str, Quantity]

    def __post_init__(self) -> None:
        object.__setattr__(self, "peak_flop_per_s", ReadOnly(self.peak_flop_per_s))
        _check("accelerator", self)


@dataclass(frozen=True, slots=True)
class Host:
    """Host processors (all sockets) and their DRAM: `peak_flop_per_s` is fp32 at the base clock.

    Raises `InvalidInput` for a figure that is not finite and above 0.
    """

    name: str
    dram_bytes: int
    dram_bytes_per_s: float
    n_cores: int
    peak_flop_per_s: float
    sources: Mapping[str, Quantity]

    def __post_init__(self) -> None:
        _check("host", self)


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """Host to device and back: bandwidth of each direction after line encoding, before packet headers.

    `copy_latency_s` is None where no maker claims one: a fit has it. Raises `InvalidInput` for a bandwidth
    that is not finite and above 0.
    """

    name: str
    h2d_bytes_per_s: float
    d2h_bytes_per_s: float
    copy_latency_s: float | None
    sources: Mapping[str, Quantity]

    def __post_init__(self) -> None:
        _check("link", self)


@dataclass(frozen=True, slots=True)
class Storage:
    """A solid-state drive: its sequential read rate and the time of one 4 KB read at queue depth 1.

    The latency is None where it is not stated. Raises `InvalidInput` for a rate that is not finite and above 0.
    """

    name: str
    read_bytes_per_s: float
    read_latency_s: float | None
    sources: Mapping[str, Quantity]

    def __post_init__(self) -> None:
        _check("storage", self)


Component = Accelerator | Host | LinkSpec | Storage


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """One accelerator, the host it sits in, the link between them and the drive behind them."""

    accelerator: Accelerator
    host: Host
    link: LinkSpec
    storage: Storage

    def with_overrides(self, overrides: Mapping[str, float | str]) -> MachineSpec:
        """This machine with other figures, each marked as an override in its source.

        Keys are dotted (`link.h2d_bytes_per_s`, `accelerator.peak_flop_per_s.bf16`; `hbm_bytes` is the
        accelerator's) with numbers in SI or text with a unit (`"24GiB"`), or the bare name of a component
        (`link`, `host`, `storage`, `accelerator`) with the name of another spec of it, which is swapped
        first. Raises `UnknownName` for typos, `InvalidInput` for values out of range, units of another
        dimension or a key given twice.
        """
        swaps = {key: value for key, value in overrides.items() if key in FIELDS}
        components: dict[str, Any] = {kind: getattr(self, kind) for kind in FIELDS}
        for kind, name in swaps.items():
            if not isinstance(name, str):
                raise InvalidInput(f"{kind} = {name!r}: must be the name of a {kind}: {', '.join(_names(kind))}")
            components[kind] = _load(kind, name)[0]
        seen: set[str] = set()
        for written, value in overrides.items():
            if written in swaps:
                continue
            key = ALIASES.get(written, written)
            if key in seen:
                raise InvalidInput(f"{key} is overridden twice: give it once")
            seen.add(key)
            kind, field = find_field(key)
            components[kind] = _with_figure(kind, components[kind], field, value)
        return MachineSpec(**components)

    def quantities(self) -> Mapping[str, Quantity]:
        """Every figure with its source, by dotted key; overridden ones have the source `override`."""
        return ReadOnly(
            {f"{kind}.{field}": quantity for kind in FIELDS for field, quantity in getattr(self, kind).sources.items()}
        )


def hardware_names() -> tuple[str, ...]:
    """Names that `load_machine` knows: the accelerators, each with its usual host, link and storage."""
    return _names("accelerator")


def host_names() -> tuple[str, ...]:
    """Names that `load_host` knows."""
    return _names("host")


def link_names() -> tuple[str, ...]:
    """Names that `load_link` knows."""
    return _names("link")


def storage_names() -> tuple[str, ...]:
    """Names that `load_storage` knows."""
    return _names("storage")


def load_machine(name_or_path: str | Path) -> MachineSpec:
    """The machine around an accelerator, by name or from a YAML file of one's own.

    In a file `host`, `link` and `storage` are names or whole mappings. Raises `UnknownName` with the nearest
    name, `InvalidFile` for a file that is missing, too big or malformed, `InvalidInput` for a value out of
    range.
    """
    return _around(*_load("accelerator", name_or_path))


def read_machine(name: str, section: Section) -> MachineSpec:
    """The machine in a section of another file, spelt as a file of its own. Raises as `load_machine`."""
    return _around(*_read("accelerator", name, section), section.where)


def machine_document(machine: MachineSpec) -> dict[str, Any]:
    """What `read_machine` reads back: every figure with its source."""
    document: dict[str, Any] = {"name": machine.accelerator.name, "vendor": machine.accelerator.vendor}
    for kind in FIELDS:
        component = getattr(machine, kind)
        figures: dict[str, Any] = document if kind == "accelerator" else {}
        for field, quantity in component.sources.items():
            holder, key = (figures, _YAML_KEYS.get(field, field))
            if "." in field:
                holder, key = figures.setdefault("peak_flop_per_s", {}), field.partition(".")[2]
            holder[key] = {"value": quantity.value, "unit": quantity.unit, "source": quantity.source}
        if kind != "accelerator":
            document[kind] = figures
    return document


def _around(accelerator: Accelerator, defaults: Defaults, where: str) -> MachineSpec:
    """An accelerator with the host, link and storage that its file names or describes."""
    parts: dict[str, Any] = {}
    for kind in ("host", "link", "storage"):
        chosen = defaults[kind]
        if isinstance(chosen, dict):
            parts[kind] = _read(kind, f"{accelerator.name}-{kind}", Section(chosen, f"{where}: {kind}"))[0]
        elif isinstance(chosen, str):
            parts[kind] = _load(kind, chosen, where)[0]
        else:
            raise InvalidFile(f"{where}: {kind} is neither a name nor a mapping: known: {', '.join(_names(kind))}")
    return MachineSpec(accelerator, **parts)


def load_accelerator(name_or_path: str | Path) -> Accelerator:
    """An accelerator by name or file. Raises as `load_machine`."""
    accelerator: Accelerator = _load("accelerator", name_or_path)[0]
    return accelerator


def load_host(name_or_path: str | Path) -> Host:
    """A host by name or file. Raises as `load_machine`."""
    host: Host = _load("host", name_or_path)[0]
    return host


def load_link(name_or_path: str | Path) -> LinkSpec:
    """A link by name or file. Raises as `load_machine`."""
    link: LinkSpec = _load("link", name_or_path)[0]
    return link


def load_storage(name_or_path: str | Path) -> Storage:
    """A drive by name or file. Raises as `load_machine`."""
    storage: Storage = _load("storage", name_or_path)[0]
    return storage


_FOLDERS = {"accelerator": "accelerators", "host": "hosts", "link": "links", "storage": "storage"}
_LABELS = {"accelerator": "hardware", "host": "host", "link": "link", "storage": "storage"}
_BUILDERS: dict[str, Any] = {"accelerator": Accelerator, "host": Host, "link": LinkSpec, "storage": Storage}


def _names(kind: str) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in (SPECS / _FOLDERS[kind]).glob("*.yaml")))


def _load(kind: str, name_or_path: str | Path, where: str = "") -> tuple[Any, Defaults, str]:
    """A component by name, or from a path that ends in .yaml, .yml or .json; its defaults; its file."""
    name = str(name_or_path)
    if name in _names(kind):
        path = SPECS / _FOLDERS[kind] / f"{name}.yaml"
    elif isinstance(name_or_path, Path) or name.endswith((".yaml", ".yml", ".json")):
        path = Path(name_or_path)
    else:
        raise unknown_name(_LABELS[kind], name, _names(kind), where)
    return *_read(kind, check_name(path.stem, f"the name of {_LABELS[kind]} {path.name!r}"), read_yaml(path)), str(path)


def _read(kind: str, name: str, section: Section) -> tuple[Any, Defaults]:
    """The component in `section`, and what an accelerator names as its host, link and storage."""
    table = section.optional_section("sources")
    documents: dict[str, str] = {}
    if table is not None:
        documents = {key: table.text(key) for key in table.remaining()}
    sources: dict[str, Quantity] = {}
    peaks = section.section("peak_flop_per_s") if kind == "accelerator" else section
    for field, rule in FIELDS[kind].items():
        holder, key = (peaks, field.partition(".")[2]) if "." in field else (section, _YAML_KEYS.get(field, field))
        raw = holder.take(key, optional=rule.optional)
        if raw is not None:
            sources[field] = parse_quantity(raw, f"{holder.where}: {key}", rule.dimension, documents)
    given: dict[str, Any] = {"vendor": section.text("vendor")} if kind == "accelerator" else {}
    defaults = {part: section.take(part) for part in ("host", "link", "storage")} if kind == "accelerator" else {}
    peaks.done()
    section.done()
    for field, rule in FIELDS[kind].items():
        found = sources.get(field)
        value = None if found is None else _figure(found.value, rule, f"{section.where}: {field}")
        if "." not in field:
            given[field] = value
        elif value is not None:
            given.setdefault("peak_flop_per_s", {})[field.partition(".")[2]] = value
    return _BUILDERS[kind](name=name, sources=sources, **given), defaults


def check_figure(kind: str, field: str, value: float) -> None:
    """Raise `InvalidInput` unless `value` is possible for a field of a component."""
    _figure(value, FIELDS[kind][field], f"{kind}.{field}")


def find_field(key: str) -> tuple[str, str]:
    """Component and field of a dotted key (`hbm_bytes` is the accelerator's). Raises `UnknownName`."""
    kind, _, field = ALIASES.get(key, key).partition(".")
    if field not in FIELDS.get(kind, {}):
        known = [f"{kind}.{field}" for kind, fields in FIELDS.items() for field in fields]
        raise unknown_name("override", key, [*known, *FIELDS, *ALIASES])
    return kind, field


def _with_figure(kind: str, component: Component, field: str, value: float | str) -> Any:
    """`component` with another value in `field`. Raises `InvalidInput` naming the key."""
    rule, where = FIELDS[kind][field], f"{kind}.{field}"
    if isinstance(value, str):
        try:
            value = parse_override(value, rule.dimension)
        except InvalidInput as error:
            raise type(error)(f"{where}: {error}") from None
    figure = _figure(value, rule, where)
    quantity = Quantity(float(figure), DIMENSIONS[rule.dimension], "override")
    changes: dict[str, Any] = {"sources": {**component.sources, field: quantity}}
    if isinstance(component, Accelerator) and "." in field:
        dtype = field.partition(".")[2]
        changes["peak_flop_per_s"] = {**component.peak_flop_per_s, dtype: figure}
    else:
        changes[field] = figure
    return replace(component, **changes)


def _figure(value: object, rule: Field, where: str) -> float | int:
    """`value` in the type of its field: sizes are rounded down to whole bytes, counts must be whole."""
    number = positive_number(value, where, zero_ok=rule.zero_ok)
    if rule.dimension not in ("size", "count"):
        check_plausible(number, rule.dimension, where)
        return number
    if rule.dimension == "count" and number != int(number):
        raise InvalidInput(f"{where} = {number:.12g}: must be a whole number")
    if number < 1:
        raise InvalidInput(f"{where} = {number:.12g}: must be at least 1")
    check_plausible(number, rule.dimension, where)
    return int(number)


def _check(kind: str, component: Component) -> None:
    """Check every figure of `component` and make its sources read-only. Raises `InvalidInput`."""
    object.__setattr__(component, "sources", ReadOnly(component.sources))
    for field, rule in FIELDS[kind].items():
        attribute, _, dtype = field.partition(".")
        value = getattr(component, attribute)
        if dtype:
            value = value.get(dtype)
        if value is None and rule.optional:
            continue
        _figure(value, rule, f"{kind}.{field}")
    if isinstance(component, Accelerator):
        for dtype in component.peak_flop_per_s:
            if dtype not in PEAK_DTYPES:
                raise unknown_name("dtype", dtype, PEAK_DTYPES, "accelerator.peak_flop_per_s")
