"""Words of a command line that say nothing, or two things: refused before the work, and nothing is written."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import pregate
from tests.command_line import Run
from traces.errors import InvalidInput

SMALL = ("switch-base-8", "--hardware", "a100-sxm4-80gb", "--input-tokens", "4", "--output-tokens", "3")
ALONG = ("crossover", *SMALL[:3], "--axis")
BANDWIDTH = (*ALONG, "link.h2d_bytes_per_s", "--from", "4e9", "--to", "8e9")
SWEEP = "{model: switch-base-8, hardware: t4, policies: [on_demand, pregate], "


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("compare", *SMALL, "--hbm", "24GiB", "--set", "hbm_bytes=24GiB"), "--hbm and --set hbm_bytes are the same"),
        (("compare", *SMALL[:3], "--trace", "t.safetensors", "--output-tokens", "256"), "leave out --trace"),
        (("explain", *SMALL[:3], "--trace", "t.safetensors", "--active", "3"), "--active makes a synthetic trace"),
        (("arrivals", *SMALL[:3], "--arrivals", "a.csv", "--input-tokens", "256"), "--input-tokens is of Poisson"),
        (("arrivals", *SMALL[:3], "--arrivals", "a.csv", "--output-tokens", "9"), "leave out --arrivals"),
        ((*BANDWIDTH, "--policies", "pregate"), "one design crosses nothing"),
        ((*BANDWIDTH, "--set", "link.h2d_bytes_per_s=5e9"), "is what varies, and it is given a value too"),
        ((*ALONG, "batch", "--from", "1", "--to", "4", "--batch", "2"), "is what varies"),
        ((*ALONG, "hbm_bytes", "--from", "4e9", "--to", "8e9", "--hbm", "5e9"), "is what varies"),
        ((*ALONG, "output_tokens", "--from", "2", "--to", "9", "--output-tokens", "8"), "is what varies"),
        ((*ALONG, "top_k", "--from", "1", "--to", "100"), "has 8 experts a layer"),
        ((*ALONG, "output_tokens", "--from", "2", "--to", "9000000"), "add --yes"),
        (("explain", *SMALL[:3], "--output-tokens", "3000000"), "add --yes"),
        (("optimize", "switch-base-8", "--output-tokens", "3000000"), "add --yes"),
        (("optimize", "switch-base-8", "--axis", "output_tokens=4,9000000"), "add --yes"),
        (("trace", "synth", "switch-base-8", "--output-tokens", "900000000", "-o", "o.safetensors"), "add --yes"),
        (("optimize", "switch-base-8", "--hardware", ""), "names no machine"),
        (("optimize", "switch-base-8", "--subject-to", "tokens_per_s>=-5"), "no figure is below 0"),
        (("simulate", *SMALL, "--policy", "pregate(9999)"), "the decoder of switch-base-8 has 6"),
        (("simulate", *SMALL, "--policy", "pregate+lru:0.1:warm:warm"), "says warm twice"),
        (("simulate", *SMALL, "--modes", "hbm,hbm"), "hbm is given twice"),
        (("simulate", *SMALL, "--dtype", "zzz"), "nearest of"),
        (("residency", "t.safetensors", "--expert-bytes", "9", "--budgets-mib", "1,,2"), "has an empty place"),
        (("residency", "t.safetensors", "--expert-bytes", "9", "--budgets-mib", "1,1"), "has 1 twice"),
        (("residency", "t.safetensors", "--expert-bytes", "9", "--policies", "lru,lru"), "has lru twice"),
        (("residency", "t.safetensors", "--expert-bytes", "99999999", "--budgets-mib", "1"), "holds no expert"),
        (("trace", "import", "t.safetensors", "-o", "o.csv"), "name it o.safetensors"),
        (("trace", "synth", *SMALL[:1], "-o", "o.txt"), "name it o.safetensors"),
        (("trace", "synth", *SMALL[:1], "-o", "/proc/o.safetensors"), "cannot be written to"),
        (("simulate", *SMALL, "--timeline", "/proc/o.json"), "cannot be written to"),
        (("validate", "--suite", "quick", "-o", "/proc/o"), "cannot be written to"),
        (("calibrate", "t.safetensors", "-o", "/proc/o.yaml"), "cannot be written to"),
        (("predictors", "t.safetensors", "--more", "99"), "at most 7 more can be guessed"),
        (("poc", "promise.yaml", "-o", "p.html"), "a promise is a time above 0"),
        (("poc", "batches.yaml", "-o", "p.html"), "has one twice"),
        (("sweep", "big.yaml"), "add --yes"),
        (("sweep", "long.yaml"), "add --yes"),
        (("sweep", "many.yaml"), "add --yes, or take fewer values"),
        (("sweep", "sampled.yaml"), "add --yes, or take fewer values"),
        (("sweep", "top_k.yaml"), "has 8 experts a layer"),
        (("sweep", "big.yaml", "-o", "/proc/o.nc"), "cannot be written to"),
        (("reproduce", "isca24", "--rows", "rows.csv"), "1e-06 to 1e+09 ms can be"),
        (("explore", "switch-base-8", "--hardware", "t4", "-o", "p.html", "--prompts", "100000000"), "tokens at once"),
        (("reproduce", "isca24", "--set", "nope=1"), "unknown override 'nope'"),
        (("reproduce", "resident", "--set", "link.h2d_bytes_per_s=64"), "GB/s"),
        (("reproduce", "resident", "--fit-stack", "llama-cpp:sync_s,sync_s"), "has sync_s twice"),
        (("reproduce", "resident", "--fit-stack", "llama-cpp:sync_s,"), "has an empty place"),
        (("reproduce", "resident", "--fit-stack", "llama-cpp:sync_s", "--hardware", "t4"), "leave out --hardware"),
        (("reproduce", "resident", "--fit-stack", "llama-cpp:sync_s", "--spreads", "s.yaml"), "leave out --spreads"),
        (("reproduce", "resident", "--spreads", "s.yaml", "--set", "stack.sync_s=5us"), "leave out --set"),
        (("reproduce", "resident", "--spreads", "s.yaml", "--format", "json"), "leave out --format"),
    ],
)  # fmt: skip
def test_it_is_one_line_and_nothing_is_written(
    words: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch, run: Run, tmp_path: Path, recorded: Path,
    no_large_work: None,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    shutil.copy(recorded, "t.safetensors")
    Path("big.yaml").write_text(SWEEP + "workload: {output_tokens: 100000000}}")
    Path("long.yaml").write_text(SWEEP + "axes: {output_tokens: [4, 9000000]}}")
    Path("many.yaml").write_text(SWEEP + "axes: {link.h2d_bytes_per_s: {log: [1.0e+9, 1.0e+11, 1100000]}}}")
    Path("sampled.yaml").write_text(SWEEP + "axes: {hbm_bytes: {log: [1GB, 9GB]}}, sample: {n: 1100000}}")
    Path("top_k.yaml").write_text(SWEEP + "axes: {top_k: [1, 100]}}")
    plan = "{model: switch-base-8, hardware: t4, now: on_demand, candidates: [pregate], "
    plan += "workload: {input_tokens: 4, output_tokens: 3, requests_per_s: 1}, "
    Path("promise.yaml").write_text(plan + "promise: {ttft: -5s}}")
    Path("batches.yaml").write_text(plan + "batches: [1, 1]}")
    columns = "model,design,batch,forced_active_experts,cache_policy,cache_ratio,expert_tier,metric,value,unit"
    Path("rows.csv").write_text(f"{columns}\nswitch-base-8,gpu_only,1,,none,0,dram,moe_layer_latency,1e308,ms\n")
    before = sorted(tmp_path.iterdir())
    status, _, error = run(*words)
    assert (status, told in error, error.count("\n")) == (2, True, 1), error
    assert sorted(tmp_path.iterdir()) == before


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("traces") / "t.safetensors"
    pregate.save_trace(pregate.synthesize(pregate.load_model("switch-base-8"), 8, 4), path)
    return path


def test_a_long_path_does_not_make_a_long_line(run: Run) -> None:
    status, _, error = run("models", "show", "a/" * 2000 + "x.yaml")
    assert (status, len(error) < 600) == (2, True)
    assert "..." in error


def test_a_sequence_with_a_gap_is_refused() -> None:
    columns = np.zeros((4, 2, 1), int), np.zeros(4, int), np.array([0, 1, 2, 10**6]), np.ones(4, int), np.arange(4)
    with pytest.raises(InvalidInput, match="jumps from position 2 to 1000000: 999997 tokens"):
        pregate.RoutingTrace(*columns, n_experts=8, provenance=pregate.Provenance("m", "s"))


def test_two_sequences_may_begin_anywhere() -> None:
    columns = np.zeros((4, 2, 1), int), np.array([0, 0, 1, 1]), np.array([7, 8, 4, 5]), np.ones(4, int), np.arange(4)
    assert pregate.RoutingTrace(*columns, n_experts=8, provenance=pregate.Provenance("m", "s")).n_sequences == 2


@pytest.mark.parametrize("text", ["\u0664", "\uff18", "1_0", "4.0", "1e3", "maximum", ""])
def test_a_batch_is_ascii_digits_or_max(text: str, run: Run) -> None:
    status, _, error = run("compare", "switch-base-8", "--hardware", "a100-sxm4-80gb", "--batch", text)
    assert (status, len(error.splitlines())) == (2, 1)
    assert "neither a whole number nor max" in error or "is not a number" in error
