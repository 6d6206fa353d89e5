"""Calibration: known constants are recovered, errors are what they say, and what cannot be fitted is refused."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hwmodels import fit_files
from hwmodels.calibrate import calibration
from hwmodels.calibrate.calibration import calibrate, counts, gemm_tables
from hwmodels.calibrate.least_squares import fit_factor, fit_median, fit_sum, solve, summary
from hwmodels.calibrate.measured_machine import machine_of
from hwmodels.calibrate.measurements import (
    Measurements,
    Sample,
    load_measurements,
    sample_of,
    work_parameters,
    workload_digest,
)
from hwmodels.calibrate.offloaded_slowdown import fit_beside_fetches
from hwmodels.cost import price
from hwmodels.fit import Fit
from hwmodels.fit_files import is_fit, load_fit
from hwmodels.kernels import activation_bytes, cached_share
from hwmodels.platform import load_platform
from offload.ops import KERNEL_KINDS, Gemm, OpKind, Work
from tests import small_fits
from tests.small_models import MODELS, routing
from traces.errors import InvalidInput, PregateError, UnknownName

FLOP_PER_S, BYTES_PER_S, LINK_BYTES_PER_S = 19.5e12, 2.039e12, 31.5e9
"""What the makers of the machine below claim."""

TRUE = {"fixed_s": 2e-5, "gemm": 1.2, "activations": 3.0, "traffic": 1.7, "arithmetic": 2.5}
STACK = {"copy_latency_s": 9e-6, "link_efficiency": 0.8, "sync_s": 3e-5, "step_s": 8e-5}
READBACK_S, OFFLOADED, ISSUE_S = 4e-5, 1.15, 6e-6
ROWS, PARAMS, ASPECTS = (1, 16, 256), (1 << 16, 1 << 20, 1 << 24), (0.25, 1.0, 4.0)


def roofline_s(m: int, n: int, k: int) -> float:
    """The longer of arithmetic and reading the weights, as claimed."""
    return max(2 * m * n * k / FLOP_PER_S, 4 * n * k / BYTES_PER_S)


def utilisation(m: int, n: int, k: int) -> float:
    """A made-up law, three digits of it."""
    return float(f"{0.2 + 0.1 * np.log2(m) / 8 + 0.2 * np.log2(n * k) / 24 + 0.01 * np.log2(k / n):.3g}")


def shapes(m: int) -> list[Gemm]:
    """GEMMs on the grid, so that nothing is interpolated."""
    return [Gemm(m, round((p / a) ** 0.5), round((p * a) ** 0.5)) for p in PARAMS for a in ASPECTS]


def op_s(work: Work) -> float:
    """What an op takes by the constants above."""
    gemm_s = sum(g.n_gemms * roofline_s(g.m, g.n, g.k) / utilisation(g.m, g.n, g.k) for g in work.gemms)
    seconds = TRUE["fixed_s"] + TRUE["gemm"] * gemm_s + TRUE["activations"] * activation_bytes(work) / BYTES_PER_S
    return seconds + TRUE["traffic"] * work.hbm_bytes / BYTES_PER_S + TRUE["arithmetic"] * work.flop / FLOP_PER_S


def ops(kind: OpKind) -> list[Work]:
    """Ops in which every term has its say in some."""
    works = [Work(kind, (gemm,)) for m in ROWS for gemm in shapes(m)[::4]]
    works += [Work(kind, (gemm._replace(n_gemms=200),)) for m in (1, 256) for gemm in shapes(m)[:3]]
    works += [Work(kind, (Gemm(1, 512, 128),), hbm_bytes=n_bytes) for n_bytes in (1 << 26, 1 << 28)]
    return works + [Work(kind, (Gemm(1, 512, 128),), flop=flop) for flop in (1 << 31, 1 << 33)]


def synthetic(noise: float = 0.0, seed: int = 0, **changes: Any) -> Measurements:
    """Samples of a machine that follows the constants above, `noise` being the spread of each sample's logarithm."""
    rng = np.random.default_rng(seed)

    def sample(what: str, seconds: float, **parameters: Any) -> Sample:
        return sample_of(what, [seconds * float(np.exp(noise * rng.standard_normal()))] * 3, **parameters)

    def op(work: Work, seconds: float, beside: str = "nothing", probe: str = "probe") -> Sample:
        return sample("op", seconds, probe=probe, phase="decode", beside=beside, **work_parameters(work))

    samples = [
        sample_of(
            "gemm",
            [roofline_s(*gemm[:3]) / utilisation(*gemm[:3])],
            **gemm._asdict(),
            dtype="fp32",
            params=gemm.n * gemm.k,
            aspect=gemm.k / gemm.n,
        )
        for m in ROWS
        for gemm in shapes(m)
    ]
    link = LINK_BYTES_PER_S * STACK["link_efficiency"]
    sizes = (4096, 65536, 1 << 20, 1 << 22, 1 << 24, 1 << 26)
    copies = ((n_bytes, STACK["copy_latency_s"] + n_bytes / link) for n_bytes in sizes)
    samples += [sample("h2d", seconds, n_bytes=n, memory="pinned", beside="nothing") for n, seconds in copies]
    for kind in KERNEL_KINDS:
        for i, work in enumerate(ops(kind)):
            samples.append(op(work, op_s(work), probe=f"probe-{i}"))
            samples.append(op(work, op_s(work) * OFFLOADED, "pregate", f"probe-{i}"))
        samples.append(
            sample("issue", ISSUE_S, kind=kind.name.lower(), phase="decode", probe="probe", beside="nothing")
        )
    for kind, seconds in (
        (OpKind.WAIT, STACK["sync_s"]),
        (OpKind.STEP, STACK["step_s"]),
        (OpKind.READBACK, READBACK_S),
    ):
        samples += [op(Work(kind), seconds, "pregate", f"probe-{i}") for i in range(5)]
    found: dict[str, Any] = {"machine": {"spec": "a100-sxm4-80gb"}, "stack": "pytorch-eager", "samples": tuple(samples)}
    return small_fits.measurements(**{**found, **changes})


