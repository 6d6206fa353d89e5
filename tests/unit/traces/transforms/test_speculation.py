"""Speculative decoding: which tokens share a pass, which experts that asks for, and what counts as a token."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pregate
from offload.ops import Lane, OpKind
from offload.placing.workload import measure_workload
from offload.policies import policy_named
from offload.policy_parts.speculation import Speculation, speculation_named
from pregate.ask.capturing.capture import capture
from pregate.ask.speculative import drafting_named, with_and_without
from tests.expected_drafts import expected_tokens
from tests.grids import one_in
from tests.small_models import decoder_only, encoder_decoder
from traces.errors import InvalidFile, InvalidInput, UnknownName
from traces.model.architecture import ModelArchitecture
from traces.phase import Phase
from traces.routing import RoutingTrace
from traces.storage import load_trace, open_trace, save_trace
from traces.transforms.draft_trees import Acceptance, branching
from traces.transforms.rebatching import rebatch
from traces.transforms.speculation import verified

HARDWARE = "rtx-4090"
POLICIES = (
    "gpu_only", "on_demand", "prefetch_all", "pregate", "pregate(2)+lru:3", "on_demand:cpu+static:0.3", "oracle",
    "guess/markov+lfu:4", "lru_next_gate", "mixed_precision+lfu:4", "on_demand@experts=cpu:keep=2",
    "hybrid_schedule+lru:4",
)  # fmt: skip


def trace_of(model: ModelArchitecture, n_output: int = 9, batch: int = 2) -> RoutingTrace:
    return pregate.synthesize(model, 4, n_output, batch, seed=3)


def kept_of(trace: RoutingTrace) -> np.ndarray:
    assert trace.rejected is not None
    return ~trace.rejected


@given(st.integers(1, 6), st.floats(0, 1), st.integers(1, 3), st.integers(0, 5), st.booleans())
def test_every_recorded_token_is_kept_once_in_order_and_every_pass_is_consecutive(
    gamma: int, acceptance: float, batch: int, seed: int, coder: bool
) -> None:
    model = encoder_decoder() if coder else decoder_only()
    plain = trace_of(model, 7, batch)
    made = verified(plain, gamma, acceptance, seed=seed)
    kept, decoding = kept_of(made), made.phase == Phase.DECODE
    for sequence in np.unique(plain.sequence):
        there, here = (plain.sequence == sequence), (made.sequence == sequence) & kept
        for phase in Phase:
            a, b = there & (plain.phase == phase), here & (made.phase == phase)
            assert np.array_equal(plain.position[a], made.position[b])
            assert np.array_equal(plain.experts[a], made.experts[b])
        mine = decoding & (made.sequence == sequence)
        for step in np.unique(made.step[mine]):
            of = mine & (made.step == step)
            assert 1 <= of.sum() <= gamma + 1
            assert np.array_equal(np.diff(made.position[of]), np.ones(of.sum() - 1))
            assert not made.rejected[of][0]
            assert np.all(np.diff(made.rejected[of].astype(int)) >= 0)
    assert (
        measure_workload(model, made.steps()).n_output_tokens == measure_workload(model, plain.steps()).n_output_tokens
    )
    made.check_model(model)


def test_passes_by_hand() -> None:
    model = decoder_only()
    plain = pregate.synthesize(model, 2, 8, 1)  # positions 2..8 are decoded, seven tokens
    first = int(plain.position[plain.phase == Phase.DECODE][0])
    made = verified(plain, 2, (1, 0, 2))
    decoding = made.phase == Phase.DECODE
    steps = made.step[decoding] - made.step[decoding][0]
    # 1 of 2 taken: 0 1 | rejected 2; none: 2 | rejected 3 4; both: 3 4 5; then 1 again, of what is left: 6
    assert (made.position[decoding] - first).tolist() == [0, 1, 2, 2, 3, 4, 3, 4, 5, 6]
    assert steps.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
    assert np.flatnonzero(made.rejected[decoding]).tolist() == [2, 4, 5]  # type: ignore[index]


def test_more_acceptance_or_a_longer_draft_never_takes_more_passes() -> None:
    plain = trace_of(decoder_only(), 60, 1)
    n = {(g, a): verified(plain, g, a).n_steps for g in (1, 2, 4, 8) for a in (0.0, 0.3, 0.6, 0.9, 1.0)}
    for g in (1, 2, 4, 8):
        assert [n[g, a] for a in (0.0, 0.3, 0.6, 0.9, 1.0)] == sorted(
            [n[g, a] for a in (0.0, 0.3, 0.6, 0.9, 1.0)], reverse=True
        )
    for a in (0.0, 0.3, 0.6, 0.9, 1.0):
        assert [n[g, a] for g in (1, 2, 4, 8)] == sorted([n[g, a] for g in (1, 2, 4, 8)], reverse=True)
    assert n[4, 0.0] == plain.n_steps


@pytest.mark.parametrize("gamma", [1, 3, 6])
@pytest.mark.parametrize("acceptance", [0.3, 0.8])
def test_a_pass_makes_as_many_tokens_as_leviathan_says(gamma: int, acceptance: float) -> None:
    plain = pregate.synthesize(decoder_only(), 1, 6001, 1)
    made = verified(plain, gamma, acceptance, seed=1)
    decoding = made.phase == Phase.DECODE
    per_pass = int(np.count_nonzero(decoding & kept_of(made))) / len(np.unique(made.step[decoding]))
    stated = (1 - acceptance ** (gamma + 1)) / (1 - acceptance)
    assert expected_tokens(branching((1,) * gamma), Acceptance(each=acceptance)) == pytest.approx(stated)
    assert per_pass == pytest.approx(stated, rel=0.04)


def test_rejected_tokens_route_as_recorded_or_as_another_token_of_their_sequence() -> None:
    plain = trace_of(decoder_only(n_experts=6), 40, 2)
    here, there = (verified(plain, 4, 0.2, rejected_route=route) for route in ("recorded", "elsewhere"))
    for made, alike in ((here, True), (there, False)):
        lost = np.flatnonzero(~kept_of(made))
        recorded = {
            (s, p): e for s, p, e in zip(plain.sequence.tolist(), plain.position.tolist(), plain.experts, strict=True)
        }
        same = [np.array_equal(made.experts[i], recorded[int(made.sequence[i]), int(made.position[i])]) for i in lost]
        assert all(same) if alike else np.mean(same) < 0.5
    assert here.n_steps == there.n_steps  # what is taken does not depend on it


def test_bytes_on_demand_are_the_unions_of_the_passes() -> None:
    model, hw = decoder_only(), pregate.load_hardware(HARDWARE)
    plain = trace_of(model, 12, 2)
    made = verified(plain, 3, 0.5)
    unions = sum(
        len(np.unique(step.experts[:, layer][step.experts[:, layer] >= 0]))
        for step in made.steps()
        for layer in range(model.n_moe_layers)
    )
    found = pregate.simulate(model, hw, plain, "on_demand@gamma=3:acceptance=0.5")
    assert found.h2d_bytes == unions * model.expert_bytes
    assert found.h2d_bytes > 0


@pytest.mark.parametrize(("name", "draft"), one_in(3, POLICIES, ["", ":draft=stated", ":draft=mixtral-mini-8"]))
def test_every_interpreter_gives_every_design_the_same_times(name: str, draft: str) -> None:
    model, hw = decoder_only(), pregate.load_hardware(HARDWARE, overrides={"stack.draft_s": 1e-4})
    trace, design = trace_of(model, 6, 2), f"{name}@gamma=3:acceptance=0.6{draft}"
    found = [pregate.simulate(model, hw, trace, design, engine=e) for e in ("des", "recurrence", "event", "stream")]
    assert (
        len({(one.schedule_digest, one.makespan_s, one.tpot_s, one.h2d_bytes, one.peak_hbm_bytes) for one in found})
        == 1
    )
    assert found[0].n_output_tokens == 12


@pytest.mark.parametrize("name", ["gpu_only", "on_demand", "prefetch_all", "pregate(2)", "pregate+lru:4"])
def test_the_compiled_loop_writes_the_same_passes(name: str) -> None:
    model, hw = decoder_only(), pregate.load_hardware(HARDWARE)
    from pregate.ask.capturing.capture import capture_request
    from pregate.ask.capturing.request import request

    asked = request(model, hw, trace_of(model, 9, 3), f"{name}@gamma=3:acceptance=0.6")
    digests = {capture_request(asked, compiled=how).decoded.schedule.digest for how in (True, False)}
    assert len(digests) == 1


def test_tokens_and_gaps_are_those_that_are_taken() -> None:
    model, hw = decoder_only(), pregate.load_hardware(HARDWARE)
    plain = pregate.synthesize(model, 4, 13, 1)
    found = pregate.simulate(model, hw, plain, "gpu_only@gamma=3:acceptance=1")
    schedule = found.timeline.schedule  # type: ignore[union-attr]
    ends = found.timeline.end_s[schedule.kind == OpKind.STEP]  # type: ignore[union-attr]
    assert len(ends) == 4  # the prompt makes one, three passes four each
    assert found.n_output_tokens == 13
    assert found.tokens_per_s == pytest.approx(13 / found.makespan_s)
    assert found.tpot_s == pytest.approx((ends[-1] - ends[0]) / 12)
    assert found.tpot_p50_s == 0  # three of four come with the first of their pass
    assert found.decode_tokens_per_s == pytest.approx(12 / (ends[-1] - ends[0]))


def test_every_token_of_a_pass_has_a_head() -> None:
    model, hw = decoder_only(), pregate.load_hardware(HARDWARE)
    written = capture(model, hw, pregate.synthesize(model, 4, 9, 1), "gpu_only@gamma=3:acceptance=1").decoded.schedule
    heads = [written.works[written.cost[i]].gemms[0].m for i in np.flatnonzero(written.kind == OpKind.HEAD)]
    assert heads == [1, 4, 4]


def test_a_draft_runs_before_its_pass_on_the_compute_lane_and_takes_memory() -> None:
    model, hw = decoder_only(), pregate.load_hardware(HARDWARE)
    draft, trace = pregate.load_model("mixtral-mini-8"), pregate.synthesize(model, 4, 9, 1)
    plain, drafted = (
        capture(model, hw, trace, f"gpu_only@gamma=3:acceptance=1{how}") for how in ("", ":draft=mixtral-mini-8")
    )
    more = drafted.plan.static_bytes - plain.plan.static_bytes
    weights = draft.non_expert_bytes + draft.n_moe_layers * draft.n_experts * draft.expert_bytes
    assert weights < more < 1.01 * weights  # and its keys and values
    a, b = plain.decoded.schedule, drafted.decoded.schedule
    assert np.all(b.lane[b.layer < 0][b.kind[b.layer < 0] != OpKind.STEP] == Lane.COMPUTE)
    n_outside = [int(np.count_nonzero(one.layer == -1)) for one in (a, b)]
    assert n_outside[1] - n_outside[0] == len(b) - len(a)  # a draft is of no layer of the model
    per_pass = draft.decoder.n_layers * 3
    assert len(b) - len(a) == per_pass + 2 * 3 * (per_pass + 1)  # the prompt once, three proposals before each of two
    assert int(np.count_nonzero(b.kind == OpKind.STEP)) == int(np.count_nonzero(a.kind == OpKind.STEP))


def test_a_stated_draft_takes_its_time_for_each_proposal() -> None:
    model = decoder_only()
    trace = pregate.synthesize(model, 4, 13, 1)
    slow, slower = (
        pregate.simulate(
            model,
            pregate.load_hardware(HARDWARE, overrides={"stack.draft_s": s}),
            trace,
            "gpu_only@gamma=3:acceptance=1:draft=stated",
        )
        for s in (0.01, 0.03)
    )
    assert slower.makespan_s - slow.makespan_s == pytest.approx(3 * 3 * 0.02)
    with pytest.raises(InvalidInput, match="the time of a drafted token is not stated"):
        pregate.simulate(model, HARDWARE, trace, "gpu_only@gamma=3:acceptance=1:draft=stated")


def test_a_prompt_behind_an_answer_is_refused_as_such() -> None:
    model = decoder_only()
    one = pregate.synthesize(model, 3, 4)
    phase, step = one.phase.copy(), one.step.copy()
    phase[-1] = Phase.PREFILL
    with pytest.raises(InvalidInput, match=f"sequence 0: step {step[-1]} reads a prompt behind an answer"):
        verified(dataclasses.replace(one, phase=phase), 2, 0.5)


def test_a_verified_trace_is_kept_whole_on_disk_and_refused_where_it_means_nothing(tmp_path: Path) -> None:
    model = decoder_only()
    made = verified(trace_of(model), 2, 0.5)
    save_trace(made, tmp_path / "made.safetensors")
    again = load_trace(tmp_path / "made.safetensors")
    assert again.digest == made.digest != trace_of(model).digest
    read = list(open_trace(tmp_path / "made.safetensors").steps(5))
    assert [step.n_kept for step in read] == [step.n_kept for step in made.steps()]
    with pytest.raises(InvalidInput, match="verified already"):
        rebatch(made, 1)
    with pytest.raises(InvalidInput, match="verified already"):
        verified(made, 2, 0.5)
    plain = pregate.simulate(model, HARDWARE, trace_of(model), "pregate@gamma=2:acceptance=0.5")
    assert pregate.simulate(model, HARDWARE, made, "pregate").tokens_per_s == plain.tokens_per_s


def test_names_say_the_design_again() -> None:
    for text in ("pregate@gamma=4:acceptance=0.8", "pregate@experts=cpu@gamma=2:acceptance=0.5:draft=stated:seed=3"):
        policy = policy_named(text)
        assert policy_named(policy.name) == policy
    typed = policy_named("pregate@gamma=2:acceptance=0.5@experts=cpu")
    assert typed.placement == policy_named("pregate@experts=cpu").placement
    assert typed.speculation is not None
    assert with_and_without(["pregate"], drafting_named("gamma=2,acceptance=1,draft_s=2ms")) == [
        "pregate", "pregate@gamma=2:acceptance=1.0:draft=stated",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gamma=0,acceptance=0.8", "gamma = 0: 1 to 64"),
        ("gamma=65,acceptance=0.8", "gamma = 65: 1 to 64"),
        ("gamma=-1,acceptance=0.8", "gamma=-1 is not a whole number"),
        ("gamma=4,acceptance=1.1", "acceptance = 1.1"),
        ("gamma=4", "does not say acceptance"),
        ("acceptance=0.5", "does not say gamma"),
        ("gamma=4,acceptance=nan", "neither a share"),
        ("gamma=4,acceptance=nowhere.txt", "neither a share"),
        ("gamma=4,gamma=2,acceptance=0.5", "says gamma twice"),
        ("gamma=4,acceptance=0.5,deep=2", "'deep=2' is not of the form"),
        ("gamma=4,acceptance=0.5,rejected=nowhere", "route of rejected tokens"),
        ("gamma=4,acceptance=0.5,draft=switch-base-8", "has an encoder"),
        ("gamma=4,acceptance=0.5,draft=olmo", "olmoe-1b-7b"),
        ("gamma=4,acceptance=0.5,draft_s=2ms", "draft=stated"),
        ("", "is not of the form"),
    ],
)
def test_what_cannot_be_is_one_line(text: str, said: str) -> None:
    with pytest.raises((InvalidInput, UnknownName), match=said):
        speculation_named(text)


def test_a_list_of_what_was_taken(tmp_path: Path) -> None:
    listed = tmp_path / "taken.txt"
    listed.write_text("2\n0\n\n3\n")
    found = speculation_named(f"gamma=3,acceptance={listed}")
    assert found.accepted == (2, 0, 3)
    for text, said in (("2\n4\n", "took 4 of gamma = 3"), ("2\n-1\n", "is not how many"), ("two\n", "is not how many"),
                       ("", "lists nothing"), ("0.5 x\n", "is not shares")):  # fmt: skip
        listed.write_text(text)
        with pytest.raises(InvalidInput, match=said):
            speculation_named(f"gamma=3,acceptance={listed}")
    listed.write_bytes(b"\xff\xfe\x00")
    with pytest.raises((InvalidInput, InvalidFile)):
        speculation_named(f"gamma=3,acceptance={listed}")
    with pytest.raises(InvalidInput, match="lists what each pass took"):
        found.at(None, 0.5)
    assert Speculation(2, 0.5).at(0, None) is None


def test_a_draft_of_an_encoder_decoder_is_refused() -> None:
    model = encoder_decoder()
    with pytest.raises(InvalidInput, match="has not read it"):
        pregate.simulate(model, HARDWARE, trace_of(model), "pregate@gamma=2:acceptance=0.5:draft=mixtral-mini-8")


@pytest.mark.parametrize("shape", [decoder_only(n_shared=1), encoder_decoder()], ids=["decoder", "encoder_decoder"])
def test_the_runtime_executes_the_passes_that_were_predicted(shape: ModelArchitecture) -> None:
    pytest.importorskip("torch")
    from pregate.running.devices import Device

    device = Device(backend="cpu", hbm_bytes=1 << 27)
    trace, drafts = pregate.synthesize(shape, 3, 6, 2), "@gamma=3:acceptance=0.6:rejected=elsewhere"
    found = [pregate.run(shape, trace, f"{name}{drafts}", device=device) for name in ("gpu_only", "pregate+lru:2")]
    assert len({one.output_digest for one in found}) == 1
    assert found[1].n_output_tokens == 12
    assert found[1].schedule_digest == found[1].timeline.schedule.digest


def test_the_runtime_makes_no_drafts() -> None:
    pytest.importorskip("torch")
    model = pregate.load_model("mixtral-mini-8")
    with pytest.raises(InvalidInput, match="verifies drafts and makes none"):
        pregate.run(model, pregate.synthesize(model, 3, 6), "on_demand@gamma=3:acceptance=0.6:draft=stated")
