"""Ops and GEMMs as they are measured: every kind has a sample, and a sample says which work it is of."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial

import numpy as np
import pytest

from hwmodels.calibrate.measurements import Sample, workload_digest
from offload.decode import decode
from offload.execution import EXECUTIONS
from offload.ops import KERNEL_KINDS, Lane, OpKind, Work
from offload.policies import policy_named
from tests.small_models import MODELS
from traces.phase import Phase

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from runtime.backends.backend import Action, Backend, Times  # noqa: E402
from runtime.backends.cpu import CpuBackend  # noqa: E402
from runtime.backends.pacing import Link  # noqa: E402
from runtime.microbench import contention, gemms, ops  # noqa: E402
from runtime.microbench.gemms import gemm_samples  # noqa: E402
from runtime.microbench.ops import offloaded_samples, op_samples  # noqa: E402
from runtime.microbench.parts import Settings, probes_of  # noqa: E402
from runtime.microbench.probes import Probe, probes  # noqa: E402
from runtime.model.weights import Experts  # noqa: E402
from runtime.programs.program import build_program  # noqa: E402

OUTPUT_TOKENS = 6
"""So many that eight readbacks are timed at least: beside a copy or apart from it are four, whichever they were."""

DECODERS = Probe(MODELS["decoder-only"], 2, 4, OUTPUT_TOKENS, 3)
ENCODERS = Probe(MODELS["encoder-decoder"], 1, 4, OUTPUT_TOKENS, 1)
N_LAYERS = {probe.name: probe.model.decoder.n_layers for probe in (DECODERS, ENCODERS)}


def make() -> Backend:
    return CpuBackend(h2d=Link(100e6, 1e-5), d2h=Link(100e6, 1e-5))


def kinds(samples: list[Sample], what: str, phase: str) -> set[str]:
    return {s.parameters["kind"] for s in samples if s.what == what and s.parameters["phase"] == phase}


@pytest.fixture(scope="module")
def resident() -> list[Sample]:
    """Of both probes, all experts resident."""
    return [s for probe in (DECODERS, ENCODERS) for s in op_samples(make, probe, Experts(probe.model))]


@pytest.fixture(scope="module")
def offloaded() -> dict[str, list[Sample]]:
    experts = Experts(DECODERS.model)
    return {policy: offloaded_samples(make, DECODERS, experts, policy) for policy in ("on_demand", "pregate")}


def test_every_kind_of_op_is_sampled_alone(resident: list[Sample]) -> None:
    names = {kind.name.lower() for kind in KERNEL_KINDS}
    assert names <= kinds(resident, "op", "decode")
    assert names - {"cross_attention"} <= kinds(resident, "op", "prefill")
    assert {s.parameters["beside"] for s in resident} == {"nothing"}
    assert not {"fetch", "readback", "wait"} & (kinds(resident, "op", "decode") | kinds(resident, "op", "prefill"))
    assert "step" in kinds(resident, "op", "decode")


def test_what_was_issued_has_a_host_time_and_the_hosts_own_ops_have_none(resident: list[Sample]) -> None:
    ops = {(s.parameters["probe"], s.parameters["kind"], s.parameters["phase"]) for s in resident if s.what == "op"}
    issued = {
        (s.parameters["probe"], s.parameters["kind"], s.parameters["phase"]) for s in resident if s.what == "issue"
    }
    assert issued == {one for one in ops if one[1] not in ("step", "wait")}


def test_the_first_decode_pass_is_left_out(resident: list[Sample]) -> None:
    """A step a pass, a self-attention a layer; behind an encoder the first token is decoded too."""
    n_decoded = {DECODERS.name: OUTPUT_TOKENS - 2, ENCODERS.name: OUTPUT_TOKENS - 1}
    for kind, n_layers in (("step", {name: 1 for name in n_decoded}), ("self_attention", N_LAYERS)):
        found = [s for s in resident if s.what == "op" and s.parameters["kind"] == kind]
        counted = {s.parameters["probe"]: s.n for s in found if s.parameters["phase"] == "decode"}
        assert counted == {name: n_layers[name] * n for name, n in n_decoded.items()}


def test_works_survive_json(resident: list[Sample]) -> None:
    for sample in (s for s in resident if s.what == "op"):
        written = json.loads(json.dumps(sample.to_dict()))
        again = Sample(**written)
        assert again == sample
        assert again.work == sample.work
        assert again.work.kind is OpKind[sample.parameters["kind"].upper()]
    experts = [s.work for s in resident if s.what == "op" and s.parameters["kind"] == "experts"]
    assert all(work.gemms and work.compute == "fp32" for work in experts)
    shapes = Counter(
        (s.parameters["probe"], s.parameters["phase"], s.work.kind, s.work.gemms) for s in resident if s.what == "op"
    )
    assert set(shapes.values()) == {1}, "a sample a shape"


@pytest.mark.parametrize("policy", ["on_demand", "pregate"])
def test_offloaded_experts_are_fetched_and_their_ids_read_back(offloaded: dict[str, list[Sample]], policy: str) -> None:
    samples = offloaded[policy]
    blocks = {"on_demand": 1, "pregate": 2}[policy]
    slots = [blocks * n for n in (DECODERS.n_active, min(2 * DECODERS.n_active, DECODERS.model.n_experts))]
    assert {s.parameters["beside"] for s in samples} == {f"{policy}, {n} slots" for n in slots}
    sizes = {s.work.slots_bytes for s in samples if s.what == "op" and s.parameters["kind"] == "experts"}
    assert sizes == {n * DECODERS.model.expert_bytes for n in slots}
    assert {"fetch", "readback", "wait", "experts", "self_attention"} <= kinds(samples, "op", "decode")
    fetches = [s for s in samples if s.what == "op" and s.parameters["kind"] == "fetch"]
    expert_bytes = DECODERS.model.expert_bytes
    assert {s.work for s in fetches} == {Work(OpKind.FETCH, copy_bytes=expert_bytes)}
    for sample in fetches:
        assert sample.median_s > 0.5 * (1e-5 + expert_bytes / 100e6), "a late copy leaves its link free in time"
    readback = next(s for s in samples if s.what == "op" and s.parameters["kind"] == "readback")
    assert readback.work.copy_bytes > 0
    of_op = {json.dumps(dict(s.parameters)): s.n for s in samples if s.what == "op"}
    told = [s for s in samples if s.what in ("beside", "apart")]
    assert told
    for sample in told:
        assert 4 <= sample.n <= of_op[json.dumps(dict(sample.parameters))]
    kinds_told = {s.parameters["kind"] for s in told}
    assert "readback" in kinds_told
    assert kinds_told <= {kind.name.lower() for kind in (*KERNEL_KINDS, OpKind.READBACK)}


def test_ops_that_fetch_are_told_by_whether_a_copy_was_under_way_when_they_ended() -> None:
    copying = np.array([True] * 5 + [False] * 3 + [True] * 2)
    ran = ops._Ran(None, np.arange(10.0), np.zeros(10), copying)  # type: ignore[arg-type]
    beside, *others = ops._by_copies(ran, np.arange(10), {"kind": "gate"})
    assert (beside.what, beside.n, beside.median_s) == ("beside", 7, 3.0)
    assert not others, "three are too few for a sample"
    beside, apart = ops._by_copies(ran, np.array([0, 1, 2, 3, 5, 6, 7, 5]), {"kind": "gate"})
    assert (beside.median_s, apart.what, apart.median_s) == (1.5, "apart", 5.5)


def test_a_probe_activates_as_many_experts_as_it_says_other_ones_every_time() -> None:
    for probe, n_decoded in ((DECODERS, OUTPUT_TOKENS - 1), (ENCODERS, OUTPUT_TOKENS)):
        trace = probe.trace
        assert trace.digest == probe.trace.digest
        decode = [step for step in trace.steps() if step.phase == Phase.DECODE]
        assert len(decode) == n_decoded
        active = [
            {int(e) for e in step.experts[:, layer].ravel() if e >= 0}
            for step in decode
            for layer in range(step.experts.shape[1])
        ]
        assert {len(one) for one in active if one} == {probe.n_active}
        assert len({tuple(sorted(one)) for one in active}) > 1


def test_every_probe_is_a_workload_of_its_own_with_a_name_of_its_own() -> None:
    for backend in ("cpu", "cuda"):
        every = list(probes_of(Settings(backend, dtypes=("fp32", "bf16"))))
        digests = {workload_digest(probe.model, probe.trace) for probe in every if probe.input_tokens < 100}
        assert len(digests) == sum(probe.input_tokens < 100 for probe in every)
        quick = list(probes_of(Settings(backend, quick=True)))
        assert len(quick) * 2 < len(every)
    names = [probe.name for probe in probes("fp32")]
    assert len(names) == len(set(names))


def test_a_quick_session_still_has_every_kind_of_op() -> None:
    quick = list(probes_of(Settings("cpu", quick=True)))
    assert any(probe.model.decoder.cross_attention for probe in quick)
    assert any(probe.offloaded for probe in quick)
    assert any(len(probe.model.decoder.moe_layers) < probe.model.decoder.n_layers for probe in quick)


@pytest.fixture
def small_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemms, "_POOL_BYTES", 1 << 20)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_grid_has_a_sample_a_point(small_pool: None, dtype: str) -> None:
    samples = gemm_samples(make, dtype, rows=(1, 8), params=(1 << 12, 1 << 14), aspects=(0.25, 4.0), point_s=1e-3)
    found = [(s.parameters["m"], s.parameters["params"], s.parameters["aspect"]) for s in samples]
    assert sorted(found) == [(m, p, a) for m in (1, 8) for p in (1 << 12, 1 << 14) for a in (0.25, 4.0)]
    for sample in samples:
        m, n, k, params, aspect = (sample.parameters[name] for name in ("m", "n", "k", "params", "aspect"))
        assert (sample.what, sample.parameters["dtype"]) == ("gemm", dtype)
        assert (n * k, k / n) == (params, aspect)
        assert m in (1, 8)
        assert sample.n >= 4
        assert sample.median_s > 0


def test_shapes_of_one_number_of_rows_are_timed_together_in_an_order_of_chance() -> None:
    """As a pass has them: rows do not change, shapes do; each is met once before it counts."""

    def action() -> None:
        raise AssertionError

    points = [gemms._point(m, 1 << p, 1.0, "fp32", 0.01, 4) for m in (1, 16) for p in (8, 10)]
    of_points = [[action] * 6 for _ in points]
    actions, of_point = gemms._shuffled(points, of_points, None)
    assert Counter(of_point) == dict.fromkeys(range(4), 6)
    assert [{points[i].m for i in of_point[at : at + 12]} for at in (0, 12)] == [{1}, {16}]
    for at, first in ((0, [0, 1]), (12, [2, 3])):
        assert of_point[at : at + 2] == first
        assert of_point[at + 2 : at + 12] != sorted(of_point[at + 2 : at + 12])
    assert (len(actions), of_point) == (24, gemms._shuffled(points, of_points, None)[1])


def test_a_device_is_held_up_once_for_every_hundred_products(small_pool: None) -> None:
    held = []
    samples = gemm_samples(
        make, "fp32", rows=(1, 2), params=(1 << 12,), aspects=(1.0,), point_s=1.0, hold=lambda: held.append(1)
    )
    n_actions = sum(sample.n + 1 for sample in samples)
    assert len(held) == -(-n_actions // 100) == 1


@pytest.mark.parametrize("bytes_per_s", [1e6, None])
def test_copies_and_kernels_are_timed_beside_each_other_on_a_link_of_any_speed(
    monkeypatch: pytest.MonkeyPatch, bytes_per_s: float | None
) -> None:
    """One copy may outlast all kernels, or one kernel all copies."""
    for name, value in (("_POOL_BYTES", 32 << 20), ("_COPY_BYTES", 1 << 14), ("_N", 6)):
        monkeypatch.setattr(contention, name, value)
    samples = contention.contention_samples(lambda: CpuBackend(h2d=Link(bytes_per_s)), "fp32")
    found = {(s.parameters["of"], s.parameters["beside"]): s for s in samples}
    assert list(found) == [
        ("gemv", "nothing"), ("h2d", "nothing"), ("gemv", "h2d"), ("h2d", "gemv"), ("cpu", "nothing"), ("cpu", "h2d"),
        ("h2d", "cpu"),
    ]  # fmt: skip
    assert {s.parameters["n_bytes"] for s in samples if s.parameters["of"] == "h2d"} == {1 << 14}
    assert found["gemv", "nothing"].n == found["h2d", "nothing"].n == 4
    assert all(1 <= s.n <= 4 and s.median_s > 0 for s in samples)


def test_behind_a_full_queue_every_pass_begins_with_the_hold_and_no_op_waits_for_the_host() -> None:
    steps, policy = DECODERS.trace.steps(), policy_named("on_demand")
    n_slots = policy.buffers(DECODERS.model.n_experts, DECODERS.model.n_experts).full
    schedule = decode(DECODERS.model, steps, policy, EXECUTIONS["streams"], n_buffers=n_slots).schedule
    program = build_program(DECODERS.model, DECODERS.trace.steps(), schedule)
    actions: list[Action | None] = [partial(int, op) for op in range(len(schedule))]
    hold = partial(int, -1)
    found = ops._queued(program, actions, hold)
    assert [found.actions[place] for place in found.places] == [actions[op] for op in found.ops]
    assert found.ops == np.flatnonzero(schedule.lane != Lane.HOST).tolist()
    holds = [place for place, action in enumerate(found.actions) if action is hold]
    assert len(holds) == len(program.passes.passes)
    assert all(found.lanes[place] == Lane.COMPUTE for place in holds)
    passes = program.pass_of[found.ops]
    first = [found.places[int(np.flatnonzero(passes == i)[0])] for i in range(len(holds))]
    assert holds == [place - 1 for place in first]
    awaited, place_of = -1, dict(zip(found.ops, found.places, strict=True))
    for op in range(len(schedule)):
        if schedule.lane[op] == Lane.HOST:
            awaited = max([awaited, *(place_of[d] for d in schedule.deps(op).tolist() if schedule.lane[d] == Lane.D2H)])
            continue
        waits = found.waits[place_of[op]]
        assert all(found.lanes[dep] != found.lanes[place_of[op]] for dep in waits)
        if schedule.kind[op] == OpKind.FETCH and awaited >= 0:  # the ids that say which expert it is
            assert awaited in waits


def test_ops_behind_a_hold_are_timed_in_a_run_of_their_own() -> None:
    held: list[int] = []
    n_passes = len(list(DECODERS.trace.steps()))
    plain = op_samples(make, DECODERS, Experts(DECODERS.model), warm=False)
    queued = op_samples(make, DECODERS, Experts(DECODERS.model), warm=False, hold=lambda: held.append(1))
    assert len(held) == n_passes
    assert [(s.what, s.parameters["kind"]) for s in queued] == [(s.what, s.parameters["kind"]) for s in plain]
    offloaded_samples(
        make, DECODERS, Experts(DECODERS.model), "on_demand", quick=True, hold=lambda: held.append(1)
    )  # fmt: skip
    assert len(held) == n_passes * (1 + len({DECODERS.n_active, DECODERS.model.n_experts}))


def test_an_op_that_the_host_did_not_hold_up_lasts_from_when_it_could_have_begun() -> None:
    lanes = [Lane.COMPUTE, Lane.COMPUTE, Lane.H2D, Lane.COMPUTE, Lane.H2D, Lane.H2D]
    waits: list[tuple[int, ...]] = [(), (), (1,), (2,), (), (3,)]
    start_s = np.array([0.0, 2.0, 3.5, 7.0, 7.5, 9.5])
    end_s = np.array([1.0, 3.0, 6.0, 8.0, 8.5, 11.0])
    queued = ops._Queued(list(map(int, lanes)), [None] * 6, waits, ops=[0, 1, 2, 3, 4, 5], places=[0, 1, 2, 3, 4, 5])
    held = ops._held_s(queued, Times(start_s, end_s, {}))
    assert held.tolist() == [1.0, 2.0, 3.0, 2.0, 1.0, 2.5]