@pytest.fixture(scope="module")
def exact() -> Fit:
    return calibrate(synthetic())


@pytest.fixture(scope="module")
def noisy() -> Fit:
    return calibrate(synthetic(noise=0.03))


def test_known_constants_are_recovered(exact: Fit) -> None:
    assert (exact.hardware, exact.stack, exact.machine, exact.dtypes) == (
        "a100-sxm4-80gb", "pytorch-eager", None, ("fp32",)
    )  # fmt: skip
    for name, value in STACK.items():
        assert exact.constants[name].value == pytest.approx(value, rel=1e-3), name
    for kind in (kind.name.lower() for kind in KERNEL_KINDS):
        for name, value in {**TRUE, "offloaded": OFFLOADED, "issue_s": ISSUE_S}.items():
            assert exact.kernels[f"{kind}.{name}"].value == pytest.approx(value, rel=1e-3), (kind, name)
    assert exact.kernels["readback.fixed_s"].value == pytest.approx(READBACK_S, rel=1e-3)
    assert all(
        error.n > 0 and error.median < 1e-3 for name, error in exact.left_out.items() if name not in ("gemm", "rounds")
    )


def test_what_was_fitted_prices_ops_as_they_were_measured(exact: Fit) -> None:
    hw = dataclasses.replace(load_platform("a100-sxm4-80gb", "pytorch-eager"), fit=exact)
    fetch = Work(OpKind.FETCH, copy_bytes=1 << 20)
    for works, slower in ((ops(OpKind.EXPERTS), 1.0), ([*ops(OpKind.EXPERTS), fetch], OFFLOADED)):
        found = price(works, hw).duration_s[: len(ops(OpKind.EXPERTS))]
        assert found.tolist() == pytest.approx([slower * op_s(work) for work in ops(OpKind.EXPERTS)], rel=2e-3)


