"""A replay for real: its metrics are those of its timeline, and what cannot run is refused before memory is taken."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from offload.metrics import run_metrics
from offload.ops import Lane, OpKind
from pregate.ask.timing.captured_metrics import metrics_of
from pregate.running import measured_run
from pregate.running.devices import Device, capture_on
from pregate.running.measured_run import RunResult, execute_captured, run
from runtime.backends.pacing import Link
from tests.grids import some_of
from tests.small_models import MODELS, routing
from tests.small_runs import CPU, HBM_BYTES, MODEL
from tests.told_watch import QUIET, watch_of
from traces.errors import InvalidInput
from traces.phase import Phase

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")
from runtime.backends.cpu import CpuBackend  # noqa: E402
from runtime.machine import watch as watch_module  # noqa: E402
from runtime.machine.watch import Seen  # noqa: E402
from runtime.run import OutputMismatch  # noqa: E402

LOUD = Seen(foreign=0.0, steal=0.0, clock=2.0)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have the watches of the runs to come see what they are told to, then quiet."""

    def see(*seen: Seen) -> None:
        ahead = itertools.chain(seen, itertools.repeat(QUIET))
        monkeypatch.setattr(watch_module, "LoadWatch", watch_of(lambda: next(ahead)))

    see()
    return see


def test_metrics_are_those_of_the_timeline(watched: Callable[..., None]) -> None:
    trace = routing(MODEL, batch=2)
    done = run(MODEL, trace, "pregate+lru:3", device=dataclasses.replace(CPU, h2d=Link(50e6, 2e-5)))
    timeline = done.timeline
    schedule = timeline.schedule
    assert timeline.source == done.backend == "cpu"
    assert done.schedule_digest == schedule.digest
    assert done.trace_digest == trace.digest
    assert done.makespan_s == timeline.end_s.max()
    assert done.n_output_tokens == 10
    assert done.tokens_per_s == 10 / done.makespan_s
    tpot = run_metrics.tpot_s(timeline, trace)
    assert (done.tpot_s, done.tpot_p50_s, done.tpot_p99_s) == (tpot["mean"], tpot["p50"], tpot["p99"])
    assert done.ttft_s == run_metrics.ttft_s(timeline)
    assert done.moe_layer_latency_s == run_metrics.moe_layer_latency_s(timeline, run_metrics.decode_steps(trace))
    assert done.stall_s == run_metrics.stall_s(timeline) > 0
    assert done.stall_share == done.stall_s / done.makespan_s
    assert done.exposed_transfer_fraction == pytest.approx(
        run_metrics.exposed_s(timeline) / run_metrics.transfer_s(timeline)
    )
    assert done.peak_hbm_bytes == timeline.peak_hbm_bytes <= HBM_BYTES
    assert done.h2d_bytes == done.moved_bytes["h2d"] == schedule.bytes[schedule.lane == Lane.H2D].sum()
    assert done.moved_bytes["d2h"] == schedule.bytes[schedule.lane == Lane.D2H].sum() > 0
    assert done.moved_bytes["disk"] == 0
    assert sum(done.pool_bytes.values()) <= HBM_BYTES
    assert (done.n_runs, done.n_disturbed, done.disturbance) == (1, 0, None)


@pytest.mark.parametrize("name", MODELS)
def test_every_policy_and_tier_ends_in_the_same_states_with_the_hits_that_were_planned(
    name: str, watched: Callable[..., None], tmp_path: Path
) -> None:
    model = MODELS[name]
    trace = routing(model, batch=2)
    device = dataclasses.replace(CPU, storage=tmp_path)
    digests, rates = set(), {}
    for policy in ("gpu_only", "on_demand", "prefetch_all", "pregate", "pregate(2)", "lru", "on_demand+lru:12:warm"):
        for tier in ("dram", "ssd") if policy == "pregate" else ("dram",):
            done = run(model, trace, policy, device=device, expert_tier=tier)
            planned = capture_on(device, model, trace, policy, expert_tier=tier).decoded
            assert done.schedule_digest == planned.schedule.digest
            assert done.hit_rate == planned.n_hits / planned.n_lookups
            assert (done.moved_bytes["disk"] > 0) == (tier == "ssd")
            digests.add(done.output_digest)
            rates[policy] = done.hit_rate
    assert len(digests) == 1
    assert rates["gpu_only"] == 1
    assert rates["on_demand"] == 0 < rates["lru"]
    assert not list(tmp_path.iterdir())


