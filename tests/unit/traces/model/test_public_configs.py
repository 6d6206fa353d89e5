"""Configurations as strangers publish them, with side files, held against the right counts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import pregate
from offload.decode import decode
from offload.execution import EXECUTIONS
from offload.ops import OpKind
from offload.policies import policy_named
from traces.errors import InvalidFile, InvalidInput
from traces.model.architecture import LinearMixer, ModelArchitecture, load_architecture, parse_architecture
from traces.model.dtypes import find_dtype

PUBLIC = Path(__file__).resolve().parents[5] / "shared" / "public" / "configs"
IDS = sorted(path.name for path in PUBLIC.glob("C*")) if PUBLIC.is_dir() else []
REFUSED = {"C56": "not valid JSON", "C60": "is dense, it has no experts"}
needs_public = pytest.mark.skipif(not IDS, reason="the published configurations are not beside this checkout")

REDUCED: dict[str, Any] = json.loads(Path(__file__).with_name("published_configurations.json").read_text("utf-8"))
"""Of the same models the fields alone that decide a shape or a format, and the right figures: what a clone has."""

QWEN3_NEXT: dict[str, Any] = {
    "model_type": "qwen3_next", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_conv_kernel_dim": 4, "full_attention_interval": 4,
    "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
    "vocab_size": 100, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip


def written(folder: Path, config: dict[str, Any], **side: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    for name, document in side.items():
        (folder / f"{name}.json").write_text(json.dumps(document))
    return folder / "config.json"


def config_of(case: str, tmp_path: Path) -> Path:
    folder = PUBLIC / case
    if (folder / "config.json").exists():
        return folder / "config.json"
    shutil.copy(folder / "base.json", tmp_path)  # a large one is made by its script
    subprocess.run([sys.executable, str(folder / "make.py"), "base.json"], cwd=tmp_path, check=True)
    return tmp_path / "config.json"


def check_figures(model: ModelArchitecture, expected: dict[str, Any]) -> None:
    """Counts in 1e9 and bytes within 0.5 % of the right ones, where those are known."""
    found = {
        "right_total_params_1e9": model.total_params / 1e9,
        "right_active_params_1e9": model.active_params / 1e9,
        "right_kv_bytes_per_token_16bit": model.kv_bytes_per_token,
        "right_expert_bytes": model.expert_bytes,
        "right_non_expert_bytes": model.non_expert_bytes,
    }
    for key, value in found.items():
        if expected.get(key) is not None:
            assert value == pytest.approx(expected[key], rel=0.005), key


@pytest.mark.parametrize("case", [case for case in REDUCED if case not in REFUSED])
def test_the_fields_that_decide_give_the_right_figures(case: str, tmp_path: Path) -> None:
    known = REDUCED[case]
    for name, document in known["files"].items():
        (tmp_path / name).write_text(json.dumps(document))
    model = load_architecture(tmp_path / "config.json")
    assert known["right"]
    check_figures(model, known["right"])


@needs_public
@pytest.mark.parametrize("case", [case for case in IDS if case not in REFUSED])
def test_counts_and_sizes_are_the_right_ones(case: str, tmp_path: Path) -> None:
    model = load_architecture(config_of(case, tmp_path))
    check_figures(model, json.loads((PUBLIC / case / "EXPECTED.json").read_text()))
    assert parse_architecture(model.to_yaml(), "printed") == model


@needs_public
@pytest.mark.parametrize("case", [case for case in IDS if case in REFUSED])
def test_what_cannot_be_read_is_refused_with_its_reason(case: str) -> None:
    with pytest.raises(InvalidFile, match=REFUSED[case]) as caught:
        load_architecture(PUBLIC / case / "config.json")
    assert "did you mean" not in str(caught.value)


def qwen3(tmp_path: Path, quantisation: Any = None, **side: Any) -> ModelArchitecture:
    config = {key: value for key, value in QWEN3_NEXT.items() if not key.startswith(("linear", "full", "shared"))}
    config |= {"model_type": "qwen3_moe"} | ({"quantization_config": quantisation} if quantisation else {})
    return load_architecture(written(tmp_path, config, **side))


def compressed(bits: int, kind: str, group: int | None = None, **more: Any) -> dict[str, Any]:
    weights = {"num_bits": bits, "type": kind, "group_size": group, "symmetric": True}
    return {
        "quant_method": "compressed-tensors", "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}, **more,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("quantisation", "bits"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True}, 4.125),
        ({"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True}, 4 + 20 / 64),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1, "sym": True}, 8.0),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True}, 4.127),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 8.0),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 8 + 32 / 128**2),
        ({"quant_method": "fbgemm_fp8"}, 8.0),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, 4.5),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp4"}}}, 4.25),
        (compressed(4, "int", 32), 4.5),
        (compressed(8, "float"), 8.0),
        (compressed(4, "float", 16), 4.5),
        (compressed(4, "float", 32), 4.25),
    ],
)
def test_every_method_stores_experts_at_its_bits(quantisation: dict[str, Any], bits: float, tmp_path: Path) -> None:
    model = qwen3(tmp_path, quantisation)
    assert model.expert_dtype.bits == pytest.approx(bits, abs=2e-4)
    assert model.stored_activation_dtype.name == "bf16"


@pytest.mark.parametrize(
    "excluded",
    [
        {"modules_to_not_convert": [f"model.layers.{i}.self_attn" for i in range(4)]},
        {"modules_to_not_convert": ["self_attn"]},
        {"ignore": ["re:.*self_attn.*"]},
        {"exclude_modules": ["model.layers.*.self_attn*"]},
    ],
)
def test_attention_that_is_excluded_stays_as_the_activations_are(excluded: dict[str, Any], tmp_path: Path) -> None:
    model = qwen3(tmp_path, {"quant_method": "fp8"} | excluded)
    assert (model.expert_dtype.name, model.stored_attention_dtype.name) == ("fp8", "bf16")
    whole = qwen3(tmp_path, {"quant_method": "fp8"})
    matrices = whole.decoder.mixer_matrix_params(whole.d_model)
    assert model.non_expert_bytes - whole.non_expert_bytes == matrices


def test_one_expert_or_gate_that_is_excluded_is_not_all_of_them(tmp_path: Path) -> None:
    names = ["lm_head", "gate", "model.layers.0.mlp.experts.3.up_proj.weight_scale_inv"]
    found = qwen3(tmp_path, {"quant_method": "fp8", "modules_to_not_convert": names})
    expert = found.expert_dtype
    share = 1 / (3 * found.n_moe_layers * found.n_experts)
    assert (expert.most, expert.bits) == ("fp8", pytest.approx(8 + 8 * share, abs=1e-4))


def test_mxfp4_is_of_the_experts_alone(tmp_path: Path) -> None:
    model = qwen3(tmp_path, {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]})
    assert (model.expert_dtype.name, model.dtype.name, model.stored_attention_dtype.name) == ("mxfp4", "bf16", "bf16")


def test_side_files_count_and_are_whole_or_refused(tmp_path: Path) -> None:
    side = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}}
    model = qwen3(tmp_path, hf_quant_config=side)
    assert (model.expert_dtype.name, model.stored_kv_dtype.name) == ("nvfp4", "fp8")
    (tmp_path / "hf_quant_config.json").write_text('{"quantization": {')
    with pytest.raises(InvalidFile, match=r"hf_quant_config\.json: not valid JSON"):
        load_architecture(tmp_path / "config.json")


def test_groups_of_integers_are_formats_by_name() -> None:
    assert find_dtype("int4-g128").bits == 4.125
    assert find_dtype("int4-g64-b").bits == 4.5
    for wrong in ("int0-g128", "int9-g128", "int4-g4"):
        with pytest.raises(InvalidInput, match="1 to 8 bits in groups"):
            find_dtype(wrong)


def test_a_hybrid_is_decoded_layer_by_layer_and_simulated(tmp_path: Path) -> None:
    """Three layers with a state of fixed size and one with a cache: only that one grows with the context."""
    model = load_architecture(written(tmp_path, QWEN3_NEXT))
    assert [type(mixer) is LinearMixer for mixer in model.decoder.all_mixers] == [True, True, True, False]
    assert model.kv_bytes_per_token == 2 * 2 * 16 * 2
    assert model.state_bytes_per_sequence == 4 * 3 * (4 * 8 * 8 + (2 * 16 + 32) * 3)
    trace = pregate.synthesize(model, 8, 4, 2)
    steps = list(trace.steps())
    schedule = decode(model, steps, policy_named("pregate"), EXECUTIONS["streams"], n_buffers=16).schedule
    moved: dict[int, list[int]] = {}
    for op in range(len(schedule)):
        if schedule.kind[op] == OpKind.SELF_ATTENTION:
            moved.setdefault(int(schedule.layer[op]), []).append(schedule.works[schedule.cost[op]].hbm_bytes)
    state = 2 * 2 * 4 * (4 * 8 * 8 + (2 * 16 + 32) * 3)  # read and written, two sequences, fp32
    assert moved[0] == [state] * len(steps)
    assert moved[3] == [2 * n * 2 * 2 * 16 * 2 for n in (8, 9, 10, 11)]
    result = pregate.simulate(model, pregate.load_hardware("rtx-4090"), trace, "pregate")
    assert result.tokens_per_s > 0


def test_a_window_bounds_what_is_read_and_kept(tmp_path: Path) -> None:
    config = {key: value for key, value in QWEN3_NEXT.items() if not key.startswith(("linear", "full"))}
    config |= {"model_type": "qwen3_moe", "sliding_window": 4}
    config["layer_types"] = ["sliding_attention", "full_attention"] * 2
    model = load_architecture(written(tmp_path, config))
    trace = pregate.synthesize(model, 20, 3)
    schedule = decode(model, trace.steps(), policy_named("gpu_only"), EXECUTIONS["streams"], n_buffers=0).schedule
    last = [op for op in range(len(schedule)) if schedule.kind[op] == OpKind.SELF_ATTENTION][-4:]
    flop = [schedule.works[schedule.cost[op]].flop for op in last]
    assert flop == [4 * width * 4 * 16 for width in (4, 22, 4, 22)]
    assert model.kv_bytes_per_token == 4 * 2 * 2 * 16 * 2  # as if no window had an end


@pytest.mark.parametrize(
    ("quantisation", "name"),
    [
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "fp8", "weight_block_size": None}, "fp8"),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8-b128"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "fp8"),
        ({"quant_method": "modelopt", "quant_algo": "FP8_PB_WO"}, "fp8-b128"),
    ],
)
def test_one_scale_a_matrix_and_one_a_block_are_two_formats(
    quantisation: dict[str, Any], name: str, tmp_path: Path
) -> None:
    """Kernels of the two have laws of their own."""
    assert qwen3(tmp_path, quantisation).expert_dtype.name == name


@pytest.mark.parametrize("name", ["deepseek-v3", "kimi-k2", "minimax-m2.5", "mimo-v2-flash"])
def test_models_published_in_blocks_of_fp8_are_shipped_so(name: str) -> None:
    assert load_architecture(name).expert_dtype.name == "fp8-b128"
