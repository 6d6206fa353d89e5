"""What was measured of one machine and one software stack: the file that `measure` writes and `calibrate` reads.

JSON, bounded in size, checked field by field: a file of measurements is as hostile as any other until it has been read.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwmodels.quantity import ReadOnly
from offload.ops import Gemm, OpKind, Work
from traces.architecture import ModelArchitecture
from traces.documents import read_text
from traces.errors import InvalidFile, InvalidInput
from traces.routing import RoutingTrace
from traces.whole_file import whole_file

__all__ = ["Measurements", "Sample", "load_measurements", "sample_of", "work_parameters", "workload_digest"]

VERSION = 1
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
    """

    what: str
    parameters: Mapping[str, Any]
    median_s: float
    p25_s: float
    p75_s: float
    mean_s: float
    n: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", ReadOnly(self.parameters))
        for name in _TIMES:
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0 <= value < math.inf):
                raise InvalidInput(f"sample {self.what}: {name} = {value!r} is no time")
        if self.n < 1:
            raise InvalidInput(f"sample {self.what}: n = {self.n}, at least 1 needed")

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
            return Work(
                OpKind[str(parameters["kind"]).upper()],
                tuple(Gemm(*(int(number) for number in gemm)) for gemm in parameters["gemms"]),
                str(parameters["dtype"]),
                float(parameters["weight_bits"]),
                flop=int(parameters["flop"]),
                hbm_bytes=int(parameters["hbm_bytes"]),
                copy_bytes=int(parameters["copy_bytes"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(f"sample {self.what} is not of an op: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        times = {name: getattr(self, name) for name in (*_TIMES, "n")}
        return {"what": self.what, "parameters": dict(self.parameters), **times}


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
        "dtype": work.dtype,
        "weight_bits": work.weight_bits,
        "flop": work.flop,
        "hbm_bytes": work.hbm_bytes,
        "copy_bytes": work.copy_bytes,
    }


def workload_digest(model: ModelArchitecture, trace: RoutingTrace) -> str:
    """16 hex digits of a model and its routing: what was run for a fit must not be validated on it."""
    return hashlib.sha256(f"{model.to_dict()} {trace.digest}".encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Measurements:
    """All samples of one session on one machine.

    `machine`: what it is (device, host, sizes of memory, number of cores), JSON values; `stack`: the software that ran;
    `provenance`: command, date, versions; `disturbances`: what else ran meanwhile, empty on a quiet machine.
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
        """Whether the machine did nothing else."""
        return not self.disturbances

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
    """Read a file of measurements. Raises `InvalidFile`, naming what is wrong with it."""
    path = Path(path)
    try:
        document = json.loads(read_text(path, MAX_BYTES), parse_constant=_no_constant)
        return _read(document)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InvalidFile(f"{path}: not JSON ({error})") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidFile(f"{path}: not a file of measurements ({type(error).__name__}: {error})") from None
    except InvalidInput as error:
        raise InvalidFile(f"{path}: {error}") from None


def _no_constant(text: str) -> float:
    raise InvalidInput(f"{text} is no number")


def _read(document: dict[str, Any]) -> Measurements:
    if document["version"] != VERSION:
        raise InvalidInput(f"version {document['version']!r}, this release reads {VERSION}: measure again")
    return Measurements(
        machine=ReadOnly(dict(document["machine"])),
        stack=str(document["stack"]),
        provenance=ReadOnly({str(key): str(value) for key, value in document["provenance"].items()}),
        disturbances=tuple(str(text) for text in document["disturbances"]),
        probes=tuple(str(digest) for digest in document["probes"]),
        samples=tuple(_sample(raw) for raw in document["samples"]),
    )


def _sample(raw: dict[str, Any]) -> Sample:
    median_s, p25_s, p75_s, mean_s = (float(raw[name]) for name in _TIMES)
    return Sample(str(raw["what"]), dict(raw["parameters"]), median_s, p25_s, p75_s, mean_s, int(raw["n"]))