MISSED = ("ssd", "ssd+lru:3", "ssd:filed:align=4KiB+lru:3", "ssd+lru:1.0")
"""Nothing kept, something, what is filed and read by pages, everything: what designs differ in when they miss."""
KEPT = (*MISSED[:2], "ssd:align=4KiB+fifo:5:per_layer", "ssd+static:4", "ssd:filed", *MISSED[2:])


@pytest.mark.parametrize(
    ("policy", "tiers"),
    [("on_demand", KEPT), *((one, MISSED) for one in ("pregate+lru:5", "gpu_only@experts=cpu", "on_demand:cpu+lru:5"))],
)
def test_experts_that_host_memory_keeps_above_storage_are_read_once_and_are_the_right_ones(
    policy: str, tiers: tuple[str, ...], watched: Callable[..., None], tmp_path: Path
) -> None:
    trace, device = routing(MODEL, batch=2), dataclasses.replace(CPU, storage=tmp_path)
    wanted = run(MODEL, trace, policy, device=device).output_digest
    moved = []
    for tier in tiers:
        done = run(MODEL, trace, policy, device=device, expert_tier=tier)
        planned = capture_on(device, MODEL, trace, policy, expert_tier=tier).decoded.schedule
        assert done.output_digest == wanted
        assert done.moved_bytes["disk"] == int(planned.bytes[planned.kind == OpKind.DISK_READ].sum())
        assert bool(np.any(planned.kind == OpKind.FILE)) == ("filed" in tier)
        moved.append(done.moved_bytes["disk"])
    assert moved[0] >= moved[1] >= moved[-1] > 0
    assert moved[0] > moved[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("tier", "word"), [("ssd:depth=4", "depth="), ("ssd:read=64B", "read="), ("ssd:read=matrix:align=4KiB", "read=")]
)
def test_reads_that_no_runtime_has_are_refused_before_anything_is_written(tier: str, word: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=word):
        run(MODEL, routing(MODEL), "on_demand", device=dataclasses.replace(CPU, storage=tmp_path), expert_tier=tier)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "policy",
    ["pregate:dram=2", "guess/markov:dram=2+lru:5", *some_of(["prefetch_all:dram=2", "guess/maps:dram=2:cpu"], ())],
)
def test_what_is_read_ahead_into_host_memory_ends_in_the_same_states(
    policy: str, watched: Callable[..., None], tmp_path: Path
) -> None:
    trace, device = routing(MODEL, batch=2), dataclasses.replace(CPU, storage=tmp_path)
    wanted = run(MODEL, trace, "on_demand", device=device).output_digest
    for tier in ("ssd+lru:4", "ssd:filed+fifo:5", "ssd:align=4KiB+lru:1.0"):
        done = run(MODEL, trace, policy, device=device, expert_tier=tier)
        planned = capture_on(device, MODEL, trace, policy, expert_tier=tier).decoded.schedule
        assert done.schedule_digest == planned.digest
        assert done.output_digest == wanted
        assert done.moved_bytes["disk"] == int(planned.bytes[planned.kind == OpKind.DISK_READ].sum())
        assert planned.priority[planned.kind == OpKind.DISK_READ].any() or tier.endswith("1.0")
    assert not list(tmp_path.iterdir())


def test_seeds_are_of_the_weights(watched: Callable[..., None]) -> None:
    trace = routing(MODEL)
    here, again, other = (run(MODEL, trace, "on_demand", device=CPU, seed=seed) for seed in (0, 0, 1))
    assert here.output_digest == again.output_digest != other.output_digest


