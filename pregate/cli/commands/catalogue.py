"""`pregate models` and `pregate hardware`: what there is, and where every number comes from."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import Annotated, Any

import typer

from hwmodels.shipped import FITS_DIR, STACKS_DIR
from hwmodels.specs.machine_files import (
    component_names,
    hardware_names,
    listed_machine,
    load_component,
    machine_document,
)
from hwmodels.specs.processors import processor_names
from hwmodels.specs.spec import Host, LinkSpec
from pregate.cli import options
from pregate.cli.commands import PLAIN, Command
from pregate.draw import render
from traces.errors import unknown_name
from traces.foundation.yaml_names import yaml_names

models = typer.Typer(help="The models that ship with pregate.", invoke_without_command=True, **PLAIN)
hardware = typer.Typer(help="The machines that ship with pregate.", invoke_without_command=True, **PLAIN)

Name = Annotated[str, typer.Argument(help="Its name, or a file.")]


@models.callback()
def list_models(context: typer.Context, format: options.OutputFormat = options.Format.table) -> None:
    """List the models, or `show` one with its sources."""
    if context.invoked_subcommand is not None:
        return
    from traces.model.architecture import architecture_names, load_architecture

    rows: list[dict[str, Any]] = []
    for name in architecture_names():
        model = load_architecture(name)
        rows.append(
            {
                "model": name,
                "total_params": model.total_params,
                "active_params": model.active_params,
                "layers": "+".join(str(stack.n_layers) for stack in model.stacks),
                "moe_layers": model.n_moe_layers,
                "experts": model.n_experts,
                "top_k": model.top_k,
                "expert_bytes": model.expert_bytes,
                "dtype": model.expert_dtype.name,
            }
        )
    if render.print_data(format, rows, rows):
        return
    table = render.new_table()
    for column in rows[0]:
        table.add_column(column, justify="left" if column in ("model", "dtype") else "right")
    for row in rows:
        shown = row | {
            "total_params": f"{row['total_params'] / 1e9:.2f} B",
            "active_params": f"{row['active_params'] / 1e9:.2f} B",
            "expert_bytes": render.si(float(row["expert_bytes"]), "B"),
        }
        table.add_row(*map(str, shown.values()))
    render.print_table(table)


@models.command("show", cls=Command)
def show_model(name: Name) -> None:
    """Print one model's architecture with its sources, as YAML.

    Example: pregate models show switch-base-8
    """
    from pregate.named import load_model

    typer.echo(load_model(name).to_yaml(), nl=False)


def policies(format: options.OutputFormat = options.Format.table) -> None:
    """The designs that ship with pregate, and who published them.

    Example: pregate policies
    """
    from offload.policies import policy_named
    from offload.policies.policy_descriptions import DESIGNS, what_it_does

    rows = [
        {
            "policy": name,
            "what it does": what_it_does(name),
            "output": "exact" if policy_named(name).is_exact else "approximate",
        }
        for name in DESIGNS
    ]
    if render.print_data(format, rows, rows):
        return
    table = render.new_table()
    for column in rows[0]:
        table.add_column(column, overflow="fold" if column == "what it does" else "ellipsis")
    for row in rows:
        table.add_row(*row.values())
    render.print_table(table)
    typer.echo("All of them: --policies all of `pregate compare`. Of your own: ./mine.py:MyPolicy (docs/policies.md).")


@hardware.callback()
def list_hardware(context: typer.Context, format: options.OutputFormat = options.Format.table) -> None:
    """List the machines and what they can be combined with, or `show` one with its sources."""
    if context.invoked_subcommand is not None:
        return
    rows: list[dict[str, Any]] = []
    fits, listed = yaml_names(FITS_DIR), {name: listed_machine(name) for name in hardware_names()}
    rates = _link_rates({machine["link"] for machine in listed.values()})
    for name, machine in listed.items():
        fitted = [fit.split(".")[1] for fit in fits if fit.split(".")[0] == name]
        rows.append(
            {
                "hardware": name,
                "hbm_bytes": machine["hbm_bytes"],
                "hbm_bytes_per_s": machine["hbm_bytes_per_s"],
                "h2d_bytes_per_s": rates[machine["link"]],
                "link": machine["link"],
                "host": machine["host"],
                "storage": machine["storage"],
                "price_usd": machine["price_usd"],
                "fitted_stacks": " ".join(fitted),
            }
        )
    if render.print_data(format, rows, rows):
        return
    table = render.new_table()
    for column, title in _MACHINE_COLUMNS.items():
        table.add_column(title, justify="right" if column.endswith(("bytes", "_s", "usd")) else "left")
    for row in rows:
        shown = row | {"hbm_bytes": render.si(row["hbm_bytes"], "B")}
        shown |= {key: render.si(row[key], "B") + "/s" for key in ("hbm_bytes_per_s", "h2d_bytes_per_s")}
        shown["link"] = row["link"].partition("-")[0] if row["link"].startswith("unified-") else row["link"]
        shown["price_usd"] = "-" if row["price_usd"] is None else f"{row['price_usd']:.0f}"
        table.add_row(*(str(shown[column]) for column in _MACHINE_COLUMNS))
    render.print_table(table)
    print(f"storage: {', '.join(component_names('storage'))}")
    print(f"stacks: {', '.join(yaml_names(STACKS_DIR))}")
    print("hosts and links: pregate hardware hosts, pregate hardware links")


_MACHINE_COLUMNS = {
    "hardware": "hardware",
    "hbm_bytes": "HBM",
    "host": "host",
    "link": "link",
    "hbm_bytes_per_s": "HBM/s",
    "h2d_bytes_per_s": "link/s",
    "storage": "storage",
    "price_usd": "USD",
    "fitted_stacks": "fitted stacks",
}
"""Columns of the table of machines and their titles, by worth: narrow terminals leave the last out."""

Part = Annotated[str, typer.Argument(help="Only names that have this in them.")]


@hardware.command("hosts", cls=Command)
def list_hosts(part: Part = "", format: options.OutputFormat = options.Format.table) -> None:
    """List the hosts for --set host=NAME: processors with their memory.

    Example: pregate hardware hosts epyc-77
    """
    rows: list[dict[str, Any]] = []
    for name in _named_with("host", part, (*component_names("host"), *sorted(processor_names()))):
        host = load_component("host", name)
        assert isinstance(host, Host)
        row = {"host": name, "cores": host.n_cores, "dram_bytes": host.dram_bytes}
        rows.append(row | {"dram_bytes_per_s": host.dram_bytes_per_s, "peak_flop_per_s": host.peak_flop_per_s})
    _print_components(format, rows, ("host", "cores", "DRAM at most", "DRAM/s", "FLOP/s fp32"))


@hardware.command("links", cls=Command)
def list_links(part: Part = "", format: options.OutputFormat = options.Format.table) -> None:
    """List the links for --set link=NAME.

    Example: pregate hardware links pcie
    """
    rows: list[dict[str, Any]] = []
    for name in _named_with("link", part, component_names("link")):
        link = load_component("link", name)
        assert isinstance(link, LinkSpec)
        row = {"link": name, "h2d_bytes_per_s": link.h2d_bytes_per_s, "d2h_bytes_per_s": link.d2h_bytes_per_s}
        rows.append(row | {"h2d_efficiency": link.h2d_efficiency})
    _print_components(format, rows, ("link", "to the device", "back", "share reached"))


def _named_with(kind: str, part: str, names: Collection[str]) -> list[str]:
    """Names that have `part` in them, written with or without capitals and spaces."""
    wanted = part.strip().lower().replace(" ", "-")
    found = [name for name in names if wanted in name]
    if not found:
        raise unknown_name(kind, part, names, spelled=wanted)
    return found


def _print_components(format: options.Format, rows: list[dict[str, Any]], titles: Collection[str]) -> None:
    """Rows of hosts or links, with `titles` for the columns of the table."""
    if render.print_data(format, rows, rows):
        return
    table = render.new_table()
    for title, column in zip(titles, rows[0], strict=True):
        table.add_column(title, justify="left" if column in ("host", "link") else "right")
    for row in rows:
        table.add_row(*(_with_unit(column, value) for column, value in row.items()))
    render.print_table(table)


def _with_unit(column: str, value: float | str | None) -> str:
    """A cell of a component, in the unit that its column ends with."""
    if value is None or isinstance(value, str):
        return value or "-"
    if column.endswith("flop_per_s"):
        return f"{value / 1e12:.3g} T"
    if "bytes" in column:
        return render.si(value, "B") + ("/s" if column.endswith("_per_s") else "")
    return f"{value:g}"


def _link_rates(names: Collection[str]) -> dict[str, float]:
    """What links claim to the device."""
    links = (load_component("link", name) for name in names)
    return {link.name: link.h2d_bytes_per_s for link in links if isinstance(link, LinkSpec)}


class Shown(StrEnum):
    """How a machine is printed; `yaml`: as a file of one's own, to edit and to give to --hardware."""

    table = "table"
    json = "json"
    csv = "csv"
    yaml = "yaml"


