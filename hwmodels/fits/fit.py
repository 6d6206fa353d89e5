"""What was measured of a (machine, stack) pair: constants with interval, covariance and the rows each was fitted on.

Written by a calibration command and never by hand (`hwmodels.fits.fit_files` reads it); claims live in `stacks/`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from hwmodels.kernels.roofline import GemmTable, kernel_constant
from hwmodels.laws.fitted_law import FittedLaw
from hwmodels.quantity import DIMENSIONS, ReadOnly
from hwmodels.specs.machine_fields import FIELDS
from hwmodels.specs.machine_files import machine_document
from hwmodels.specs.spec import MachineSpec
from hwmodels.stacks.stack import CONSTANTS
from traces.foundation.documents import NUMBER

LAW_OF_KIND: Mapping[str, str] = ReadOnly(
    {
        "self_attention": "decode_attention",
        "cross_attention": "decode_attention",
        "gate": "gemm",
        "experts": "experts",
        "dense_ffn": "gemm",
        "head": "gemm",
    }
)
"""The law that most of a kind of op is."""

UNSEEN_SCATTER = 0.25
"""Of the logarithm of times on a card that is like none of its family that was fitted, or whose family has one fitted
card only: the widest that laws showed elsewhere."""


@dataclass(frozen=True, slots=True)
class FittedConstant:
    """A measured constant in SI: `ci95` from the fit's covariance, `rows` it was fitted on (names in the fit)."""

    value: float
    ci95: tuple[float, float]
    rows: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """How well the other samples predict one that is left out: over `n` of them, median and 90th percentile of
    |error|, relative, and `scatter`, the root mean square of the logarithm of predicted over measured.
    """

    n: int
    median: float
    p90: float
    scatter: float


@dataclass(frozen=True, slots=True)
class Fit:
    """What was measured of `stack` on `hardware`.

    `constants` replace the stack's claims; `assumptions` are of the workload the rows were measured with (how many
    of a layer's experts the traffic uses), fitted beside them and counted with them. `covariance`: (n, n)
    of ln(value), all being positive, in the order of `order`. `provenance`: where the rows came from, when, by
    which command. `dtypes`: weight formats that the rows were measured in; others are extrapolated.

    A fit of microbenchmarks has more: `kernels`, constants of each kind of op ("self_attention.fixed_s"), and
    `gemm_tables`, in place of a roofline with one efficiency; `left_out`, the leave-one-out error of each kind, and of
    "rounds", how far the same samples lay from each other from one round of the session to the next;
    `laws`: of kernels, from a public table of them (`hwmodels.laws`); a fit of these has no `kernels`.
    `machine`, the machine itself where no maker describes it; `probes`, digests of what must not be validated on it;
    `link`, figures of the link that copies were measured to achieve, by field; `conditions`, under
    which a shared fit was measured (`hwmodels.fits.conditions`).
    What no calibration can have found is refused where one is made or read (`hwmodels.fits.fit_limits`).
    """

    name: str
    hardware: str
    stack: str
    dtypes: tuple[str, ...]
    constants: Mapping[str, FittedConstant]
    assumptions: Mapping[str, FittedConstant]
    order: tuple[str, ...]
    covariance: tuple[tuple[float, ...], ...]
    provenance: Mapping[str, str]
    kernels: Mapping[str, FittedConstant] = field(default_factory=lambda: ReadOnly({}))
    gemm_tables: tuple[GemmTable, ...] = ()
    left_out: Mapping[str, LeftOut] = field(default_factory=lambda: ReadOnly({}))
    machine: MachineSpec | None = None
    probes: tuple[str, ...] = ()
    link: Mapping[str, float] = field(default_factory=lambda: ReadOnly({}))
    conditions: Mapping[str, str | float | bool] = field(default_factory=lambda: ReadOnly({}))
    laws: tuple[FittedLaw, ...] = ()

    def drawn(self, key: str) -> FittedConstant | None:
        """The constant behind a figure (`stack.sync_s`, `kernel.experts.fixed_s`); None where it was not fitted."""
        kind, _, name = key.partition(".")
        return {"stack": self.constants, "kernel": self.kernels}.get(kind, {}).get(name)

    def to_yaml(self) -> str:
        """The text of the fit file."""
        document: dict[str, Any] = {
            "hardware": self.hardware,
            "stack": self.stack,
            "dtypes": list(self.dtypes),
            "provenance": dict(self.provenance),
            "constants": {n: _entry(c, DIMENSIONS[CONSTANTS[n]]) for n, c in self.constants.items()},
            "assumptions": {n: _entry(c, "1") for n, c in self.assumptions.items()},
            "log_covariance": {"order": list(self.order), "matrix": [list(row) for row in self.covariance]},
        }
        if self.kernels:
            document["kernels"] = {n: _entry(c, _unit(n)) for n, c in self.kernels.items()}
            document["gemm_tables"] = [table.to_dict() for table in self.gemm_tables]
        if self.laws:
            document["laws"] = [law.to_dict() for law in self.laws]
        if self.left_out:
            document["leave_one_out"] = {
                kind: {name: round(getattr(one, name), 4) for name in ("n", "median", "p90", "scatter")}
                for kind, one in self.left_out.items()
            }
        if self.machine is not None:
            document["machine"] = machine_document(self.machine)
        if self.probes:
            document["probes"] = list(self.probes)
        if self.link:
            document["link"] = {
                name: {"value": value, "unit": DIMENSIONS[FIELDS["link"][name].dimension]}
                for name, value in self.link.items()
            }
        if self.conditions:
            document["conditions"] = dict(self.conditions)
        document["digest"] = digest_of(document)
        return yaml.safe_dump(document, sort_keys=False, width=110, default_flow_style=None)


def law_errors(laws: Sequence[FittedLaw], *, machines: bool = False, alike: bool = True) -> dict[str, LeftOut]:
    """The errors of each kind of op: of its law on families left out, or on `machines` left out, unless no machine that
    was left out is `alike`.
    """
    found = {}
    for kind, form in LAW_OF_KIND.items():
        mine = [law for law in laws if law.form == form] or [law for law in laws if law.form == "gemm"]
        error = mine[0].families
        if machines:
            known = mine[0].elsewhere if alike else None
            error = known or replace(error, scatter=max(error.scatter, UNSEEN_SCATTER))
        found[kind] = LeftOut(error.n, error.median, error.p90, error.scatter)
    return found


def elsewhere(fit: Fit, *, alike: bool) -> Fit:
    """A fit of laws lent to another card of its family: the errors are those of machines left out.

    `alike`: whether the card lies no further off than those lay apart; else nobody has seen laws go so far.
    """
    return replace(fit, left_out=ReadOnly(law_errors(fit.laws, machines=True, alike=alike)))


def _entry(constant: FittedConstant, unit: str) -> dict[str, Any]:
    return {
        "value": constant.value,
        "unit": unit,
        "ci95": list(constant.ci95),
        "n": len(constant.rows),
        "rows": list(constant.rows),
    }


def _unit(kernel: str) -> str:
    return DIMENSIONS[kernel_constant(kernel) or "ratio"]


def digest_of(document: Mapping[str, Any]) -> str:
    """16 hex digits of all that a fit says, however its text is laid out and its numbers are written."""
    return hashlib.sha256(json.dumps(_plain(document), sort_keys=True).encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """JSON values, every number a float: YAML reads 1e-05 as text, and 1 as another number than 1.0."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, bool) or value is None or not NUMBER.fullmatch(str(value)):
        return str(value)
    return float(value)