def test_repeats_give_medians_and_the_timeline_of_the_middle_run(
    watched: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    executed = record(monkeypatch)
    trace = routing(MODEL)
    done = run(MODEL, trace, "pregate", device=CPU, repeats=3)
    captured = capture_on(CPU, MODEL, trace, "pregate")
    assert len(executed) == 4  # one of them to warm up
    measured = [metrics_of(captured, one.timeline, one.lookups[Phase.DECODE]) for one in executed[1:]]
    for name in measured[0]:
        assert getattr(done, name) == np.median([one[name] for one in measured])
    assert done.timeline.makespan_s == done.makespan_s
    assert done.n_runs == 3


@pytest.mark.parametrize(("repeats", "warmup", "n"), [(1, None, 1), (2, None, 3), (1, True, 2), (2, False, 2)])
def test_a_run_to_warm_up_comes_first_with_repeats_or_when_asked_for(
    repeats: int, warmup: bool | None, n: int, watched: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    executed, said = record(monkeypatch), list[str]()
    done = run(MODEL, routing(MODEL), "pregate", device=CPU, repeats=repeats, warmup=warmup, say=said.append)
    assert len(executed) == n
    assert done.n_runs == repeats
    assert ("warming up" in said) == (n > repeats)
    assert said[-1] == f"run {repeats} of {repeats}"


def record(monkeypatch: pytest.MonkeyPatch) -> list[measured_run.Run]:
    """The runs to come, in order."""
    executed: list[measured_run.Run] = []

    def execute(*args: object, **options: object) -> measured_run.Run:
        executed.append(execute_captured(*args, **options))  # type: ignore[arg-type]
        return executed[-1]

    monkeypatch.setattr(measured_run, "execute_captured", execute)
    return executed


def test_runs_beside_other_work_do_not_count_and_are_marked_when_all_were(
    watched: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = routing(MODEL)
    watched(LOUD, QUIET, LOUD)
    executed = record(monkeypatch)
    done = run(MODEL, trace, "pregate", device=CPU, repeats=3)
    assert (done.n_runs, done.n_disturbed, done.disturbance) == (1, 2, None)
    assert done.timeline is executed[2].timeline
    watched(LOUD, LOUD)
    done = run(MODEL, trace, "pregate", device=CPU, repeats=2)
    assert (done.n_runs, done.n_disturbed) == (2, 2)
    assert done.scatter is not None
    assert done.disturbance == LOUD.disturbance()


def test_repeats_that_end_in_other_states_are_refused(
    watched: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = execute_captured, itertools.count()

    def broken(*args: object, **options: object) -> measured_run.Run:
        done = real(*args, **options)  # type: ignore[arg-type]
        digests = (str(next(calls)), *done.pass_digests[1:])
        return dataclasses.replace(done, pass_digests=digests)

    monkeypatch.setattr(measured_run, "execute_captured", broken)
    with pytest.raises(OutputMismatch, match="run 2 and run 1 disagree in the hidden states of forward pass 0"):
        run(MODEL, routing(MODEL), "pregate", device=CPU, repeats=2)


def test_results_are_written_without_the_timeline(watched: Callable[..., None]) -> None:
    done = run(MODEL, routing(MODEL), "on_demand", device=CPU)
    document, row = done.to_dict(), done.to_row()
    names = {field.name for field in dataclasses.fields(RunResult)} - {"timeline"}
    assert set(document) == names
    assert document["pool_bytes"]["expert slots"] == row["pool_bytes.expert slots"] > 0
    assert row["moved_bytes.h2d"] == done.h2d_bytes
    frame = done.to_dataframe()
    assert frame.shape == (1, len(row))
    assert frame["tokens_per_s"][0] == done.tokens_per_s


def test_without_pytorch_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pregate.extras.find_spec", lambda _: None)
    with pytest.raises(InvalidInput, match=r"PyTorch is not installed.*pip install 'pregate\[runtime\]'"):
        run(MODEL, routing(MODEL), device=Device())


def test_an_interrupt_leaves_no_thread_and_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = CpuBackend.issue

    def interrupted(self: CpuBackend, op: int) -> None:
        if op == 20:
            assert lanes()
            raise KeyboardInterrupt
        real(self, op)

    monkeypatch.setattr(CpuBackend, "issue", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(MODEL, routing(MODEL), device=dataclasses.replace(CPU, storage=tmp_path), expert_tier="ssd")
    assert not lanes()
    assert not list(tmp_path.iterdir())


def lanes() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("pregate-")]


def test_describing_a_device_loads_no_framework() -> None:
    code = (
        "import sys, pregate; pregate.Device('cpu', h2d=pregate.Link(1e9)); pregate.run; "
        "print([m for m in ('torch', 'matplotlib', 'pandas', 'xarray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "design",
    [
        "gpu_only@experts=cpu:share=0.4",
        *some_of(["gpu_only@experts=cpu:2", "gpu_only@experts=cpu:keep=2", "pregate@experts=cpu:2"], ()),
        "gpu_only@experts=cpu", "on_demand@experts=cpu:3:keep=1",
        "on_demand:cpu+static:4:per_layer", "on_demand+lru:5:warm@experts=cpu:2:keep=2",
        "min_latency/paper=0.6+static:4", "min_latency/released=0.6+static:4", "bandwidth_split=0.6+lru:5:per_layer",
        "hybrid_schedule=0.6+lru:5", "on_demand+lru:5:warm:cheaper=0.6",
    ],
)  # fmt: skip
def test_experts_on_the_host_compute_what_the_device_would(design: str, watched: Callable[..., None]) -> None:
    """Bit for bit, wherever the experts are; only those that are kept take HBM."""
    watched()
    trace = routing(MODEL, batch=2, seed=3)
    resident, placed = (run(MODEL, trace, policy, device=CPU) for policy in ("gpu_only", design))
    assert placed.output_digest == resident.output_digest
    assert placed.pool_bytes["activations of experts on the host"] > 0
    assert placed.moved_bytes["d2h"] > 0
    assert placed.pool_bytes["expert slots"] < resident.pool_bytes["expert slots"]


@pytest.mark.parametrize("design", ["lru_next_gate+lru:6:per_layer", "lru_next_gate:recall=0.4+lru:5:per_layer"])
def test_a_guess_that_the_cache_takes_over_is_read_where_it_lies(design: str, watched: Callable[..., None]) -> None:
    """The slot of an expert changes hands between buffers and cache; what is computed stays the same."""
    watched()
    trace = routing(MODEL, batch=2, seed=3)
    resident, guessed = (run(MODEL, trace, policy, device=CPU) for policy in ("gpu_only", design))
    assert guessed.output_digest == resident.output_digest


def test_what_a_design_would_ask_of_the_machine_is_stated_for_a_run() -> None:
    with pytest.raises(InvalidInput, match="state the time"):
        run(MODEL, routing(MODEL, batch=1), "min_latency/paper+static:4", device=CPU)
    with pytest.raises(InvalidInput, match="a part of an expert"):
        run(MODEL, routing(MODEL, batch=1), "bandwidth_split/within=0.6+static:4", device=CPU)


PLAIN, SHARED = (name for name, model in MODELS.items() if not model.is_encoder_decoder)
ON_HOST = list(
    itertools.product(
        [PLAIN, SHARED], [1, 3], ["gpu_only@layers=cpu", "gpu_only@layers=cpu:1", "on_demand@layers=cpu:1-"]
    )
)
COVER = [ON_HOST[0], ON_HOST[4], ON_HOST[8], ON_HOST[9]]
"""Each design, each model and each batch: what `make test` runs of them."""


@pytest.mark.parametrize("case", some_of(ON_HOST, COVER))
def test_layers_on_the_host_end_in_the_same_states(case: tuple[str, int, str]) -> None:
    name, batch, design = case
    model = MODELS[name]
    trace = routing(model, batch=batch, seed=5)
    resident, placed = (run(model, trace, policy, device=CPU) for policy in ("gpu_only", design))
    assert placed.output_digest == resident.output_digest
    kinds = set(placed.timeline.schedule.kind.tolist())
    assert OpKind.CPU_LAYER in kinds
    assert (OpKind.SELF_ATTENTION in kinds) == ("layers=cpu:" in design)
    there, here = placed.pool_bytes, resident.pool_bytes
    assert there["KV cache"] < here["KV cache"]
    assert there["weights outside experts"] < here["weights outside experts"]


def test_a_layer_on_the_host_that_reads_an_encoder_is_refused_by_name() -> None:
    model = MODELS["encoder-decoder"]
    with pytest.raises(InvalidInput, match="whose outputs no op hands to layers on the host"):
        run(model, routing(model, batch=1), "gpu_only@layers=cpu", device=CPU)


def test_what_streams_or_attends_on_the_host_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match="streams weights, keys or values"):
        run(MODEL, routing(MODEL, batch=1), "gpu_only@weights=stream", device=CPU)
    with pytest.raises(InvalidInput, match="attends on the host to keys and values"):
        run(MODEL, routing(MODEL, batch=1), "gpu_only@kv=cpu", device=CPU)