@hardware.command("show", cls=Command)
def show_hardware(
    name: Name,
    stack: options.Stack = None,
    sets: options.Sets = None,
    format: Annotated[
        Shown, typer.Option("--format", help="table, json or csv; yaml: a machine to edit and give to --hardware.")
    ] = Shown.table,
) -> None:
    """Print every number of one machine with its source, and the stack's constants with theirs.

    Example: pregate hardware show t4 --set host=epyc-7763
    """
    from hwmodels.specs.set_options import parse_sets
    from pregate.named import load_hardware

    platform = load_hardware(name, stack, parse_sets(sets))
    if format is Shown.yaml:
        document = machine_document(platform.machine)
        del document["name"]  # a machine of one's own is called as its file is
        import yaml

        typer.echo(yaml.safe_dump(document, sort_keys=False, width=110, allow_unicode=True), nl=False)
        return
    rows: list[dict[str, Any]] = [
        {
            "key": key,
            "value": quantity.value,
            "unit": quantity.unit,
            "source": quantity.source,
            "unverified": quantity.unverified,
        }
        for key, quantity in platform.machine.quantities().items()
    ]
    for key, claimed in platform.stack.constants.items():
        row = {"key": f"stack.{key}", "value": claimed.value, "unit": claimed.unit, "source": claimed.source}
        row["unverified"] = claimed.unverified
        if platform.fit is not None and key in platform.fit.constants:
            fitted = platform.fit.constants[key]
            low, high = fitted.ci95
            source = f"fitted: {platform.fit.name}, 95 % {low:.3g} to {high:.3g}"
            row |= {"value": fitted.value, "source": source, "unverified": False}
        rows.append(row)
    if render.print_data(options.Format(format), rows, rows):
        return
    table = render.new_table(f"{platform.hardware} ({platform.stack.name})")
    for column in ("key", "value", "unit", "source"):
        table.add_column(column, justify="right" if column == "value" else "left", overflow="fold")
    for row in rows:
        source = f"unverified: {row['source']}" if row["unverified"] else str(row["source"])
        table.add_row(str(row["key"]), f"{row['value']:.6g}", str(row["unit"]), source)
    render.print_table(table)
