"""Fits that are sent in and are not what they say: each is refused in one line that names what is wrong."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hwmodels.calibrate.sample_kinds import SAMPLE_KINDS
from hwmodels.fits.fit import digest_of
from hwmodels.fits.fit_files import FITS_DIR, fit_names, load_fit
from hwmodels.fits.shared_fit import check_shared
from tests import small_fits
from tests.command_line import Run
from traces.errors import PregateError

Change = Callable[[dict[str, Any]], Any]
NAME = "cpu-made-up-8-core-2c"


@pytest.fixture(scope="module")
def shared() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(small_fits.shared().to_yaml())
    return document


def put(*path_and_value: Any) -> Change:
    """What puts a value, or with None nothing, at a place of a file."""
    *path, last, value = path_and_value

    def change(document: dict[str, Any]) -> None:
        for key in path:
            document = document[key]
        document.pop(last) if value is None else document.__setitem__(last, value)

    return change


def all_of(*changes: Change) -> Change:
    return lambda document: [change(document) for change in changes]


def named(name: str) -> Change:
    return all_of(put("hardware", name), put("machine", "name", name))


def machine(*path_and_value: Any) -> Change:
    return put("machine", *path_and_value)


def condition(key: str, value: object) -> Change:
    return put("conditions", key, value)


CUDA = all_of(put("provenance", "cuda", "12.8"), put("stack", "pytorch-eager"))
RATE = "hbm_bytes_per_s"
NO_SOURCE = "is no source of a measured figure"
BEST = {"value": 7e9, "unit": "B/s", "source": "measured: the best that a microbenchmark saw"}
ROWS = ("constants", "copy_latency_s", "rows", 0)
DISK = ("machine", "storage", "read_bytes_per_s")
FAR = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=3)).strftime("%Y-%m-%d")

DOCTORED: dict[str, tuple[str, Change]] = {
    "another processor": ("'Xeon 8480' is 'cpu-xeon-8480-2c'", condition("processor", "Xeon 8480")),
    "a device of no CUDA": ("has no CUDA", condition("device", "NVIDIA H100 80GB HBM3")),
    "a device that is another": (
        "'NVIDIA A10' is a10",
        all_of(put("provenance", "cuda", "12.8"), condition("device", "NVIDIA A10"), machine(None),
               put("hardware", "h100-sxm"), put("stack", "pytorch-eager")),
    ),
    "a device of a name of ones own": (
        "'NVIDIA Z9' is 'nvidia-z9'",
        all_of(CUDA, condition("device", "NVIDIA Z9")),
    ),
    "a shipped card": ("'h100-sxm' ships with the project", named("h100-sxm")),
    "a name of ones own": (f"'Made up 8-Core Processor' is '{NAME}'", named("alices-gaming-pc")),
    "a name that climbs": ("hardware = '../x'", named("../x")),
    "a name with a slash": ("hardware = 'a/b'", named("a/b")),
    "a name that is hidden": ("hardware = '.profile'", named(".profile")),
    "a maker that is none": ("vendor = 'NVIDIA'", machine("vendor", "NVIDIA")),
    "a maker that says more": ("is no name of a maker", machine("vendor", "alice of gpubox")),
    "another memory": ("host.dram_bytes = 1.71799e\\+10, but conditions have 1e\\+09", condition("dram_bytes", 1e9)),
    "a path in a source": (NO_SOURCE, machine(RATE, "source", "/home/alice/x")),
    "a person in a source": (NO_SOURCE, machine("n_sm", "source", "read by alice")),
    "a host in a note": ("\\(gpubox\\)' is no source", machine(RATE, "note", "gpubox")),
    "sources of a machine": ("it says more than a shared fit does", machine("sources", {"x": "alice"})),
    "a path in a row": ("'/home/alice' is no sample", put(*ROWS, "/home/alice")),
    "a person in a row": ("'gemm/alice' is no sample", put(*ROWS, "gemm/alice")),
    "a host in a row": ("is no sample", put(*ROWS, "h2d/n_bytes=1/memory=gpubox")),
    "an address in a row": ("is no sample", put(*ROWS, "h2d/n_bytes=10.0.0.7.")),
    "a row of nothing": ("'' is no sample", put(*ROWS, "")),
    "a path in a reason": ("is no version, date", put("provenance", "trust_reasons", "see /home/alice")),
    "a windows path": ("is no version, date", put("provenance", "disturbed", "C:\\Users\\alice")),
    "a host in the software": ("is no version, date", put("provenance", "platform", "gpubox.lab.example.org")),
    "an author": ("unknown provenance of a shared fit 'author'", put("provenance", "author", "alice")),
    "an owner": ("unknown key 'owner'", put("owner", "alice")),
    "endless memory": (r"hbm_bytes_per_s = 1e\+30 B/s: no machine has that", machine(RATE, "value", 1e30)),
    "an endless link": (r"h2d_bytes_per_s = 1e\+30", machine("link", "h2d_bytes_per_s", "value", 1e30)),
    "an endless measured link": (
        r"link: both_ways_bytes_per_s = 1e\+30", put("link", {"both_ways_bytes_per_s": {"value": 1e30, "unit": "B/s"}})
    ),
    "endless arithmetic": (r"fp32 = 1e\+29 FLOP/s", machine("peak_flop_per_s", "fp32", "value", 1e29)),
    "endless storage": ("read_bytes_per_s = 1e\\+30", put(*DISK, "value", 1e30)),
    "no date": ("date is missing", put("provenance", "date", None)),
    "a date that is none": ("a day such as 2026-11-29 is needed", put("provenance", "date", "yesterday")),
    "a thirteenth month": ("a day such as 2026-11-29 is needed", put("provenance", "date", "2026-13-01")),
    "a date to come": ("to today, .* can be", put("provenance", "date", FAR)),
    "a date far off": ("to today, .* can be", put("provenance", "date", "2999-01-01 00:00 UTC")),
    "a date before there were any": ("2026-01-01 to today", put("provenance", "date", "1970-01-01 00:00 UTC")),
    "an assumed disk as measured": ("storage.read_bytes_per_s: 'measured.*', but 'assumed", put(*DISK, BEST)),
    "an assumed disk as verified": ("what is assumed is unverified", put(*DISK, "unverified", None)),
    "a measured figure as assumed": (
        "what is assumed is unverified", machine(RATE, "source", "assumed: the machine does not say")
    ),
    "memory as said by the machine": (
        "'read from the machine.*', but 'measured",
        machine(RATE, "source", "read from the machine, or a setting of the run"),
    ),
    "no conditions": ("processor is missing", put("conditions", None)),
    "empty conditions": ("processor is missing", put("conditions", {})),
    "no command": ("command = ''", put("provenance", "command", None)),
    "another command": ("command = 'made by hand'", put("provenance", "command", "made by hand")),
    "no measurements": ("measurements is missing", put("provenance", "measurements", None)),
    "measurements that are no digest": ("is no digest", put("provenance", "measurements", "alice")),
    "no trust": ("trust is missing", put("provenance", "trust", None)),
    "more trust than was earned": ("trust = high: fair at most", put("provenance", "trust", "high")),
    "no probes": ("16 hexadecimal digits", put("probes", [])),
    "probes that are names": ("16 hexadecimal digits", put("probes", ["alice"])),
    "a link of too many lanes": ("pcie_width = 32000", condition("pcie_width", 32000)),
    "half a lane": ("is no whole number", condition("pcie_width", 7.5)),
    "more lanes than there are": (
        "pcie_width is above pcie_width_max",
        all_of(condition("pcie_width", 16), condition("pcie_width_max", 8)),
    ),
    "a clock above its most": (
        "sm_clock_hz is above sm_clock_max_hz",
        all_of(condition("sm_clock_hz", 2e9), condition("sm_clock_max_hz", 1e9)),
    ),
    "assumptions": (
        "assumptions",
        put("assumptions", {"x": {"value": 1.0, "unit": "1", "ci95": [0.9, 1.1], "n": 1, "rows": ["alice"]}}),
    ),
}  # fmt: skip


def write(document: dict[str, Any], folder: Path) -> Path:
    document.pop("digest", None)
    document["digest"] = digest_of(document)
    path = folder / f"{NAME}.threads.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path


def test_what_was_measured_is_taken(shared: dict[str, Any], tmp_path: Path) -> None:
    assert load_fit(write(dict(shared), tmp_path)).name == f"{NAME}.threads"


def test_a_row_may_name_every_kind_of_sample(shared: dict[str, Any], tmp_path: Path) -> None:
    document = json.loads(json.dumps(shared))
    rows = [f"{what}/n_bytes=4096/beside=h2d" for what in SAMPLE_KINDS]
    document["constants"]["copy_latency_s"] |= {"rows": rows, "n": len(rows)}
    load_fit(write(document, tmp_path))


@pytest.mark.parametrize("what", DOCTORED)
def test_a_doctored_fit_is_refused_in_one_line(what: str, shared: dict[str, Any], tmp_path: Path, run: Run) -> None:
    message, change = DOCTORED[what]
    document = json.loads(json.dumps(shared))
    change(document)
    path = write(document, tmp_path)
    with pytest.raises(PregateError, match=message) as refusal:
        load_fit(path)
    assert len(str(refusal.value).splitlines()) == 1
    assert str(refusal.value).isprintable()
    status, _, told = run("hardware", "show", str(path))
    assert (status, len(told.splitlines())) == (2, 1)


def test_a_fit_of_today_is_taken_whatever_side_of_the_date_line_it_is_from() -> None:
    fit = small_fits.shared()
    check_shared(fit, datetime.date(2026, 11, 28))
    with pytest.raises(PregateError, match="2026-01-01 to today, 2026-11-27"):
        check_shared(fit, datetime.date(2026, 11, 27))


@pytest.mark.parametrize("name", fit_names())
def test_what_is_in_the_folder_is_of_a_public_table_or_shared(name: str) -> None:
    """A fit of microbenchmarks, which only a pull request brings, is a shared one, and is checked as such."""
    fit = load_fit(name)
    if fit.kernels:
        check_shared(fit)
        assert (FITS_DIR / f"{name}.yaml").read_text(encoding="utf-8") == fit.to_yaml(), "nothing was added, no comment"
