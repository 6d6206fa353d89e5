"""What a shared fit says beside any fit: which machine it is of, when it was measured, and nothing of whose it is.

A fit by pull request is believed by everybody, so what it says of itself has to hold together: its name is what its
conditions call the machine, its figures have the words of `pregate measure --share` for where they are from, and no
text in it has room for a path, a host or a person. Whoever makes all of it up alike is not found out: a digest is no
signature.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping
from typing import Any

from hwmodels.calibrate.sample_kinds import SAMPLE_KINDS
from hwmodels.fits.conditions import is_address
from hwmodels.fits.fit import Fit, LeftOut
from hwmodels.fits.trust import LEVELS, recorded_trust, worst_by_scatter
from hwmodels.quantity import DIMENSIONS
from hwmodels.specs.device_names import file_name, names_alike, processor_file_name
from hwmodels.specs.machine_fields import FIELDS
from hwmodels.specs.machine_files import hardware_names, machine_document
from offload.ops import OpKind
from traces.errors import InvalidInput, unknown_name
from traces.model.dtypes import DTYPES

COMMAND = "pregate measure --share"

PROVENANCE = (
    "command", "date", "commit", "python", "torch", "cuda", "driver", "numpy", "simpy", "scipy", "platform",
    "measurements", "disturbed", "trust", "trust_reasons", "trust_scatter",
)  # fmt: skip
"""What a shared fit may say of how it was made."""

_NEEDED = ("date", "measurements", "torch", "trust")
_MOST_TEXT = 400
_DATE = re.compile(r"(\d{4}-\d{2}-\d{2})( \d{2}:\d{2} UTC)?", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{16}")
_FIRST = datetime.date(2026, 1, 1)
"""No shared fit is older than what writes them."""

SOURCES: Mapping[str, str] = {
    "best": "measured: the best that a microbenchmark saw",
    "beside": "measured: copies and products of the processor, each alone and beside the other",
    "one_memory": (
        "measured: the best that a microbenchmark saw; the processor plays the accelerator, in the same memory"
    ),
    "one_processor": "measured: the best that a microbenchmark saw; the processor plays the accelerator",
    "setting": "read from the machine, or a setting of the run",
    "not_said": "assumed: the machine does not say",
    "least_dram": "assumed: what copies read of it, the least it can be; nothing else was timed on the host",
    "cores": "assumed: 48 GFLOP/s a core, 1.5 GHz of 32 FLOP; nothing was computed on the host",
    "no_disk": "assumed: no folder was measured past the page cache (pregate measure --storage DIR)",
}
"""Where the figures of a measured machine are from: each has one of these."""

_ASSUMED = "assumed"

_MOST: Mapping[str, float] = {
    "B": 1e14, "B/s": 1e14, "FLOP/s": 1e18, "s": 1.0, "Hz": 1e10, "count": 1e5, "1": 1.0,
}  # fmt: skip
"""Of a figure that was measured, by unit: some hundred times what the largest machines have."""

_WORDS = (
    "nothing", "prefill", "decode", "live", "fetches", "both", "core", "copies", "kernels", "host", "cpu", "busy",
    "idle", "full", "empty", "asked", "other way", "pinned", "pageable", "mapped", "gathered", "remote", "compute",
    "h2d", "d2h", "disk", "storage", "True", "False",
)  # fmt: skip
_NUMBER = r"-?\d{1,20}(\.\d{1,20})?(e[+-]?\d{1,3})?"
_PROBE = r"probe(-[a-z0-9]+){0,5}|[a-z0-9-]{1,40}-b\d{1,4}-c\d{1,6}"
_BESIDE = r"(on_demand|pregate)(, \d{1,6} slots)?"
_PART = re.compile("|".join((_NUMBER, _PROBE, _BESIDE, *map(re.escape, _WORDS))), re.ASCII)
_KEY = re.compile(r"[a-z_0-9]{1,24}", re.ASCII)


def is_shared(fit: Fit) -> bool:
    """Whether a fit says that it was made to be shared."""
    return bool(fit.conditions) or "--share" in fit.provenance.get("command", "")


def check_shared(fit: Fit, today: datetime.date | None = None) -> None:
    """Raise `InvalidInput`, `UnknownName` for the first thing that `pregate measure --share` would not have written.

    `today`: that no date lies after; by default this machine's.
    """
    _check_provenance(fit.provenance, today or datetime.datetime.now(datetime.UTC).date())
    _check_trust(fit)
    _check_machine(fit)
    for figure, entry in _figures({} if fit.machine is None else machine_document(fit.machine)):
        _check_figure(figure, entry, fit)
    for name, value in fit.link.items():
        _check_size(f"link: {name}", value, DIMENSIONS[FIELDS["link"][name].dimension])
    for name, constant in (*fit.constants.items(), *fit.kernels.items()):
        for row in constant.rows:
            if not _is_row(row):
                raise InvalidInput(f"{name}: rows: {row[:60]!r} is no sample of a microbenchmark")
    if fit.assumptions or fit.laws:
        raise InvalidInput("assumptions and laws are of no measured machine: measure again")
    if not fit.probes or not all(_DIGEST.fullmatch(digest) for digest in fit.probes):
        raise InvalidInput("probes: the digests of what was timed are needed, 16 hexadecimal digits each")


def _check_provenance(provenance: Mapping[str, str], today: datetime.date) -> None:
    for key, text in provenance.items():
        if key not in PROVENANCE:
            raise unknown_name("provenance of a shared fit", key, PROVENANCE, "provenance")
        if len(text) > _MOST_TEXT or not text.isprintable() or "/" in text or "\\" in text or is_address(text):
            raise InvalidInput(f"provenance: {key} = {text[:40]!r} is no version, date or count of what a machine did")
    if provenance.get("command") != COMMAND:
        raise InvalidInput(f"provenance: command = {provenance.get('command', '')[:60]!r}: {COMMAND!r} writes them")
    for key in _NEEDED:
        if key not in provenance:
            raise InvalidInput(f"provenance: {key} is missing: measure again, {COMMAND} writes it")
    if not _DIGEST.fullmatch(provenance["measurements"]):
        raise InvalidInput(f"provenance: measurements = {provenance['measurements'][:40]!r} is no digest")
    said = _DATE.fullmatch(provenance["date"])
    try:
        date = datetime.date.fromisoformat(said[1]) if said else None
    except ValueError:  # a thirteenth month
        date = None
    if date is None:
        raise InvalidInput(f"provenance: date = {provenance['date'][:40]!r}: a day such as 2026-11-29 is needed")
    if not _FIRST <= date <= today + datetime.timedelta(days=1):  # of the other side of the date line
        raise InvalidInput(f"provenance: date = {date}: {_FIRST} to today, {today} by this machine's clock, can be")


def _check_trust(fit: Fit) -> None:
    """The trust is a word of ours, and no better than how far the rounds lie apart."""
    trust = recorded_trust(fit.provenance)
    assert trust is not None  # it is needed
    rounds = fit.left_out.get("rounds", LeftOut(0, 0.0, 0.0, 0.0))
    most = worst_by_scatter(rounds.scatter if rounds.n else None)
    if LEVELS.index(trust.level) < LEVELS.index(most):
        raise InvalidInput(f"provenance: trust = {trust.level}: {most} at most, by how far its rounds lie apart")


def _check_machine(fit: Fit) -> None:
    """The machine is the one that the conditions name."""
    conditions, is_cuda = fit.conditions, "cuda" in fit.provenance
    named = "device" if is_cuda else "processor"
    for key in (named, "system", "dram_bytes"):
        if key not in conditions:
            raise InvalidInput(f"conditions: {key} is missing: measure again, {COMMAND} writes it")
    if not is_cuda and "device" in conditions:
        raise InvalidInput("conditions: a device, but provenance has no CUDA that it was measured with")
    if fit.machine is None:
        alike = names_alike(str(conditions["device"])) if is_cuda else ()
        if fit.hardware not in alike:
            known = f"is {' or '.join(alike)}" if alike else "is described by nobody"
            raise InvalidInput(f"hardware = {fit.hardware!r}, but {named} = {conditions[named]!r} {known}")
        return
    if fit.hardware in hardware_names():
        raise InvalidInput(f"hardware = {fit.hardware!r} ships with the project: a fit of it describes no machine")
    accelerator, host = fit.machine.accelerator, fit.machine.host
    own = file_name(str(conditions[named])) if is_cuda else processor_file_name(str(conditions[named]), host.n_cores)
    if fit.hardware != own:
        raise InvalidInput(f"hardware = {fit.hardware!r}, but {named} = {conditions[named]!r} is {own!r}")
    if (accelerator.vendor == "NVIDIA") != is_cuda:
        raise InvalidInput(f"machine: vendor = {accelerator.vendor!r}, but {named} = {conditions[named]!r}")
    if accelerator.vendor != _letters(accelerator.vendor):
        raise InvalidInput(f"machine: vendor = {accelerator.vendor[:40]!r} is no name of a maker")
    if conditions["dram_bytes"] != host.dram_bytes:
        raise InvalidInput(
            f"machine: host.dram_bytes = {host.dram_bytes:g}, but conditions have {conditions['dram_bytes']:g}"
        )


def _letters(text: str) -> str:
    """The letters and digits of a text."""
    return re.sub(r"[^A-Za-z0-9]", "", text)[:24]


def _figures(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every figure of a machine document by its dotted name."""
    for key, entry in document.items():
        if isinstance(entry, Mapping):
            if "value" in entry:
                yield prefix + key, entry
            else:
                yield from _figures(entry, f"{prefix}{key}.")


