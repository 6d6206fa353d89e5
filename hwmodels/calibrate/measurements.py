"""What was measured of one machine and one software stack: the file that `measure` writes and `calibrate` reads.

JSON, bounded in size, checked field by field: a file of measurements is as hostile as any other until it has been read.
"""

from __future__ import annotations

import hashlib
import json
import reprlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwmodels.calibrate.sample_kinds import check_kind, check_quartiles, check_times
from hwmodels.fits.trust import Trust, recorded_trust
from hwmodels.quantity import ReadOnly
from hwmodels.stacks.stack import BACKEND_STACKS
from hwmodels.stacks.stack_files import stack_names
from offload.ops import Gemm, OpKind, Work
from traces.errors import InvalidFile, InvalidInput, unknown_name
from traces.foundation.atomic_files import whole_file
from traces.foundation.documents import Section, check_name, read_text
from traces.model.architecture import ModelArchitecture
from traces.routing import RoutingTrace

VERSION = 2
MAX_BYTES = 16 << 20
_PERCENTILES = (25, 50, 75)
_OUTLIER = 3.0
_TIMES = ("median_s", "p25_s", "p75_s", "mean_s")


@dataclass(frozen=True, slots=True)
class Sample:
    """One thing that was timed `n` times: median, quartiles and mean, seconds.

    The mean counts what took more than three times the median as three times: what many ops take together is their
    mean, and one interrupt is nobody's.

    `what`: "h2d", "gemm", "self_attention", ...; `parameters`: what it depends on, JSON values with unit-bearing names.
    `scatter`: of its mean between rounds, the standard deviation of the logarithm (None: timed in one round).
    """

    what: str
    parameters: Mapping[str, Any]
    median_s: float
    p25_s: float
    p75_s: float
    mean_s: float
    n: int
    scatter: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", ReadOnly(self.parameters))
        check_times(self)
        for name in _TIMES:
            object.__setattr__(self, name, float(getattr(self, name)))

    @property
    def spread(self) -> float:
        """Interquartile range over the median."""
        return (self.p75_s - self.p25_s) / self.median_s if self.median_s else 0.0

    @property
    def row(self) -> str:
        """Its name in a fit: what, and every parameter that is a word, or a number of its own."""
        if "gemms" in self.parameters:
            names = ("kind", "probe", "phase", "beside")
            return "/".join(str(self.parameters[name]) for name in names if name in self.parameters)
        plain = (f"{key}={value}" for key, value in self.parameters.items() if isinstance(value, int | float | str))
        return "/".join((self.what, *plain))

    @property
    def work(self) -> Work:
        """The work of an op that was timed. Raises `InvalidInput` for a sample that is of no op."""
        try:
            parameters = self.parameters
            work = Work(
                OpKind[str(parameters["kind"]).upper()],
                tuple(Gemm(*(int(number) for number in gemm)) for gemm in parameters["gemms"]),
                str(parameters["dtype"]),
                float(parameters["weight_bits"]),
                flop=int(parameters["flop"]),
                hbm_bytes=int(parameters["hbm_bytes"]),
                copy_bytes=int(parameters["copy_bytes"]),
                slots_bytes=int(parameters["slots_bytes"]),
                flop_compute=str(parameters.get("flop_dtype", "")),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InvalidInput(f"sample {self.what} is not of an op: {type(error).__name__} {error}") from None
        counts = (*(number for gemm in work.gemms for number in gemm), work.weight_bits)
        if min(counts) <= 0 or min(work.flop, work.hbm_bytes, work.copy_bytes, work.slots_bytes) < 0:
            raise InvalidInput(f"sample {self.what} is not of an op: a size in it is below what a size can be")
        return work

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        times = {name: getattr(self, name) for name in (*_TIMES, "n")}
        scatter = {} if self.scatter is None else {"scatter": self.scatter}
        return {"what": self.what, "parameters": dict(self.parameters), **times, **scatter}


def sample_of(what: str, durations_s: Sequence[float], **parameters: Any) -> Sample:
    """Median and quartiles of `durations_s`. Raises `InvalidInput` for none."""
    if not len(durations_s):
        raise InvalidInput(f"sample {what}: nothing was timed")
    durations = np.asarray(durations_s, dtype=np.float64)
    p25, median, p75 = np.percentile(durations, _PERCENTILES).tolist()
    mean = float(np.minimum(durations, _OUTLIER * median).mean())
    return Sample(what, parameters, median, p25, p75, mean, len(durations))


def work_parameters(work: Work) -> dict[str, Any]:
    """The parameters of a sample of an op, from which `Sample.work` gives it back."""
    return {
        "kind": work.kind.name.lower(),
        "gemms": [list(gemm) for gemm in work.gemms],
        "dtype": work.compute,
        "flop_dtype": work.flop_compute,
        "weight_bits": work.weight_bits,
        "flop": work.flop,
        "hbm_bytes": work.hbm_bytes,
        "copy_bytes": work.copy_bytes,
        "slots_bytes": work.slots_bytes,
    }


def workload_digest(model: ModelArchitecture, trace: RoutingTrace) -> str:
    """16 hex digits of a model and its routing: what was run for a fit must not be validated on it."""
    return hashlib.sha256(f"{model.to_dict()} {trace.digest}".encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Measurements:
    """All samples of one session on one machine.

    `machine`: what it is (device, host, sizes of memory, number of cores), JSON values; `stack`: the software that ran;
    `provenance`: command, date, versions; `disturbances`: what else ran while a part was measured, of those
    that were never measured on a quiet machine.
    `probes`: digests of the workloads whose ops were timed: no validation may run one of them.
    """

    machine: Mapping[str, Any]
    stack: str
    provenance: Mapping[str, str]
    disturbances: tuple[str, ...]
    probes: tuple[str, ...]
    samples: tuple[Sample, ...]

    @property
    def is_clean(self) -> bool:
        """Whether every part was measured at least once while the machine did nothing else."""
        return not self.disturbances

    @property
    def trust(self) -> Trust:
        """As the session judged itself; by whether it is clean where it did not."""
        return recorded_trust(self.provenance) or Trust("high" if self.is_clean else "low", self.disturbances[:1])

    def of(self, what: str, **parameters: Any) -> Iterator[Sample]:
        """The samples of `what` that have all of `parameters`."""
        for sample in self.samples:
            if sample.what == what and all(sample.parameters.get(key) == value for key, value in parameters.items()):
                yield sample

    @property
    def digest(self) -> str:
        """16 hex digits of the SHA-256 of all of it: names the measurements in what is derived from them."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "version": VERSION,
            "machine": dict(self.machine),
            "stack": self.stack,
            "provenance": dict(self.provenance),
            "clean": self.is_clean,
            "disturbances": list(self.disturbances),
            "probes": list(self.probes),
            "samples": [sample.to_dict() for sample in self.samples],
        }

    def save(self, path: Path | str) -> None:
        """Write the file; a reader sees the old one or the whole new one."""
        with whole_file(Path(path)) as partial:
            partial.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")


def load_measurements(path: Path | str) -> Measurements:
    """Read a file of measurements. Raises `InvalidFile`, naming the file and what is wrong with it."""
    path = Path(path)
    try:
        document = json.loads(read_text(path, MAX_BYTES), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidFile(f"{path}: not JSON ({error or 'too deep'}): is this what pregate measure wrote?") from None
    if not isinstance(document, dict):
        raise InvalidFile(f"{path}: expected a mapping at the top, found {type(document).__name__}")
    return _read(Section(document, str(path)))


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _read(section: Section) -> Measurements:
    version = section.integer("version")
    if version != VERSION:
        raise InvalidFile(f"{section.where}: version {version}, this release reads {VERSION}: measure again")
    machine, provenance = section.section("machine"), section.section("provenance")
    found = Measurements(
        machine=ReadOnly({key: _plain(machine, key) for key in machine.remaining()}),
        stack=section.name("stack"),
        provenance=ReadOnly({key: provenance.text(key) for key in provenance.remaining()}),
        disturbances=_texts(section, "disturbances"),
        probes=_texts(section, "probes"),
        samples=tuple(_sample(raw, f"{section.where}: samples[{i}]") for i, raw in enumerate(section.items("samples"))),
    )
    if section.flag("clean") != found.is_clean:
        raise InvalidFile(f"{section.where}: clean says other than disturbances do: measure again")
    section.done()
    _check_machine(found, section.where)
    return found


_MAY_BE_NOTHING = ("spec", "h2d_bytes_per_s", "d2h_bytes_per_s")
"""What a machine may be without: a maker's description, and a speed that its link is paced to."""


def _check_machine(found: Measurements, where: str) -> None:
    """Raise `InvalidFile` unless the machine has printable names and sizes above 0, and the stack is one of its own."""
    for key, value in found.machine.items():
        if isinstance(value, str) or (value is None and key not in _MAY_BE_NOTHING):
            check_name(str(value or ""), f"{where}: machine: {key}")
        elif value is not None and not (isinstance(value, bool) or value > 0):
            raise InvalidFile(f"{where}: machine: {key} = {value:g} is not above 0: measure again")
    if found.stack not in stack_names():
        raise unknown_name("stack", found.stack, stack_names(), where)
    backend = found.machine.get("backend")
    if backend is None:
        return
    if backend not in BACKEND_STACKS:
        raise unknown_name("back end", str(backend), BACKEND_STACKS, f"{where}: machine")
    if found.stack not in BACKEND_STACKS[backend]:
        runs = " or ".join(BACKEND_STACKS[backend])
        raise InvalidFile(f"{where}: stack = {found.stack!r}: the back end {backend} runs {runs}: measure again")


def _texts(section: Section, key: str) -> tuple[str, ...]:
    texts = section.items(key)
    if not all(isinstance(text, str) for text in texts):
        raise InvalidFile(f"{section.where}: {key} holds something that is no text")
    return tuple(texts)


def _plain(section: Section, key: str) -> Any:
    """A value that is text, a finite number, true, false or nothing."""
    value = section.take(key, optional=True)
    if isinstance(value, str | bool | None) or (isinstance(value, int | float) and abs(value) <= sys.float_info.max):
        return value
    raise InvalidFile(f"{section.where}: {key} = {reprlib.repr(value)} is neither text nor a finite number")


def _sample(raw: object, where: str) -> Sample:
    if not isinstance(raw, dict):
        raise InvalidFile(f"{where} is not a mapping")
    section = Section(raw, where)
    what, table = section.text("what"), section.section("parameters")
    gemms = {"gemms": table.items("gemms")} if "gemms" in table else {}
    parameters = {key: _plain(table, key) for key in table.remaining()} | gemms
    median_s, p25_s, p75_s, mean_s = (section.number(name, minimum=0) for name in _TIMES)
    scatter = section.number("scatter", minimum=0) if "scatter" in section else None
    n = section.integer("n", minimum=1)
    section.done()
    try:
        sample = Sample(what, parameters, median_s, p25_s, p75_s, mean_s, n, scatter)
        check_quartiles(sample)
    except InvalidInput as error:
        raise InvalidFile(f"{where}: {error}") from None
    check_kind(sample, where)
    return sample
