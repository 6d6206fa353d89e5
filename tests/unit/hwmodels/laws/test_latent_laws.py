"""Laws of latent attention and of sliding windows: what they must say, that tables of them are read, and prices."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

import pregate
from hwmodels.calibrate.public_tables.from_tables import TableFit, fit_tables
from hwmodels.calibrate.public_tables.kernel_tables import kernel_tables, tables_folder
from hwmodels.figures import figures_of
from hwmodels.laws.attention import context_attention, decode_attention
from hwmodels.laws.benchmark_conditions import MEASURED
from hwmodels.laws.generated_kernels import latent_blocks, rows_of_block
from hwmodels.laws.latent_attention import latent_decode
from hwmodels.laws.law_forms import FORMS, KERNELS
from hwmodels.laws.pricing import kernels_of
from hwmodels.platform import load_platform
from offload import work
from offload.schedule import Schedule, _works_to_json
from pregate.ask.capturing.capture import capture
from tests.unit.hwmodels.laws.kernel_tables_of_our_own import (
    TRUE,
    context,
    decode,
    grid,
    rates,
    shapes_of,
    write_tables,
)
from traces.model.architecture import load_architecture

START = {form: {name: at for name, (_, at) in FORMS[form].constants.items()} for form in FORMS}
H100 = rates("h100_sxm")
DEEPSEEK = load_architecture("deepseek-v3")
WIDTHS = 576, 512


def latents_s(n_sequences: float, n_heads: float, length: float, kernel: str = "flash-mla", **other: float) -> float:
    sizes = n_sequences, n_heads, length, *WIDTHS, 2.0 * WIDTHS[0]
    return float(latent_decode({**START["latent_decode"], **other}, H100, KERNELS[kernel], *sizes).total_s)


def test_few_heads_over_latents_wait_for_memory_and_many_for_their_products() -> None:
    read_s = 256 * 32768 * 2 * WIDTHS[0] / H100.bytes_per_s / 0.8
    assert latents_s(256, 16, 32768) == pytest.approx(read_s, rel=0.3)
    multiplied_s = 2 * 256 * 1024 * 32768 * sum(WIDTHS) / H100.flop_per_s / 0.6
    assert latents_s(256, 1024, 32768, cache=100.0) == pytest.approx(multiplied_s, rel=0.15)


def test_a_context_is_split_over_an_idle_card_where_a_kernel_splits_it() -> None:
    whole = latents_s(1, 16, 65536, "whole-context-mla")
    assert whole > 10 * latents_s(1, 16, 65536)
    assert latents_s(64, 16, 65536, "whole-context-mla") == pytest.approx(whole, rel=0.15)  # one multiprocessor each


def test_each_sequence_has_its_blocks_however_short_its_context() -> None:
    """As the tables say of every kernel: 46 us for 64 sequences of two tokens on an L40S, 152 for 256."""
    few, some, many = (latents_s(n, 16, 2, "triton-mla") for n in (64, 128, 256))
    assert many - some > 1.9 * (some - few)
    assert latents_s(256, 32, 2, "triton-mla") - many > 0.9 * (many - latents_s(1, 16, 2, "triton-mla"))


@pytest.mark.parametrize(
    ("n_sequences", "n_heads", "context", "rows", "share"),
    [
        (1, 8, 512, 8, 1.0),
        (1, 32, 131072, 16, 1.0),
        (1, 64, 32768, 16, 1.0),  # 37 parts of 886 latents
        (1, 64, 65536, 64, 1.0),  # of 1,772
        (1, 128, 16384, 16, 1.0),
        (1, 128, 32768, 64, 0.5),
        (19, 128, 2, 64, 0.5),  # 152 blocks of 16 heads are more than the card has room for
        (18, 128, 2, 16, 1.0),
    ],
)
def test_heads_of_a_generated_block_are_those_that_its_engine_chooses(
    n_sequences: int, n_heads: int, context: int, rows: int, share: float
) -> None:
    """As FlashInfer's fmhaKernels.cuh has it for 148 multiprocessors, by hand."""
    blocks = latent_blocks(148.0, n_sequences, n_heads, context)
    assert (float(blocks.rows), float(blocks.share)) == (rows, share)


def test_heads_on_the_same_keys_share_the_smallest_generated_block_that_holds_them() -> None:
    shared = np.array([1, 8, 9, 16, 20, 32, 33, 64, 65, 128, 200])
    assert rows_of_block(shared).tolist() == [8, 8, 16, 16, 32, 32, 64, 64, 128, 128, 128]