def _check_figure(name: str, entry: Mapping[str, Any], fit: Fit) -> None:
    """A figure of the machine: can be, and is from where it can be from."""
    value, unit, source = entry["value"], entry["unit"], str(entry["source"])
    _check_size(f"machine: {name}", value, unit)
    if source not in SOURCES.values() or set(entry) - {"value", "unit", "source", "unverified"}:
        raise InvalidInput(f"machine: {name}: {source[:60]!r} is no source of a measured figure")
    if source.startswith(_ASSUMED) != bool(entry.get("unverified")):
        raise InvalidInput(f"machine: {name}: what is assumed is unverified, and nothing else: {source[:60]!r}")
    allowed = _sources_of(name, fit)
    if source not in allowed:
        raise InvalidInput(f"machine: {name}: {source[:60]!r}, but {allowed[0][:60]!r} is what was measured")


def _check_size(what: str, value: float, unit: str) -> None:
    if unit not in _MOST:
        raise InvalidInput(f"{what}: unit {unit!r}: {', '.join(_MOST)} are measured")
    if value > _MOST[unit]:
        raise InvalidInput(f"{what} = {value:g} {unit}: no machine has that, at most {_MOST[unit]:g} can be measured")


def _sources_of(name: str, fit: Fit) -> tuple[str, ...]:
    """The sources that a figure can have."""
    is_cuda = "cuda" in fit.provenance
    match name.removeprefix("host."):
        case "storage.read_bytes_per_s":
            keys = ["best"] if "disk_read" in fit.left_out else ["no_disk"]
        case "dram_bytes_per_s":
            keys = ["least_dram" if is_cuda else "one_memory"]
        case "peak_flop_per_s":
            keys = ["cores" if is_cuda else "one_processor"]
        case "copies_beside_cpu" | "cpu_beside_copies":
            keys = ["beside"]
        case "hbm_bytes" | "n_sm" | "clock_hz" | "l2_bytes" | "dram_bytes" | "n_cores":
            keys = ["setting", "not_said"]
        case _:
            keys = ["best", "setting"] if name.startswith("link.") else ["best"]
    return tuple(SOURCES[key] for key in keys)


def _is_row(row: str) -> bool:
    """Whether a row names a sample: a kind of it, then known words, numbers and probes."""
    first, *parts = row.split("/")
    kinds = {kind.name.lower() for kind in OpKind}
    words = kinds | set(DTYPES)
    for part in parts:
        key, is_pair, value = part.rpartition("=")
        if is_pair and not _KEY.fullmatch(key):
            return False
        if value not in words and not _PART.fullmatch(value):
            return False
    return first in SAMPLE_KINDS or first in kinds
