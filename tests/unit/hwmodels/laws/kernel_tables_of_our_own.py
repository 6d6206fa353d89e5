"""A small table of kernels in the layout of aiconfigurator-core, whose times a law made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from hwmodels.laws.benchmark_conditions import MEASURED
from hwmodels.laws.law_forms import FORMS
from hwmodels.laws.rates import CardRates
from hwmodels.specs.machine_files import load_machine

TRUE = {form: {name: at * 1.2 if name.endswith("_s") else at * 0.9 for name, (_, at) in FORMS[form].constants.items()}
        for form in FORMS}  # fmt: skip
"""The constants that the tables were made with."""

KERNEL = {"h100_sxm": ("fa3", "flash-attention-3"), "h200_sxm": ("fa3", "flash-attention-3")}
MACHINE = {"h100_sxm": "h100-sxm", "h200_sxm": "h200-sxm"}


def rates(gpu: str) -> CardRates:
    card = load_machine(MACHINE[gpu]).accelerator
    return CardRates(card.peak_flop_per_s["bf16"], card.hbm_bytes_per_s, float(card.n_sm), float(card.l2_bytes))


def write_tables(folder: Path, gpus: tuple[str, ...] = ("h100_sxm",), noise: float = 0.02) -> Path:
    """GEMM, attention and experts in bf16 of an engine "vllm 1.0"; half a per cent and more from the law."""
    for gpu in gpus:
        rng = np.random.default_rng(3)
        for family, name, form, columns in (
            ("gemm", "gemm_perf", "gemm", gemms()),
            ("attention", "generation_attention_perf", "decode_attention", decode(KERNEL[gpu][0])),
            ("attention", "context_attention_perf", "context_attention", context(KERNEL[gpu][0])),
            ("moe", "moe_perf", "experts", experts()),
        ):
            shapes = shapes_of(form, columns)
            kernel = KERNEL[gpu][1] if FORMS[form].is_attention else ""
            seconds = MEASURED[form](TRUE[form], rates(gpu), shapes, 16.0, kernel).total_s
            columns["latency"] = seconds * 1e3 * np.exp(noise * rng.standard_normal(len(seconds)))
            place = folder / gpu / family / "vllm" / "1.0"
            place.mkdir(parents=True, exist_ok=True)
            parquet.write_table(
                pa.table({key: list(column) for key, column in columns.items()}), place / f"{name}.parquet"
            )
    return folder


def grid(**axes: list[int]) -> dict[str, np.ndarray]:
    meshed = np.meshgrid(*axes.values(), indexing="ij")
    return {name: mesh.reshape(-1).astype(np.float64) for name, mesh in zip(axes, meshed, strict=True)}


def gemms() -> dict[str, np.ndarray]:
    found = grid(m=[1, 8, 64, 256, 1024, 4096], n=[256, 1024, 4096, 16384], k=[1024, 4096, 8192, 16384])
    return {
        **found,
        "gemm_dtype": np.array(["bfloat16"] * len(found["m"])),
        "kernel_source": np.array(["x"] * len(found["m"])),
    }


def decode(kernel: str) -> dict[str, np.ndarray]:
    found = grid(
        batch_size=[1, 8, 64, 256],
        num_heads=[8, 32],
        num_key_value_heads=[1, 8],
        head_dim=[64, 128],
        step=[63, 1023, 8191, 32767],
    )
    n = len(found["step"])
    extra = {"isl": np.ones(n), "window_size": np.zeros(n), "kv_cache_dtype": np.array(["bfloat16"] * n)}
    return {**found, **extra, "kernel_source": np.array([f"vllm_flash_attn_{kernel}"] * n)}


def context(kernel: str) -> dict[str, np.ndarray]:
    found = grid(
        batch_size=[1, 8, 64],
        num_heads=[8, 32],
        num_key_value_heads=[1, 8],
        head_dim=[64, 128],
        isl=[1, 64, 512, 2048, 8192],
    )
    n = len(found["isl"])
    extra = {"step": np.zeros(n), "window_size": np.zeros(n), "kv_cache_dtype": np.array(["bfloat16"] * n)}
    return {**found, **extra, "kernel_source": np.array([f"vllm_flash_attn_{kernel}"] * n)}


def experts() -> dict[str, np.ndarray]:
    found = grid(
        num_tokens=[1, 4, 16, 64, 256, 1024, 4096],
        hidden_size=[2048, 4096],
        inter_size=[768, 2048],
        topk=[4, 8],
        num_experts=[64, 128],
    )
    n = len(found["topk"])
    extra = {"moe_tp_size": np.ones(n), "moe_ep_size": np.ones(n), "moe_dtype": np.array(["bfloat16"] * n)}
    return {**found, **extra, "distribution": np.array(["balanced"] * n), "kernel_source": np.array(["fused"] * n)}


def shapes_of(form: str, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if form == "gemm":
        return {axis: columns[axis] for axis in "mnk"}
    if form == "experts":
        names = {
            "n_tokens": "num_tokens",
            "d_model": "hidden_size",
            "d_ff": "inter_size",
            "top_k": "topk",
            "n_experts": "num_experts",
        }
        return {**{ours: columns[theirs] for ours, theirs in names.items()}, "n_up": np.full(len(columns["topk"]), 2.0)}
    names = {
        "n_sequences": "batch_size",
        "n_heads": "num_heads",
        "n_kv_heads": "num_key_value_heads",
        "head_width": "head_dim",
    }
    length = columns["isl"] + columns["step"]
    return {**{ours: columns[theirs] for ours, theirs in names.items()}, "context": length}