def test_a_generated_wave_of_more_rows_takes_longer_and_a_part_keeps_two_steps() -> None:
    """As B200's table has it of few blocks of 2 tokens: 9.1 us for 8 heads on the same keys, 10.8 for 32."""
    c, kernel = START["decode_attention"], KERNELS["trtllm-gen"]

    def decoded_s(shared: int, length: int, **other: float) -> float:
        sizes = 1, 4 * shared, 4, length, 4 * 512.0
        return float(decode_attention({**c, **other}, H100, kernel, *sizes).total_s)

    assert decoded_s(32, 2) - decoded_s(8, 2) == pytest.approx(c["wave_s"], rel=0.01)
    for length, is_split in ((512, False), (513, True)):
        assert (decoded_s(8, length, split_s=1.0) > 1) == is_split


def test_a_second_block_of_heads_reads_latents_from_the_cache() -> None:
    once, twice = (latents_s(256, heads, 32768, "triton-mla") for heads in (16, 32))
    cached_s = 256 * 32768 * 2 * WIDTHS[0] / H100.bytes_per_s / START["latent_decode"]["cache"]
    assert twice - once > 0.8 * cached_s


def test_what_generated_blocks_cost_overlaps_what_others_read() -> None:
    """As B200's table has it: 47 us for 1,024 sequences of two tokens, 68 for 256 more each, whose reading takes 38."""

    shape = 1024, 8, 4096
    for kernel, most in (("flash-mla", 1.0), ("trtllm-gen-mla", 0.1)):
        less, more = (latents_s(*shape, kernel, core=20.0, block_s=block_s) for block_s in (1e-7, 2e-7))
        assert 0 < more - less <= most * 1024e-7 * (1 + 1e-9)
    assert latents_s(1, 8, 2, "trtllm-gen-mla", block_s=2e-5) - latents_s(1, 8, 2, "trtllm-gen-mla") > 1.8e-5


def test_keys_and_values_are_appended_before_a_prompt_is_attended_to() -> None:
    """A kernel of its own: what it takes comes on top, whatever binds the attention."""
    c, shape = START["context_attention"], (1.0, 32.0, 8.0, 8192.0, 128.0, 128.0, 4096.0)
    once, twice = (
        float(context_attention({**c, "append": at}, H100, KERNELS["flash-attention-3"], *shape).total_s)
        for at in (3.0, 6.0)
    )
    appended_s = 3.0 * 2 * 8192 * 4096 / H100.bytes_per_s
    assert twice - once == pytest.approx(appended_s, rel=1e-9)


def test_a_window_is_what_is_read_of_a_context() -> None:
    token_bytes, kernel = 2.0 * 8 * 128 * 2, KERNELS["flash-attention-3"]

    def decoded(length: float, window: float) -> float:
        seen = min(length, window) if window else length
        sizes = 64, 32, 8, seen, token_bytes
        return float(decode_attention(START["decode_attention"], H100, kernel, *sizes, window=window).total_s)

    def prompt(new: float, window: float) -> float:
        sizes = 1, 32, 8, new, 128, 128, 4096.0
        law = context_attention(START["context_attention"], H100, kernel, *sizes, window=window)
        return float(law.total_s)

    assert decoded(32768, 1024) == decoded(4096, 1024)
    assert decoded(32768, 1024) < decoded(2048, 0)
    assert decoded(512, 1024) == decoded(512, 0)
    assert prompt(32768, 1024) == pytest.approx(2 * prompt(16384, 1024), rel=0.1)
    assert prompt(512, 1024) == prompt(512, 0)
    assert prompt(4096, 4096) <= prompt(4096, 0)


def write(folder: Path, place: str, columns: dict[str, np.ndarray]) -> None:
    path = folder / "h100_sxm" / f"{place}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table({key: list(column) for key, column in columns.items()}), path)


def write_latents(folder: Path, engine: str, ran: str, kernel: str, form: str) -> None:
    """Times of a law, half a per cent and more from it."""
    prompts = form == "latent_context"
    lengths = [64, 512, 2048, 8192] if prompts else [63, 511, 2047, 16383]
    found = grid(batch_size=[1, 8, 64], num_heads=[8, 16, 32, 64, 128], length=lengths)
    n, length = len(found["length"]), found.pop("length")
    found |= {"isl": length if prompts else np.ones(n), "step": np.zeros(n) if prompts else length}
    widths = (192, 128) if prompts else WIDTHS
    shapes = {
        "n_sequences": found["batch_size"], "n_heads": found["num_heads"], "context": found["isl"] + found["step"],
        "key_width": np.full(n, widths[0]), "value_width": np.full(n, widths[1]),
    }  # fmt: skip
    seconds = MEASURED[form](TRUE[form], H100, shapes, 16.0, kernel).total_s
    same = {"mla_dtype": "bfloat16", "kv_cache_dtype": "bfloat16", "kernel_source": ran}
    texts = {name: np.array([text] * n) for name, text in same.items()}
    noisy = seconds * 1e3 * np.exp(0.01 * np.random.default_rng(5).standard_normal(n))
    name = "context_mla_perf" if prompts else "generation_mla_perf"
    write(folder, f"mla/{engine}/1.0/{name}", {**found, **texts, "latency": noisy})


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TableFit]:
    """Tables of latents of two engines beside tables of attention in whole contexts and in windows, and their fit."""
    tmp_path = tmp_path_factory.mktemp("tables")
    folder = tables_folder(write_tables(tmp_path))
    write_latents(tmp_path, "sglang", "flash_attention", "flash-mla", "latent_decode")
    write_latents(tmp_path, "trtllm", "default", "fmha-128", "latent_context")
    for name, form, made in (
        ("generation_attention_perf", "decode_attention", decode("fa3")),
        ("context_attention_perf", "context_attention", context("fa3")),
    ):
        whole = parquet.read_table(tmp_path / "h100_sxm" / "attention" / "vllm" / "1.0" / f"{name}.parquet")
        made["window_size"] = np.full(len(made["isl"]), 1024.0)
        shapes = {**shapes_of(form, made), "window": made["window_size"]}
        seconds = MEASURED[form](TRUE[form], H100, shapes, 16.0, "flash-attention-3").total_s
        made["latency"] = seconds * 1e3
        both = {key: np.concatenate([np.array(whole[key]), made[key]]) for key in whole.column_names}
        write(tmp_path, f"attention/vllm/1.0/{name}", both)
    return folder, fit_tables(folder, "h100_sxm", "vllm")


