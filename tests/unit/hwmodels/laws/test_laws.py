"""Laws of kernels: what they must say whatever their constants are, and that a fit finds the constants of a table."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from hwmodels.calibrate.public_tables import law_fits
from hwmodels.calibrate.public_tables.from_tables import TableFit, fit_of, fit_tables, law_rows, nearest
from hwmodels.calibrate.public_tables.kernel_tables import kernel_tables, tables_folder, versions
from hwmodels.calibrate.public_tables.law_fits import drawn_rows, errors_of, predicted, rates_of
from hwmodels.fits.fit_files import fit_names, load_fit
from hwmodels.laws.attention import context_attention, decode_attention
from hwmodels.laws.families import family_of
from hwmodels.laws.gemm import dense_gemm
from hwmodels.laws.law_forms import FORMS, KERNELS
from hwmodels.laws.moe import ExpertGroup, expert_rows_of, fused_experts
from hwmodels.laws.rates import CardRates, share_within, smooth_maximum
from hwmodels.platform import load_platform
from hwmodels.specs.machine_files import hardware_names, load_machine, machine_document
from tests.command_line import Run
from tests.unit.hwmodels.laws.kernel_tables_of_our_own import TRUE, rates, write_tables
from traces.errors import InvalidFile, InvalidInput, UnknownName

ROOT = Path(__file__).resolve().parents[4]
START = {form: {name: at for name, (_, at) in FORMS[form].constants.items()} for form in FORMS}
H100 = rates("h100_sxm")
FA3 = KERNELS["flash-attention-3"]


def test_a_gemm_bound_by_memory_takes_what_its_weights_take_and_one_bound_by_arithmetic_its_products() -> None:
    one = dense_gemm(START["gemm"], H100, 1, 16384.0, 16384.0)
    weights_s = 2 * 16384**2 / H100.bytes_per_s / START["gemm"]["memory"]
    assert one.total_s == pytest.approx(weights_s + 3e-6, rel=0.1)
    assert one.hbm_s > 0
    assert one.compute_s == 0
    many = dense_gemm(START["gemm"], H100, 4096.0, 4096.0, 4096.0)
    assert many.total_s == pytest.approx(2 * 4096**3 / H100.flop_per_s / START["gemm"]["peak"], rel=0.1)
    assert many.compute_s > 0


def test_a_long_gemm_runs_at_the_rate_that_power_sustains_and_a_short_one_at_its_peak() -> None:
    c, never = START["gemm"], {**START["gemm"], "boost_s": np.inf}
    short, long = (4096.0, 4096.0, 4096.0), (16384.0, 16384.0, 16384.0)
    assert dense_gemm(c, H100, *short).total_s == pytest.approx(dense_gemm(never, H100, *short).total_s, rel=1e-3)
    sustained_s = 2 * 16384**3 / H100.flop_per_s / c["sustained"]
    assert dense_gemm(c, H100, *long).total_s == pytest.approx(sustained_s, rel=0.01)
    assert dense_gemm(never, H100, *long).total_s == pytest.approx(sustained_s * c["sustained"] / c["peak"], rel=0.05)


def test_what_fills_tiles_up_takes_time_but_next_to_no_power() -> None:
    def one_row_more(**other: float) -> float:
        c = {**START["gemm"], **other}
        full, more = (dense_gemm(c, H100, m, 65536.0, 16384.0, tiles=((128, 128),)).total_s for m in (4096.0, 4097.0))
        return float(more / full)

    assert one_row_more() == pytest.approx(1, abs=0.001)
    assert one_row_more(sustained=1.0) == pytest.approx(33 / 32, abs=0.01)


def test_power_never_makes_a_larger_gemm_shorter() -> None:
    rows = 256.0 * np.arange(1, 200)
    seconds = dense_gemm(START["gemm"], H100, rows, 8192.0, 8192.0).total_s
    assert seconds[0] < START["gemm"]["boost_s"] < seconds[-1]
    assert np.all(np.diff(seconds) > -1e-12)


def test_a_gemm_never_takes_less_with_more_rows_of_whole_tiles() -> None:
    rows = 256.0 * np.arange(1, 60)
    seconds = dense_gemm(START["gemm"], H100, rows, 4096.0, 4096.0).total_s
    assert np.all(np.diff(seconds) > -1e-12)


def test_weights_read_in_turn_come_from_the_cache_until_it_is_full() -> None:
    assert share_within(1e6, 5e7) == pytest.approx(1)
    assert share_within(5e8, 5e7) == pytest.approx(0, abs=1e-9)
    small, n = START["gemm"], 1024.0
    cold = dense_gemm(small, H100, 1, n, n)
    warm = dense_gemm(small, H100, 1, n, n, cycled_bytes=6 * n * n * 2)
    assert warm.total_s < cold.total_s


def test_an_idle_card_splits_the_inner_dimension() -> None:
    whole = {**START["gemm"], "split_s": 1.0}
    split = dense_gemm(START["gemm"], H100, 64, 512.0, 16384.0).total_s
    assert split < dense_gemm(whole, H100, 64, 512.0, 16384.0).total_s


def test_quantising_activations_is_a_kernel_of_its_own() -> None:
    c = START["quantised_gemm"]
    plain = {name: c[name] for name in START["gemm"]}
    shape = 4096.0, 4096.0, 4096.0
    more = dense_gemm(c, H100, *shape, weight_bits=8, activation_bits=8).total_s
    less = dense_gemm(plain, H100, *shape, weight_bits=8, activation_bits=8).total_s
    assert more - less == pytest.approx(c["quantise_s"] + 4096**2 * 3 / H100.bytes_per_s * c["quantise"])


@pytest.mark.parametrize(
    ("kernel", "width", "block"),
    [("flash-attention-2", 64, 256), ("flash-attention-2", 96, 128), ("flash-attention-2", 128, 128),
     ("flash-attention-2", 192, 64), ("flash-attention-3", 64, 128), ("flash-attention-3", 256, 128)],
)  # fmt: skip
def test_a_context_is_split_by_blocks_of_keys_that_heads_of_a_width_have(kernel: str, width: int, block: int) -> None:
    """One token more than a block has is a second part, whose results are added up by a kernel of its own."""
    c = START["decode_attention"]

    def taken_s(context: int) -> float:
        sizes = 1, 8, 1, float(context), 4.0 * width
        return float(decode_attention(c, H100, KERNELS[kernel], *sizes, head_width=float(width)).total_s)

    assert taken_s(block) - taken_s(block - 1) < 0.01 * c["split_s"]
    assert taken_s(block + 1) - taken_s(block) > 0.99 * c["split_s"]


def test_decoding_a_long_context_reads_its_cache_and_a_short_one_its_fixed_time() -> None:
    token_bytes = 2.0 * 8 * 128 * 2
    long = decode_attention(START["decode_attention"], H100, FA3, 64, 32, 8, 32768.0, token_bytes)
    assert long.total_s == pytest.approx(64 * 32768 * token_bytes / H100.bytes_per_s / 0.8, rel=0.05)
    short = decode_attention(START["decode_attention"], H100, FA3, 1, 32, 8, 16.0, token_bytes)
    assert 5e-6 < short.total_s < 12e-6


def test_a_prompt_costs_its_square_and_one_after_a_cache_more() -> None:
    def seconds(new: float, before: float = 0.0) -> float:
        sizes = 1, 32, 8, new, 128, 128, 4096.0
        return float(context_attention(START["context_attention"], H100, FA3, *sizes, before=before).total_s)

    assert seconds(65536.0) == pytest.approx(4 * seconds(32768.0), rel=0.05)
    assert seconds(1024.0, before=8192.0) > 2 * seconds(1024.0)


def test_experts_of_one_op_read_each_active_expert_once() -> None:
    shape = 2048.0, 768.0, 2
    one = fused_experts(START["experts"], H100, expert_rows_of([ExpertGroup(8, 1)], 1), *shape)
    all_of_them = fused_experts(START["experts"], H100, expert_rows_of([ExpertGroup(128, 1)], 16), *shape)
    weights_s = 120 * 3 * 2048 * 768 * 2 / H100.bytes_per_s / START["experts"]["memory"]
    assert all_of_them.total_s - one.total_s == pytest.approx(weights_s, rel=0.1)
    apart = fused_experts(START["experts"], H100, expert_rows_of([ExpertGroup(64, 1), ExpertGroup(64, 1)], 16), *shape)
    assert apart.total_s == pytest.approx(all_of_them.total_s, rel=1e-12)


def test_the_smooth_maximum_is_the_larger_where_they_differ() -> None:
    assert smooth_maximum(1.0, 1e-3) == pytest.approx(1.0)
    assert smooth_maximum(1.0, 1.0) == pytest.approx(2**0.25)


def test_one_machine_and_many_get_the_same_seconds_and_a_complex_step_their_derivative() -> None:
    scales = np.array([0.5, 1.0, 2.0])
    many = CardRates(H100.flop_per_s * scales, H100.bytes_per_s / scales, H100.n_sm, H100.l2_bytes)
    together = dense_gemm(START["gemm"], many, 64, 4096.0, 1024.0).total_s
    for i in range(3):
        alone = CardRates(many.flop_per_s[i], many.bytes_per_s[i], H100.n_sm, H100.l2_bytes)
        assert dense_gemm(START["gemm"], alone, 64, 4096.0, 1024.0).total_s == together[i]
    step, h = 1e-25, 1e-4

    def at(bytes_per_s: complex) -> complex:
        return complex(dense_gemm(START["gemm"], H100._replace(bytes_per_s=bytes_per_s), 64, 4096.0, 1024.0).total_s)

    slope = at(complex(H100.bytes_per_s, step)).imag / step
    difference = (at(H100.bytes_per_s * (1 + h)) - at(H100.bytes_per_s * (1 - h))).real / (2 * h * H100.bytes_per_s)
    assert slope == pytest.approx(difference, rel=1e-4)


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> tuple[TableFit, TableFit]:
    """Two cards that obey the same law, fitted on tables with 2 % of noise; the second leaves out half at a time."""
    folder = tables_folder(write_tables(tmp_path_factory.mktemp("tables"), ("h100_sxm", "h200_sxm"), noise=0.02))
    first = fit_tables(folder, "h100_sxm", "vllm")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(law_fits, "_FOLDS", 2)
        return first, fit_tables(folder, "h200_sxm", "vllm")


def test_a_fit_says_the_table_it_was_made_of_and_families_left_out(cards: tuple[TableFit, TableFit]) -> None:
    measured = cards[0]
    assert {law.form for law in measured.laws} == {"gemm", "decode_attention", "context_attention", "experts"}
    for table, law in zip(measured.tables, measured.laws, strict=True):
        seconds = predicted(law.values, table, rates_of(table, measured.accelerator))
        assert errors_of(seconds, table.seconds).mape < 0.03
        assert law.families.mape < 0.05
        assert law.families.tau > 0.9
        true = predicted(TRUE[table.form], table, rates_of(table, measured.accelerator))
        assert errors_of(seconds, true).mape < 0.02
    gemm = measured.laws[0]
    assert gemm.values["memory"] == pytest.approx(TRUE["gemm"]["memory"], rel=0.03)
    assert gemm.values["peak"] == pytest.approx(TRUE["gemm"]["peak"], rel=0.03)
    assert gemm.within["m"] == (1, 4096)
    assert gemm.within["n"] == (1024, 16384)  # 256 columns are no weights of a model


def test_a_fit_of_laws_survives_its_own_text_and_says_where_it_was_read(
    tmp_path: Path, cards: tuple[TableFit, TableFit]
) -> None:
    fit = fit_of(cards[0], cards, {"command": "x"})
    path = tmp_path / f"{fit.name}.yaml"
    path.write_text(fit.to_yaml())
    again = load_fit(path)
    assert again.laws[0].values == fit.laws[0].values
    assert again.laws[0].source["sha256"] == fit.laws[0].source["sha256"]
    assert len(fit.laws[0].source["sha256"]) == 64
    assert again.hardware == "h100-sxm"
    assert again.laws[0].elsewhere is not None  # both cards obey the same law: what one lends holds on the other
    assert again.laws[0].elsewhere.mape < 0.05
    assert again.left_out["self_attention"].scatter == pytest.approx(again.laws[1].families.scatter)
    assert again.to_yaml() == fit.to_yaml()
    rows = law_rows(cards)
    assert {row["machine_by"] for row in rows} == {"h100-sxm", "h200-sxm"}
    assert all(row["roofline"]["mape"] > row["families"]["mape"] for row in rows)


def test_rows_are_drawn_alike_every_time_and_evenly(tmp_path: Path) -> None:
    (table, *_) = kernel_tables(write_tables(tmp_path), "h100_sxm", "vllm", "1.0")
    drawn = drawn_rows(table, 36)
    assert np.array_equal(drawn.seconds, drawn_rows(table, 36).seconds)
    counts = np.bincount(drawn.family)
    assert counts.max() - counts.min() <= 1


def test_what_is_host_time_or_skewed_is_no_table(tmp_path: Path) -> None:
    import pyarrow.parquet as parquet

    write_tables(tmp_path)
    for name, column, value in (
        ("gemm/vllm/1.0/gemm_perf", "gemm_dtype", "fp8_block"),
        ("moe/vllm/1.0/moe_perf", "distribution", "power_law_1.2"),
    ):
        path = tmp_path / "h100_sxm" / f"{name}.parquet"
        table = parquet.read_table(path)
        if column == "distribution":
            table = table.set_column(table.column_names.index(column), column, [[value] * len(table)])
        else:
            import pyarrow as pa

            other = table.set_column(table.column_names.index(column), column, [[value] * len(table)])
            table = pa.concat_tables([table, other])
        parquet.write_table(table, path)
    tables = kernel_tables(tmp_path, "h100_sxm", "vllm", "1.0")
    assert [table.key for table in tables if table.form == "gemm"] == [("gemm", "bf16", "bf16")]
    assert not [table for table in tables if "gemm" in table.form and table.stored == "fp8-b128"]
    assert not [table for table in tables if table.form == "experts"]


def test_what_is_no_table_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no tables GPU/FAMILY"):
        tables_folder(tmp_path)
    folder = tables_folder(write_tables(tmp_path))
    with pytest.raises(UnknownName, match="GPU of the tables"):
        versions(folder, "h300_sxm", "vllm")
    with pytest.raises(UnknownName, match="engine"):
        versions(folder, "h100_sxm", "vllmm")
    with pytest.raises(UnknownName, match="version"):
        fit_tables(folder, "h100_sxm", "vllm", "2.0")
    (folder / "h100_sxm" / "gemm" / "vllm" / "1.0" / "gemm_perf.parquet").write_bytes(b"nothing")
    with pytest.raises(InvalidInput, match="not a readable Parquet file"):
        fit_tables(folder, "h100_sxm", "vllm")


def test_versions_are_ordered_as_numbers(tmp_path: Path) -> None:
    for version in ("0.9.0", "0.14.0", "1.3.0rc20"):
        (tmp_path / "h100_sxm" / "gemm" / "vllm" / version).mkdir(parents=True)
    assert versions(tmp_path, "h100_sxm", "vllm") == ("0.9.0", "0.14.0", "1.3.0rc20")


@pytest.mark.parametrize("name", [name for name in fit_names() if name.endswith(".vllm")])
def test_every_committed_fit_of_laws_is_whole(name: str) -> None:
    fit = load_fit(name)
    assert fit.name == name
    assert {"gemm", "decode_attention", "context_attention", "experts"} <= {law.form for law in fit.laws}
    for law in fit.laws:
        assert law.source["table"].endswith(".parquet")
        assert len(law.source["sha256"]) == 64
        assert law.families.mape < 0.2
        assert abs(law.families.bias) < 0.06
        spectrum = np.linalg.eigvalsh(np.array(law.covariance))
        assert spectrum.min() > -1e-4 * spectrum.max()  # rounded to five digits


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda law: law.__setitem__("law", "gem"), "did you mean 'gemm'"),
        (
            lambda law: law["constants"].pop("peak"),
            "gemm: peak: missing .* `pregate calibrate --from aiconfigurator` writes",
        ),
        (lambda law: law["constants"]["peak"].__setitem__("value", -1), "peak"),
        (lambda law: law["constants"]["fixed_s"].__setitem__("value", 1.0), "fixed_s = 1"),
        (lambda law: law["log_covariance"].pop(), "covariance"),
        (lambda law: law["log_covariance"][1].append(0.0), "lower triangle"),
        (lambda law: law["within"].pop("m"), "within"),
        (lambda law: law["within"].__setitem__("m", [5, 1]), "within"),
        (lambda law: law["left_family_out"].__setitem__("mape", -1), "mape"),
        (lambda law: law.__setitem__("kernel", "flash-attention-3"), "choice of tiles"),
        (lambda law: law.__setitem__("compute", "bf61"), "format of arithmetic"),
    ],
)
def test_a_law_that_is_none_is_refused(tmp_path: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    document = yaml.load(load_text("h100-sxm.vllm"), yaml.CSafeLoader)
    document.pop("digest")
    change(document["laws"][0])
    path = tmp_path / "h100-sxm.vllm.yaml"
    path.write_text(yaml.dump(document, Dumper=yaml.CSafeDumper))
    with pytest.raises((InvalidFile, UnknownName), match=message):
        load_fit(path)


def load_text(name: str) -> str:
    from hwmodels.fits.fit_files import FITS_DIR

    return (FITS_DIR / f"{name}.yaml").read_text()


def family(name: str) -> str | None:
    return family_of(load_machine(name).accelerator.compute_capability)


def test_families_are_architectures() -> None:
    assert family("gh200") == family("h100-sxm") == "9.0"
    assert family("b200") == family("gb300") == "10.x"
    assert family("rtx-6000-ada") == family("l40s") != family("a40")
    assert family("mi300x") is None


def test_every_card_that_runs_cuda_says_its_capability() -> None:
    for name in hardware_names():
        card = load_machine(name).accelerator
        assert bool(family_of(card.compute_capability)) == (card.vendor == "NVIDIA"), name
        assert card.compute_capability.startswith("gfx") <= (card.vendor == "AMD"), name


@pytest.mark.parametrize(
    "name", ["rtx-6000-ada", "rtx-4070", "rtx-5070", "rtx-pro-5000", "h20", "l4", "h100-nvl", "a30"]
)
def test_a_card_that_nobody_fitted_has_the_laws_of_a_relative(name: str) -> None:
    fit = load_platform(name, "vllm").fit
    assert fit is not None
    assert family(fit.hardware) == family(name)
    assert fit.hardware != name


def test_a_card_of_ones_own_has_the_laws_of_its_capability(tmp_path: Path) -> None:
    document = machine_document(load_machine("rtx-4090"))
    del document["name"]
    path = tmp_path / "two-of-them.yaml"
    path.write_text(yaml.safe_dump(document))
    fit = load_platform(str(path), "vllm").fit
    assert fit is not None
    assert fit.hardware == "l40s"
    for wrong in ("8", "ada", "8.9.1"):
        path.write_text(yaml.safe_dump({**document, "compute_capability": wrong}))
        with pytest.raises(InvalidInput, match=f"compute_capability = {wrong!r}: it is MAJOR.MINOR, such as '8.9'"):
            load_platform(str(path), "vllm")
    del document["compute_capability"]
    path.write_text(yaml.safe_dump(document))
    assert load_platform(str(path), "vllm").fit is None


def test_the_nearest_relative_is_that_whose_memory_comes_next(cards: tuple[TableFit, TableFit]) -> None:
    one, other = cards
    found = nearest(one, [one, other], relatives=True)
    assert found is other
    assert nearest(one, [one], relatives=True) is None
    assert load_machine("h100-sxm").accelerator.name == one.accelerator.name


def test_the_committed_errors_are_those_of_the_committed_fits() -> None:
    rows = json.loads((ROOT / "results" / "kernel_laws.json").read_text())["rows"]
    said = {(row["gpu"], row["law"], row["compute"], row["stored"]): row for row in rows}
    fits = [load_fit(name) for name in fit_names() if name.endswith(".vllm")]
    laws = {(fit.hardware, law.form, law.compute, law.stored): law for fit in fits for law in fit.laws}
    assert set(said) == set(laws)
    for key, law in laws.items():
        assert said[key]["families"]["mape"] == pytest.approx(law.families.mape, abs=2e-3)
        assert said[key]["met"] == (said[key]["families"]["mape"] <= said[key]["bar"])
        assert (said[key]["machine"] is None) == (law.elsewhere is None)


def test_the_command_writes_a_fit_for_a_card_and_refuses_what_does_not_go_together(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(law_fits, "_FOLDS", 2)
    tables = write_tables(tmp_path / "tables")
    words = ("calibrate", "--from", "aiconfigurator", "--tables", str(tables))
    status, out, err = run(*words, "--gpu", "h100_sxm", "-o", str(tmp_path))
    assert status == 0, err
    assert "4 laws of vllm 1.0" in out
    assert load_fit(tmp_path / "h100-sxm.vllm.yaml").provenance["version"] == "1.0"
    for more, message in (
        (("--gpu", "h300_sxm"), "GPU of the tables"),
        (("--engine", "vlm"), "unknown engine 'vlm'"),
        (("-o", str(tmp_path / "none")), "a folder"),
        (("measurements.json",), "leave out MEASUREMENTS"),
    ):
        status, _, err = run(*words, *more)
        assert status == 2, more
        assert re.search(message, err), err
    status, _, err = run("calibrate", "--gpu", "h100_sxm", "x.json", "-o", "y.yaml")
    assert status == 2
    assert "--from aiconfigurator" in err