def test_a_noisy_machine_is_recovered_within_its_intervals_on_the_whole(noisy: Fit) -> None:
    """All constants of one session: about 95 % of them, and none of them far off."""
    kinds = [kind.name.lower() for kind in KERNEL_KINDS]
    pairs = [(noisy.constants[name], value) for name, value in STACK.items()]
    pairs += [(noisy.kernels[f"{kind}.{name}"], value) for kind in kinds for name, value in TRUE.items()]
    inside = [constant.ci95[0] <= value <= constant.ci95[1] for constant, value in pairs]
    assert len(inside) == len(STACK) + len(kinds) * len(TRUE)
    assert np.mean(inside) >= 0.85
    for constant, value in pairs:
        assert abs(np.log(constant.value / value)) <= 2.5 * np.log(constant.ci95[1] / constant.value)
    assert all(0.005 < noisy.left_out[kind].median < 0.1 for kind in kinds)


def test_intervals_hold_as_often_as_they_say() -> None:
    """400 sessions with 3 % of noise: each constant lies in its 95 % interval 95 % of the time, +-3 %."""
    rng = np.random.default_rng(0)
    terms = np.stack([np.ones(40), np.geomspace(0.01, 100.0, 40)], axis=1)
    true = np.array([2.0, 0.5])
    weights, within = np.ones(40), np.zeros(2)
    for _ in range(400):
        log_c, covariance = solve(terms, terms @ true * np.exp(0.03 * rng.standard_normal(40)), weights)
        within += np.abs(log_c - np.log(true)) < 1.96 * np.sqrt(np.diag(covariance))
    assert within / 400 == pytest.approx([0.95, 0.95], abs=0.03)


SLOTS_MB = (5, 8, 13, 20, 30, 40, 60, 100, 200, 400, 1000)


def in_slots(seed: int = 0, noise: float = 0.0, sizes_mb: tuple[int, ...] = SLOTS_MB) -> list[Sample]:
    """Experts alone, and from slots of several sizes, beside fetches, on a machine with a cache of 30 MB."""
    rng, samples = np.random.default_rng(seed), []
    for i, mb in enumerate(sizes_mb):
        work = Work(OpKind.EXPERTS, (Gemm(1, 512, 128 + i),))
        factor = 1.1 * (1 - (1 - 0.7) * cached_share(mb * 10**6, 30e6)) * float(np.exp(noise * rng.standard_normal()))
        for beside, seconds, slots in (("nothing", 1e-3, 0), ("pregate", 1e-3 * factor, mb * 10**6)):
            described = work_parameters(work._replace(slots_bytes=slots))
            samples.append(sample_of("op", [seconds], probe="p", phase="decode", beside=beside, **described))
    return samples


def test_slots_that_a_cache_holds_are_told_from_those_it_does_not() -> None:
    found = fit_beside_fetches(in_slots())
    assert found is not None
    assert found.values == pytest.approx({"offloaded": 1.1, "cached": 0.7, "cache_bytes": 30e6}, rel=1e-3)
    assert np.abs(found.left_out).max() < 0.02
    noisy = fit_beside_fetches(in_slots(noise=0.03))
    assert noisy is not None
    spreads = np.sqrt(np.diag(noisy.covariance))
    for value, true, spread in zip(noisy.values.values(), (1.1, 0.7, 30e6), spreads.tolist(), strict=True):
        assert abs(np.log(value / true)) < 3 * spread < 1


@pytest.mark.parametrize("sizes_mb", [(500, 550, 600, 650, 700, 750, 800), (1, 2, 3, 4, 5, 6, 7)])
def test_slots_that_are_all_beyond_a_cache_or_within_it_tell_no_cache(sizes_mb: tuple[int, ...]) -> None:
    found = fit_beside_fetches(in_slots(noise=0.02, sizes_mb=sizes_mb))
    assert found is not None
    assert set(found.values) == {"offloaded"}
    assert found.values["offloaded"] == pytest.approx(1.1 if sizes_mb[0] > 30 else 0.77, rel=0.03)


def test_slots_of_few_sizes_tell_one_factor_alone() -> None:
    few = fit_beside_fetches(in_slots()[:6])
    assert few is not None
    assert set(few.values) == {"offloaded"}
    assert fit_beside_fetches([one for one in in_slots() if one.parameters["beside"] == "nothing"]) is None


