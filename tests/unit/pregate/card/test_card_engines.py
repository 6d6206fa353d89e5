"""Which engines a card asks, on which machines, and what it asks of them."""

from __future__ import annotations

import pytest

import pregate
from offload.slots.memory import CapacityExceeded
from pregate.card.designs import ENGINES, EngineDesign, designs_of, plan_design, stacks_for
from pregate.card.job import RequestLoad, workpiece
from pregate.card.judged_design import judge
from pregate.card.narrowing import narrowing
from pregate.card.plan import plan
from pregate.engines.writing import flags_of
from traces.model.architecture import ModelArchitecture

LOAD = RequestLoad(24, 40, 1)


@pytest.fixture(scope="module")
def model() -> ModelArchitecture:
    return pregate.load_model("mixtral-mini-8")


def test_engines_that_cannot_run_a_model_are_not_asked() -> None:
    switch = pregate.load_model("switch-base-8")
    shipped = ("llama-cpp", "ktransformers", "vllm", "streams")
    assert stacks_for(switch, "fastertransformer", shipped, "NVIDIA") == ("fastertransformer", "streams")
    packed = pregate.load_model("mixtral-mini-8", formats={"all": "q4_k"})
    assert "vllm" not in stacks_for(packed, "streams", shipped, "NVIDIA")
    assert "llama-cpp" in stacks_for(packed, "streams", shipped, "NVIDIA")
    assert "ktransformers" not in stacks_for(packed, "streams", ("llama-cpp", "streams"), "NVIDIA")


@pytest.mark.parametrize(
    ("vendor", "engines"),
    [("nvidia", {"llama-cpp", "ktransformers", "vllm"}), ("AMD", {"llama-cpp", "vllm"}), ("Apple", {"llama-cpp"})],
)
def test_engines_are_asked_on_the_accelerators_that_they_run_on(vendor: str, engines: set[str]) -> None:
    plain = pregate.load_model("mixtral-8x7b")
    assert set(stacks_for(plain, "streams", (*engines, "ktransformers", "vllm"), vendor)) == {*engines, "streams"}


@pytest.mark.parametrize("stack", ["ik-llama", "llama-cpp-2025", "ktransformers-llamafile"])
def test_a_verdict_on_an_engine_in_whatever_build_is_among_what_it_runs(model: ModelArchitecture, stack: str) -> None:
    """Pre-gating, caches and answers to a miss are no designs of an engine, whichever of its builds is asked."""
    found = plan(model, "rtx-4090", LOAD, stacks=[stack], overrides={"hbm_bytes": 1.1e9})
    assert all(one.design.policy.startswith("gpu_only") for one in (*found.choice.ranked, *found.choice.beside))
    assert found.best.design.stack == stack
    assert found.flags.command


def test_every_design_of_an_engine_has_flags_that_say_all_of_it(model: ModelArchitecture) -> None:
    """What the flags leave out is nothing of where weights are (`-ngl` counts the output apart)."""
    work = workpiece(model, LOAD)
    for engine, designs in ENGINES.items():
        hw = pregate.load_hardware("rtx-4090", engine, {"hbm_bytes": 1.1e9})
        for name in designs:
            try:
                planned = plan_design(model, hw, work, name)
            except CapacityExceeded:
                continue
            flags = flags_of(planned.design, model, hw, LOAD)
            assert flags.command, name
            assert "cannot" not in flags.left_out, name


@pytest.mark.parametrize(
    ("capability", "formats", "engines"),
    [
        ("6.1", {}, {"llama-cpp"}),
        ("7.0", {}, {"llama-cpp"}),
        ("7.5", {}, {"llama-cpp", "vllm"}),
        ("8.0", {}, {"llama-cpp", "ktransformers", "vllm"}),
        ("8.6", {"experts": "mxfp4"}, {"llama-cpp", "vllm"}),
        ("8.9", {"experts": "mxfp4"}, {"llama-cpp", "ktransformers", "vllm"}),
    ],
)
def test_engines_are_asked_on_cards_and_formats_that_their_documents_name(
    capability: str, formats: dict[str, str], engines: set[str]
) -> None:
    """vLLM from 7.5 on, KTransformers in SGLang from 8.0, which has no experts in mxfp4 before 8.9."""
    model = pregate.load_model("mixtral-8x7b", formats=formats)
    shipped = ("llama-cpp", "ktransformers", "vllm", "streams")
    assert set(stacks_for(model, "streams", shipped, "NVIDIA", capability)) == {*engines, "streams"}


