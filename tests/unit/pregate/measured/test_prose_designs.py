"""Designs in whole phrases, as published tables note down what ran."""

from __future__ import annotations

import pytest

from pregate.measured.rows.engine_release import with_release
from pregate.measured.rows.prose_designs import with_prose_design
from pregate.measured.rows.row_names import with_our_names
from pregate.spellings.host_memory import host_with_memory
from pregate.spellings.models import formats_as_ours
from pregate.spellings.names import our_name

QWEN, DEEPSEEK = "qwen3-30b-a3b", "DeepSeek-R1 671B"


def told(policy: str, model: str = QWEN) -> tuple[str, str, str]:
    row = with_prose_design({"model": model, "policy": policy, "placement": ""})
    return row["policy"], row["placement"], row["model"]


@pytest.mark.parametrize(
    ("policy", "placement"),
    [
        ("FFN of layers 12+ on the CPU", "experts=cpu:12-"),
        ("experts of layers 12 and up in host memory", "experts=cpu:12-"),
        ("MoE experts of layers 10-20 on the CPU", "experts=cpu:10-20"),
        ("FFN of the last 14 of 48 layers on the CPU", "experts=cpu:34-47"),
        ("FFN of 26 layers on two GPUs, other experts on the CPU", "experts=cpu:26-"),
        ("experts of layers 0-9 on the GPU, the rest on the CPU", "experts=cpu:10-"),
        ("28 of 128 experts a layer on the GPU, the rest on the CPU", "experts=cpu:keep=28:uniform"),
        ("0 of 384 experts per layer on the GPU, the rest on the CPU", "experts=cpu"),
        ("profile-pinned cache of 40 of 64 experts a layer (10.0 GB), misses on the CPU", "experts=cpu:keep=40"),
        ("-ot exps=CPU, prefill experts on the CPU", "experts=cpu@stream=never"),
        ("-ot exps=CPU: weights streamed to the GPU for prefill", "experts=cpu@stream=32"),
        ("--n-cpu-moe 20, prefill experts on the CPU", "experts=cpu:20@stream=never"),
    ],
)
def test_a_phrase_is_a_placement(policy: str, placement: str) -> None:
    assert told(policy) == ("gpu_only", placement, QWEN)


@pytest.mark.parametrize(
    ("policy", "design"),
    [
        ("LRU cache of 40 slots a layer, misses on the CPU", "on_demand:cpu+lru:40:per_layer"),
        ("--n-cpu-moe 48 of 48", "--n-cpu-moe 48"),
        ("--cpu-moe, 1 GPU", "--cpu-moe"),
        ("v0.5.0 HIP --fit", "-fit on"),
        ("v0.5.0 --fit, experts on the CPU", "-fit on"),
    ],
)
def test_a_phrase_is_a_design_or_flags(policy: str, design: str) -> None:
    assert told(policy) == (design, "", QWEN)


@pytest.mark.parametrize(
    "policy",
    [
        "experts of layers 3-5 on the GPU, the rest on the CPU",  # experts of its layers 0 to 2 are somewhere, too
        "FFN of the last 50 of 48 layers on the CPU",
        "b11344 Vulkan --fit",
        "--cpu-moe, 2 GPUs",
        "hot-expert LRU cache in VRAM, pinned copies",
        "up and gate of 10 layers on the GPU, other experts on the CPU",
        "200 experts, routed experts on the CPU",
    ],
)
def test_what_no_rule_knows_stays_as_it_is(policy: str) -> None:
    assert told(policy) == (policy, "", QWEN)


def test_the_first_layers_with_experts_are_those_of_the_model() -> None:
    policy = "experts of layers 3-5 on the GPU, the rest on the CPU"
    assert told(policy, DEEPSEEK) == ("gpu_only", "experts=cpu:6-", DEEPSEEK)
    assert told(policy, "nobody's model") == (policy, "", "nobody's model")


def test_how_many_experts_a_token_takes_stands_beside_the_model() -> None:
    assert told("6 experts, routed experts on the CPU", DEEPSEEK)[1:] == ("experts=cpu", "deepseek-r1?top_k=6")
    assert told("8 experts, all routed experts on the CPU, AMX int8", DEEPSEEK)[1:] == ("experts=cpu", DEEPSEEK)
    assert told("6 experts, nothing known", DEEPSEEK)[0] == "nothing known"


def test_a_placement_that_is_stated_is_not_told_again() -> None:
    row = {"model": QWEN, "policy": "FFN of layers 12+ on the CPU", "placement": "ubatch=512"}
    assert with_prose_design(row) == row


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("Laguna S-2.1 118B", "laguna-s-2.1"), ("Laguna S-2.1 70B", "Laguna S-2.1 70B"),
        ("Kimi-K2-Thinking 1T", "kimi-k2-thinking"), ("Qwen3-30B-A3B 31B", "qwen3-30b-a3b"),
    ],
)  # fmt: skip
def test_a_size_behind_a_name_is_that_of_the_model(written: str, name: str) -> None:
    assert our_name("model", written) == name


def test_cores_that_were_used_are_a_number_of_the_host() -> None:
    row = with_our_names({"host": "EPYC 9355 (16 threads used)", "set": "link.h2d_efficiency=0.9"})
    assert (row["host"], row["set"]) == ("epyc-9355", "link.h2d_efficiency=0.9;host.n_cores=16")
    assert with_our_names({"host": "EPYC 9355 (16 threads used)", "set": "host.n_cores=8"})["set"] == "host.n_cores=8"
    assert with_our_names({"host": "Xeon 8480+ 112 threads"}).get("set", "") == ""


def test_a_desktop_with_more_than_two_modules_hold_has_four() -> None:
    assert host_with_memory("ryzen-7950x", "188 GB") == "ryzen-7950x:2dpc"
    assert host_with_memory("ryzen-7950x", "128 GB") == "ryzen-7950x"
    assert host_with_memory("ryzen-7950x", "192 GB DDR5-5600") == "ryzen-7950x:5600"
    assert host_with_memory("epyc-9654", "768 GB") == "epyc-9654"


@pytest.mark.parametrize(
    ("formats", "typed", "stack"),
    [
        ("Q4_K_M", "KTransformers", "ktransformers-llamafile"), ("int8", "KTransformers", "KTransformers"),
        ("Q4_K_M", "ktransformers", "ktransformers"), ("UD-IQ2_XXS", "KTransformers 0.2", "ktransformers-llamafile"),
    ],
)  # fmt: skip
def test_ktransformers_has_files_multiplied_by_llamafile(formats: str, typed: str, stack: str) -> None:
    assert with_release({"stack": typed, "formats": formats}, typed)["stack"] == stack


def test_a_format_may_say_what_multiplies_it() -> None:
    assert formats_as_ours("int8 AMX", "ktransformers") == "all=int8"