def test_a_fit_says_what_a_cache_holds(tmp_path: Path) -> None:
    measured = synthetic()
    fit = calibrate(dataclasses.replace(measured, samples=(*measured.samples, *in_slots())))
    assert {"experts.offloaded", "experts.cached", "experts.cache_bytes"} <= set(fit.kernels)
    assert not {"gate.cached", "head.cached"} & set(fit.kernels)
    path = tmp_path / "fit.yaml"
    path.write_text(fit.to_yaml())
    again = load_fit(path)
    assert again.kernels["experts.cache_bytes"] == fit.kernels["experts.cache_bytes"]
    assert "cache_bytes:\n    value:" in path.read_text()


def timed(*seconds: float, **parameters: Any) -> list[Sample]:
    return [sample_of("x", [value], i=i, **parameters) for i, value in enumerate(seconds)]


def test_leave_one_out_errors_by_hand() -> None:
    """One constant: the others' geometric mean of time over term. Medians: of the others. Factors: as one constant."""
    terms = np.array([[1.0], [2.0], [4.0]])
    found = fit_sum(["c"], terms, timed(1.0, 4.0, 4.0))
    assert found.values["c"] == pytest.approx(2 ** (1 / 3))
    assert found.left_out == pytest.approx([2**0.5 - 1, 2 * 1.0 / 4 - 1, 4 * 2**0.5 / 4 - 1], rel=1e-6)
    logs = np.log1p(found.left_out)
    assert summary(found.left_out, found.weights).scatter == pytest.approx(float(np.sqrt(np.mean(logs**2))), abs=1e-4)
    counted = summary(found.left_out, np.array([1.0, 0.5, 0.5]))
    assert counted.scatter == pytest.approx(float(np.sqrt(logs**2 @ np.array([4, 1, 1]) / 6)), abs=1e-4)
    median = fit_median("c", timed(1.0, 2.0, 4.0))
    assert (median.values["c"], median.left_out.tolist()) == (2.0, [3 / 1 - 1, 2.5 / 2 - 1, 1.5 / 4 - 1])
    factor = fit_factor("c", timed(2.0, 8.0), [1.0, 2.0])
    assert factor.values["c"] == pytest.approx(8**0.5)
    assert factor.left_out == pytest.approx([4 / 2 - 1, 2 / 4 - 1])


def test_what_cannot_be_left_out_has_no_error() -> None:
    for found in (
        fit_sum(["c"], np.array([[1.0]]), timed(3.0)),
        fit_median("c", timed(3.0)),
        fit_factor("c", timed(3.0), [1.0]),
    ):
        assert found.values["c"] == pytest.approx(3.0)
        assert found.left_out.size == 0
        assert summary(found.left_out).n == 0


def test_errors_of_the_table_are_those_of_a_point_between_its_neighbours() -> None:
    """Rows 1, 4, 16 at utilisations 0.1, 0.4, 0.4: half way between 1 and 16 one expects 0.2, half of what is."""
    measured = synthetic(samples=())
    samples = tuple(
        sample_of(
            "gemm", [roofline_s(m, 64, 64) / u], m=m, n=64, k=64, dtype="fp32", params=4096, aspect=1.0
        )
        for m, u in ((1, 0.1), (4, 0.4), (16, 0.4))
    )  # fmt: skip
    tables = gemm_tables(dataclasses.replace(measured, samples=samples), machine_of(measured)[2])
    assert tables[0].utilisation == (((0.1,),), ((0.4,),), ((0.4,),))
    found = calibration._gemm_left_out(tables)
    assert (found.n, found.median) == (1, pytest.approx(1.0))


def test_what_samples_do_not_tell_is_left_out() -> None:
    """A term of a ten-thousandth of every sample; one that is nowhere; more terms than half of the samples."""
    terms = np.array([[1.0, 1e-4, 0.0], [2.0, 1e-4, 0.0], [3.0, 1e-4, 0.0], [4.0, 2e-4, 0.0]])
    assert list(fit_sum(["a", "b", "c"], terms, timed(1.0, 2.0, 3.0, 4.0)).values) == ["a"]
    few = np.array([[1.0, 1.0], [1.0, 2.0], [1.0, 4.0]])
    assert list(fit_sum(["a", "b"], few, timed(2.0, 3.0, 5.0)).values) == ["b"], "the one that says more of them"
    x, y = np.arange(1.0, 9.0), np.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0])
    together = np.stack([x, 3.0 * x, 0.05 * y], axis=1)  # of two that only come together one goes, not a lesser third
    sums = timed(*(x + 0.05 * y).tolist())
    assert list(fit_sum(["a", "b", "c"], together, sums).values) == ["a", "c"], "the first of two that are alike"
    kept = fit_sum(["a", "b"], few, timed(2.0, 3.0, 5.0), keep_all=True)
    assert list(kept.values.values()) == pytest.approx([1.0, 1.0], rel=1e-6)


