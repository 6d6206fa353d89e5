"""Machines that are copied, overridden, put together or written in a file of one's own."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from hwmodels.specs.machine_files import SPECS, load_component, load_machine
from hwmodels.specs.overrides import with_overrides
from hwmodels.specs.spec import LinkSpec, MachineSpec
from traces.errors import InvalidFile, InvalidInput, PregateError, UnknownName
from traces.foundation.documents import MAX_DOCUMENT_BYTES


@pytest.fixture
def machine() -> MachineSpec:
    return load_machine("a100-sxm4-80gb")


def write_machine(folder: Path, **changes: Any) -> Path:
    """A whole machine in one file: the A100's with `changes` (None removes a key)."""
    data = yaml.safe_load((SPECS / "accelerators" / "a100-sxm4-80gb.yaml").read_text(encoding="utf-8"))
    data = {key: value for key, value in (data | changes).items() if value is not None}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def test_a_machine_can_be_copied_and_compared(machine: MachineSpec) -> None:
    again = copy.deepcopy(machine)
    assert again == machine
    assert hash(again) == hash(machine)
    assert with_overrides(again, {"hbm_bytes": 1e9}) != machine


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("link.h2d_bytes_per_s", 64e9, 64e9),
        ("link.h2d_bytes_per_s", "64GB/s", 64e9),
        ("link.copy_latency_s", "10us", 1e-5),
        ("link.copy_latency_s", 0, 0.0),
        ("accelerator.hbm_bytes", "24GiB", 24 * 2**30),
        ("accelerator.clock_hz", "1.2GHz", 1.2e9),
        ("accelerator.n_sm", 54, 54),
        ("accelerator.price_usd", "10000USD", 10_000.0),
        ("host.dram_bytes_per_s", "100GB/s", 100e9),
        ("storage.read_bytes_per_s", 2e9, 2e9),
    ],
)
def test_an_override_changes_its_figure_and_says_so(
    machine: MachineSpec, key: str, value: float | str, expected: float
) -> None:
    changed = with_overrides(machine, {key: value})
    kind, field = key.split(".")
    assert getattr(getattr(changed, kind), field) == expected
    quantities = changed.quantities()
    assert quantities[key].source == "override"
    assert quantities[key].value == expected
    assert {name for name, quantity in quantities.items() if quantity.source == "override"} == {key}
    assert machine == load_machine("a100-sxm4-80gb")


def test_a_peak_rate_is_overridden_for_one_dtype(machine: MachineSpec) -> None:
    changed = with_overrides(machine, {"accelerator.peak_flop_per_s.bf16": "200TFLOP/s"})
    assert changed.accelerator.peak_flop_per_s["bf16"] == 200e12
    assert changed.accelerator.peak_flop_per_s["fp16"] == machine.accelerator.peak_flop_per_s["fp16"]


def test_hbm_bytes_stands_for_the_accelerators(machine: MachineSpec) -> None:
    assert with_overrides(machine, {"hbm_bytes": "10.5GB"}).accelerator.hbm_bytes == 10_500_000_000
    with pytest.raises(InvalidInput, match="overridden twice"):
        with_overrides(machine, {"hbm_bytes": 1e9, "accelerator.hbm_bytes": 2e9})