@pytest.mark.parametrize(
    ("format", "method"),
    [("bf16", "BF16"), ("fp8", "FP8"), ("int4-g32", "RAWINT4"), ("mxfp4", "MXFP4"), ("q4_k", "LLAMAFILE")],
)
def test_ktransformers_is_told_the_format_of_its_experts(format: str, method: str) -> None:
    model = pregate.load_model("mixtral-8x7b", formats={"experts": format})
    design = EngineDesign("gpu_only@experts=cpu:keep=2:uniform", "ktransformers")
    flags = flags_of(design, model, pregate.load_hardware("rtx-4090", "ktransformers"), LOAD)
    assert f"--kt-method {method} " in flags.command
    of_file = method == "LLAMAFILE"
    assert ("--model MODEL --kt-weight-path FOLDER " in flags.command) == of_file
    assert ("of MODEL as published" in flags.left_out) == of_file
    assert ("AVX512" in flags.left_out) != of_file


def test_a_card_of_a_maker_whose_kernels_nobody_measured_says_whose_stand_in(model: ModelArchitecture) -> None:
    arc, plain = (plan(model, name, LOAD, stacks=["llama-cpp"]) for name in ("arc-b580", "rtx-4060"))
    for text in (arc.text(), arc.text(details=True)):
        assert "constants of CUDA's kernels stand in: of SYCL and Vulkan" in " ".join(text.split())
    assert "CUDA" not in plain.text(details=True)


def test_nothing_is_copied_within_one_memory(model: ModelArchitecture) -> None:
    """Weights that lie in the one memory of host and accelerator are where they have to be."""
    found = plan(model, "apple-m4-max", LOAD)
    designs = [str(one.design) for one in (*found.choice.ranked, *found.choice.beside)]
    assert found.best.design.stack == "llama-cpp"
    assert all("gpu_only" in name and "stream" not in name for name in designs)
    split = plan(model, "rtx-4090", LOAD, overrides={"hbm_bytes": 1.1e9})
    assert any("on_demand" in str(one.design) for one in split.choice.beside)


def test_where_all_fits_no_number_is_asked_what_to_leave_out(model: ModelArchitecture) -> None:
    found = plan(model, "rtx-4090", LOAD)
    assert not any(":" in one.design.policy for one in found.choice.ranked)


def test_what_is_an_engines_is_timed_by_its_own_benchmark(model: ModelArchitecture) -> None:
    work = workpiece(model, LOAD)
    for stack, command in (
        ("llama-cpp", "llama-batched-bench"),
        ("vllm", "vllm bench"),
        ("streams", "pregate measure"),
    ):
        found = judge(plan_design(model, pregate.load_hardware("rtx-4090", stack), work, "gpu_only"), LOAD)
        told = narrowing(found, is_recorded=True, metric_share=0.5)
        assert told.number.startswith("stack.")
        assert told.command.startswith(command)


@pytest.mark.parametrize(("format", "keeps"), [("bf16", True), ("int4-g32", True), ("q4_k", False)])
def test_ktransformers_keeps_no_experts_beside_those_of_a_gguf_file(format: str, keeps: bool) -> None:
    """What it keeps in HBM is of the model as published."""
    named = designs_of(pregate.load_model("mixtral-8x7b", formats={"experts": format}), "ktransformers")
    assert ("gpu_only@experts=cpu:keep={most}" in named) == keeps
    assert "gpu_only@experts=cpu" in named