def test_what_must_stay_and_samples_do_not_tell_is_vague_and_not_certain() -> None:
    """A latency of a ten-thousandth of every copy: ln known to 3, as before; two terms that only come together."""
    terms = np.array([[1e-4, 1.0], [1e-4, 2.0], [2e-4, 3.0], [1e-4, 4.0]])
    found = fit_sum(["latency", "slowdown"], terms, timed(1.0, 2.0, 3.0, 4.0), keep_all=True)
    assert np.sqrt(np.diag(found.covariance)).tolist() == pytest.approx([3.0, 0.01], rel=0.01)
    log_c, covariance = solve(np.array([[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]]), np.array([1.0, 2.0, 4.0]), np.ones(3))
    assert np.exp(log_c).sum() == pytest.approx(1.0)
    assert np.sqrt(np.exp(log_c) @ covariance @ np.exp(log_c)) == pytest.approx(0.02 / 3**0.5, rel=0.01)
    assert np.sqrt(np.diag(covariance)).min() > 1


def test_a_prefill_counts_a_quarter_of_a_decode() -> None:
    """One constant between ln 1 and ln 2: weights 1 and 1/16."""
    samples = [*timed(1.0, phase="decode"), *timed(2.0, phase="prefill")]
    found = fit_sum(["c"], np.ones((2, 1)), samples)
    assert np.log(found.values["c"]) == pytest.approx(np.log(2.0) / 17, rel=1e-5)


def test_the_head_of_a_prefill_and_ops_beside_copies_are_not_fitted() -> None:
    def sample(kind: str, phase: str, beside: str) -> Sample:
        return sample_of("op", [1.0], kind=kind, phase=phase, beside=beside)

    assert counts(sample("head", "decode", "nothing"))
    assert counts(sample("experts", "prefill", "nothing"))
    assert not counts(sample("head", "prefill", "nothing"))
    assert not counts(sample("experts", "decode", "pregate"))
    assert not counts(sample_of("issue", [1.0], kind="experts"))


def test_the_covariance_is_one_and_what_was_fitted_apart_is_independent(noisy: Fit) -> None:
    covariance = np.array(noisy.covariance)
    assert covariance.shape == (len(noisy.order),) * 2
    assert np.array_equal(covariance, covariance.T)
    eigenvalues = np.linalg.eigvalsh(covariance)
    assert eigenvalues.min() > -1e-6 * eigenvalues.max()
    at = {name: i for i, name in enumerate(noisy.order)}
    assert covariance[at["experts.fixed_s"], at["experts.gemm"]] < 0
    assert covariance[at["experts.fixed_s"], at["gate.fixed_s"]] == 0
    assert covariance[at["experts.gemm"], at["sync_s"]] == 0
    spread = np.sqrt(covariance[at["experts.gemm"], at["experts.gemm"]])
    low, high = noisy.kernels["experts.gemm"].ci95
    assert np.log(high / low) / 2 == pytest.approx(1.96 * spread, rel=1e-3)


def test_a_share_varies_against_the_slowdown_that_it_is_one_over() -> None:
    """More latency is less slowdown, and that is more of the link's rate."""
    terms = np.array([[1.0, x] for x in (0.1, 1.0, 2.0, 4.0, 50.0)])
    found = fit_sum(["latency", "slowdown"], terms, timed(*(terms @ np.array([1.0, 2.0])).tolist()))
    turned = found.inverted("slowdown", "efficiency")
    assert turned.values == pytest.approx({"latency": 1.0, "efficiency": 0.5})
    assert found.covariance[0, 1] < 0 < turned.covariance[0, 1] == -found.covariance[0, 1]
    assert np.diag(turned.covariance).tolist() == np.diag(found.covariance).tolist()
    assert fit_sum(["s"], np.ones((1, 1)), timed(0.9)).inverted("s", "e").values == {"e": 1.0}


