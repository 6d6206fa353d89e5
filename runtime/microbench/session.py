"""Measure a machine: every microbenchmark in rounds, each beside a watch on what else the machine does.

No machine is too busy to be measured. How far the figures can be trusted goes with them, and only where the same thing
takes half or twice the time when it is timed again is there nothing to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from hwmodels.calibrate.measurements import Measurements, workload_digest
from hwmodels.quantity import ReadOnly
from runtime.machine.device import describe_device, software
from runtime.machine.watch import Busy, Clock
from runtime.microbench.parts import LINK_LATENCY_S, Settings, cpu_link, microbenchmarks_of, probes_of
from runtime.microbench.rounds import in_rounds
from traces.errors import InvalidInput, unknown_name

__all__ = ["LINK_LATENCY_S", "Settings", "cpu_link", "measure"]

_NOTHING: Mapping[str, str] = ReadOnly({})
_BACKENDS = ("cpu", "cuda")


def measure(
    settings: Settings | str,
    provenance: Mapping[str, str] = _NOTHING,
    *,
    say: Callable[[str], None] = lambda _: None,
    insist: bool = True,
    **options: Any,
) -> Measurements:
    """Run every microbenchmark on `settings.backend`; `say` hears what is being done.

    `settings`: "cpu" or "cuda" with `options` as of `Settings` (`link_bytes_per_s`, `quick`, `budget_s`), or these.
    `provenance`: command, date, commit; the trust in the figures is added. Raises `Busy`, if `insist`, when the rounds
    scatter so much that they say nothing.
    """
    settings = _settings(settings, options)
    session = in_rounds(
        microbenchmarks_of(settings), settings.rounds_s, say, Clock(any_core=settings.backend == "cuda")
    )
    samples = session.samples
    trust = session.trust(samples)
    if insist and trust.level == "none":
        raise Busy(
            f"the machine is too busy to say anything of it: {'; '.join(trust.reasons)}: stop other work, give more "
            f"time (--budget-s), or take what there is (--even-if-busy)"
        )
    machine = describe_device(settings.backend)
    if settings.backend == "cpu":
        speed = settings.link_bytes_per_s
        machine |= {"h2d_bytes_per_s": speed, "d2h_bytes_per_s": speed}
    return Measurements(
        machine=ReadOnly(machine),
        stack=settings.stack,
        provenance=ReadOnly({**provenance, **software(), **trust.recorded()}),
        disturbances=session.disturbances,
        probes=tuple(dict.fromkeys(workload_digest(probe.model, probe.trace) for probe in probes_of(settings))),
        samples=samples,
    )


def _settings(given: Settings | str, options: Mapping[str, Any]) -> Settings:
    """Raises `InvalidInput` for options beside settings or a back end that is none, `UnknownName` for an option."""
    if isinstance(given, Settings):
        if options:
            raise InvalidInput(f"{', '.join(options)} beside settings: these say it themselves")
        return given
    if given not in _BACKENDS:
        raise unknown_name("back end", given, _BACKENDS)
    known = [field.name for field in fields(Settings) if field.name != "backend"]
    for name in options:
        if name not in known:
            raise unknown_name("option", name, known, "measure")
    return Settings(given, **options)
