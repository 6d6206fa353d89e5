"""The largest batch that memory allows: it fits, one more does not, whichever memory decides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import pregate
from offload.slots.memory import CapacityExceeded
from pregate.ask.capturing.machine_memory import MachineMemory, memory_of
from pregate.ask.capturing.request import request
from pregate.measured.row_prediction import RowBench
from tests.command_line import Run, runner
from tests.small_models import decoder_only, encoder_decoder
from tests.table_rows import ROW, read
from traces.errors import InvalidInput
from traces.model.architecture import ModelArchitecture
from traces.routing import RoutingTrace

ASKED = ("switch-mini-16", "--hardware", "rtx-4090", "--input-tokens", "12", "--output-tokens", "4", "--hbm", "1050MB")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capsys)


def memory(hbm_bytes: int, dram_bytes: int = 10**12, stack: str = "streams") -> MachineMemory:
    found = memory_of(pregate.load_hardware("rtx-4090", stack))
    return MachineMemory(hbm_bytes, 0, dram_bytes, "a host", found.execution)


def trace_of(model: ModelArchitecture, n: int) -> RoutingTrace:
    return pregate.synthesize(model, 5, 4, n)


@pytest.mark.parametrize("stack", ["streams", "fastertransformer"])
@pytest.mark.parametrize("policy", ["gpu_only", "on_demand", "prefetch_all", "pregate", "on_demand+lru:2"])
@pytest.mark.parametrize("model", [decoder_only(), encoder_decoder()], ids=["decoder", "encoder"])
@pytest.mark.parametrize("hbm_bytes", [700_000, 1_000_000, 1_300_000])
def test_the_largest_batch_fits_and_one_more_does_not(
    model: ModelArchitecture, policy: str, stack: str, hbm_bytes: int
) -> None:
    machine = memory(hbm_bytes, stack=stack)
    n = pregate.largest_batch(model, machine, policy, lambda n: trace_of(model, n))
    assert request(model, machine, trace_of(model, n), policy)
    with pytest.raises(CapacityExceeded):
        request(model, machine, trace_of(model, n + 1), policy)


def test_memory_of_the_host_decides_where_keys_and_values_wait_there() -> None:
    model = decoder_only()
    policy = "gpu_only@kv=cpu"
    few, many = (
        pregate.largest_batch(model, memory(10**9, dram), policy, lambda n: trace_of(model, n))
        for dram in (40_000, 80_000)
    )
    one = model.kv_bytes_per_token * 8
    assert (few, many) == (40_000 // one, 80_000 // one)


def test_a_recording_runs_no_more_than_its_sequences_side_by_side() -> None:
    model = decoder_only()
    recorded = trace_of(model, 3)
    assert pregate.largest_batch(model, memory(10**9), "gpu_only", recorded) == 3
    tight = request(model, memory(10**9), trace_of(model, 2), "gpu_only").plan.static_bytes
    assert pregate.largest_batch(model, memory(tight), "gpu_only", recorded) == 2


def test_where_not_even_one_sequence_fits_it_says_so_and_what_is_needed() -> None:
    model = decoder_only()
    with pytest.raises(CapacityExceeded, match="batch max: not even one sequence fits: gpu_only needs") as caught:
        pregate.largest_batch(model, memory(10_000), "gpu_only", lambda n: trace_of(model, n))
    assert caught.value.needed_bytes > 10_000


def test_a_batch_whose_routing_alone_fills_the_host_is_refused() -> None:
    model = decoder_only()
    with pytest.raises(InvalidInput, match="batch max: memory holds more than"):
        pregate.largest_batch(model, memory(10**12), "gpu_only", lambda n: trace_of(model, n), most_cells=10_000)


def test_every_design_of_a_comparison_has_its_own_batch(run: Run) -> None:
    asked = (*ASKED[:-1], "1150MB")
    status, out, error = run(
        "compare", *asked, "--batch", "max", "--policies", "on_demand,prefetch_all", "--format", "json"
    )
    assert status == 0, error
    rows = json.loads(out)["results"]
    model, hw = pregate.load_model("switch-mini-16"), pregate.load_hardware("rtx-4090", None, {"hbm_bytes": "1150MB"})
    for row in rows:
        n = pregate.largest_batch(model, hw, row["policy"], lambda n: pregate.synthesize(model, 12, 4, n))
        assert row["batch_size"] == n > 1
        assert row["n_output_tokens"] == 4 * n
    assert rows[0]["batch_size"] > rows[1]["batch_size"]
    out = run("compare", *asked, "--batch", "max", "--policies", "on_demand,prefetch_all")[1]
    assert "batch max" in out
    assert all(str(row["batch_size"]) in out for row in rows)


def test_simulate_and_explain_run_the_largest_batch(run: Run) -> None:
    alone = json.loads(run("simulate", *ASKED, "--batch", "max", "--policy", "on_demand", "--format", "json")[1])
    n = str(alone["batch_size"])
    given = json.loads(run("simulate", *ASKED, "--batch", n, "--policy", "on_demand", "--format", "json")[1])
    assert alone == given
    explained = [
        json.loads(run("explain", *ASKED, "--batch", batch, "--policy", "on_demand", "--format", "json")[1])
        for batch in ("max", n)
    ]
    assert explained[0] == explained[1]


def test_along_an_axis_of_memory_every_point_has_its_own_batch(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    text = (
        "model: switch-mini-16\nhardware: rtx-4090\npolicies: [on_demand]\n"
        "workload: {batch: max, input_tokens: 12, output_tokens: 4}\naxes: {hbm_bytes: [1050MB, 1100MB]}\n"
    )
    file.write_text(text)
    from pregate.sweeps.sweep_file import read_sweep

    dataset = pregate.sweep(**read_sweep(file))
    few, many = dataset["batch_size"].values[0].tolist()
    assert 1 < few < many
    status, out, error = run("sweep", str(file), "-o", str(tmp_path / "s.nc"))
    assert status == 0, error
    assert f"{few:.0f} to {many:.0f}" in out
    file.write_text(text.replace("1050MB, 1100MB", "1MB"))
    hole = pregate.sweep(**read_sweep(file))
    assert not hole["fits"].values.any()
    file.write_text(text.replace("axes: {", "axes: {batch: [1, 2], "))
    status, _, error = run("sweep", str(file), "-o", str(tmp_path / "s.nc"))
    assert (status, "batch = max is solved for" in error) == (2, True)


def test_searches_run_the_largest_batch_too(run: Run) -> None:
    searched = ("optimize", *ASKED[:7], "--axis", "hbm_bytes=1050MB,400MB", "--maximize", "tokens_per_s")
    status, out, error = run(
        *searched, "--batch", "max", "--policies", "on_demand", "--stack", "streams", "--format", "json"
    )
    assert status == 0, error
    assert json.loads(out)["front"][0]["fields"]["batch_size"] > 1
    along = ("--axis", "hbm_bytes", "--from", "1050MB", "--to", "2GB", "--policies", "gpu_only,on_demand")
    status, out, error = run("crossover", *ASKED[:7], *along, "--batch", "max", "--points", "3", "--format", "json")
    assert status == 0, error


@pytest.mark.parametrize("text", ["x", "maximum", "1.5"])
def test_a_batch_that_is_no_number_and_not_max_is_refused(run: Run, text: str) -> None:
    status, _, error = run("compare", *ASKED, "--batch", text)
    assert status == 2
    assert "neither a whole number nor max" in error


def test_where_no_design_has_room_for_one_sequence_nothing_fits(run: Run) -> None:
    status, out, _ = run("compare", *ASKED[:-1], "1MB", "--batch", "max", "--policies", "on_demand")
    assert status == 1
    assert "not even one sequence fits" in out
    status, _, error = run("simulate", *ASKED[:-1], "1MB", "--batch", "max", "--policy", "on_demand")
    assert status == 2
    assert "not even one sequence fits" in error


def test_a_row_of_a_table_may_say_max(tmp_path: Path) -> None:
    full, one = read(
        tmp_path,
        ROW | {"batch": "max", "set": "hbm_bytes=1050MB"},
        ROW | {"batch": "1", "set": "hbm_bytes=1050MB"},
    )
    bench = RowBench()
    assert bench.predict(full) > bench.predict(one)
    assert bench.rules_of_thumb(full)["link"] > bench.rules_of_thumb(one)["link"]