def test_a_component_is_swapped_by_name_before_its_figures_are_overridden(machine: MachineSpec) -> None:
    changed = with_overrides(
        machine, {"link.copy_latency_s": "5us", "link": "pcie5-x16", "host": "desktop-ddr5", "storage": "sata"}
    )
    assert dataclasses.replace(changed.link, copy_latency_s=None).h2d_bytes_per_s == pytest.approx(63.015385e9)
    assert changed.link.copy_latency_s == 5e-6
    assert (changed.host.name, changed.storage.name) == ("desktop-ddr5", "sata")
    assert changed.accelerator == machine.accelerator


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        ({"link.h2d_bytes_per_s": -1}, InvalidInput, r"link\.h2d_bytes_per_s = -1: must be above 0"),
        ({"link.h2d_bytes_per_s": "-1"}, InvalidInput, r"link\.h2d_bytes_per_s = -1: must be above 0"),
        ({"link.h2d_bytes_per_s": 0}, InvalidInput, "must be above 0"),
        ({"link.h2d_bytes_per_s": float("nan")}, InvalidInput, r"link\.h2d_bytes_per_s = nan.*finite"),
        ({"link.h2d_bytes_per_s": float("inf")}, InvalidInput, r"link\.h2d_bytes_per_s = inf.*finite"),
        ({"link.h2d_bytes_per_s": 10**400}, InvalidInput, "finite"),
        ({"link.h2d_bytes_per_s": True}, InvalidInput, "must be a number"),
        ({"link.h2d_bytes_per_s": "64GB"}, InvalidInput, r"link\.h2d_bytes_per_s: .*GB is a unit of size"),
        ({"link.copy_latency_s": -1e-6}, InvalidInput, "must be 0 or above"),
        ({"accelerator.n_sm": 1.5}, InvalidInput, "whole number"),
        ({"hbm_bytes": 0.5}, InvalidInput, "must be at least 1"),
        ({"link.h2d_byte_per_s": 1e9}, UnknownName, r"did you mean 'link\.h2d_bytes_per_s'"),
        ({"accelerator.peak_flop_per_s.bf17": 1e12}, UnknownName, r"peak_flop_per_s\.\w+"),
        ({"accelerator.name": "x"}, UnknownName, "unknown override"),
        ({"vram": 24e9}, UnknownName, "did you mean 'hbm_bytes'"),
        ({"input_length": 8}, UnknownName, "unknown override 'input_length'"),
        ({"hbm_byte": 1e9}, UnknownName, "did you mean 'hbm_bytes'"),
        ({"link": "pcie5x16"}, UnknownName, "unknown link 'pcie5x16': did you mean 'pcie5-x16'"),
        ({"host": 3}, InvalidInput, "must be the name of a host"),
    ],
)
def test_a_bad_override_is_refused_by_one_line(
    machine: MachineSpec, overrides: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        with_overrides(machine, overrides)
    assert "\n" not in str(caught.value)


def test_an_unknown_machine_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="unknown hardware 'rtx4090': did you mean 'rtx-4090'"):
        load_machine("rtx4090")


@pytest.mark.parametrize("name", ["../links/pcie3-x8", "/etc/passwd", "", "accelerators/t4"])
def test_a_name_never_leaves_the_catalogue(name: str) -> None:
    with pytest.raises(UnknownName, match="unknown hardware"):
        load_machine(name)


def test_a_link_cannot_be_built_with_a_bandwidth_of_zero() -> None:
    with pytest.raises(InvalidInput, match=r"link\.d2h_bytes_per_s = 0: must be above 0"):
        LinkSpec("mine", 1e9, 0.0, None, {})


def test_a_machine_of_ones_own_may_hold_its_link_in_the_same_file(tmp_path: Path) -> None:
    rate = {"value": 10, "unit": "GB/s", "source": "measured elsewhere, see the notes"}
    path = write_machine(tmp_path, link={"h2d_bytes_per_s": rate, "d2h_bytes_per_s": rate})
    machine = load_machine(path)
    assert machine == load_machine(str(path))
    assert (machine.accelerator.name, machine.link.name) == ("mine", "mine-link")
    assert machine.link.h2d_bytes_per_s == 10e9
    assert machine.link.copy_latency_s is None
    assert machine.host == load_component("host", "epyc-7v12")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hbm_bytes": None}, "'hbm_bytes' is missing"),
        ({"host": None}, "'host' is missing"),
        ({"host": ["epyc-7v12"]}, "host is neither a name nor a mapping"),
        ({"host": "epyc-7v12x"}, "did you mean 'epyc-7v12'"),
        ({"vendr": "x"}, "did you mean 'vendor'"),
        ({"hbm_bytes": 80e9}, "hbm_bytes is not a mapping"),
        ({"n_sm": {"value": 1.5, "unit": "count", "source": "a b"}}, "must be a whole number"),
        ({"n_sm": {"value": 1, "unit": "GB", "source": "a b"}}, "GB is a unit of size"),
        ({"peak_flop_per_s": {}}, "'peak_flop_per_s.fp32' is missing"),
        ({"peak_flop_per_s": {"fp32": {"value": 1, "unit": "TFLOP/s", "source": "a b"}, "fp33": 1}}, "'fp33'"),
        ({"sources": {"other": "A datasheet"}}, "unknown source 'datasheet'"),
    ],
)
def test_a_bad_machine_file_is_refused_by_one_line_naming_it(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = write_machine(tmp_path, **changes)
    with pytest.raises(InvalidInput, match=message) as caught:
        load_machine(path)
    assert "\n" not in str(caught.value)
    assert "mine.yaml" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "vendor: !!python/object/apply:os.getcwd []\n",
        "vendor: [\n",
        "- a list\n",
        "{" * 50_000,
        "",
        "1: x\n",
    ],
)
def test_hostile_yaml_is_refused_by_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PregateError, match=r"mine\.yaml") as caught:
        load_machine(path)
    assert "\n" not in str(caught.value)


def test_a_missing_or_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    with pytest.raises(InvalidFile, match="cannot be read"):
        load_machine(path)
    with path.open("wb") as file:
        file.truncate(MAX_DOCUMENT_BYTES + 1)
    with pytest.raises(InvalidFile, match="at most"):
        load_machine(path)