def without(measured: Measurements, what: str, **parameters: Any) -> Measurements:
    gone = list(measured.of(what, **parameters))
    assert gone
    return dataclasses.replace(measured, samples=tuple(s for s in measured.samples if s not in gone))


def broken(name: str) -> Measurements:
    measured, made_up = synthetic(), small_fits.measurements()
    first = next(measured.of("op", kind="gate"))
    still = tuple(dataclasses.replace(s, mean_s=0.0) if s is first else s for s in measured.samples)
    bf16 = tuple(
        dataclasses.replace(s, parameters={**s.parameters, "dtype": "bf16"}) if s.what == "gemm" else s
        for s in made_up.samples
    )
    two = list(measured.of("h2d"))[:2]
    return {
        "busy": lambda: dataclasses.replace(
            measured, provenance={"trust": "none", "trust_reasons": "the same thing takes 90 % more or less"}
        ),
        "hole": lambda: without(measured, "gemm", m=16, params=1 << 20, aspect=1.0),
        "no gemms": lambda: without(measured, "gemm"),
        "no gemms, no maker": lambda: without(made_up, "gemm"),
        "no h2d, no maker": lambda: without(made_up, "h2d"),
        "no fp32, no maker": lambda: dataclasses.replace(made_up, samples=bf16),
        "no clock": lambda: dataclasses.replace(
            made_up, machine={k: v for k, v in made_up.machine.items() if k != "clock_hz"}
        ),
        "impossible machine": lambda: dataclasses.replace(made_up, machine={**made_up.machine, "hbm_bytes": -1}),
        "no copies": lambda: without(measured, "h2d"),
        "two sizes": lambda: dataclasses.replace(
            without(measured, "h2d"), samples=(*without(measured, "h2d").samples, *two, two[0])
        ),
        "no experts": lambda: without(measured, "op", kind="experts"),
        "no time": lambda: dataclasses.replace(measured, samples=still),
        "no rate": lambda: dataclasses.replace(
            measured, machine={"spec": "t4"}, samples=(*measured.samples, *(s for s in bf16 if s.what == "gemm"))
        ),
        "another format": lambda: dataclasses.replace(
            measured,
            samples=tuple(
                dataclasses.replace(s, parameters={**s.parameters, "dtype": "bf16"}) if s.what == "op" else s
                for s in measured.samples
            ),
        ),
        "unknown stack": lambda: dataclasses.replace(measured, stack="pytorch-eagre"),
        "unknown spec": lambda: dataclasses.replace(measured, machine={"spec": "a100-sxm4-80g"}),
    }[name]()  # fmt: skip


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("busy", r"say nothing of this machine: the same thing takes 90 % more or less: measure again with less"),
        ("hole", r"the GEMM grid of fp32 has no sample at \(16.0, 1048576.0, 1.0\): measure again"),
        ("no gemms", "no GEMM was measured"),
        ("no gemms, no maker", r"do not describe their machine \(no GEMMs\)"),
        ("no h2d, no maker", r"do not describe their machine \(no h2d copies\)"),
        ("no fp32, no maker", "no GEMMs in fp32, the format that every machine is described in"),
        ("no clock", "do not describe their machine .no 'clock_hz'"),
        ("impossible machine", "above 0"),
        ("no copies", "0 sizes of copies were measured, at least 3 needed"),
        ("two sizes", "2 sizes of copies were measured, at least 3 needed"),
        ("no experts", "no op of kind experts was measured"),
        ("no time", "sample gate/probe-0/decode/nothing took no time at all"),
        ("no rate", "measured in bf16, which the machine claims no rate for"),
        ("another format", "ops were measured in bf16, but no GEMM was"),
        ("unknown stack", "did you mean 'pytorch-eager'"),
        ("unknown spec", "did you mean 'a100-sxm4-80gb'"),
    ],
)
def test_what_cannot_be_fitted_is_one_clear_line(name: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        calibrate(broken(name))
    assert "\n" not in str(caught.value)


def test_a_machine_that_nobody_describes_is_as_good_as_the_best_that_was_seen() -> None:
    name, machine, rates = machine_of(small_fits.measurements())
    assert machine is not None
    assert name == machine.accelerator.name == "made-up"
    assert rates.flop_per_s == {"fp32": pytest.approx(small_fits.FLOP_PER_S)}
    assert rates.hbm_bytes_per_s == pytest.approx(small_fits.BYTES_PER_S)
    assert (machine.link.h2d_bytes_per_s, machine.accelerator.hbm_bytes) == (2e9, 8 << 30)
    assert "measured" in machine.accelerator.sources["hbm_bytes_per_s"].source
    unpaced = small_fits.measurements(
        machine={**small_fits.measurements().machine, "h2d_bytes_per_s": None, "d2h_bytes_per_s": None}
    )
    described = machine_of(unpaced)[1]
    assert described is not None
    best = max(s.parameters["n_bytes"] / s.median_s for s in unpaced.of("h2d"))
    assert described.link.h2d_bytes_per_s == best < 2e9


@pytest.mark.parametrize("suffix", [".yaml", ".yml"])
def test_a_fit_survives_its_own_text_and_is_a_machine(tmp_path: Path, suffix: str) -> None:
    fit = small_fits.fit()
    path = tmp_path / f"{fit.name}{suffix}"
    path.write_text(fit.to_yaml())
    assert is_fit(path)
    assert load_fit(path) == fit
    hw = load_platform(str(path))
    assert fit.machine is not None
    assert (hw.hardware, hw.stack.name, hw.fit) == ("made-up", "threads", fit)
    assert (hw.machine.accelerator, hw.machine.host) == (fit.machine.accelerator, fit.machine.host)
    assert hw.calibration("fp32") == "fitted"
    assert hw.calibration("bf16") == "extrapolated"
    assert hw.describe_calibration("fp32") == "fitted on made-up with threads"
    with pytest.raises(InvalidInput, match="was fitted with the stack threads, not streams"):
        load_platform(str(path), "streams")


def test_a_fit_of_a_described_machine_survives_and_finds_its_makers_numbers(noisy: Fit, tmp_path: Path) -> None:
    path = tmp_path / "a100-sxm4-80gb.pytorch-eager.yaml"
    path.write_text(noisy.to_yaml())
    assert load_fit(path) == noisy
    hw = load_platform(str(path))
    assert hw.machine == load_platform("a100-sxm4-80gb").machine
    assert hw.calibration("fp32") == "fitted"


def test_every_number_of_the_users_own_is_extrapolated_another_speed_of_the_link_too(tmp_path: Path) -> None:
    """The share of a link's rate that is achieved was measured at one rate: at another it is a guess."""
    path = tmp_path / "made-up.threads.yaml"
    path.write_text(small_fits.fit().to_yaml())
    for overrides in ({"link.h2d_bytes_per_s": "4GB/s"}, {"hbm_bytes": "4GiB"}, {"stack.sync_s": 1e-6}):
        hw = load_platform(str(path), overrides=overrides)
        assert hw.calibration("fp32") == "extrapolated"
        assert hw.describe_calibration("fp32") == "extrapolated: threads was fitted on made-up as measured, in fp32"
    same = load_platform(str(path), overrides={})
    assert same.calibration("fp32") == "fitted"


def test_a_shipped_fit_of_a_machine_nobody_describes_is_found_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_files, "FITS_DIR", tmp_path)
    fit = small_fits.fit()
    (tmp_path / "made-up.threads.yaml").write_text(fit.to_yaml())
    (tmp_path / "made-up.streams.yaml").write_text(dataclasses.replace(fit, stack="streams").to_yaml())
    hw = load_platform("made-up", "threads")
    assert (hw.fit, hw.calibration("fp32")) == (fit, "fitted")
    assert load_platform("made-up", "streams").stack.name == "streams"
    assert load_platform("made-up").stack.name == "streams"
    with pytest.raises(InvalidInput, match="not pytorch-eager: leave out --stack"):
        load_platform("made-up", "pytorch-eager")
    with pytest.raises(UnknownName, match="unknown hardware 'made-upp'"):
        load_platform("made-upp")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["kernels"].__setitem__("experts.speed", d["kernels"]["experts.fixed_s"]), "'experts.speed' is no"),
        (lambda d: d["kernels"]["experts.fixed_s"].update(value=-1.0, ci95=[-2.0, 1.0]), "fixed_s = -1 is not above 0"),
        (lambda d: d["kernels"]["experts.fixed_s"].__setitem__("unit", "1"), "a fit is written in SI: 's'"),
        (lambda d: d["kernels"].pop("experts.gemm"), "log_covariance is not of the constants"),
        (lambda d: d.pop("gemm_tables"), "kernels without gemm_tables"),
        (lambda d: d.__setitem__("gemm_tables", [1]), "something that is no table"),
        (lambda d: d["gemm_tables"][0]["m"].reverse(), r"gemm_tables\[0\]: m: .* does not ascend"),
        (lambda d: d["leave_one_out"]["gate"].__setitem__("median", -0.1), "below 0"),
        (lambda d: d["leave_one_out"]["gate"].pop("scatter"), "key 'scatter' is missing"),
        (lambda d: d["machine"].pop("clock_hz"), "key 'clock_hz' is missing"),
        (lambda d: d["machine"]["link"]["h2d_bytes_per_s"].__setitem__("value", 0), "h2d_bytes_per_s"),
        (lambda d: d.__setitem__("probes", "all"), "probes is not a list"),
    ],
)
def test_a_malformed_fit_of_kernels_is_one_clear_line(tmp_path: Path, change: Any, message: str) -> None:
    document = yaml.safe_load(small_fits.fit().to_yaml())
    change(document)
    path = tmp_path / "made-up.threads.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(PregateError, match=message) as caught:
        load_fit(path)
    assert "\n" not in str(caught.value)


