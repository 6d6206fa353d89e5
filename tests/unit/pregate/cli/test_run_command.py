"""`pregate run`: what it prints and writes, and how it answers what cannot be done."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest

from tests.command_line import Run
from tests.small_models import MODELS, routing
from tests.told_watch import QUIET, watch_of
from traces.storage import save_trace

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from runtime.backends.cpu import CpuBackend  # noqa: E402
from runtime.machine import watch as watch_module  # noqa: E402
from runtime.machine.watch import Seen  # noqa: E402

LOUD = Seen(foreign=0.0, steal=0.0, clock=2.0)

MODEL = MODELS["decoder-only"]
SMALL = ["--backend", "cpu", "--input-tokens", "4", "--output-tokens", "4"]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Seen]:
    """What the watches of all runs see, the last for those that follow: a quiet machine."""
    ahead = [QUIET]
    see = watch_of(lambda: ahead[0] if len(ahead) == 1 else ahead.pop(0))
    monkeypatch.setattr(watch_module, "LoadWatch", see)
    return ahead


@pytest.fixture
def run(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seen: list[Seen]) -> Run:
    """`pregate run mine.yaml WORDS` in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(MODEL.to_yaml())

    def call(*words: str, model: str = "mine.yaml") -> tuple[int, str, str]:
        return run("run", model, *words)

    return call


def test_json_and_csv_hold_the_figures_of_the_run(run: Run) -> None:
    status, out, err = run(*SMALL, "--policy", "lru", "--hbm", "1MB", "--format", "json")
    document = json.loads(out)
    assert (status, err.strip()) == (0, "")
    assert document["policy"] == "lru"
    assert document["backend"] == "cpu"
    assert document["n_output_tokens"] == 4
    assert document["disturbance"] is None
    assert document["tokens_per_s"] == pytest.approx(4 / document["makespan_s"])
    assert sum(document["pool_bytes"].values()) <= 1_000_000
    (row,) = csv.DictReader(io.StringIO(run(*SMALL, "--policy", "lru", "--hbm", "1MB", "--format", "csv")[1]))
    assert row["schedule_digest"] == document["schedule_digest"]
    assert row["output_digest"] == document["output_digest"]
    assert int(row["moved_bytes.h2d"]) == document["moved_bytes"]["h2d"]


def test_a_table_shows_sizes_and_times_with_units(run: Run) -> None:
    status, out, _ = run(*SMALL)
    assert status == 0
    assert re.search(r"pregate: small-decoder run on cpu-", out)
    assert re.search(r"tpot_s .* [\d.]+ (us|ms)", out)
    assert re.search(r"pool_bytes.expert slots .* [\d.]+ kB", out)
    assert re.search(r"disturbance .* - ", out)


def test_a_stored_trace_is_run(run: Run, tmp_path: Path) -> None:
    trace = routing(MODEL, batch=2, output_tokens=3)
    save_trace(trace, tmp_path / "t.safetensors")
    status, out, err = run("--backend", "cpu", "--trace", "t.safetensors", "--format", "json")
    assert status == 0, err
    assert json.loads(out)["trace_digest"] == trace.digest


def test_the_timeline_opens_as_trace_events_of_every_op(run: Run, tmp_path: Path) -> None:
    words = ["--timeline", "out.json", "--gantt", "out.png", "--link", "5MB/s", "--format", "json"]
    status, out, err = run(*SMALL, *words)
    assert status == 0
    assert "wrote out.json" in err
    document = json.loads((tmp_path / "out.json").read_text())
    slices = [event for event in document["traceEvents"] if event["ph"] == "X"]
    assert document["otherData"]["source"] == "cpu"
    assert document["otherData"]["schedule"] == json.loads(out)["schedule_digest"]
    assert len(slices) == document["otherData"]["ops"] > 20
    fetches = [event for event in slices if event["cat"] == "fetch"]
    last_us = max(event["ts"] + event["dur"] for event in fetches)  # one alone may seem short: its start is seen late
    assert last_us * 1e-6 * 5e6 >= 0.9 * len(fetches) * MODEL.expert_bytes
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_experts_are_read_from_storage_and_nothing_stays_there(run: Run, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    status, out, err = run(*SMALL, "--tier", "ssd", "--storage", "disk", "--format", "json")
    assert status == 0, err
    moved = json.loads(out)["moved_bytes"]
    assert moved["disk"] == moved["h2d"] > 0
    assert not list((tmp_path / "disk").iterdir())


def test_a_busy_machine_is_said_and_marked(run: Run, seen: list[Seen]) -> None:
    seen[:] = [LOUD]
    status, out, err = run(*SMALL, "--format", "json")
    assert status == 0
    assert json.loads(out)["disturbance"] == LOUD.disturbance()
    assert f"warning: these times are of a busy machine: {LOUD.disturbance()}" in err
    seen[:] = [LOUD, QUIET]
    status, out, err = run(*SMALL, "--repeats", "2", "--format", "json")
    assert (json.loads(out)["n_runs"], json.loads(out)["disturbance"]) == (1, None)
    assert "1 of 2 runs do not count: the machine was busy" in err
    assert "warning" not in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--hbm", "500TB"], "500000.0 GB of HBM are asked for, the cpu back end has"),
        (["--hbm", "10KB"], "pregate needs"),
        (["--hbm", "10GB/s"], "unit"),
        (["--link", "2GB"], "unit"),
        (["--link", "0"], "above 0"),
        (["--link-latency", "20GB"], "unit"),
        (["--chunk", "1MiB"], "--chunk is of the CUDA back end"),
        (["--tier", "ssd"], "name a folder for them, --storage DIR"),
        (["--tier", "ssd", "--storage", "nowhere"], "nowhere: there is no such folder"),
        (["--storage", "."], "add --tier ssd"),
        (["--tier", "tape"], "dram or ssd"),
        (["--backend", "gpu"], "unknown back end 'gpu': did you mean 'cpu'"),
        (["--policy", "pregated"], "did you mean 'pregate'"),
        (["--dtype", "fp8"], "try --dtype bf16"),
        (["--cache", "lru:many"], "neither a ratio"),
        (["--timeline", "no/such/folder/out.json"], "no/such/folder"),
        (["--gantt", "no/such/folder/out.png"], "no/such/folder"),
        (["--trace", "no-such-file"], "leave out --trace"),
    ],
)
def test_mistakes_end_in_one_line_and_status_2(run: Run, words: list[str], message: str, tmp_path: Path) -> None:
    status, out, err = run(*(SMALL[2:] if "--backend" in words else SMALL), *words)
    assert (status, out) == (2, "")
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_a_machine_without_cuda_says_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, _, err = run("--backend", "cuda")
    assert status == 2
    assert "error: no CUDA device, or a PyTorch without CUDA: try --backend cpu" in err


def test_a_paced_link_is_not_for_cuda(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    status, _, err = run("--link", "4GB/s")
    assert status == 2
    assert "--link is of the CPU back end: a CUDA device has its own" in err


def test_without_pytorch_one_line_says_how_to_get_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pregate.extras.find_spec", lambda _: None)
    status, _, err = run(*SMALL)
    assert status == 2
    assert "pip install 'pregate[runtime]'" in err


def test_an_interrupt_writes_nothing(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(CpuBackend, "issue", interrupt)
    status, out, _ = run(*SMALL, "--timeline", "out.json")
    assert status == 130
    assert out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]
