"""Figures of machines beside the table that says where each was read: they agree, and what nobody read says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import pregate
from hwmodels.platform import load_platform
from hwmodels.specs.checked_specs import CHECKED, checked_figures, unverified_figures
from hwmodels.specs.machine_fields import FIELDS
from hwmodels.specs.machine_files import component_names, load_component, load_machine, machine_document, read_machine
from tests.command_line import Run
from traces.errors import InvalidFile, PregateError
from traces.foundation.documents import Section

ROWS = list(checked_figures())
HEADER = CHECKED.read_text(encoding="utf-8").splitlines()[0]


def test_the_table_has_every_figure_once() -> None:
    keys = [(row.kind, row.spec, row.figure) for row in ROWS]
    assert len(set(keys)) == len(keys) >= 440


def test_a_figure_is_what_was_checked() -> None:
    for row in ROWS:
        assert row.stated.value == pytest.approx(row.si_value, rel=2e-4), (row.spec, row.figure)
        assert row.stated.unverified == (row.verdict == "unverified"), (row.spec, row.figure)


def test_what_is_unverified_is_in_the_table() -> None:
    checked = {(row.spec, f"{row.kind}.{row.figure}") for row in ROWS if row.verdict == "unverified"}
    assert {(name, key) for name, key, _ in unverified_figures()} == checked


@pytest.mark.parametrize("kind", FIELDS)
def test_a_document_that_nobody_read_makes_no_figure_unless_another_confirms_it(kind: str) -> None:
    for name in component_names(kind):
        for field, quantity in load_component(kind, name).sources.items():
            if "not re-read" in quantity.source:
                assert quantity.unverified or "confirmed: " in quantity.source, (name, field)


@pytest.mark.parametrize("name", ["a10", "l4", "l40s", "t4", "h200-sxm", "gh200", "b200", "h100-sxm"])
def test_memory_is_what_a_driver_reports(name: str) -> None:
    source = load_machine(name).quantities()["accelerator.hbm_bytes"].source
    assert "nvidia-smi" in source or "cudaGetDeviceProperties" in source


def test_unverified_figures_are_shown(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    status, shown, _ = run("hardware", "show", "dgx-spark", "--format", "json")
    assert status == 0
    marked = {row["key"] for row in json.loads(shown) if row["unverified"]}
    assert "accelerator.peak_flop_per_s.bf16" in marked
    assert "accelerator.hbm_bytes_per_s" not in marked
    _, table, _ = run("hardware", "show", "dgx-spark")
    assert "unverified: Blackwell tensor cores" in table


def test_a_comparison_says_which_figures_of_its_machine_nobody_read() -> None:
    words = load_platform("l20").describe_calibration("bf16")
    assert words.endswith("unverified: accelerator.peak_flop_per_s.tf32, accelerator.peak_flop_per_s.bf16, "
                          "accelerator.peak_flop_per_s.fp16 and 2 more")  # fmt: skip
    assert "unverified" not in load_platform("a100-sxm4-80gb").describe_calibration("bf16")
    told = load_platform("l20", overrides={f"accelerator.peak_flop_per_s.{d}": 1e14 for d in ("tf32", "bf16", "fp16")})
    assert told.unverified == ("accelerator.peak_flop_per_s.fp8", "accelerator.peak_flop_per_s.int8")


def test_a_mark_survives_being_written_and_read() -> None:
    machine = load_machine("dgx-spark")
    document = machine_document(machine)
    again = read_machine(str(document.pop("name")), Section(document, "again"))
    marks = [{key: one.unverified for key, one in hw.quantities().items()} for hw in (machine, again)]
    assert marks[0] == marks[1]
    assert any(marks[0].values())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("accelerators,t4,hbm_bytes,15,GiB,sure,,mine", "unknown verdict 'sure'"),
        ("accelerators,t4,hbm_bytes,15,GiB,confirmed,,", "a source, or the verdict unverified"),
        ("accelerators,t4,hbm_bytes,15,GiB,unverified,,mine", "a source, or the verdict unverified"),
        ("cars,t4,hbm_bytes,15,GiB,confirmed,,mine", "line 2: 'cars'"),
        ("accelerators,t4,hbm_bytes,much,GiB,confirmed,,mine", "line 2"),
    ],
)
def test_a_row_that_is_no_verdict_is_refused(row: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "checked.csv"
    path.write_text(f"{HEADER}\n{row}\n", encoding="utf-8")
    with pytest.raises((InvalidFile, PregateError), match=message):
        list(checked_figures(path))


def test_a_machine_of_ones_own_may_mark_a_figure(tmp_path: Path) -> None:
    machine = machine_document(load_machine("rtx-4090"))
    machine["hbm_bytes"]["unverified"] = "perhaps"
    with pytest.raises(InvalidFile, match="unverified = 'perhaps' is not true or false"):
        read_machine("mine", Section({k: v for k, v in machine.items() if k != "name"}, "mine"))
    assert pregate.load_hardware("rtx-4090").unverified == ()