def test_a_fit_knows_its_probes_and_nothing_is_validated_on_them(tmp_path: Path) -> None:
    """From the file of measurements to the file of the fit to the refusal."""
    pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")
    from pregate.check.cases import CaseGroup, CaseWorkload
    from pregate.check.session import PREDICTIONS, validate

    group = CaseGroup(MODELS["decoder-only"], CaseWorkload(1, 4, 4, seed=3), ("pregate",), link_bytes_per_s=20e6)
    model, trace = group.model, group.workload.trace(group.model)
    measured = small_fits.measurements(probes=(workload_digest(model, routing(model)), workload_digest(model, trace)))
    measured.save(tmp_path / "m.json")
    fit = calibrate(load_measurements(tmp_path / "m.json"))
    assert fit.probes == measured.probes
    path = tmp_path / f"{fit.name}.yaml"
    path.write_text(fit.to_yaml())
    with pytest.raises(InvalidInput, match="made on this very workload") as caught:
        validate([group], load_platform(str(path)), directory=tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / PREDICTIONS).exists()


def test_calibration_knows_neither_runs_nor_results() -> None:
    """It reads measurements and nothing else: no replay can slip in by an import."""
    program = (
        "import sys, hwmodels.calibrate.calibration; "
        "print([m for m in sys.modules if m.split('.')[0] in ('pregate', 'runtime', 'simulator', 'torch', 'scipy')])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_picture_shows_each_kind_against_its_data_within_its_own_limits() -> None:
    from pregate.draw.calibration_plot import fit_against_data

    measured = synthetic(noise=0.03)
    prefill = sample_of(
        "op", [50.0], probe="p", phase="prefill", beside="nothing", **work_parameters(Work(OpKind.HEAD))
    )
    measured = dataclasses.replace(measured, samples=(*measured.samples, prefill))
    figure = fit_against_data(measured, calibrate(measured))
    panels = [axis for axis in figure.axes if axis.get_visible()]
    titles = ["self attention", "cross attention", "gate", "experts", "dense ffn", "head", "copies to the device"]
    assert [axis.get_title() for axis in panels] == titles
    for axis in panels:
        points = np.concatenate([line.get_xydata() for line in axis.lines if line.get_marker() in "os"])
        low, high = axis.get_xlim()
        assert axis.get_ylim() == (low, high)
        assert low < points.min() < 1.5 * low
        assert high / 1.5 < points.max() < high
    assert panels[5].get_xlim()[1] < 1000
