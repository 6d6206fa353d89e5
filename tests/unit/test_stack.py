"""Stacks and fits are parsed strictly: claims have sources, measurements have intervals, never both in one file."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hwmodels.fit import fit_names, load_fit
from hwmodels.platform import load_platform
from hwmodels.spec import hardware_names
from hwmodels.stack import CONSTANTS, load_stack, stack_names
from traces.errors import InvalidFile, InvalidInput, PregateError, UnknownName

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", stack_names())
def test_every_claim_has_a_source(name: str) -> None:
    stack = load_stack(name)
    assert set(stack.constants) == set(CONSTANTS)
    assert all(constant.source for constant in stack.constants.values())
    assert all(count >= 1 for count in stack.launches.values())


@pytest.mark.parametrize("name", fit_names())
def test_every_measurement_has_an_interval_and_rows(name: str) -> None:
    fit = load_fit(name)
    assert name == f"{fit.hardware}.{fit.stack}"
    for constant in (*fit.constants.values(), *fit.assumptions.values()):
        assert constant.ci95[0] < constant.value < constant.ci95[1]
        assert constant.rows
    assert set(fit.order) == set(fit.constants) | set(fit.assumptions)


def test_a_fit_survives_its_own_text(tmp_path: Path) -> None:
    fit = load_fit("a100-sxm4-80gb.fastertransformer")
    path = tmp_path / "a100-sxm4-80gb.fastertransformer.yaml"
    path.write_text(fit.to_yaml())
    assert load_fit(path) == fit


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["constants"].__setitem__("kernel", d["constants"].pop("kernel_s")), "did you mean 'kernel_s'"),
        (lambda d: d["constants"]["kernel_s"].__setitem__("value", -1), "kernel_s"),
        (lambda d: d["constants"]["kernel_s"].__setitem__("unit", "us"), "unit"),
        (lambda d: d["constants"]["gemm_efficiency"].update(value=1.2, ci95=[1.1, 1.3]), "above 1"),
        (lambda d: d["log_covariance"]["matrix"].pop(), "matrix"),
        (lambda d: d.pop("provenance"), "provenance"),
        (lambda d: d.__setitem__("note", "x"), "unknown key 'note'"),
    ],
)
def test_a_malformed_fit_is_one_clear_line(tmp_path: Path, change: object, message: str) -> None:
    document = yaml.safe_load((ROOT / "hwmodels/fits/a100-sxm4-80gb.fastertransformer.yaml").read_text())
    change(document)  # type: ignore[operator]
    path = tmp_path / "bad.fit.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(PregateError, match=message) as caught:
        load_fit(path)
    assert "\n" not in str(caught.value)


def test_a_platform_says_what_its_constants_rest_on() -> None:
    assert load_platform("a100-sxm4-80gb").stack.name == "fastertransformer"
    assert load_platform("a100-sxm4-80gb").calibration("fp32") == "fitted"
    assert load_platform("a100-sxm4-80gb").calibration("bf16") == "extrapolated"
    assert load_platform("a100-sxm4-80gb", overrides={"link": "pcie5-x16"}).calibration("fp32") == "extrapolated"
    assert load_platform("a100-sxm4-80gb", overrides={"stack.sync_s": 1e-6}).calibration("fp32") == "extrapolated"
    assert load_platform("h100-sxm", "fastertransformer").calibration("fp32") == "extrapolated"
    assert load_platform("h100-sxm").calibration("fp32") == "claimed"


@pytest.mark.parametrize("name", hardware_names())
def test_every_machine_has_a_stack(name: str) -> None:
    platform = load_platform(name)
    assert all(platform.constant(constant) > 0 for constant in CONSTANTS)
    assert platform.describe_calibration("fp32")


def test_mistakes_name_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'streams'"):
        load_stack("stream")
    with pytest.raises(UnknownName, match="fit"):
        load_fit("a100-sxm4-80gb.fastertransformers")
    with pytest.raises(InvalidInput, match="above 0"):
        load_platform("t4", overrides={"stack.sync_s": 0.0})
    with pytest.raises(InvalidFile, match="cannot be read"):
        load_fit(Path("no/such/fit.yaml"))
