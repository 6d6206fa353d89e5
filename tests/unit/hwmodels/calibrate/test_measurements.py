"""Measurements: a sample says what it is of, a file is whole or refused in one line, and its digest names it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from hwmodels.calibrate import measurements as module
from hwmodels.calibrate.measurements import Sample, load_measurements, sample_of, work_parameters, workload_digest
from offload.ops import Gemm, OpKind, Work
from tests.small_fits import measurements, op
from tests.small_models import MODELS, routing
from traces.errors import InvalidFile, InvalidInput, PregateError

Change = Callable[[dict[str, Any]], Any]


def test_a_sample_has_median_quartiles_and_a_mean_that_one_interrupt_does_not_move() -> None:
    sample = sample_of("h2d", [1.0, 2.0, 3.0, 4.0, 5.0], n_bytes=8)
    assert (sample.p25_s, sample.median_s, sample.p75_s, sample.mean_s, sample.n) == (2, 3, 4, 3, 5)
    assert sample.spread == pytest.approx(2 / 3)
    assert sample_of("h2d", [1.0] * 9 + [1000.0]).mean_s == pytest.approx((9 + 3) / 10)
    assert sample_of("wait", [0.0, 0.0]).spread == 0.0


@given(st.lists(st.floats(1e-7, 1e3), min_size=1, max_size=50))
def test_a_mean_lies_between_the_least_and_three_medians(durations: list[float]) -> None:
    sample = sample_of("gate", durations)
    assert min(durations) * (1 - 1e-12) <= sample.p25_s <= sample.median_s <= sample.p75_s <= max(durations)
    assert min(durations) * (1 - 1e-12) <= sample.mean_s <= 3 * sample.median_s * (1 + 1e-12)
    assert sample.n == len(durations)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"median_s": -1.0}, "median_s = -1.0 is no time"),
        ({"mean_s": float("nan")}, "mean_s = nan is no time"),
        ({"p75_s": float("inf")}, "p75_s = inf is no time"),
        ({"p25_s": "1"}, "p25_s = '1' is no time"),
        ({"n": 0}, "n = 0, at least 1"),
    ],
)
def test_a_sample_of_no_time_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        dataclasses.replace(sample_of("h2d", [1.0]), **change)
    with pytest.raises(InvalidInput, match="nothing was timed"):
        sample_of("h2d", [])


WORK = Work(OpKind.EXPERTS, (Gemm(3, 48, 32), Gemm(3, 32, 48, 2)), "bf16", 16.0, flop=5, hbm_bytes=7, copy_bytes=9)


def test_a_work_survives_its_parameters() -> None:
    sample = sample_of("op", [1.0], **json.loads(json.dumps(work_parameters(WORK))))
    assert sample.work == WORK
    with pytest.raises(InvalidInput, match="sample h2d is not of an op: KeyError 'kind'"):
        _ = sample_of("h2d", [1.0], n_bytes=8).work


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "exports"},
        {"gemms": 5},
        {"gemms": [[1, 2]]},
        {"gemms": [[1, 2, 3, 4, 5]]},
        {"gemms": [[0, 2, 3]]},
        {"weight_bits": "x"},
        {"weight_bits": 0},
        {"flop": -1},
        {"copy_bytes": None},
        {"hbm_bytes": 1e999},
    ],
)
def test_parameters_of_no_work_are_refused(change: dict[str, Any]) -> None:
    sample = sample_of("op", [1.0], **{**work_parameters(WORK), **change})
    with pytest.raises(InvalidInput, match="sample op is not of an op"):
        _ = sample.work


def test_a_row_names_what_a_sample_is_of() -> None:
    assert sample_of("h2d", [1.0], n_bytes=8, memory="pinned", gone=None).row == "h2d/n_bytes=8/memory=pinned"
    assert op(WORK, "probe-1", "on_demand").row == "experts/probe-1/decode/on_demand"


def test_samples_are_found_by_what_they_depend_on() -> None:
    found = measurements()
    assert len(list(found.of("h2d"))) == len(list(found.of("h2d", memory="pinned"))) == 3
    assert [s.parameters["n_bytes"] for s in found.of("h2d", n_bytes=4096)] == [4096]
    assert not list(found.of("h2d", memory="pageable"))
    assert not list(found.of("h2d", colour="red"))


def test_a_file_gives_back_what_was_saved_and_its_digest_names_it(tmp_path: Path) -> None:
    found = measurements(disturbances=("copies: other processes used 1.00 cores",))
    path = tmp_path / "measurements.json"
    found.save(path)
    again = load_measurements(path)
    assert again == found
    assert again.digest == found.digest
    assert not again.is_clean
    for other in (
        dataclasses.replace(found, stack="pytorch-eager"),
        dataclasses.replace(found, probes=()),
        dataclasses.replace(found, samples=found.samples[:-1]),
    ):
        assert other.digest != found.digest


def test_times_written_as_whole_numbers_have_the_same_digest(tmp_path: Path) -> None:
    """Every time is a float once it has been read, whoever wrote it."""
    whole = measurements(samples=(Sample("sync", {}, 1, 1, 1, 1, 3),))
    assert whole.digest == measurements(samples=(Sample("sync", {}, 1.0, 1.0, 1.0, 1.0, 3),)).digest
    path = tmp_path / "m.json"
    path.write_text(json.dumps(whole.to_dict()).replace("1.0", "1"))
    assert load_measurements(path).digest == whole.digest


def test_saving_is_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    measurements().save(path)
    before = path.read_bytes()
    unsavable = measurements(samples=(sample_of("h2d", [1.0], n_bytes=np.int64(8)),))
    with pytest.raises(TypeError):
        unsavable.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(InvalidFile, match="there is no folder"):
        measurements().save(tmp_path / "no" / "m.json")


def drop(document: dict[str, Any], *keys: str) -> None:
    for key in keys[:-1]:
        document = document[key]
    del document[keys[-1]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.__setitem__("version", 3), "version 3, this release reads 2: measure again"),
        (lambda d: d.__setitem__("version", "1"), "version = '1' is not an integer"),
        (lambda d: drop(d, "version"), "key 'version' is missing"),
        (lambda d: drop(d, "samples"), "key 'samples' is missing"),
        (lambda d: d.__setitem__("samples", {"a": 1}), "samples is not a list"),
        (lambda d: d["samples"].__setitem__(0, [1, 2]), r"samples\[0\] is not a mapping"),
        (lambda d: d["samples"][3].__setitem__("median_s", -1e-6), r"samples\[3\]: median_s = -1e-06 is below 0"),
        (lambda d: d["samples"][3].__setitem__("mean_s", 10**400), "mean_s = inf is not a finite number"),
        (lambda d: d["samples"][3].__setitem__("mean_s", None), "key 'mean_s' is missing"),
        (lambda d: d["samples"][3].__setitem__("mean_s", "soon"), "mean_s = 'soon' is not a number"),
        (lambda d: d["samples"][3].__setitem__("mean_s", True), "mean_s = True is not a finite number"),
        (lambda d: d["samples"][3].__setitem__("n", 2.5), "n = 2.5 is not an integer"),
        (lambda d: d["samples"][3].__setitem__("n", 0), "n = 0 is below 1"),
        (lambda d: d["samples"][3].__setitem__("what\n", "x"), "unknown key"),
        (lambda d: d["samples"][0].__setitem__("parameters", []), "parameters is not a mapping"),
        (lambda d: d["samples"][0]["parameters"].__setitem__("m", 0), "gemm: m = 0 is below 1"),
        (lambda d: d["samples"][0]["parameters"].__setitem__("dtype", "fp33"), "unknown number format 'fp33'"),
        (lambda d: d["samples"][0]["parameters"].__setitem__("aspect", 0), "aspect = 0 is not above 0"),
        (lambda d: d["samples"][0]["parameters"].__setitem__("m", [1]), "neither text nor a finite number"),
        (lambda d: d["samples"][6]["parameters"].__setitem__("n_bytes", "8"), "h2d: n_bytes = '8' is not an integer"),
        (lambda d: d["samples"][-1]["parameters"].__setitem__("kind", "exports"), "not of an op"),
        (lambda d: drop(d["samples"][-1], "parameters", "beside"), "key 'beside' is missing"),
        (lambda d: d.__setitem__("probes", "abc"), "probes is not a list"),
        (lambda d: d.__setitem__("probes", [1]), "probes holds something that is no text"),
        (lambda d: d.__setitem__("disturbances", [None]), "disturbances holds something that is no text"),
        (lambda d: d.__setitem__("disturbances", ["x"]), "clean says other than disturbances do"),
        (lambda d: d.__setitem__("clean", 1), "clean = 1 is not true or false"),
        (lambda d: d.__setitem__("machine", "mine"), "machine is not a mapping"),
        (lambda d: d["machine"].__setitem__("hbm_bytes", {}), "hbm_bytes = {} is neither text nor a finite number"),
        (lambda d: d["provenance"].__setitem__("date", 7), "date = 7 is not text"),
        (lambda d: d.__setitem__("stack", None), "key 'stack' is missing"),
        (lambda d: d.__setitem__("sample", []), "did you mean 'samples'"),
    ],
)  # fmt: skip
def test_a_malformed_file_is_one_clear_line(tmp_path: Path, change: Change, message: str) -> None:
    document = json.loads(json.dumps(measurements().to_dict()))
    change(document)
    refused(tmp_path, json.dumps(document), message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[1, 2]", "expected a mapping at the top, found list"),
        ("null", "found NoneType"),
        ('{"version": NaN}', "NaN is no number"),
        ('{"version": -Infinity}', "-Infinity is no number"),
        ("[" * 100_000, "not JSON"),
        ('{"a":' * 100_000, "not JSON"),
        ('{"version": ' + "9" * 5000 + "}", "not JSON"),
        ('{"version": 1e999}', "version = inf is not an integer"),
    ],
    ids=lambda value: value[:12],
)
def test_what_is_no_json_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    refused(tmp_path, text, message)


def test_a_huge_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 1000)
    refused(tmp_path, json.dumps(measurements().to_dict()), "at most 1000 are read")
    with pytest.raises(InvalidFile, match=r"no\.json: cannot be read"):
        load_measurements(tmp_path / "no.json")


def refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "hostile.json"
    path.write_text(text)
    with pytest.raises(PregateError, match=message) as caught:
        load_measurements(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_workload_is_named_by_its_model_and_its_routing() -> None:
    model = MODELS["decoder-only"]
    digest = workload_digest(model, routing(model))
    assert digest == workload_digest(model, routing(model))
    assert digest != workload_digest(model, routing(model, seed=1))
    assert digest != workload_digest(dataclasses.replace(model, vocab_size=128), routing(model))


def test_a_link_that_is_memory_has_no_speed_and_its_measurements_load(tmp_path: Path) -> None:
    unpaced = {"h2d_bytes_per_s": None, "d2h_bytes_per_s": None}
    found = measurements(machine={**measurements().machine, **unpaced})
    found.save(tmp_path / "measurements.json")
    assert load_measurements(tmp_path / "measurements.json").machine["h2d_bytes_per_s"] is None
