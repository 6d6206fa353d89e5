"""A fitted law by itself: what is refused with which words, what it covers, and its text read again."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest

from hwmodels.laws.families import family_of
from hwmodels.laws.fitted_law import FittedLaw, HeldOut, read_law
from hwmodels.laws.law_forms import FORMS
from tests.unit.hwmodels.laws.laws_of_our_own import law
from traces.errors import InvalidFile, InvalidInput, PregateError, UnknownName
from traces.foundation.documents import Section

ERRORS = HeldOut(17, 0.123456, 0.11, 0.25, -0.034, 0.91, 0.15)
GEMM = law("gemm", m=(1.0, 512.0), n=(256.0, 8192.0), k=(64.0, 4096.0))
DECODE = law("decode_attention", stored="fp8", n_heads=(8.0, 32.0))


def refused(make: Callable[[], object], message: str, kind: type[PregateError] = InvalidInput) -> None:
    with pytest.raises(kind) as error:
        make()
    assert str(error.value) == message
    assert type(error.value) is kind


@pytest.mark.parametrize(
    "good",
    [{"n": 1}, {"mape": 0.0}, {"mape": 999999.0}, {"tau": -1.0}, {"tau": 1.0}, {"scatter": 0.0}, {"scatter": 29.9},
     {"mape": 1.5}, {"scatter": 1.5}],
)  # fmt: skip
def test_errors_that_can_be_are_taken(good: dict[str, Any]) -> None:
    assert dataclasses.replace(ERRORS, **good) is not None


@pytest.mark.parametrize(
    "wrong",
    [{"n": 0}, {"mape": -0.001}, {"mape": 1e6}, {"tau": -1.01}, {"tau": 1.01}, {"scatter": -0.1}, {"scatter": 30.0},
     {"mape": math.nan}, {"tau": math.nan}, {"scatter": math.nan}],
)  # fmt: skip
def test_errors_of_no_law_are_refused_with_all_of_them(wrong: dict[str, Any]) -> None:
    at = {"n": 17, "mape": 0.123456, "tau": 0.91, "scatter": 0.15, **wrong}
    refused(
        lambda: dataclasses.replace(ERRORS, **wrong),
        f"held out: n = {at['n']}, mape = {at['mape']:g}, tau = {at['tau']:g}, scatter = {at['scatter']:g}: no "
        "errors of a law, fit it again",
    )


def test_errors_are_written_with_four_digits() -> None:
    assert ERRORS.to_dict() == {
        "n": 17, "mape": 0.1235, "median": 0.11, "p90": 0.25, "bias": -0.034, "tau": 0.91, "scatter": 0.15,
    }  # fmt: skip


def changed(of: FittedLaw = GEMM, **values: float) -> dict[str, float]:
    return {**of.values, **values}


def reordered() -> dict[str, float]:
    return dict(reversed(GEMM.values.items()))


N = len(GEMM.values)


def diagonal(*on: float, n: int = N) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(on[i] if i == j else 0.0 for j in range(n)) for i in range(n))


CONSTANTS = (
    "fixed_s, peak, memory, cache, kept, ramp, activations, split_s, step_s, sustained, boost_s: `pregate calibrate "
    "--from aiconfigurator` writes the fit of an earlier version anew"
)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"values": reordered()}, f"law gemm: in another order: missing or unknown, its constants are {CONSTANTS}"),
        (
            {"values": {**{name: at for name, at in GEMM.values.items() if name != "peak"}, "beak": 1.0}},
            f"law gemm: beak, peak: missing or unknown, its constants are {CONSTANTS}",
        ),
        ({"values": changed(peak=0.0)}, "law gemm: peak = 0: above 0 and at most 1e+06 can be"),
        ({"values": changed(ramp=1000001.0)}, "law gemm: ramp = 1e+06: above 0 and at most 1e+06 can be"),
        ({"values": changed(fixed_s=0.0101)}, "law gemm: fixed_s = 0.0101: above 0 and at most 0.01 can be"),
        ({"values": changed(boost_s=-1.0)}, "law gemm: boost_s = -1: above 0 and at most 0.01 can be"),
        ({"values": changed(memory=math.nan)}, "law gemm: memory = nan: above 0 and at most 1e+06 can be"),
        ({"covariance": diagonal(*[1.0] * N)[:-1]}, "law gemm: the covariance is not 11 x 11"),
        (
            {"covariance": (*diagonal(*[1.0] * N)[:-1], (0.0,) * (N - 2) + (1.0,))},
            "law gemm: the covariance is not 11 x 11",
        ),
        ({"covariance": diagonal(*[1.0] * (N - 1), 0.0)}, "law gemm: no constant is known exactly"),
        ({"covariance": diagonal(-1.0, *[1.0] * (N - 1))}, "law gemm: no constant is known exactly"),
        ({"within": {"m": (1.0, 2.0), "n": (1.0, 2.0)}}, "law gemm: within has to bound m, n, k"),
        ({"within": {**GEMM.within, "o": (1.0, 2.0)}}, "law gemm: within has to bound m, n, k"),
        ({"within": {**GEMM.within, "m": (2.0, 1.0)}}, "law gemm: within has to bound m, n, k"),
        ({"within": {**GEMM.within, "k": (0.0, 1.0)}}, "law gemm: within has to bound m, n, k"),
        ({"within": {**GEMM.within, "k": (1.0, math.inf), "m": (-1.0, 1.0)}}, "law gemm: within has to bound m, n, k"),
    ],
)  # fmt: skip
def test_a_law_that_cannot_be_says_what_is_wrong(wrong: dict[str, Any], message: str) -> None:
    refused(lambda: dataclasses.replace(GEMM, **wrong), message)


def test_constants_and_shapes_at_their_limits_are_taken() -> None:
    values = changed(ramp=1e6, peak=1e-9, fixed_s=1e-2, boost_s=1e-12)
    within = {"m": (1.0, 1.0), "n": (0.25, 0.5), "k": (1.0, 2.0)}
    at = dataclasses.replace(GEMM, values=values, within=within, covariance=diagonal(*[1e-30] * N))
    assert (at.values, at.within) == (values, within)


@pytest.mark.parametrize(
    ("of", "wrong", "message"),
    [
        (GEMM, {"form": "gem"}, "unknown law 'gem': did you mean 'gemm'?"),
        (GEMM, {"compute": "bf61"}, "unknown format of arithmetic 'bf61': did you mean 'bf16'?"),
        (GEMM, {"stored": "bf61"}, "'bf61'"),
        (GEMM, {"kernel": "wgma"}, "unknown choice of tiles 'wgma': did you mean 'wgmma'?"),
        (law("quantised_gemm"), {"kernel": "cutlass-sm9"}, "unknown choice of tiles 'cutlass-sm9': did you mean 'cut"),
        (law("experts"), {"kernel": "triton-defaul"}, "unknown choice of tiles 'triton-defaul': did you mean 'triton-"),
        (law("experts"), {"kernel": "wgmma"}, "unknown choice of tiles 'wgmma'"),
        (DECODE, {"kernel": ""}, "unknown attention kernel ''"),
        (DECODE, {"kernel": "flash-atention-3"}, "unknown attention kernel 'flash-atention-3': did you mean 'flash-at"),
    ],
)  # fmt: skip
def test_names_that_nobody_knows_are_answered_with_the_nearest(
    of: FittedLaw, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnknownName) as error:
        dataclasses.replace(of, **wrong)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("form", "kernel"),
    [("gemm", "wgmma"), ("gemm", ""), ("quantised_gemm", "cutlass-sm90"), ("experts", "triton-default"),
     ("experts", "flashinfer-cutlass"), ("latent_decode", "triton-mla")],
)  # fmt: skip
def test_kernels_that_a_law_has_are_taken(form: str, kernel: str) -> None:
    assert dataclasses.replace(law(form), kernel=kernel).kernel == kernel


def test_a_shape_is_covered_up_to_the_last_that_was_measured_and_by_what_it_says_of_itself() -> None:
    assert GEMM.covers({"m": 1.0, "n": 8192.0, "k": 64.0})
    assert not GEMM.covers({"m": 0.5, "n": 8192.0, "k": 64.0})
    assert not GEMM.covers({"m": 512.0, "n": 8193.0, "k": 64.0})
    assert not GEMM.covers({"m": 1.0, "n": 300.0, "k": 4097.0})
    assert GEMM.covers({"m": 12.0, "window": 1e9})
    assert not GEMM.covers({"k": 1.0})


def test_a_law_says_its_form_and_how_wide_its_weights_are() -> None:
    assert (GEMM.law, GEMM.bits, DECODE.bits) == (FORMS["gemm"], 16, 8)


FULL = dataclasses.replace(
    GEMM,
    kernel="wgmma",
    covariance=tuple(tuple(0.04 * (1 + i) if i == j else 0.001 * (1 + min(i, j)) for j in range(N)) for i in range(N)),
    families=ERRORS,
    elsewhere=dataclasses.replace(ERRORS, n=18),
    windows=dataclasses.replace(ERRORS, n=19),
    source={"table": "gemm.parquet", "rows": "36"},
)


def test_a_law_is_written_with_intervals_and_half_of_its_covariance() -> None:
    written = FULL.to_dict()
    assert list(written) == [
        "law", "compute", "stored", "kernel", "constants", "log_covariance", "within", "left_family_out",
        "left_machine_out", "windows_left_out", "source",
    ]  # fmt: skip
    assert [written[name] for name in ("law", "compute", "stored", "kernel")] == ["gemm", "bf16", "bf16", "wgmma"]
    spread = math.exp(1.96 * 0.2)
    assert written["constants"]["fixed_s"] == {
        "value": 3e-6, "unit": "s", "ci95": [float(f"{3e-6 / spread:.3g}"), float(f"{3e-6 * spread:.3g}")],
    }  # fmt: skip
    wider = math.exp(1.96 * math.sqrt(0.08))
    assert written["constants"]["peak"] == {
        "value": 0.8, "unit": "1", "ci95": [float(f"{0.8 / wider:.3g}"), float(f"{0.8 * wider:.3g}")],
    }  # fmt: skip
    assert all(type(end) is float for one in written["constants"].values() for end in one["ci95"])
    assert written["log_covariance"][:3] == [[0.04], [0.001, 0.08], [0.001, 0.002, 0.12]]
    assert len(written["log_covariance"]) == N
    assert written["within"] == {"m": [1.0, 512.0], "n": [256.0, 8192.0], "k": [64.0, 4096.0]}
    assert [written[name]["n"] for name in ("left_family_out", "left_machine_out", "windows_left_out")] == [17, 18, 19]
    assert written["source"] == {"table": "gemm.parquet", "rows": "36"}
    assert list(GEMM.to_dict()) == [
        "law", "compute", "stored", "constants", "log_covariance", "within", "left_family_out", "source",
    ]  # fmt: skip


def document(of: FittedLaw = FULL) -> dict[str, Any]:
    return of.to_dict()


def read(written: dict[str, Any]) -> FittedLaw:
    return read_law(Section(written, "a.yaml: laws 1"))


@pytest.mark.parametrize("of", [GEMM, DECODE, FULL, law("latent_decode"), law("experts", "fp8", "bf16")])
def test_a_law_survives_its_own_text(of: FittedLaw) -> None:
    rounded = {
        name: one if one is None else HeldOut(**one.to_dict())  # type: ignore[arg-type]
        for name, one in (("families", of.families), ("elsewhere", of.elsewhere), ("windows", of.windows))
    }
    again = read(document(of))
    assert again == dataclasses.replace(of, **rounded)  # type: ignore[arg-type]
    for mapping in (again.values, again.within, again.source):
        with pytest.raises(TypeError):
            mapping["new"] = 1.0  # type: ignore[index]


def test_constants_are_found_in_whatever_order_they_are_written() -> None:
    written = document()
    written["constants"] = dict(reversed(written["constants"].items()))
    assert list(read(written).values) == list(FORMS["gemm"].constants)


def test_numbers_are_read_as_floats_and_words_of_the_source_as_text() -> None:
    written = document()
    written["within"]["m"] = [1, 512]
    written["log_covariance"][0] = [1]
    written["source"]["rows"] = 36
    again = read(written)
    assert [type(x) for x in again.within["m"]] == [float, float]
    assert type(again.covariance[0][0]) is float
    assert again.source["rows"] == "36"


WRONG: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda d: d.pop("law"), "key 'law' is missing"),
    (lambda d: d.pop("compute"), "key 'compute' is missing"),
    (lambda d: d.pop("stored"), "key 'stored' is missing"),
    (lambda d: d.update(kernel=3), "kernel = 3 is not text"),
    (lambda d: d.pop("constants"), "key 'constants' is missing"),
    (lambda d: d["constants"].pop("peak"), f"law gemm: peak: missing or unknown, its constants are {CONSTANTS}"),
    (lambda d: d["constants"]["peak"].pop("value"), "constants: peak: key 'value' is missing"),
    (lambda d: d["constants"]["peak"].pop("unit"), "constants: peak: key 'unit' is missing"),
    (lambda d: d["constants"]["peak"].pop("ci95"), "constants: peak: key 'ci95' is missing"),
    (lambda d: d.pop("log_covariance"), "key 'log_covariance' is missing"),
    (
        lambda d: d["log_covariance"].pop(3),
        "log_covariance is a lower triangle: rows of 1, 2, 3 and so on numbers",
    ),
    (
        lambda d: d["log_covariance"][0].append(1.0),
        "log_covariance is a lower triangle: rows of 1, 2, 3 and so on numbers",
    ),
    (lambda d: d["log_covariance"].pop(), "law gemm: the covariance is not 11 x 11"),
    (lambda d: d["log_covariance"].__setitem__(0, 1.0), "expected a list of finite numbers"),
    (lambda d: d["log_covariance"].__setitem__(0, ["1"]), "expected a list of finite numbers"),
    (lambda d: d["log_covariance"].__setitem__(0, [True]), "expected a list of finite numbers"),
    (lambda d: d["log_covariance"].__setitem__(0, [math.inf]), "expected a list of finite numbers"),
    (lambda d: d.pop("within"), "key 'within' is missing"),
    (lambda d: d["within"].__setitem__("m", [1.0]), "within: a least and a most for each number of a shape"),
    (lambda d: d["within"].__setitem__("m", [1.0, 2.0, 3.0]), "within: a least and a most for each number of a shape"),
    (lambda d: d["within"].__setitem__("m", "1 to 2"), "expected a list of finite numbers"),
    (lambda d: d["within"].__setitem__("m", [2.0, math.nan]), "expected a list of finite numbers"),
    (lambda d: d["within"].pop("m"), "law gemm: within has to bound m, n, k"),
    (lambda d: d.pop("left_family_out"), "key 'left_family_out' is missing"),
    (lambda d: d["left_family_out"].pop("n"), "left_family_out: key 'n' is missing"),
    (lambda d: d["left_family_out"].update(n=1.5), "left_family_out: n = 1.5 is not an integer"),
    (
        lambda d: d["left_machine_out"].update(tau=2),
        "left_machine_out: held out: n = 18, mape = 0.1235, tau = 2, scatter = 0.15: no errors of a law, fit it again",
    ),
    (lambda d: d["left_machine_out"].pop("tau"), "left_machine_out: key 'tau' is missing"),
    (lambda d: d["windows_left_out"].pop("scatter"), "windows_left_out: key 'scatter' is missing"),
    (lambda d: d.pop("source"), "key 'source' is missing"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_a_text_that_is_no_law_says_where_and_what(change: Callable[[dict[str, Any]], object], message: str) -> None:
    written = document()
    change(written)
    refused(lambda: read(written), f"a.yaml: laws 1: {message}", InvalidFile)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(lawn=1), "unknown key 'lawn' in a.yaml: laws 1: did you mean 'law'?"),
        (
            lambda d: d["constants"]["peak"].update(valu=1),
            "unknown key 'valu' in a.yaml: laws 1: constants: peak: did you mean 'value'?",
        ),
        (
            lambda d: d["left_family_out"].update(medians=1),
            "unknown key 'medians' in a.yaml: laws 1: left_family_out: did you mean 'median'?",
        ),
    ],
)  # fmt: skip
def test_a_word_that_nobody_reads_is_answered_with_the_nearest(
    change: Callable[[dict[str, Any]], object], message: str
) -> None:
    written = document()
    change(written)
    with pytest.raises(UnknownName) as error:
        read(written)
    assert str(error.value) == message


def test_errors_are_read_under_their_own_names() -> None:
    written = document()
    written["left_family_out"] = {
        "n": 3, "mape": 0.01, "median": 0.02, "p90": 0.03, "bias": 0.04, "tau": 0.05, "scatter": 0.06,
    }  # fmt: skip
    assert read(written).families == HeldOut(3, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06)


def test_an_architecture_is_a_minor_number_up_to_nine_and_a_major_one_above() -> None:
    found = {one: family_of(one) for one in ("7.5", "8.0", "8.9", "9.0", "10.0", "10.3", "12.1", "10", "")}
    assert found == {
        "7.5": "7.5", "8.0": "8.0", "8.9": "8.9", "9.0": "9.0", "10.0": "10.x", "10.3": "10.x", "12.1": "12.x",
        "10": "10.x", "": None,
    }  # fmt: skip
