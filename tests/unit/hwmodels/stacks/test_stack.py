"""Stacks and fits are parsed strictly: claims have sources, measurements have intervals, never both in one file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hwmodels.cost import price
from hwmodels.figures import figures_of
from hwmodels.fits.fit_files import fit_names, load_fit
from hwmodels.platform import load_platform, machines_of
from hwmodels.specs.machine_files import hardware_names
from hwmodels.stacks.stack import CONSTANTS, OPTIONAL
from hwmodels.stacks.stack_files import load_stack, stack_names
from offload.ops import KERNEL_KINDS, Gemm, OpKind, Work
from traces.errors import InvalidFile, InvalidInput, PregateError, UnknownName

ROOT = Path(__file__).parents[4]


@pytest.mark.parametrize("name", stack_names())
def test_every_claim_has_a_source(name: str) -> None:
    stack = load_stack(name)
    assert set(CONSTANTS) - set(OPTIONAL) <= set(stack.constants) <= set(CONSTANTS)
    assert all(constant.source for constant in stack.constants.values())
    assert all(count >= 1 for count in stack.launches.values())
    assert {*KERNEL_KINDS, OpKind.STAGE} <= stack.launches.keys()


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
        (lambda d: d["constants"].__setitem__("kernel", d["constants"].pop("kernel_s")), "did you mean .*'kernel_s'"),
        (lambda d: d["constants"]["kernel_s"].__setitem__("value", -1), "kernel_s"),
        (lambda d: d["constants"]["kernel_s"].__setitem__("unit", "us"), "unit"),
        (lambda d: d["constants"]["gemm_efficiency"].update(value=1.2, ci95=[1.1, 1.3]), "above 1"),
        (lambda d: d["log_covariance"]["matrix"].pop(), "matrix"),
        (lambda d: d["log_covariance"]["matrix"].__setitem__(0, "x"), "list of finite numbers"),
        (lambda d: d["log_covariance"]["matrix"][0].__setitem__(0, float("nan")), "finite"),
        (lambda d: d["log_covariance"]["order"].__setitem__(0, "launch_s"), "log_covariance is not of the constants"),
        (lambda d: d["constants"]["kernel_s"].__setitem__("ci95", [1.0]), "ci95"),
        (lambda d: d["constants"]["kernel_s"].__setitem__("ci95", ["low", "high"]), "ci95"),
        (lambda d: d["constants"]["kernel_s"].__setitem__("ci95", [1.0, 2.0]), "not an interval around"),
        (lambda d: d["constants"]["kernel_s"].__setitem__("n", 99), "n is not the number of rows"),
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


def no_tile(d: dict[str, Any]) -> None:
    del d["grouped_gemm_tile"]["rows"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["constants"].__setitem__("sync", d["constants"].pop("sync_s")), "sync_s"),
        (lambda d: d["constants"].__setitem__("extra_s", d["constants"]["sync_s"]), "unknown key 'extra_s'"),
        (lambda d: d["constants"]["sync_s"].pop("source"), "source"),
        (lambda d: d["constants"]["sync_s"].__setitem__("source", "nowhere"), "unknown source 'nowhere'"),
        (lambda d: d["constants"]["sync_s"].__setitem__("unit", "GB"), "unit of size, expected one of time"),
        (lambda d: d["constants"]["sync_s"].__setitem__("value", 0), "above 0"),
        (lambda d: d["constants"]["hbm_efficiency"].__setitem__("value", 1.01), "an efficiency is a fraction"),
        (lambda d: d["launches"].__setitem__("gate", 2.5), "not an integer"),
        (lambda d: d["launches"].__setitem__("gates", 2), "did you mean 'gate'"),
        (lambda d: d["launches"].pop("source"), "source"),
        (lambda d: d.__setitem__("execution", "stream"), "did you mean 'streams'"),
        (no_tile, "rows"),
        (lambda d: d.__setitem__("ci95", [0, 1]), "unknown key 'ci95'"),
    ],
)
def test_a_malformed_stack_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], Any], message: str
) -> None:
    document = yaml.safe_load((ROOT / "hwmodels/stacks/fastertransformer.yaml").read_text())
    change(document)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(document))
    monkeypatch.setattr("hwmodels.stacks.stack_files.STACKS_DIR", tmp_path)
    with pytest.raises(PregateError, match=message) as caught:
        load_stack("mine")
    assert "\n" not in str(caught.value)


def test_a_kind_of_op_that_a_stack_says_nothing_of_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may leave out what it never runs; what it does run it has to say."""
    document = yaml.safe_load((ROOT / "hwmodels/stacks/fastertransformer.yaml").read_text())
    del document["launches"]["stage"]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(document))
    monkeypatch.setattr("hwmodels.stacks.stack_files.STACKS_DIR", tmp_path)
    stack = load_stack("mine")
    assert stack.launches_of(Work(OpKind.GATE)) == document["launches"]["gate"]
    with pytest.raises(InvalidInput, match="stack mine does not say how many kernels stage launches"):
        stack.launches_of(Work(OpKind.STAGE))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("stack.sync", 1.0, "did you mean 'sync_s'"),
        ("stack.sync_s", -1.0, "above 0"),
        ("stack.sync_s", float("nan"), "above 0 and finite"),
        ("stack.sync_s", float("inf"), "above 0 and finite"),
        ("stack.sync_s", "1e999", "not finite"),
        ("stack.sync_s", "3GB", "unit of size"),
        ("stack.sync_s", "soon", "not a number"),
        ("stack.link_efficiency", 1.5, "above 1"),
        ("stack.reread_exponent", 1.5, "above 1"),
    ],
)
def test_an_impossible_override_is_one_clear_line(key: str, value: float | str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        load_platform("t4", overrides={key: value})
    assert "\n" not in str(caught.value)


def test_a_constant_is_the_users_else_the_fitted_else_the_claimed() -> None:
    fitted = load_platform("a100-sxm4-80gb")
    assert fitted.fit is not None
    assert fitted.constant("kernel_s") == fitted.fit.constants["kernel_s"].value
    assert fitted.constant("cpu_efficiency") == fitted.stack.constants["cpu_efficiency"].value
    assert load_platform("a100-sxm4-80gb", overrides={"stack.kernel_s": "7us"}).constant("kernel_s") == 7e-6
    assert load_platform("h100-sxm").constant("kernel_s") == 2.9e-6


def test_every_machine_has_a_stack() -> None:
    for name in hardware_names():
        platform = load_platform(name)
        assert all(value > 0 for value in platform.constants.values()), name
        assert platform.describe_calibration("fp32"), name


def test_mistakes_name_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'streams'"):
        load_stack("stream")
    with pytest.raises(UnknownName, match="fit"):
        load_fit("a100-sxm4-80gb.fastertransformers")
    with pytest.raises(InvalidInput, match="above 0"):
        load_platform("t4", overrides={"stack.sync_s": 0.0})
    with pytest.raises(InvalidFile, match="cannot be read"):
        load_fit(Path("no/such/fit.yaml"))


_LLAMA = {"7b": (32, 4096, 12288, 11008), "70b": (80, 8192, 10240, 28672)}
"""Llama 2: layers, d_model, queries with keys and values, d_ff (huggingface.co, config.json of each)."""


@pytest.mark.parametrize(
    ("model", "bits", "tokens_per_s", "within"),
    [
        ("7b", 16.0, 104.9, 0.005), ("7b", 8.0, 155.58, 0.005), ("70b", 8.0, 19.13, 0.015),  # constants are of these
        ("7b", 5.0, 196.8, 0.03), ("70b", 5.0, 25.25, 0.06),  # and not of these: int4, scales of groups of 32
    ],
)  # fmt: skip
def test_gpt_fast_has_its_constants_from_dense_models(
    model: str, bits: float, tokens_per_s: float, within: float
) -> None:
    hw = load_platform("a100-sxm4-80gb", "gpt-fast")
    n_layers, width, qkv, d_ff = _LLAMA[model]
    products = {
        OpKind.SELF_ATTENTION: (Gemm(1, qkv, width), Gemm(1, width, width)),
        OpKind.DENSE_FFN: (Gemm(1, 2 * d_ff, width), Gemm(1, width, d_ff)),
        OpKind.HEAD: (Gemm(1, 32000, width),),
    }
    seconds = [float(price([Work(kind, gemms, "bf16", bits)], hw).duration_s[0]) for kind, gemms in products.items()]
    whole_s = n_layers * (seconds[0] + seconds[1]) + seconds[2]
    assert whole_s == pytest.approx(1 / tokens_per_s, rel=within)


@pytest.mark.parametrize(
    ("hardware", "n_tokens", "head", "tokens_per_s", "within"),
    [
        ("rtx-3090", 1, False, 155.02, 0.04),  # kernel_s is of this, with no blocks of rows: they make it 3 % longer
        ("rtx-4090", 1, True, 159.67, 0.03),  # and nothing of this: a build with some kernels a layer more
    ],
)
def test_llama_cpp_has_its_kernels_from_a_dense_model(
    hardware: str, n_tokens: int, head: bool, tokens_per_s: float, within: float
) -> None:
    """Llama 3 8B (huggingface.co, config.json) in Q4_0, its head in Q6_K."""
    hw = load_platform(hardware, "llama-cpp")
    attention = *(Gemm(n_tokens, n, 4096) for n in (4096, 1024, 1024)), Gemm(n_tokens, 4096, 4096)
    ffn = Gemm(n_tokens, 14336, 4096, 2), Gemm(n_tokens, 4096, 14336)
    parts = price([Work(OpKind.SELF_ATTENTION, attention, "bf16", 4.5), Work(OpKind.DENSE_FFN, ffn, "bf16", 4.5)], hw)
    kernels_s = -1 * hw.constant("kernel_s") * 2520e6 / hw.machine.accelerator.clock_hz  # no norms of heads: 25, not 26
    whole_s = 32 * (float(parts.duration_s.sum()) + kernels_s) + hw.constant("step_s")
    if head:
        whole_s += float(price([Work(OpKind.HEAD, (Gemm(1, 128256, 4096),), "bf16", 6.56)], hw).duration_s[0])
    assert whole_s == pytest.approx(n_tokens / tokens_per_s, rel=within)


@pytest.mark.parametrize("stack", [name for name in stack_names() if load_stack(name).vendors])
def test_a_stack_is_refused_on_what_it_does_not_run_on_and_others_are_named(stack: str) -> None:
    with pytest.raises(
        InvalidInput, match=f"stack {stack} runs on .* apple-m4-max is of Apple: choose .*llama-cpp"
    ) as no:
        load_platform("apple-m4-max", stack)
    assert stack not in str(no.value).split("choose another stack")[1]
    assert load_platform("h100-sxm", stack).stack.name == stack


def own_engine(folder: Path, change: Callable[[dict[str, Any]], Any] = lambda _: None) -> str:
    """llama.cpp's description with something else in it, as a file of one's own."""
    described = yaml.safe_load((ROOT / "hwmodels/stacks/llama-cpp.yaml").read_text())
    change(described)
    (folder / "engine.yaml").write_text(yaml.safe_dump(described))
    return str(folder / "engine.yaml")


def test_an_engine_of_ones_own_is_a_file(tmp_path: Path) -> None:
    theirs = load_platform("rtx-3090", "llama-cpp")
    ours = load_platform("rtx-3090", own_engine(tmp_path))
    what = Work(OpKind.EXPERTS, (Gemm(1, 4096, 4096),), "fp16", 4.5)
    assert ours.stack.name == str(tmp_path / "engine.yaml")
    assert ours.constants == theirs.constants
    assert price([what], ours).duration_s.tolist() == price([what], theirs).duration_s.tolist()
    slow = load_platform(
        "rtx-3090", own_engine(tmp_path, lambda d: d["constants"]["hbm_efficiency"].update(value=0.0125))
    )  # the file was written again: what it says now counts
    assert price([what], slow).duration_s[0] > 10 * price([what], ours).duration_s[0]
    assert slow.calibration("fp16") == "claimed"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("execution"), r"engine\.yaml: key 'execution' is missing"),
        (lambda d: d.update(execution="llama"), "llama"),
        (lambda d: d["constants"].update(sped_s=d["constants"]["sync_s"]), "sped_s"),
        (lambda d: d["constants"].pop("dequant_efficiency"), "expected one of dequant_efficiency and unpack_s"),
        (lambda d: d["constants"].update(hbm_efficiency={"value": 1.5, "unit": "1", "source": "stream"}), "above 1"),
        (lambda d: d["constants"].update(sync_s=3), "sync_s"),
    ],
)
def test_an_engine_that_its_file_does_not_describe_is_refused_by_what_is_wrong(
    change: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(PregateError, match=message):
        load_stack(own_engine(tmp_path, change))
    with pytest.raises(InvalidFile, match=r"nosuch\.yaml: there is no such file; those that ship: fastertransformer"):
        load_stack(str(tmp_path / "nosuch.yaml"))


def test_of_a_maker_that_nobody_knows_every_stack_may_run(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(
        (ROOT / "hwmodels/specs/accelerators/apple-m4-max.yaml").read_text().replace("vendor: Apple", "vendor: Mine")
    )
    assert load_platform(str(own), "vllm").stack.name == "vllm"


def test_machines_of_a_stack_are_those_that_it_runs_on() -> None:
    assert machines_of(None) == machines_of("streams") == hardware_names()
    left = set(hardware_names()) - set(machines_of("vllm"))
    assert left
    assert all(name.startswith("apple-") for name in left)
    assert load_platform(machines_of("ktransformers")[0], "ktransformers").stack.name == "ktransformers"


def test_unpacking_of_a_stack_that_rows_determine_is_the_mean_of_what_they_say() -> None:
    """Named without a table, the stack says what its own rows ask for, which is no share of a card's memory rate.

    Four cards whose rates differ by a factor of six take 21 to 39 ps a weight: each by the other three within 1.6.
    """
    fitted = json.loads((ROOT / "results" / "field.json").read_text())["constants"]
    asked = []
    for key, value in fitted.items():
        if key.startswith("Eliseev") and key.endswith("dequant_efficiency"):
            rate = figures_of(load_platform(key.split(", ")[2].split(":")[0], "mixtral-offloading")).hbm_bytes_per_s
            asked.append(4 / 8 * (1 / value - 1) / rate)
    stated = load_stack("mixtral-offloading").constants["unpack_s"].value
    assert len(asked) == 4
    assert stated == pytest.approx(math.prod(asked) ** (1 / len(asked)), rel=0.02)
    for left_out in asked:
        others = (math.prod(asked) / left_out) ** (1 / 3)
        assert 1 / 1.6 < others / left_out < 1.6
