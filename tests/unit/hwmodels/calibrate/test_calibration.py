"""Calibration: known constants are recovered, errors are what they say, and what cannot be fitted is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwmodels.calibrate.calibration import calibrate
from hwmodels.calibrate.least_squares import solve
from hwmodels.calibrate.measurements import (
    Measurements,
    Sample,
    sample_of,
    work_parameters,
)
from hwmodels.calibrate.offloaded_slowdown import fit_offloaded_slowdown
from hwmodels.cost import price
from hwmodels.fits.fit import Fit
from hwmodels.fits.fit_files import load_fit
from hwmodels.kernels.roofline import cached_share
from hwmodels.platform import load_platform
from offload.ops import KERNEL_KINDS, Gemm, OpKind, Work
from tests import small_fits
from tests.made_up_measurements import (
    ISSUE_S,
    OFFLOADED,
    READBACK_S,
    STACK,
    TRUE,
    noisy_fit,
    op_s,
    ops,
    synthetic,
)
from traces.errors import InvalidInput


@pytest.fixture(scope="module")
def exact() -> Fit:
    return calibrate(synthetic())


@pytest.fixture(scope="module")
def noisy() -> Fit:
    return noisy_fit()


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


def test_ops_that_take_as_long_whatever_their_gemms_are_priced_so() -> None:
    """A GEMM that samples do not tell from nothing is not charged at what it takes alone either."""
    kind, seconds = "cross_attention", 400e-6
    measured = synthetic()
    samples = tuple(
        dataclasses.replace(one, median_s=seconds, p25_s=seconds, p75_s=seconds, mean_s=seconds)
        if one.what == "op" and one.parameters["kind"] == kind and one.parameters["beside"] == "nothing"
        else one
        for one in measured.samples
    )
    hw = dataclasses.replace(
        load_platform("a100-sxm4-80gb", "pytorch-eager"), fit=calibrate(dataclasses.replace(measured, samples=samples))
    )
    assert price(ops(OpKind.CROSS_ATTENTION), hw).duration_s.tolist() == pytest.approx(
        [seconds] * len(ops(OpKind.CROSS_ATTENTION)), rel=0.05
    )


def in_two_formats() -> Measurements:
    """The same ops and GEMMs again in bf16: a GEMM takes as long there, and an op, by other kernels, twice."""
    measured, again = synthetic(), []
    for one in measured.samples:
        if one.what == "gemm":
            again.append(dataclasses.replace(one, parameters={**one.parameters, "dtype": "bf16"}))
        elif one.what == "op" and one.work.kind in KERNEL_KINDS:
            work = work_parameters(one.work._replace(compute="bf16", weight_bits=16))
            twice = {name: 2 * getattr(one, name) for name in ("median_s", "p25_s", "p75_s", "mean_s")}
            again.append(dataclasses.replace(one, parameters={**one.parameters, **work}, **twice))
    return dataclasses.replace(measured, samples=(*measured.samples, *again))


def test_ops_of_two_formats_have_constants_of_their_own(tmp_path: Path) -> None:
    fit = calibrate(in_two_formats())
    assert {"experts.fp32.fixed_s", "experts.bf16.fixed_s"} <= set(fit.kernels)
    assert "experts.fixed_s" not in fit.kernels
    assert fit.kernels["experts.offloaded"].value == pytest.approx(OFFLOADED, rel=1e-3), "of the same format"
    assert fit.left_out["experts"].n == 2 * len(ops(OpKind.EXPERTS))
    (tmp_path / "fit.yaml").write_text(fit.to_yaml())
    hw = dataclasses.replace(load_platform("a100-sxm4-80gb", "pytorch-eager"), fit=load_fit(tmp_path / "fit.yaml"))
    for compute, bits, slower in (("fp32", 32, 1.0), ("bf16", 16, 2.0)):
        works = [work._replace(compute=compute, weight_bits=bits) for work in ops(OpKind.EXPERTS)]
        wanted = [slower * op_s(work) for work in ops(OpKind.EXPERTS)]
        assert price(works, hw).duration_s.tolist() == pytest.approx(wanted, rel=5e-3), compute


def test_a_format_of_few_samples_has_its_constants_with_the_others() -> None:
    measured = in_two_formats()
    few = [one for one in measured.samples if one.what != "op" or one.work.compute == "fp32"]
    more = [one for one in measured.samples if one.what == "op" and one.work.compute == "bf16"]
    kept = [one for one in more if one.parameters["probe"] in ("probe-0", "probe-1", "probe-2")]
    fit = calibrate(dataclasses.replace(measured, samples=(*few, *kept)))
    assert "experts.fixed_s" in fit.kernels
    assert not any(name.startswith("experts.bf16") for name in fit.kernels)


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
    found = fit_offloaded_slowdown(in_slots())
    assert found is not None
    assert found.values == pytest.approx({"offloaded": 1.1, "cached": 0.7, "cache_bytes": 30e6}, rel=1e-3)
    assert np.abs(found.left_out).max() < 0.02
    noisy = fit_offloaded_slowdown(in_slots(noise=0.03))
    assert noisy is not None
    spreads = np.sqrt(np.diag(noisy.covariance))
    for value, true, spread in zip(noisy.values.values(), (1.1, 0.7, 30e6), spreads.tolist(), strict=True):
        assert abs(np.log(value / true)) < 3 * spread < 1


@pytest.mark.parametrize("sizes_mb", [(500, 550, 600, 650, 700, 750, 800), (1, 2, 3, 4, 5, 6, 7)])
def test_slots_that_are_all_beyond_a_cache_or_within_it_tell_no_cache(sizes_mb: tuple[int, ...]) -> None:
    found = fit_offloaded_slowdown(in_slots(noise=0.02, sizes_mb=sizes_mb))
    assert found is not None
    assert set(found.values) == {"offloaded"}
    assert found.values["offloaded"] == pytest.approx(1.1 if sizes_mb[0] > 30 else 0.77, rel=0.03)


def test_slots_of_few_sizes_tell_one_factor_alone() -> None:
    few = fit_offloaded_slowdown(in_slots()[:6])
    assert few is not None
    assert set(few.values) == {"offloaded"}
    assert fit_offloaded_slowdown([one for one in in_slots() if one.parameters["beside"] == "nothing"]) is None


def test_an_op_beside_fetches_that_waited_for_a_core_is_left_out() -> None:
    alone = [one for one in in_slots() if one.parameters["beside"] == "nothing"]
    waited = [dataclasses.replace(one, mean_s=13 * one.mean_s) for one in in_slots() if one not in alone]
    assert fit_offloaded_slowdown([*alone, *waited]) is None
    both, some = (fit_offloaded_slowdown([*more, *in_slots()[:6]]) for more in (waited, []))
    assert both is not None
    assert some is not None
    assert both.values == some.values


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
