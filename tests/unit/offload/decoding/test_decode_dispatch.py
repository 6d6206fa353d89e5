"""Who writes a schedule: compiled code or the definition, by policy and by size."""

from __future__ import annotations

from functools import partial

import pytest

import offload.decode
from compiled import when_it_pays
from compiled.when_it_pays import machine_code_pays
from offload.caches.residency import ResidentSet
from offload.decode import DecodeStream, about_ops, is_large
from offload.decoding import decode_loop
from offload.decoding.decode_job import DecodeJob
from offload.execution import EXECUTIONS
from offload.policies import policy_named
from offload.policy import Policy
from offload.recorder import assemble
from tests.unit.offload.by_hand import DECODER, NEXT, PROMPT, step, written
from traces.errors import InvalidInput
from traces.phase import Phase


class Spy:
    """Stands where the compiled loop does, and writes what the other would."""

    made = 0

    def __init__(self, job: DecodeJob) -> None:
        Spy.made += 1
        self._loop = decode_loop.DecodeLoop(job)
        self.lookups = self._loop.lookups
        self.parts = self._loop.parts


def test_large_schedules_are_written_by_compiled_code_where_it_knows_the_policy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A step of one token here counts as 3 x (8 + 3 x 2) = 42 ops, the prompt as 3 x (8 + 3 x 4) = 60."""
    monkeypatch.setattr(offload.decode, "CompiledLoop", Spy)
    unknown = Policy("unknown", prefetch=lambda view: ())
    for policy, size, compiled, wanted in (
        ("pregate", 102, None, 0), ("pregate", 101, None, 1), ("pregate", 60, None, 1), ("pregate", 59, None, 1),
        ("pregate", 59, False, 0),
        ("pregate", 10**6, True, 1), (unknown, 0, None, 0), (unknown, 0, True, 0),
    ):  # fmt: skip
        monkeypatch.setattr(offload.decode, "SMALL_OPS", size)
        Spy.made = 0
        chosen = policy_named(policy) if isinstance(policy, str) else policy
        first, plain = (
            DecodeStream(DECODER, [PROMPT, NEXT], chosen, EXECUTIONS["streams"], n_buffers=8, compiled=how)
            for how in (compiled, False)
        )
        assert first.lookups == {Phase.PREFILL: [0, 0], Phase.DECODE: [0, 0]}
        assert assemble(first) == assemble(plain)
        assert first.lookups == {Phase.PREFILL: [8, 0], Phase.DECODE: [6, 0]}
        assert Spy.made == wanted, (policy, size, compiled)


def test_what_compiled_code_does_not_know_is_written_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload.decode, "CompiledLoop", Spy)
    monkeypatch.setattr(offload.decode, "SMALL_OPS", 0)
    Spy.made = 0
    written(DECODER, [PROMPT, NEXT], "gpu_only@experts=cpu", n_buffers=0, disk=True)  # read of storage by the host
    for eviction, wanted in (("random", 0), ("lru", 1)):
        cache = ResidentSet(3, eviction, n_layers=3, n_experts=6)
        written(DECODER, [NEXT], "on_demand", cache=cache)
        assert Spy.made == wanted


def test_large_passes_count_no_expert_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine tokens of two experts each are at most six experts a block: 3 x (8 + 3 x 6) ops."""
    monkeypatch.setattr(offload.decode, "CompiledLoop", Spy)
    one = step(0, Phase.DECODE, [(i, 0) for i in range(9)], [[[0, 1]] * 3] * 9)
    for size, wanted in ((78, 0), (77, 1)):
        monkeypatch.setattr(offload.decode, "SMALL_OPS", size)
        Spy.made = 0
        written(DECODER, [one], "pregate")
        assert Spy.made == wanted


def test_whoever_decodes_may_say_how_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload.decode, "CompiledLoop", Spy)
    for size, compiled, wanted in ((10**6, True, 1), (0, False, 0), (0, None, 1), (10**6, None, 0)):
        monkeypatch.setattr(offload.decode, "SMALL_OPS", size)
        Spy.made = 0
        written(DECODER, [NEXT], "pregate", compiled=compiled)
        assert Spy.made == wanted


def test_how_many_ops_there_are_about_is_the_sum_over_passes() -> None:
    assert about_ops(DECODER, [PROMPT, NEXT]) == 3 * (8 + 3 * 4) + 3 * (8 + 3 * 2)
    assert about_ops(DECODER, []) == 0


@pytest.mark.parametrize(("there", "small", "wanted"), [
    ("kept", 90, 50), ("nowhere", 90, 90), ("kept", 40, 40), ("loaded", 90, 20), ("loaded", 10, 10)
])  # fmt: skip
def test_less_is_written_in_python_where_machine_code_is_kept_and_less_still_where_it_is_loaded(
    there: str, small: int, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt of 60 ops and a step of 42 are 102: more than 50 and 40, and than 90 once both are read."""
    monkeypatch.setattr(offload.decode, "SMALL_OPS", small)
    monkeypatch.setattr(offload.decode, "machine_code_pays", partial(machine_code_pays, load_above=50))
    monkeypatch.setattr(offload.decode, "_LOADED_OPS", 20)
    monkeypatch.setattr(when_it_pays, "are_kept", lambda *given: (given, there) == (offload.decode.KERNELS, "kept"))
    monkeypatch.setattr(when_it_pays, "are_loaded", lambda *given: (given, there) == (offload.decode.KERNELS, "loaded"))
    monkeypatch.setattr(when_it_pays, "has_loaded", lambda: False)
    monkeypatch.setattr(offload.decode, "CompiledLoop", Spy)
    assert [is_large(wanted), is_large(wanted + 1)] == [False, True]
    for steps, n_ops in (([PROMPT], 60), ([NEXT], 42), ([PROMPT, NEXT], 102)):
        Spy.made = 0
        written(DECODER, steps, "pregate")
        assert Spy.made == (n_ops > wanted)


@pytest.mark.parametrize("policy", ["on_demand:cpu", "on_demand"])
def test_an_answer_to_a_miss_over_storage_is_written_by_the_definition(
    policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offload.decode, "CompiledLoop", Spy)
    Spy.made = 0
    written(DECODER, [PROMPT, NEXT], policy, disk=True, compiled=True)
    assert Spy.made == (policy == "on_demand")
    Spy.made = 0
    written(DECODER, [PROMPT, NEXT], policy, compiled=True)
    assert Spy.made == 1


@pytest.mark.parametrize(("policy", "wanted"), [("on_demand@experts=cpu", 0), ("on_demand", 1)])
def test_micro_batches_beside_a_host_that_computes_are_written_by_the_definition(
    policy: str, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever asked for micro-batches: a placement that names both is refused before."""
    monkeypatch.setattr(offload.decode, "CompiledLoop", Spy)
    Spy.made = 0
    execution = policy_named("on_demand@micro=1").placement.execution(EXECUTIONS["streams"])
    DecodeStream(DECODER, [NEXT], policy_named(policy), execution, n_buffers=8, compiled=True)
    assert Spy.made == wanted


def test_what_a_placement_asks_of_an_engine_is_looked_at_before_anything_is_written() -> None:
    policy = policy_named("gpu_only@experts=zerocopy")
    with pytest.raises(InvalidInput, match=r"^gpu_only.*: kernels of streams read no weights in host memory"):
        DecodeStream(DECODER, [NEXT], policy, EXECUTIONS["streams"], n_buffers=0)