def test_tables_of_latents_are_read_of_the_engine_that_stands_in_and_fitted(told: tuple[Path, TableFit]) -> None:
    laws = {law.form: law for law in told[1].laws}
    assert laws["latent_decode"].source["engine"] == "sglang"
    assert laws["latent_context"].source["engine"] == "trtllm"
    for form, kernel in (("latent_decode", "flash-mla"), ("latent_context", "fmha-128")):
        assert laws[form].kernel == kernel
        assert laws[form].families.mape < 0.05
        assert laws[form].within["n_heads"] == (8, 128)


def test_rows_in_windows_are_judged_by_the_law_of_whole_contexts(told: tuple[Path, TableFit]) -> None:
    folder, fitted = told
    tables = {table.form: table for table in kernel_tables(folder, "h100_sxm", "vllm", "1.0")}
    windowed = tables["decode_attention"].windowed
    assert windowed is not None
    assert len(windowed) == len(tables["decode_attention"])
    for law in fitted.laws:
        assert (law.windows is not None) == ("attention" in law.form)
        assert law.windows is None or law.windows.mape < 0.05


def test_latents_of_a_model_cost_what_a_table_of_them_says() -> None:
    """Measured on an H100: 151 us for a new token of each of 32 sequences of 8,192 tokens, 128 heads, bf16."""
    hw = load_platform("h100-sxm", "vllm")
    what = work.self_attention_work(DEEPSEEK, DEEPSEEK.decoder, 32, 32 * 8192, 32 * 8192, n_sequences=32)
    kernel, within = list(kernels_of(what, figures_of(hw)))[len(what.gemms)]
    assert kernel.total_s == pytest.approx(151e-6, rel=0.15)
    assert within
    prompt = work.self_attention_work(
        DEEPSEEK, DEEPSEEK.decoder, 2048, 2048, 2048 * 1024, n_sequences=1, made_moves=2.0
    )
    kernel, within = list(kernels_of(prompt, figures_of(hw)))[len(prompt.gemms)]
    assert kernel.compute_s > 2048 * 1024 * 2 * 128 * 320 / figures_of(hw).peak_flop_per_s("bf16")
    assert within


def test_a_card_without_a_law_of_latents_says_them_as_any_attention_and_not_within() -> None:
    hw = load_platform("a100-sxm4-80gb", "vllm")
    what = work.self_attention_work(DEEPSEEK, DEEPSEEK.decoder, 1, 8192, 8192)
    kernel, within = list(kernels_of(what, figures_of(hw)))[len(what.gemms)]
    assert kernel.total_s > 0
    assert not within


def test_an_attention_has_a_word_on_its_window_in_a_schedule_only_where_it_has_one(tmp_path: Path) -> None:
    model = load_architecture("mixtral-mini-8")
    attention = dataclasses.replace(model.decoder.attention, window=16)
    slid = dataclasses.replace(model, decoder=dataclasses.replace(model.decoder, attention=attention))
    for one, window, length in ((model, 0, 7), (slid, 16, 8)):
        trace = pregate.synthesize(one, 2, 24)
        captured = capture(one, pregate.load_hardware("t4"), trace, "gpu_only")
        schedule = captured.decoded.schedule
        path = tmp_path / f"{window}.safetensors"
        schedule.save(path)
        again = Schedule.load(path)
        assert again.works == schedule.works
        assert again.digest == schedule.digest
        seen = [work.attending for work in again.works if work.attending is not None]
        assert {at.window for at in seen} == {window}
        assert {len(row[-2]) for row in _works_to_json(again.works) if row[-2] is not None} == {length}
