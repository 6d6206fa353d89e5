"""Flags of engines in the policy of a row."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hwmodels.platform import load_platform
from hwmodels.stacks.stack_files import stack_names
from offload.policies import policy_named
from pregate.card.designs import EngineDesign
from pregate.card.job import RequestLoad
from pregate.engines.flag_table import EngineFlags, engines
from pregate.engines.reading import told_of_flags, without_flags
from pregate.engines.writing import flags_of
from pregate.measured.row_prediction import RowBench
from pregate.measured.rows.table import read_table
from pregate.named import load_model
from tests.unit.pregate.measured.flag_rows import HEADER, row
from traces.errors import InvalidInput


@pytest.mark.parametrize(
    ("flags", "policy"),
    [
        ("-ngl 99", "gpu_only"),
        ("-ngl all -fa 1", "gpu_only"),
        ("-ngl 28", "gpu_only@layers=cpu:21"),
        ("-ngl 49", "gpu_only"),
        ("llama-server -m x.gguf -ngl 99 --n-cpu-moe 20", "gpu_only@experts=cpu:20"),
        ("CUDA_VISIBLE_DEVICES=0 ./build/bin/llama-bench -m x.gguf -ncmoe 20 -fa 1 -p 512", "gpu_only@experts=cpu:20"),
        ("-ngl 0", "gpu_only@layers=cpu"),
        ("-ngl 99 --n-cpu-moe 20", "gpu_only@experts=cpu:20"),
        ("-ncmoe 99", "gpu_only@experts=cpu"),
        ("--cpu-moe", "gpu_only@experts=cpu"),
        ("-ot exps=CPU", "gpu_only@experts=cpu"),
        (r"-ot \.ffn_.*_exps\.=CPU -ub 4096 -b 4096 -c 32768", "gpu_only@experts=cpu@ubatch=4096"),
        (r"-ot \.ffn_.*_exps\.=CPU -ub 4096 -c 32768", "gpu_only@experts=cpu@ubatch=2048"),  # of -b, which is 2,048
        ("koboldcpp --moecpu 20 --blasbatchsize 4096", "gpu_only@experts=cpu:20@ubatch=4096"),
        (r"-ot blk\.([0-9]|1[0-9])\.ffn_.*_exps\.weight=CPU", "gpu_only@experts=cpu:20"),
        (r"-ot blk\.(4[0-7])\.=CPU", "gpu_only@layers=cpu:8"),  # whole layers, as many of the first
        (r"-ot '.*=CPU'", "gpu_only@layers=cpu"),
        ("-ot exps=CUDA_Host", "gpu_only@experts=cpu"),
        (r"-ot blk\.[0-9]\.ffn=CUDA0,exps=CPU", "gpu_only@experts=cpu:10-47"),
        (r"-ot blk\.[0-9]\.ffn=CUDA0 -ot exps=CPU --no-op-offload", "gpu_only@experts=cpu:10-47@stream=never"),
        ("-ot ffn_up_exps=CPU", "gpu_only@experts=cpu:share=0.3333:uniform"),
        (r"-ot blk\.[0-9]\.ffn_(up|gate)_exps=CUDA0 -ot exps=CPU", "gpu_only@experts=cpu:share=0.8611:uniform"),
        (r"-ot blk\.(0|2)\.ffn_.*_exps=CPU", "gpu_only@experts=cpu:46-47"),  # no range: the last of as many
        (r"-ot 'blk\.\d*[13579]\.ffn_.*_exps=CPU'", "gpu_only@experts=cpu:24-47"),
        ("-fit on", "gpu_only@experts=cpu:fit"),
        ("-fit off --n-cpu-moe 1 -nkvo", "gpu_only@experts=cpu:1@kv=cpu"),
    ],
)
def test_flags_are_said_as_a_policy(flags: str, policy: str, tmp_path: Path) -> None:
    found = row(tmp_path, flags)
    assert sorted(found.policy.split("@")) == sorted(policy.split("@"))
    found.design()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("-ngl 99 -ot attn=CPU", r"attention of layer 0 on the host.*gpu_only@layers=cpu:48"),
        (r"-ngl 99 -ot 'blk\.[0-3]\.attn=CPU,exps=CPU'", "attention of layer 0 on the host"),
        ("--cpu-moe --moe-cache-mib 4096", r"on_demand\+lru:0.1"),
    ],
)
def test_what_flags_put_where_no_design_has_it_is_told(flags: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=told):
        row(tmp_path, flags).design()


def test_page_locked_buffers_of_experts_are_the_hosts(tmp_path: Path) -> None:
    assert "stack.host_memory=pinned" in row(tmp_path, "-ngl 99 -ot exps=CUDA_Host").set


def test_shared_experts_on_the_host_are_noted(tmp_path: Path) -> None:
    assert "blk.1.ffn_gate_shexp" in row(tmp_path, "-ngl 99 -ot shexp=CPU", model="glm-4.5-air").note
    assert "blk.0.ffn_gate.weight" in row(tmp_path, "-ngl 99 -ot ffn_.*=CPU", model="glm-4.5-air").note
    assert not row(tmp_path, "-ngl 99 -ot ffn_.*=CPU").note
    assert not row(tmp_path, "-ngl 99 -ot exps=CPU", model="glm-4.5-air").note


@pytest.mark.parametrize(
    ("stack", "flags", "policy"),
    [
        ("ik_llama.cpp", "-ngl 28 -fmoe -rtr", "gpu_only@layers=cpu:20@stream=never"),
        ("ik_llama.cpp", "-ot exps=CPU -op -1,0", "gpu_only@experts=cpu@stream=never"),
        ("llama-cpp-2025", "-ngl 28", "gpu_only@layers=cpu:20"),
        (
            "KTransformers",
            "--kt-num-gpu-experts 40 --kt-gpu-prefill-token-threshold 400",
            "gpu_only@experts=cpu:keep=40@stream=400",
        ),
        ("kt-kernel", "--kt-num-gpu-experts=8 --chunked-prefill-size=4096", "gpu_only@experts=cpu:keep=8@ubatch=4096"),
        ("kt-kernel", "--kt-gpu-experts-ratio 0.25 --tp 1", "gpu_only@experts=cpu:share=0.75"),
        ("kt-kernel", "--kt-num-gpu-experts 8 --tensor-parallel-size 4", "gpu_only@experts=cpu:keep=8"),
        ("", "--kt-num-gpu-experts 8", "gpu_only@experts=cpu:keep=8"),
        (
            "vllm",
            "vllm serve Qwen/Qwen3-30B-A3B --cpu-offload-gb 70",
            "gpu_only@experts=zerocopy@weights=zerocopy",
        ),
        ("vllm", "--cpu-offload-gb 54 --cpu-offload-params experts", "gpu_only@experts=zerocopy"),
        ("vllm", "--cpu-offload-gb 53.9 --cpu-offload-params mlp.experts", "gpu_only@experts=zerocopy"),
        ("vllm", "--cpu-offload-gb 1.0 --cpu-offload-params experts", "gpu_only@experts=zerocopy:1"),
        (  # 18 layers of 1.125 GiB of experts and .07 of the rest are 21.5: the last lacks its projection down
            "vllm",
            "--cpu-offload-gb 20",
            "gpu_only@experts=zerocopy:18:share=0.981481@weights=zerocopy:18",
        ),
        ("vllm", "--cpu-offload-gb 0", "gpu_only"),
        (
            "vllm",
            "--offload-group-size 1 --offload-num-in-group 1 --offload-prefetch-step 1",
            "gpu_only@experts=stream@weights=stream@ahead=1",
        ),
        (
            "vllm",
            "--offload-group-size 8 --offload-num-in-group 2",
            "gpu_only@experts=stream:2/8@weights=stream:2/8@ahead=1",
        ),
        (
            "vllm",
            "--offload-backend prefetch --offload-params w13_weight w2_weight --offload-group-size=4 --max-num-seqs 1",
            "gpu_only@experts=stream:1/4@ahead=1",
        ),
        ("vllm", "--offload-group-size 0", "gpu_only"),
        ("vllm", "-tp 4 --enable-expert-parallel", "gpu_only@experts=whole"),
        ("vllm", "--enable-expert-parallel", "gpu_only"),  # of one card
        ("vllm", "-tp 4 --enable-expert-parallel --enable-eplb", "gpu_only@experts=whole@redundant=0"),
        (
            "vllm",
            "-tp 4 -ep --enable-eplb --eplb-config '{\"num_redundant_experts\": 8}'",
            "gpu_only@experts=whole@redundant=8",
        ),
        ("sglang", "--tp 4 --ep 4 --ep-num-redundant-experts 4", "gpu_only@experts=whole@redundant=4"),
        ("vllm", "-pp 2", "gpu_only@turns=2"),
        ("vllm", "-dp 8 --enable-expert-parallel", "gpu_only@experts=whole@copies=8"),
        ("vllm", "-tp 2 -dp 4", "gpu_only@copies=4"),
        ("vllm", "-dp 4 --data-parallel-size-local 4", "gpu_only@copies=4"),
        (
            "sglang",
            "python -m sglang.launch_server --model-path x --tp 8 --dp 8 --enable-dp-attention --ep 8",
            "gpu_only@experts=whole@copies=8",
        ),
        ("vllm", "-tp 2 -pp 2 -ep", "gpu_only@turns=2@experts=whole"),
        ("sglang", "python -m sglang.launch_server --model-path x --tp 4 --ep 4", "gpu_only@experts=whole"),
        ("sglang", "python -m sglang.launch_server --model-path x --tp 8 --ep-size 2", "gpu_only@experts=whole:2"),
        (
            "sglang",
            "python -m sglang.launch_server --model-path x --tp 4 --moe-a2a-backend deepep",
            "gpu_only@experts=whole",
        ),
    ],
)
def test_flags_are_read_as_their_engine_means_them(stack: str, flags: str, policy: str, tmp_path: Path) -> None:
    found = row(tmp_path, flags, stack=stack)
    assert sorted(found.policy.split("@")) == sorted(policy.split("@"))
    assert found.stack
    found.design()


def test_threads_are_cores_and_flags_may_stand_in_set(tmp_path: Path) -> None:
    few = row(tmp_path, "gpu_only@experts=cpu", "q4_k_m", set="-t 4; --no-mmap")
    assert few.policy == "gpu_only@experts=cpu"
    assert few.overrides["host.n_cores"] == "4"
    assert few.overrides["stack.host_memory"] == "pinned"
    assert few.set == row(tmp_path, "-ot exps=CPU", "q4_k_m", set="threads=4;--no-mmap").set
    bench, one = RowBench(), row(tmp_path, "gpu_only@experts=cpu", "q4_k_m", set="-t 1; --no-mmap")
    assert bench.predict(one) > bench.predict(row(tmp_path, "gpu_only@experts=cpu", "q4_k_m"))
    assert not row(tmp_path, "-ot exps=CPU -t 32").set  # more threads than cores add nothing


def test_pools_of_threads_are_sockets_that_hold_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    rows = (
        f"deepseek-v3,rtx-4090,xeon-6454s-2s,,{policy},ktransformers-llamafile,1,8,tpot,9,ms,"
        for policy in ("--kt-num-gpu-experts 0 --kt-threadpool-count 2", "gpu_only@experts=cpu")
    )
    path.write_text(HEADER + "\n".join(rows) + "\n")
    both, unsaid = read_table(path)
    bench = RowBench()
    assert [bench.platform(row).constant("cpu_sockets") for row in (both, unsaid)] == [2, 1]


def test_flags_of_the_cache_and_of_the_file_are_said_in_their_columns(tmp_path: Path) -> None:
    found = row(tmp_path, "-ncmoe 8 -ctk q8_0 -ctv q8_0 --no-mmap", formats="q4_k_m")
    assert (found.policy, found.formats) == ("gpu_only@experts=cpu:8", "all=q4_k_m,kv=q8_0")
    assert found.set == "stack.host_memory=pinned"
    assert RowBench().predict(found) > 0


@pytest.mark.parametrize(
    ("stack", "flags", "pinned"),
    [
        ("llama-cpp", "-ncmoe 8 --load-mode none", True),
        ("llama-cpp", "-cmoe -lm dio", True),
        ("llama-cpp", "-cmoe --load-mode=mlock", True),
        ("llama-cpp", "-cmoe -lm auto", False),
        ("llama-cpp", "-cmoe -lm mmap+mlock", False),
        ("llama-cpp", "-ot exps=CPU -mmp 0", True),
        ("llama-cpp", "-ot exps=CPU -mmp 1", False),
        ("llama-cpp", "-ot exps=CPU --mmap", False),
        ("llama-cpp", "-cmoe -dio 0", False),
        ("llama-cpp", "-cmoe --direct-io", True),
        ("llama-cpp-2025", "-ot exps=CPU --no-mmap", False),  # before pull request 14990
        ("llama-cpp-2025", "-ngl 20 --no-mmap", True),
        ("ik-llama", "-ot exps=CPU --no-mmap", False),
        ("ik-llama", "-ngl 20 --no-mmap", True),
    ],
)
def test_what_is_placed_is_page_locked_where_the_build_does_so(
    stack: str, flags: str, pinned: bool, tmp_path: Path
) -> None:
    memory = row(tmp_path, flags, stack=stack).overrides.get("stack.host_memory")
    assert memory == ("pinned" if pinned else None)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("-lm fast", "-lm fast is no mode of loading: none, mlock, dio, auto, mmap, mmap"),
        ("--cpu-offload-gb 40", "flag '--cpu-offload-gb' is not known here of llama-cpp"),
        ("-sm row", "cards that share dense matrices by rows cannot be said"),
        ("-sm graph", "-sm graph: llama-cpp calls cards that share layers tensor"),
        ("-t many", "-t 'many' is not a whole number"),
        ("-ngl many", "-ngl 'many' is not a whole number"),
        ("-ngl", "-ngl has no value"),
        ("--spec-draft-n-max 4", "drafted beside the model cannot be said"),
        ("GGML_CUDA_ENABLE_UNIFIED_MEMORY=1 llama-server -ngl 99", "pages that move between host and device"),
        ("GGML_CUDA_FORCE_CUBLAS=1 llama-bench -ngl 99", "products of libraries"),
        ("-pl 90", "below 129 of 450 W nothing was measured"),
        ("-ot exps", "no PATTERN=BUFFER"),
        ("-ngl 99 -ot exps=RPC[10.0.0.2:50052]", "no buffer of this machine"),
        ("-ngl 99 -ot exps=cpu", "'cpu' is no buffer of this machine: CPU, CUDA0"),
        ("-ngl 99 -ot exps=", "no buffer of this machine"),
        ("-ot (a+)+=CPU", "no PATTERN=BUFFER"),
        ("-ot .*.*.*.*.*.*.*x=CPU", "no PATTERN=BUFFER"),
        ("-ot (=CPU", "no PATTERN=BUFFER"),
        ("-x=3", "is no flag"),
        ("-ot 'x", "No closing quotation"),
        ("-" + "x" * 3000, "characters of flags"),
    ],
)
def test_what_cannot_be_said_is_told_of_its_row_alone(flags: str, told: str, tmp_path: Path) -> None:
    found = row(tmp_path, flags)
    assert found.policy == flags
    with pytest.raises(InvalidInput, match=told):
        found.design()


def test_a_row_of_an_unknown_model_keeps_its_flags(tmp_path: Path) -> None:
    assert row(tmp_path, "-ngl 20", model="nosuch").policy == "-ngl 20"
    told_of_flags({"policy": "gpu_only", "model": "nosuch"})
    assert without_flags({"policy": "gpu_only"}) == {"policy": "gpu_only"}


@pytest.mark.parametrize(
    ("stack", "flags", "told"),
    [
        ("vllm", "--cpu-offload-gb 30 --cpu-offload-params self_attn", "only experts can be said"),
        ("vllm", "--offload-group-size 2 --offload-num-in-group 3", "of a group 1 to 2 are brought"),
        ("vllm", "--offload-group-size 2 --offload-params gate_proj up_proj", "only experts can be said"),
        ("vllm", "-dp 4 --data-parallel-size-local 2", "2 of 4 copies of attention on this host"),
        ("vllm", "-dcp 2", "of cards together those that share every layer"),
        (
            "sglang",
            "python -m sglang.launch_server --model-path x --tp 4 --dp 2",
            "copies of the whole model cannot be",
        ),
        ("vllm", "-tp 2 -ep --cpu-offload-gb 20", "all weights stay in HBM here"),
        ("ik-llama", "-op 27,0", "only -1,0, none, can be said"),
        ("ik-llama", "-ser 6,1", "top_k=6"),
        ("streams", "-ngl 20", "streams has none here"),
        ("kt-kernel", "--kt-gpu-experts-ratio -1", "is not a number of 0 or more"),
    ],
)
def test_what_an_engine_means_and_cannot_be_said_names_the_way_out(
    stack: str, flags: str, told: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match=told):
        row(tmp_path, flags, stack=stack).design()


@pytest.mark.parametrize("engine", list(engines().values()), ids=list(engines()))
def test_what_a_card_writes_is_read_back(engine: EngineFlags) -> None:
    assert set(engine.output_is_a_layer) <= set(engine.stacks) <= set(stack_names())
    assert all(engine.read[name].says == says for says, name in engine.written.items())
    assert all(re.match(r"-|GGML_", spelling) and flag.n_words in (-1, 0, 1) for spelling, flag in engine.read.items())


@pytest.mark.parametrize(
    ("stack", "policy"),
    [
        ("llama-cpp", "gpu_only@layers=cpu:20"),
        ("llama-cpp", "gpu_only@experts=cpu:30-47"),
        ("llama-cpp", "gpu_only@experts=cpu:12@ubatch=2048@stream=never"),
        ("ik-llama", "gpu_only@layers=cpu:20"),
        ("ik-llama", "gpu_only@experts=cpu@stream=never"),
        ("ktransformers", "gpu_only@experts=cpu:keep=28@stream=512"),
        ("vllm", "gpu_only@experts=zerocopy"),
        ("vllm", "gpu_only@experts=stream:1/4@weights=stream:1/4@ahead=2"),
        ("vllm", "gpu_only@experts=stream@ahead=1"),
        ("vllm", "gpu_only@experts=zerocopy:20"),
        ("vllm", "gpu_only@experts=zerocopy:20@weights=zerocopy:20"),
        ("vllm", "gpu_only@experts=zerocopy:1@weights=zerocopy:1"),
    ],
)
def test_the_flags_of_a_card_say_its_design_when_read(stack: str, policy: str, tmp_path: Path) -> None:
    model, hw = load_model("qwen3-30b-a3b"), load_platform("rtx-4090", stack, {"host": "ryzen-7950x"})
    written = flags_of(EngineDesign(policy, stack), model, hw, RequestLoad(24, 40, 2)).command
    read = row(tmp_path, written, stack=stack).design()
    assert (read.name, read.placement) == (policy_named(policy).name, policy_named(policy).placement)
