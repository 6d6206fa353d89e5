"""Requests that arrive and queue, on a device: passes of the sizes that they ask for are run, the queue is replayed.

    python -m benchmarks.device_arrivals BACKEND FIT OUT.json [ARRIVALS]

A design's passes (prompts of five lengths, tokens of batches at two contexts, as `pregate arrivals` predicts them) are
run by the runtime, and requests are served by those times at three rates: shares of what the design with the least
capacity serves. Beside each figure stands what was predicted of it on FIT. What is measured is the passes; who shares a
pass is the rule of `simulator.serving.arrivals`. ARRIVALS: a public trace; without one requests of one length come at
random.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pregate
from hwmodels.platform import Platform, load_platform
from offload.policies import policy_named
from pregate.economics.arrivals import PERCENTILES
from pregate.economics.step_times import PassTime, PassTimes, PassTraces, pass_times, pass_traces
from pregate.validation.cases import shortened
from runtime.microbench.session import cpu_link
from simulator.serving.arrivals import PASS_TOKENS, StepTimes, capacity, serve_arrivals
from traces.importers.arrivals import load_arrivals
from traces.requests import ArrivalTrace, poisson_arrivals
from traces.routing import RoutingTrace

POLICIES = ("on_demand", "pregate")
LOADS = (0.3, 0.6, 0.9)
"""Rates, over the capacity of the design that has the least."""

N_REQUESTS, SLOTS, REPEATS = 1000, 8, 2
LINK_BYTES_PER_S = 2e9
"""That the CPU back end imitates."""


def main(backend: str, fit: str, output: Path, arrivals: Path | None = None) -> None:
    """Run the passes, serve the requests, write both."""
    small = backend == "cpu"
    model = pregate.load_model("switch-mini-16") if small else shortened("switch-base-64", "bf16")
    asked = _asked(arrivals, 50 if small else N_REQUESTS, small)
    passes = pass_traces(model, asked, 1 if small else SLOTS, PASS_TOKENS)
    hw = load_platform(fit)
    device = _device(backend, hw)
    if small:
        hw = load_platform(fit, None, {f"link.{way}_bytes_per_s": LINK_BYTES_PER_S for way in ("h2d", "d2h")})
    predicted = {name: pass_times(passes, hw, policy_named(name)) for name in POLICIES}
    measured = {name: run_passes(passes, found, name, device) for name, found in predicted.items()}
    least = min(float(capacity(asked, [_steps(one)], passes.slots)[0]) for one in measured.values())
    rates = [share * least for share in LOADS]
    document = {
        "model": model.name, "fit": hw.fit.name if hw.fit is not None else "", "requests": asked.source,
        "n_requests": len(asked), "slots": passes.slots, "pass_tokens": PASS_TOKENS,
        "what": "passes were run, requests were served by their times: no server ran",
        "passes": {name: _passes(measured[name], predicted[name]) for name in POLICIES},
        "rates": [_at_rate(asked, rate, passes.slots, measured, predicted) for rate in rates],
    }  # fmt: skip
    output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(document["rates"], indent=1))


def run_passes(passes: PassTraces, predicted: PassTimes, policy: str, device: pregate.Device) -> PassTimes:
    """`predicted` with the seconds that the passes took on `device`."""

    def took(trace: RoutingTrace, metric: str, one: PassTime) -> PassTime:
        run = pregate.run(
            passes.model, trace, policy, device=device, repeats=REPEATS if device.backend == "cuda" else 1
        )
        return dataclasses.replace(one, seconds=float(getattr(run, metric)))

    prompts = tuple(took(trace, "ttft_s", one) for trace, one in zip(passes.prompts, predicted.prompts, strict=True))
    tokens = tuple(
        (took(short, "tpot_s", one), took(long, "tpot_s", other))
        for (short, long), (one, other) in zip(passes.tokens, predicted.tokens, strict=True)
    )
    return dataclasses.replace(predicted, prompts=prompts, tokens=tokens)


def _asked(path: Path | None, n: int, small: bool) -> ArrivalTrace:
    """The requests: of a trace those whose prompt is one pass."""
    if path is None:
        return poisson_arrivals(n, 1.0, 16 if small else 128, 8 if small else 64)
    whole = load_arrivals(path)
    fits = whole.input_tokens <= PASS_TOKENS
    arrays = (values[fits] for values in (whole.arrival_s, whole.input_tokens, whole.output_tokens))
    return ArrivalTrace(*arrays, whole.source, whole.n_left_out + int((~fits).sum())).first(n)


def _device(backend: str, hw: Platform) -> pregate.Device:
    if backend == "cuda":
        return pregate.Device("cuda", graphs=hw.stack.name == "streams")
    link = cpu_link(LINK_BYTES_PER_S)
    return pregate.Device("cpu", h2d=link, d2h=link)


def _steps(found: PassTimes) -> StepTimes:
    return found.drawn(lambda _: np.zeros(1))[0]


def _passes(measured: PassTimes, predicted: PassTimes) -> dict[str, Any]:
    """Seconds of each pass, measured and predicted."""

    def both(a: PassTime, b: PassTime) -> dict[str, float]:
        return {"measured_s": a.seconds, "predicted_s": b.seconds}

    prompts = zip(measured.prompt_tokens, measured.prompts, predicted.prompts, strict=True)
    tokens = zip(measured.batches, measured.tokens, predicted.tokens, strict=True)
    return {
        "prompts": [{"tokens": n, **both(a, b)} for n, a, b in prompts],
        "tokens": [
            {"batch": n, "context": context, **both(a, b)}
            for n, mine, theirs in tokens
            for context, a, b in zip(measured.contexts, mine, theirs, strict=True)
        ],
    }


def _at_rate(
    asked: ArrivalTrace, rate: float, slots: int, measured: dict[str, PassTimes], predicted: dict[str, PassTimes]
) -> dict[str, Any]:
    """Percentiles of each design at a rate."""
    came = asked.at_rate(rate)
    found: dict[str, Any] = {"requests_per_s": rate}
    for name in POLICIES:
        found[name] = {
            told: _percentiles(came, _steps(times[name]), slots)
            for told, times in (("measured", measured), ("predicted", predicted))
        }
    return found


def _percentiles(came: ArrivalTrace, steps: StepTimes, slots: int) -> dict[str, float]:
    served = serve_arrivals(came, steps, slots)
    columns: dict[str, NDArray[np.float64]] = {"ttft": served.ttft_s, "tpot": served.tpot_s(came)}
    return {f"{name}_p{p}_s": float(np.percentile(values, p)) for name, values in columns.items() for p in PERCENTILES}


if __name__ == "__main__":
    from docs.script_arguments import given

    named, machine, target, recorded = given(__doc__, "BACKEND", "FIT", "OUT.json", "[ARRIVALS]")
    main(named, machine, Path(target), Path(recorded) if recorded else None)
