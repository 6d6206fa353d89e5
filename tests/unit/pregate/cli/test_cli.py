"""The command line: what it prints, and how it answers mistakes."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pregate
from hwmodels.specs.machine_files import hardware_names, load_machine
from pregate.cli import main as command_line
from pregate.spellings.names import KNOWN
from tests.command_line import Run
from traces.storage import save_trace

ROOT = Path(__file__).parents[4]
SMALL = ["switch-base-8", "--hardware", "a100-sxm4-80gb", "--input-tokens", "8", "--output-tokens", "4"]


def test_compare_prints_a_table_and_who_wins(run: Run) -> None:
    status, out, _ = run("compare", *SMALL)
    assert status == 0
    for word in ("gpu_only", "on_demand", "prefetch_all", "pregate", "wins", "binds it", "fitted on a100"):
        assert word in out


def test_compare_as_json_and_csv_agree(run: Run) -> None:
    document = json.loads(run("compare", *SMALL, "--format", "json")[1])
    rows = list(csv.DictReader(io.StringIO(run("compare", *SMALL, "--format", "csv")[1])))
    assert [row["policy"] for row in rows] == [row["policy"] for row in document["results"]]
    assert float(rows[3]["tokens_per_s"]) == document["results"][3]["tokens_per_s"]


def test_a_small_hbm_is_shown_with_what_would_be_needed(run: Run) -> None:
    status, out, _ = run("compare", *SMALL, "--hbm", "2GB", "--stack", "streams")
    assert status == 0
    assert "does not fit" in out
    rows = list(csv.DictReader(io.StringIO(run("compare", *SMALL, "--hbm", "2GB", "--format", "csv")[1])))
    assert {row["fits"] for row in rows} == {"True", "False"}
    assert all((row["needed_bytes"] != "") == (row["fits"] == "False") == ("needs" in row["reason"]) for row in rows)


def test_simulate_writes_timeline_and_gantt(run: Run, tmp_path: Path) -> None:
    timeline, gantt = tmp_path / "out.json", tmp_path / "out.png"
    status, out, err = run("simulate", *SMALL, "--timeline", str(timeline), "--gantt", str(gantt))
    assert status == 0, err
    assert "moe_layer_latency_s" in out
    assert json.loads(timeline.read_text())["traceEvents"]
    assert gantt.read_bytes().startswith(b"\x89PNG")


def test_storage_is_not_called_fitted(run: Run) -> None:
    _, out, _ = run("simulate", *SMALL, "--tier", "ssd")
    assert "but not storage: extrapolated" in out
    _, out, _ = run("simulate", *SMALL)
    assert "extrapolated" not in out


def test_trace_synth_stats_fit_and_residency(run: Run, tmp_path: Path) -> None:
    path = str(tmp_path / "t.safetensors")
    assert run("trace", "synth", "switch-base-8", "--output-tokens", "64", "--repeat", "0.4", "-o", path)[0] == 0
    stats = json.loads(run("trace", "stats", path, "--format", "json")[1])
    assert stats["n_experts"] == 8
    assert stats["reuse"]["1"] > 0.3
    fitted = json.loads(run("trace", "fit", path, "--format", "json")[1])
    assert fitted["dials"]["repeat_probability"] > 0.1
    status, out, _ = run(
        "residency", path, "--policies", "lru,belady", "--budgets-mib", "100,200", "--expert-bytes", "18874368",
        "--format", "csv",
    )  # fmt: skip
    assert status == 0
    assert out.splitlines()[0] == "budget_mib,policy,hit_pct_cum,hit_pct_decode,read_mib"
    assert len(out.splitlines()) == 5
    assert run("trace", "stats", path)[0] == 0
    assert run("trace", "fit", path)[0] == 0


def test_a_stored_trace_is_compared(run: Run, tmp_path: Path) -> None:
    path = str(tmp_path / "t.safetensors")
    run("trace", "synth", "switch-base-8", "--input-tokens", "8", "--output-tokens", "4", "-o", path)
    given = json.loads(run("compare", *SMALL[:3], "--trace", path, "--format", "json")[1])
    made = json.loads(run("compare", *SMALL, "--format", "json")[1])
    assert given == made


def test_batch_1_runs_the_sequences_of_a_recording_one_by_one(run: Run, tmp_path: Path) -> None:
    path = str(tmp_path / "t.safetensors")
    run("trace", "synth", "switch-base-8", "--input-tokens", "8", "--output-tokens", "4", "--batch", "2", "-o", path)

    def tokens_per_s(*words: str) -> float:
        document = json.loads(run("simulate", *SMALL[:3], "--trace", path, *words, "--format", "json")[1])
        return float(document["tokens_per_s"])

    assert tokens_per_s("--batch", "1") < tokens_per_s() == tokens_per_s("--batch", "2")


@pytest.mark.parametrize(
    "words",
    [
        ["compare", *SMALL[:3], "--trace", "t.safetensors", "--batch", "4"],
        ["simulate", *SMALL[:3], "--trace", "t.safetensors", "--batch", "4"],
        ["trace", "import", "t.safetensors", "-o", "o.safetensors", "--batch", "4"],
        ["crossover", *SMALL[:3], "--trace", "t.safetensors", "--axis", "batch", "--from", "1", "--to", "4"],
    ],
)
def test_a_batch_above_the_recorded_sequences_is_refused(
    run: Run, words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    save_trace(pregate.synthesize(pregate.load_model("switch-base-8"), 8, 4, 2), "t.safetensors")
    status, _, error = run(*words)
    assert status == 2
    assert "batch = 4: the trace of switch-base-8 has 2 sequences" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.safetensors"]


@pytest.mark.parametrize(
    "words",
    [
        ["models"],
        ["hardware"],
        ["hardware", "show", "rtx-4090"],
        ["hardware", "hosts", "EPYC 7"],
        ["hardware", "links"],
    ],
)
def test_catalogues_print_tables_json_and_csv(run: Run, words: list[str]) -> None:
    assert run(*words)[0] == 0
    document = json.loads(run(*words, "--format", "json")[1])
    rows = list(csv.DictReader(io.StringIO(run(*words, "--format", "csv")[1])))
    assert len(rows) == len(document) > 10


def test_every_host_and_link_is_listed_by_name_and_a_part_of_no_name_is_told(run: Run) -> None:
    for kind in ("host", "link"):
        listed = {row[kind] for row in json.loads(run("hardware", f"{kind}s", "--format", "json")[1])}
        assert listed == set(KNOWN[kind]())
    row = json.loads(run("hardware", "hosts", "epyc-7763-2s", "--format", "json")[1])[0]
    assert (row["cores"], row["dram_bytes_per_s"]) == (128, 2 * 8 * 3.2e9 * 8)
    assert "│ pcie4-x16 │     31.5 GB/s │" in run("hardware", "links", "PCIe4")[1]
    status, out, told = run("hardware", "hosts", "zzzz")
    assert (status, out) == (2, "")
    assert "(all: pregate hardware hosts)" in told


def test_machines_on_80_columns_have_their_host_and_link(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    _, table, _ = run("hardware")
    assert "│ rtx-4090               │ 25.8 GB │ desktop-ddr5               │ pcie4-x16  │" in table


def test_every_number_of_a_machine_is_shown_with_its_source(run: Run) -> None:
    rows = json.loads(run("hardware", "show", "a100-sxm4-80gb", "--format", "json")[1])
    assert all(row["source"] for row in rows)
    assert any(row["source"].startswith("fitted: a100-sxm4-80gb.fastertransformer") for row in rows)


@pytest.mark.parametrize("name", ["a100-sxm4-80gb", "apple-m2", "mi300a"])
def test_a_machine_is_shown_with_sources_however_long_their_addresses(run: Run, name: str) -> None:
    """160 columns are wide enough for a table that folds: no mark of what nobody read is left out."""
    status, table, _ = run("hardware", "show", name)
    assert status == 0
    assert "Left out" not in table
    assert "unverified: " in table


def test_a_processor_is_shown_beside_a_card_and_alone_told_how(run: Run) -> None:
    shown = json.loads(run("hardware", "show", "rtx-4090", "--set", "host=epyc-7c13", "--format", "json")[1])
    cores = next(row for row in shown if row["key"] == "host.n_cores")
    assert (cores["value"], cores["unverified"]) == (64, True)
    status, _, told = run("hardware", "show", "2x Xeon Gold 6230")
    assert status == 2
    assert "that is a processor" in told
    assert "--set host=xeon-6230-2s" in told


def test_a_model_is_shown_as_yaml_that_loads_again(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(run("models", "show", "gpt-oss-20b")[1])
    assert pregate.load_model(path).total_params == pregate.load_model("gpt-oss-20b").total_params


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare", "switch-base-9", "--hardware", "t4"], "did you mean 'switch-base-8'"),
        (["compare", "switch-base-8", "--hardware", "t5"], "did you mean"),
        (["compare", *SMALL, "--policies", "pregated"], "did you mean 'pregate'"),
        (["compare", *SMALL, "--policies", "on_demand(2)"], "looks ahead by a number of blocks"),
        (["compare", *SMALL, "--policies", ","], "no policies"),
        (["compare", *SMALL, "--cache", "lru:many"], "neither a ratio"),
        (["compare", *SMALL, "--cache", "lru:1.5"], "outside (0, 1]"),
        (["compare", *SMALL, "--cache", "mru:0.5"], "unknown eviction"),
        (["compare", *SMALL, "--set", "link.h2d_bytes_per_s=-1"], "above 0"),
        (["compare", *SMALL, "--set", "link.h2d_bytes_per_s=3GiB"], "unit"),
        (["compare", *SMALL, "--set", "link"], "KEY=VALUE"),
        (["compare", *SMALL, "--set", "link.h2d_bytes_per_s=1e9", "--set", "link.h2d_bytes_per_s=2e9"], "twice"),
        (["compare", *SMALL, "--hbm", "24GB/s"], "unit"),
        (["compare", *SMALL, "--batch", "0"], "--batch 0: give 1 or more"),
        (["plan", *SMALL, "--batch", "0"], "error: --batch 0: give 1 or more"),
        (["plan", *SMALL, "--concurrency=0"], "error: --concurrency 0: give 1 or more"),
        (["compare", *SMALL, "--tier", "tape"], "dram or ssd"),
        (["compare", *SMALL, "--dtype", "fp12"], "dtype"),
        (["compare", *SMALL[:3], "--trace", "no-such-file"], "no-such-file"),
        (["compare", *SMALL, "--trace", "no-such-file"], "leave out --trace"),
        (["compare", *SMALL[:3], "--trace", "no-such-file", "--input-tokens", "256"], "leave out --trace"),
        (["plan", *SMALL[:3], "--trace", "no-such-file", "--seed", "0"], "--seed makes a synthetic trace"),
        (["simulate", *SMALL, "--hbm", "1GB"], "of HBM, there are"),
        (["simulate", *SMALL, "--timeline", "no/such/folder/out.json"], "no/such/folder"),
        (["simulate", *SMALL, "--gantt", "no/such/folder/out.png"], "no/such/folder"),
        (["reproduce", "isca25"], "isca24"),
        (["reproduce", "--rows", "no-such-file"], "no-such-file"),
        (["trace", "import", "README.md", "--format", "route_trace_v2", "-o", "x.safetensors"], "'route_trace_v1'"),
        (["trace", "import", "README.md", "--format", "gptoss_npz", "-o", "x.safetensors"], "README.md"),
        (["residency", "README.md"], "README.md"),
        (["models", "show", "mixtral-8x"], "mixtral-8x22b"),
    ],
)
def test_mistakes_end_in_one_line_and_status_2(
    run: Run, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("not a trace\n")
    status, out, err = run(*words)
    assert status == 2
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_a_result_leaves_out_what_its_design_has_none_of(run: Run) -> None:
    status, out, _ = run("simulate", *SMALL)
    assert status == 0
    assert all(name in out for name in ("tokens_per_s", "hit_rate", "stall_share"))
    left_out = ("policy_source", "asked_machine", "written_back_bytes", "n_low_slots", "prefetches")
    assert not any(name in out for name in left_out)
    assert "storage_bytes" in run("simulate", *SMALL, "--policy", "on_demand", "--tier", "ssd")[1]


def test_one_design_wins_against_nobody(run: Run) -> None:
    assert "\npregate: " in run("compare", *SMALL, "--policies", "pregate")[1]


def test_a_mistyped_option_has_status_2(run: Run) -> None:
    status, _, err = run("compare", *SMALL, "--polices", "pregate")
    assert status == 2
    assert "--polices" in err


def test_shipped_traces_are_listed_and_taken_by_name(run: Run) -> None:
    status, out, _ = run("trace", "list", "--format", "json")
    assert status == 0
    listed = {row["name"]: row for row in json.loads(out)}
    assert listed["gpt-oss-20b-mmlu"]["sequences"] == 12
    assert all(row["licence"] == "Apache-2.0" for row in listed.values())
    sizes = {path.stem: path.stat().st_size for path in (ROOT / "traces" / "recorded").glob("*.safetensors")}
    assert set(sizes) == set(listed)
    assert max(sizes.values()) <= 1_000_000
    status, out, _ = run("trace", "stats", "qwen3-30b-a3b-phone", "--format", "json")
    assert json.loads(out)["n_decode_tokens"] == 128


def test_an_import_keeps_the_sequences_asked_for_and_never_overwrites_what_it_reads(run: Run, tmp_path: Path) -> None:
    csv = tmp_path / "t.csv"
    header = (
        "# route_trace v1\n# model=toy n_layer=1 n_expert=4 n_expert_used=1\n# layer=0 expert_bytes=9 dense_bytes=0\n"
    )
    columns = "turn,phase,step,layer,slot,expert,weight,residency,expert_bytes\n"
    csv.write_text(header + columns + "".join(f"{turn},1,{i},0,0,{i},1,0,9\n" for turn in range(3) for i in range(2)))
    before = csv.read_text()
    link = tmp_path / "link.csv"
    link.symlink_to(csv)
    for output in (csv, link):
        status, _, err = run("trace", "import", str(csv), "--format", "route_trace_v1", "-o", str(output))
        assert (status, csv.read_text()) == (2, before)
        assert "would be overwritten" in err
    kept = tmp_path / "kept.safetensors"
    words = ("trace", "import", str(csv), "--format", "route_trace_v1", "-o", str(kept))
    assert run(*words, "--sequences", "0,2", "--no-gate-weights", "--licence", "MIT")[0] == 0
    trace = pregate.load_trace(kept)
    assert sorted(set(trace.sequence.tolist())) == [0, 2]
    assert (trace.gate_weights, trace.provenance.licence) == (None, "MIT")
    assert run(*words, "--sequences", "0:9")[0] == 2
    assert "neither FIRST:LAST" in run(*words, "--sequences", "all")[2]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("compare", "--nope"), r"No such option: --nope .*: see .+ compare --help"),
        (("plan", "x", "--gpu", "rtx-4090"), r"No such option: --gpu: it is --hardware here: see .+ plan --help"),
        (("plan", "x", "--engine=vllm"), r"No such option: --engine: it is --stack here: see .+ plan --help"),
        (("arrivals", "x", "--rate", "2"), r"No such option: --rate: it is --rates here: see .+ arrivals --help"),
        (("plan", "x", "--cpu", "5900X"), r"No such option: --cpu: it is --host here: see .+ plan --help"),
        (("compare", "x", "--host", "5900X"), r"No such option: --host: it is --set host=NAME here \(or --hardware .*"),
        (("explain", "x", "--link=pcie3-x16"), r"No such option: --link: it is --set link=NAME here: see .+ --help"),
        (("cost", "x", "--ram", "64GB"), r"No such option: --ram: it is --set host.dram_bytes=64GB here \(or .*"),
        (("sweep", "x", "--hardware", "t4"), r"No such option: --hardware: a sweep takes a file that says it, .*"),
        (("run", "x", "--host", "epyc-7763"), r"No such option: --host: run runs on this machine, as it is; .*"),
        (("plan", "x", "--tp", "8"), r"No such option: --tp: several cards are --hardware '8x NAME' .*"),
        (("compare", "switch-mini-16", "--batch", "x"), r"Invalid value for '--batch': .*: see .+ compare --help"),
        (("compare",), r"Missing argument '(model|MODEL)': see .+ compare --help"),
        (("frob",), r"No such command 'frob': see .+ --help"),
    ],
)
def test_words_that_no_command_takes_end_in_one_line(
    words: tuple[str, ...], line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["pregate", *words])
    with pytest.raises(SystemExit) as stop:
        command_line.main()
    assert stop.value.code == 2
    assert re.fullmatch(f"error: {line}\n", capsys.readouterr().err)


def test_nothing_asked_of_a_group_is_answered_with_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["pregate", "trace"])
    with pytest.raises(SystemExit) as stop:
        command_line.main()
    assert stop.value.code == 0
    assert "Commands:" in capsys.readouterr().out


def test_a_machine_is_printed_as_a_file_that_reads_back(run: Run, tmp_path: Path) -> None:
    """Of machines that state the same figures, one."""
    machines = {frozenset(machine.quantities()): machine for machine in map(load_machine, hardware_names())}
    assert len(machines) > 10
    for theirs in machines.values():
        status, text, _ = run("hardware", "show", theirs.accelerator.name, "--format", "yaml")
        assert status == 0
        (tmp_path / "mine.yaml").write_text(text)
        mine = load_machine(tmp_path / "mine.yaml")
        assert mine.accelerator.name == "mine"
        for key, quantity in theirs.quantities().items():
            assert mine.quantities()[key].value == quantity.value, key
            assert mine.quantities()[key].source == quantity.source, key


@pytest.mark.parametrize(("given", "asked"), [(None, "1"), ("2", "2")])
def test_linear_algebra_has_one_thread_unless_the_user_says_more(
    given: str | None, asked: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", given or "")
    if given is None:
        monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    monkeypatch.setattr("sys.argv", ["pregate", "--help"])
    with pytest.raises(SystemExit):
        command_line.main()
    assert os.environ["OPENBLAS_NUM_THREADS"] == asked


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator of glibc is asked")
@pytest.mark.parametrize("is_set", [False, True])
def test_memory_of_arrays_is_used_again_unless_the_user_has_set_the_allocator(is_set: bool) -> None:
    text = """
import resource, sys
from pregate.cli import main
sys.argv = ["pregate", "--version"]
try:
    main.main()
except SystemExit:
    pass
import numpy as np
def touched():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(5_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(touched(), sum(touched() for _ in range(8)))
"""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    environ |= {"MALLOC_TOP_PAD_": "0"} if is_set else {}
    ran = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True, env=environ)
    first, later = map(int, ran.stdout.splitlines()[-1].split())
    assert first > 4
    assert (later > first) == is_set
