"""Software stacks as their files say: a YAML file each, in `stacks/` or of one's own, each constant with its source."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from hwmodels.kernels.card_kernels import read_by_card
from hwmodels.kernels.core_formats import read_core_formats
from hwmodels.kernels.fused_tile import read_fused_tile, read_tile
from hwmodels.kernels.host_products import read_host_products
from hwmodels.kernels.row_blocks import read_blocks, read_row_blocks
from hwmodels.quantity import Quantity, ReadOnly, parse_quantity
from hwmodels.shipped import STACKS_DIR
from hwmodels.specs.machine_fields import HOST_MEMORY
from hwmodels.stacks.stack import (
    CONSTANTS,
    FLOORS,
    LAUNCHED,
    OPTIONAL,
    UNPACKING,
    VENDORS,
    SoftwareStack,
    check_constant,
)
from hwmodels.stacks.weight_formats import read_weight_formats
from offload.execution import EXECUTIONS
from offload.ops import OpKind
from traces.errors import InvalidFile, unknown_name
from traces.foundation.documents import Section, read_yaml
from traces.foundation.yaml_names import yaml_names


def stack_names() -> tuple[str, ...]:
    """The stacks that ship with the project."""
    return yaml_names(STACKS_DIR)


def load_stack(name: str) -> SoftwareStack:
    """The stack called `name`, or a YAML file of one's own, which is its name then; read once while it is unchanged.

    Raises `UnknownName`, or `InvalidFile` when its file is malformed or not there.
    """
    if name in stack_names():
        return _stack_of_file(STACKS_DIR / f"{name}.yaml", name)
    if not is_stack_file(name):
        raise unknown_name("stack", name, stack_names())
    path = Path(name)
    try:
        state = path.stat()
    except (OSError, ValueError):
        raise InvalidFile(f"stack {name}: there is no such file; those that ship: {', '.join(stack_names())}") from None
    return _stack_of_file(path, name, state.st_mtime_ns, state.st_size)


def is_stack_file(name: str) -> bool:
    """Whether `name` is that of a file that describes a stack."""
    return name.endswith((".yaml", ".yml"))


@lru_cache(maxsize=64)
def _stack_of_file(path: Path, name: str, *_: int) -> SoftwareStack:
    section = read_yaml(path)
    execution, host_memory = section.text("execution"), section.text("host_memory", "pinned")
    claimed = section.text("claimed_execution", execution)
    for name_of_execution in (execution, claimed):
        if name_of_execution not in EXECUTIONS:
            raise unknown_name("execution", name_of_execution, EXECUTIONS, section.where)
    if host_memory not in HOST_MEMORY:
        raise unknown_name("kind of host memory", host_memory, HOST_MEMORY, section.where)
    sources = _sources(section)
    launches, more = _launches(section)
    stack = SoftwareStack(
        name=name,
        summary=section.text("summary"),
        execution=EXECUTIONS[execution],
        launches=launches,
        tile=_tile(section),
        constants=_constants(section.section("constants"), _floors(section), sources),
        host_memory=host_memory,
        claimed_execution=EXECUTIONS[claimed],
        fused_tile=read_fused_tile(section),
        card_tiles=read_by_card(section, "fused_experts_tile_of", read_tile),
        latent_launches=more["latent_attention"],
        shared_launches=more["shared_experts"],
        tiled_launches=more["tiled_experts"],
        graph_tokens=more["graph_tokens"],
        row_blocks=read_row_blocks(section),
        card_row_blocks=read_by_card(section, "row_blocks_of", read_blocks),
        packed_compute=section.text("packed_compute", ""),
        vendors=_vendors(section),
        weights=read_weight_formats(section),
        cards_in_turn=section.flag("cards_in_turn"),
        core_formats=read_core_formats(section),
        host_products=read_host_products(section),
        half_sums=section.flag("half_sums"),
    )
    section.done()
    return stack


def _vendors(section: Section) -> tuple[str, ...]:
    """Whose accelerators a stack runs on, as its documents say; none: any's."""
    stated = section.take("vendors", optional=True) or []
    for vendor in stated if isinstance(stated, list) else [stated]:
        if vendor not in VENDORS:
            raise unknown_name("maker of accelerators", str(vendor), VENDORS, section.where)
    return tuple(stated)


def _sources(section: Section) -> dict[str, str]:
    table = section.section("sources")
    return {key: table.text(key) for key in table.remaining()}


_MORE_LAUNCHES = ("latent_attention", "shared_experts", "tiled_experts", "graph_tokens")
"""What else a stack may say of its launches, 0 where it does not."""


def _launches(section: Section) -> tuple[Mapping[OpKind, int], Mapping[str, int]]:
    table = section.section("launches")
    more = {name: table.integer(name, 0) for name in _MORE_LAUNCHES}
    stated = {kind: table.integer(kind.name.lower(), -1) for kind in LAUNCHED}
    counts = {kind: count for kind, count in stated.items() if count >= 0}
    table.take("source")
    table.done()
    return ReadOnly(counts), more


def _tile(section: Section) -> tuple[int, int] | None:
    table = section.optional_section("grouped_gemm_tile")
    if table is None:
        return None
    tile = table.integer("rows", minimum=1), table.integer("columns", minimum=1)
    table.take("source")
    table.done()
    return tile


def _floors(section: Section) -> dict[str, tuple[object, str]]:
    """What a file states of `FLOORS`, by the constant that it is, with the place where it stands."""
    table = section.optional_section("floors")
    if table is None:
        return {}
    for kind in table.remaining():
        if kind not in FLOORS:
            raise unknown_name("kind of kernel", kind, FLOORS, table.where)
    return {f"{kind}_floor_s": (table.take(kind), f"{table.where}: {kind}") for kind in table.remaining()}


def _constants(
    section: Section, floors: Mapping[str, tuple[object, str]], sources: Mapping[str, str]
) -> Mapping[str, Quantity]:
    stated = set(section.remaining())
    raw = {
        name: (section.take(name), f"{section.where}: {name}")
        for name in CONSTANTS
        if name not in OPTIONAL or (name in stated and not name.endswith("_floor_s"))
    }
    section.done()
    if len(stated.intersection(UNPACKING)) != 1:
        raise InvalidFile(f"{section.where}: expected one of {' and '.join(UNPACKING)}: what unpacking weights costs")
    constants = {
        name: parse_quantity(value, where, CONSTANTS[name], sources)
        for name, (value, where) in {**raw, **floors}.items()
    }
    for name, quantity in constants.items():
        check_constant(name, quantity.value, section.where)
    return ReadOnly(constants)
