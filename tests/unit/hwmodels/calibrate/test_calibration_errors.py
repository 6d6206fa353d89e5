"""Errors and covariances of a fit, by hand and left out one by one."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from hwmodels.calibrate import calibration
from hwmodels.calibrate.calibration import counts, gemm_tables
from hwmodels.calibrate.least_squares import fit_factor, fit_median, fit_sum, solve, summary
from hwmodels.calibrate.measured_machine import machine_of
from hwmodels.calibrate.measurements import (
    Sample,
    sample_of,
)
from hwmodels.fits.fit import Fit
from tests.made_up_measurements import (
    noisy_fit,
    roofline_s,
    synthetic,
)


@pytest.fixture(scope="module")
def noisy() -> Fit:
    return noisy_fit()


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
    assert list(fit_sum(["a", "b"], few, timed(2.0, 3.0, 5.0), kept_always="a").values) == ["a"]
    told = fit_sum(["a", "b", "c"], together, sums, kept_always="b")
    assert list(told.values) == ["a", "c"], "what vanishes or is like another goes all the same"
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


def test_what_samples_do_not_tell_stays_as_vague_as_without_them() -> None:
    """Two times of a loaded machine, a nanosecond and a second: no fit that reads back could hold their scatter."""
    wide = timed(1e-9, 1.0, 1e-9, 1.0)
    for found in (fit_median("c", wide), fit_factor("c", wide, [1e-3] * 4)):
        assert found.covariance.tolist() == [[9.0]]
