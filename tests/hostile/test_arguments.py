"""Wrong types in Python: one line that names the argument; names where objects are wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import pregate
from traces.errors import InvalidInput

MODEL = pregate.load_model("switch-base-8")
HW = pregate.load_hardware("a100-sxm4-80gb")
TRACE = pregate.synthesize(MODEL, 8, 4)
FROM = pregate.Provenance("m", "s")
SWEEP: dict[str, Any] = {"policies": ["pregate"], "axes": {"batch": [1]}, "trace": pregate.TraceRecipe(8, 4)}


def swept(**changed: Any) -> Any:
    return pregate.sweep("switch-base-8", "a100-sxm4-80gb", **(SWEEP | {"cache_dir": False} | changed))


WRONG: list[tuple[str, Callable[[], Any]]] = [
    *(("name", lambda name=name: pregate.load_model(name)) for name in (None, 5, b"x", ["x"], 1.5, float("nan"))),
    *(("name", lambda name=name: pregate.load_hardware(name)) for name in (None, 5, b"x", ["x"], 1.5)),
    *(("path", lambda load=load: load("\x00.yaml")) for load in (pregate.load_model, pregate.load_hardware)),
    ("dtype", lambda: pregate.load_model("switch-base-8", dtype=4)),  # type: ignore[arg-type]
    *(("top_k", lambda k=k: pregate.load_model("switch-base-8", top_k=k)) for k in (1.5, "1", True, 9)),
    *(
        ("overrides", lambda given=given: pregate.load_hardware("t4", None, given))
        for given in ({5: 5}, [("a", 1)], 5, {"stack.sync_s": None}, {"stack.sync_s": True}, {"stack.sync_s": [1]})
    ),
    ("sync_s", lambda: pregate.load_hardware("t4", None, {"stack.sync_s": 10**400})),
    *(
        (name, lambda name=name, value=value: pregate.synthesize(MODEL, **{"output_tokens": 4, name: value}))
        for name in ("input_tokens", "batch", "seed")
        for value in (1.5, "8", None, float("nan"), True)
    ),
    ("output_tokens", lambda: pregate.synthesize(MODEL, output_tokens=True)),
    ("dials", lambda: pregate.synthesize(MODEL, 8, 4, dials=5)),  # type: ignore[arg-type]
    ("zipf_exponent", lambda: pregate.Dials("1", 0.1, 0.0)),  # type: ignore[arg-type]
    *(("policy", lambda p=p: pregate.simulate(MODEL, HW, TRACE, p)) for p in (None, 5, ["pregate"])),
    ("engine", lambda: pregate.simulate(MODEL, HW, TRACE, engine=None)),  # type: ignore[arg-type]
    ("modes", lambda: pregate.simulate(MODEL, HW, TRACE, modes="shared")),  # type: ignore[arg-type]
    ("cache", lambda: pregate.simulate(MODEL, HW, TRACE, cache="lru:0.1")),  # type: ignore[arg-type]
    ("trace", lambda: pregate.simulate(MODEL, HW, None)),  # type: ignore[arg-type]
    *(("policies", lambda p=p: pregate.compare(MODEL, HW, TRACE, p)) for p in (["pregate", 5], ["pregate", None], 5)),
    ("twice", lambda: pregate.compare(MODEL, HW, TRACE, ["pregate"] * 1000)),
    *(
        ("n_experts", lambda n=n: pregate.RoutingTrace(*_columns(), n_experts=n, provenance=FROM))
        for n in (8.5, "8", True)
    ),
    ("provenance", lambda: pregate.RoutingTrace(*_columns(), n_experts=8, provenance=None)),  # type: ignore[arg-type]
    ("masked", lambda: pregate.RoutingTrace(np.ma.masked_array(_columns()[0], True), *_columns()[1:], 8, FROM)),
    *(
        (name, lambda name=name, value=value: swept(**{name: value}))
        for name, value in (
            ("axes", None), ("axes", [("batch", [1])]), ("axes", {5: [1]}), ("trace", 5), ("jobs", 1.5), ("seed", -1),
            ("nope", 1), ("executor", 5), ("checkpoint", 5), ("sample", 5), ("progress", 5),
        )
    ),
    ("policies", lambda: pregate.crossovers(MODEL, HW, TRACE, axis="batch", low=1, high=2)),  # type: ignore[call-arg]
    ("budgets_mib", lambda: pregate.residency(TRACE, ["lru"], 5, expert_bytes=1)),  # type: ignore[arg-type]
    ("trace", lambda: pregate.trace_statistics(5)),  # type: ignore[arg-type]
    ("rng", lambda: pregate.fit_dials(TRACE)),  # type: ignore[call-arg]
    ("trace", lambda: pregate.save_trace(5, "x")),  # type: ignore[arg-type]
    ("path", lambda: pregate.save_trace(TRACE, None)),  # type: ignore[arg-type]
    ("path", lambda: pregate.load_trace(None)),  # type: ignore[arg-type]
    ("calibrate", lambda: pregate.calibrate(5)),  # type: ignore[arg-type,call-arg]
    ("path", lambda: pregate.load_measurements(5)),  # type: ignore[arg-type]
    ("hardware", lambda: pregate.optimize("switch-base-8", policies=["pregate"], axes={}, hardware=[])),  # type: ignore[call-arg]
    *(("n", lambda n=n: pregate.LatinHypercube(n)) for n in (2.5, "a")),
    *(("input_tokens", lambda n=n: pregate.TraceRecipe(input_tokens=n)) for n in (-1, "a")),
    ("batch", lambda: pregate.TraceRecipe(batch=0)),
    ("rows", lambda: pregate.reproduce("isca24", rows=5)),  # type: ignore[arg-type]
    ("chunk_bytes", lambda: pregate.Modes("shared", "x")),  # type: ignore[arg-type]
    ("eviction", lambda: pregate.Cache("zz")),
    ("policies", lambda: pregate.compare(MODEL, HW, TRACE, np.array([1, 2]))),  # type: ignore[arg-type]
    ("batch", lambda: swept(axes={"batch": range(10**9)})),
    ("10,000,000", lambda: pregate.LatinHypercube(10**12)),
    ("policies", lambda: pregate.residency(TRACE, ["lru", "lru"], [100], expert_bytes=1)),
    ("seed", lambda: pregate.residency(TRACE, ["random"], [100], expert_bytes=1, seed=-1)),
    ("lookahead", lambda: pregate.Policy("x", lookahead="a")),  # type: ignore[arg-type]
    ("name", lambda: pregate.Policy(None)),  # type: ignore[arg-type]
    ("policy name", lambda: pregate.Policy("x\n")),
    ("prefetch", lambda: pregate.Policy("x", prefetch=5)),  # type: ignore[arg-type]
    *(
        ("buffers", lambda b=b: pregate.simulate(MODEL, HW, TRACE, pregate.Policy("x", buffers=lambda *_: b)))
        for b in (5, None, (1, 2, 3), (2, 1), (-1, 1), ("a", "b"))
    ),
    *((name, lambda name=name: pregate.Provenance(**({"model": "m", "source": "s"} | {name: 5})))
      for name in ("model", "source", "licence", "note")),
    ("provenance", lambda: pregate.PopularityProfile(np.ones((2, 2)), None)),  # type: ignore[arg-type]
    ("n", lambda: pregate.PopularityProfile(np.ones((2, 2)), FROM).hottest(1.5)),  # type: ignore[arg-type]
    ("sequences", lambda: TRACE.of_sequences(5)),  # type: ignore[arg-type]
    ("phase", lambda: TRACE.select(phase=5)),  # type: ignore[arg-type]
]  # fmt: skip


def _columns() -> tuple[Any, ...]:
    return np.zeros((4, 2, 1), int), np.zeros(4, int), np.arange(4), np.ones(4, int), np.arange(4)


@pytest.mark.parametrize(("named", "call"), WRONG, ids=[f"{i}-{name}" for i, (name, _) in enumerate(WRONG)])
def test_a_wrong_argument_is_named_on_one_line(named: str, call: Callable[[], Any]) -> None:
    with pytest.raises(InvalidInput) as refusal:
        call()
    message = str(refusal.value)
    assert len(message.splitlines()) == 1
    assert named in message or "path" in named


def test_an_argument_that_there_is_not_and_one_that_lacks_tell_those_that_there_are() -> None:
    with pytest.raises(InvalidInput, match="'input_tokens'; it takes model, hw, and if wanted job, trace=, objective="):
        pregate.plan(MODEL, HW, input_tokens=64)  # type: ignore[call-arg]
    with pytest.raises(InvalidInput, match="'trace'; it takes model, hw, trace, and if wanted policies"):
        pregate.compare(MODEL, HW)  # type: ignore[call-arg]


def test_names_are_taken_where_objects_are_wanted() -> None:
    by_name = pregate.simulate("switch-base-8", "a100-sxm4-80gb", TRACE, "pregate")  # type: ignore[arg-type]
    assert by_name.to_dict() == pregate.simulate(MODEL, HW, TRACE, "pregate").to_dict()
    assert pregate.synthesize("switch-base-8", 8, 4).digest == TRACE.digest  # type: ignore[arg-type]
    assert [r.policy for r in pregate.compare(MODEL, HW, TRACE, policies="pregate, on_demand")] == [
        "pregate",
        "on_demand",
    ]


def test_what_a_policy_of_ones_own_needs_is_exported() -> None:
    assert {"Provenance", "Fetch", "MissAction"} <= set(dir(pregate))
    assert pregate.Fetch(0, (1,)).experts == (1,)
