"""`pregate generate`: what it prints and writes, and how it answers mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

import pregate  # noqa: E402
from hwmodels.calibrate.calibration import calibrate  # noqa: E402
from offload.ops import Lane, OpKind, Work  # noqa: E402
from offload.recorder import Recorder  # noqa: E402
from offload.timeline import Timeline  # noqa: E402
from pregate.trained.generation import ids_wait_s  # noqa: E402
from runtime.pregated.corpus.tokens import Tokenizer  # noqa: E402
from runtime.pregated.model_file import save_model  # noqa: E402
from tests import small_fits  # noqa: E402
from tests.command_line import Run  # noqa: E402
from tests.measured_deciding import measured  # noqa: E402
from tests.pregated_models import seeded_model  # noqa: E402

FEW = ["--output-tokens", "4", "--repeats", "1", "--backend", "cpu", "--prompt", "one list"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "pregate_1.safetensors"
    save_model(seeded_model(0, 1), Tokenizer(()), path)
    return path


def test_designs_stand_beside_their_predictions_and_what_they_chose_is_a_trace(
    run: Run, model: Path, tmp_path: Path
) -> None:
    fit, trace, gantt = tmp_path / "fit.yaml", tmp_path / "t.safetensors", tmp_path / "g.png"
    fit.write_text(small_fits.fit().to_yaml())
    designs = "gpu_only,on_demand,pregate,guess/next_gate"
    status, out, err = run(
        "generate", str(model), "--policies", designs, *FEW, "--link", "500MB/s", "--fit", str(fit), "--format", "json",
        "-o", str(trace), "--gantt", str(gantt), "--timeline", str(tmp_path),
    )  # fmt: skip
    assert status == 0, err
    found = json.loads(out)
    assert [one["policy"] for one in found["designs"]] == designs.split(",")
    assert len({one["output_digest"] for one in found["designs"]}) == 1
    assert len({one["schedule_digest"] for one in found["designs"]}) == 4
    for one in found["designs"]:
        assert one["error"] == pytest.approx(one["predicted_tpot_s"] / one["tpot_s"] - 1)
        assert 0 <= one["ids_wait_share"] < 1
        assert (one["recall"] is None) == (one["policy"] != "guess/next_gate")
        assert one["paced_tpot_s"] is None  # the fit knows no deciding
    assert found["lookahead"] == 1
    assert len(found["tokens"][0]) == 4
    recorded = pregate.load_trace(trace)
    assert recorded.digest == found["trace_digest"]
    assert recorded.gate_weights is not None
    assert gantt.read_bytes().startswith(b"\x89PNG")
    names = {"gpu_only", "on_demand", "pregate", "guess_next_gate"}
    assert {path.stem for path in tmp_path.glob("*.json")} == names
    assert json.loads((tmp_path / "pregate.json").read_text())["traceEvents"]


def test_the_trace_replayed_by_run_has_the_digest_of_the_run(run: Run, model: Path, tmp_path: Path) -> None:
    trace, shape = tmp_path / "t.safetensors", tmp_path / "shape.yaml"
    status, out, err = run("generate", str(model), "--policies", "pregate", *FEW, "--format", "json", "-o", str(trace))
    assert status == 0, err
    shape.write_text(seeded_model(0, 1).architecture.to_yaml())
    status, again, err = run(
        "run", str(shape), "--policy", "pregate", "--trace", str(trace), "--backend", "cpu", "--format", "json"
    )
    assert status == 0, err
    assert json.loads(again)["schedule_digest"] == json.loads(out)["designs"][0]["schedule_digest"]


def test_a_table_says_what_was_made(run: Run, model: Path) -> None:
    status, out, err = run("generate", str(model), "--policies", "gpu_only", *FEW)
    assert status == 0
    assert "4 tokens: the same tokens under every design" in out
    assert "went on: " in err


def test_host_memory_above_storage_keeps_experts(run: Run, model: Path, tmp_path: Path) -> None:
    tier = ["--tier", "ssd+lru:6", "--storage", str(tmp_path), "--policies", "on_demand,pregate,guess/markov:dram=2"]
    status, out, err = run("generate", str(model), *FEW, *tier, "--format", "json")
    assert status == 0, err
    assert {one["tokens_alike"] for one in json.loads(out)["designs"]} == {1.0}
    assert not list(tmp_path.glob("experts-*"))


def test_a_design_that_executes_other_experts_says_so(run: Run, model: Path) -> None:
    few = [*FEW, "--policies", "gpu_only,on_demand+lru:6:resident"]
    status, out, err = run("generate", str(model), *few, "--format", "json")
    assert status == 0, err
    exact, other = json.loads(out)["designs"]
    assert (exact["n_changed"], exact["tokens_alike"]) == (0, 1.0)
    assert other["n_changed"] > 0
    assert 0 <= other["tokens_alike"] <= 1
    status, out, err = run("generate", str(model), *few)
    assert status == 0, err
    assert "others executed" in out
    assert "the same tokens under every design" not in out


def test_designs_that_weigh_the_host_against_the_link_take_it_from_the_fit(
    run: Run, model: Path, tmp_path: Path
) -> None:
    fit, designs = tmp_path / "fit.yaml", ["min_latency/paper+lru:3", "bandwidth_split+lru:3", "hybrid_schedule+lru:3"]
    fit.write_text(small_fits.fit().to_yaml())
    words = ["generate", str(model), "--policies", ",".join(designs), *FEW, "--format", "json"]
    status, out, err = run(*words, "--fit", str(fit))
    assert status == 0, err
    assert [one["policy"] for one in json.loads(out)["designs"]] == designs
    status, _, err = run(*words)
    assert status == 2
    assert "weighs the host against the link: give a fit" in err.replace("\n", " ")


def test_the_pace_of_the_resident_run_is_taken_out_where_the_fit_knows_deciding(
    run: Run, model: Path, tmp_path: Path
) -> None:
    fit = tmp_path / "fit.yaml"
    fit.write_text(calibrate(measured()).to_yaml())
    words = ["generate", str(model), *FEW, "--fit", str(fit)]
    status, out, err = run(*words, "--policies", "gpu_only,on_demand", "--format", "json")
    assert status == 0, err
    resident, other = json.loads(out)["designs"]
    assert resident["paced_error"] is None
    assert other["paced_error"] == pytest.approx(other["paced_tpot_s"] / other["tpot_s"] - 1)
    slower = resident["tpot_s"] > resident["predicted_tpot_s"]
    assert slower == (other["paced_tpot_s"] > other["predicted_tpot_s"])
    status, out, err = run(*words, "--policies", "on_demand,pregate", "--format", "json")
    assert status == 0, err
    assert all(one["paced_error"] is None for one in json.loads(out)["designs"])  # no gpu_only to take it from
    status, out, err = run(*words, "--policies", "gpu_only,on_demand")
    assert "gpu_only's" in out


def test_fewer_bits_and_layers_on_the_host_are_executed(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "conventional.safetensors"
    save_model(seeded_model(0, top_k=2), Tokenizer(()), path)
    designs = ["gpu_only", "gpu_only@layers=cpu:2", "mixed_precision:low=1:bits=2+lfu:4"]
    status, out, err = run("generate", str(path), "--policies", ",".join(designs), *FEW, "--format", "json")
    assert status == 0, err
    resident, placed, rounded = json.loads(out)["designs"]
    assert placed["output_digest"] == resident["output_digest"]
    assert rounded["output_digest"] != resident["output_digest"]
    assert rounded["n_changed"] > 0
    assert placed["n_changed"] == 0


def test_other_experts_from_a_cache_that_knows_the_request_are_refused(run: Run, model: Path) -> None:
    status, _, err = run("generate", str(model), *FEW, "--policies", "on_demand+lru:6:warm:resident")
    assert status == 2
    assert "let it start cold" in err.replace("\n", " ")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--policies", "pregate(2)"], "fetches what gates select 2 blocks ahead, those of this model look 1 ahead"),
        (["--policies", "mixed_precision:bits=3"], "in 3 bits: the runtime packs"),
        (["--policies", "gpu_only@kv=cpu"], "streams no weights, keys or values"),
        (["--policies", "pregated"], "did you mean 'pregate'"),
        (["--output-tokens", "1"], "new tokens = 1"),
        (["--batch", "0"], "--batch 0: give 1 or more"),
        (["--prompts", __file__], "--prompt and --prompts both say"),
        (["--output", "t.json"], "a trace is written as safetensors"),
        (["--fit", "no-such-machine"], "no-such-machine"),
        (["--prompt", ""], "prompt 0 has 0 tokens"),
        (["--tier", "ssd"], "--storage"), (["--tier", "ssd:filed"], "--storage"),
        (["--tier", "ssd:depth=4"], "a run reads experts whole"),
        (["--tier", "ssd+belady:4"], "knows what will be asked of host memory"),
        (["--tier", "ssd+lru:4:warm"], "without warm"),
    ],
)  # fmt: skip
def test_mistakes_end_in_one_line(run: Run, model: Path, words: list[str], told: str) -> None:
    given = dict(zip(FEW[::2], FEW[1::2], strict=True)) | dict(zip(words[::2], words[1::2], strict=True))
    status, out, err = run("generate", str(model), *[word for pair in given.items() for word in pair])
    assert status == 2
    assert told in err.replace("\n", " ")
    assert not out


def test_a_file_that_is_no_trained_model_is_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(b"no tensors")
    status, _, err = run("generate", str(path), *FEW)
    assert status == 2
    assert "no safetensors file" in err


def test_time_without_ids_is_idle_time_before_the_host_has_read_them() -> None:
    """A gate until 1, its ids on the host at 3, the expert from 7: two of the six idle seconds are for ids."""
    recorder = Recorder()
    gate = recorder.issue(Lane.COMPUTE, Work(OpKind.GATE), step=0, layer=0)
    ids = recorder.issue(Lane.D2H, Work(OpKind.READBACK), (gate,), step=0, layer=0)
    wait = recorder.issue(Lane.HOST, Work(OpKind.WAIT), (ids,), step=0, layer=0)
    fetch = recorder.issue(Lane.H2D, Work(OpKind.FETCH), (), step=0, layer=0, expert=0, slot=0)
    recorder.issue(Lane.COMPUTE, Work(OpKind.EXPERTS), (fetch,), step=0, layer=0, expert=0)
    starts, ends = np.array([0.0, 1, 2, 3, 7]), np.array([1.0, 2, 3, 7, 8])
    timeline = Timeline(recorder.schedule(), starts, ends, "by hand")
    assert wait == 2
    assert ids_wait_s(timeline, {}) == pytest.approx(2.0)


def test_an_encoder_decoder_is_trained_pregated_and_run_offloaded_from_the_command_line(
    run: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "pregated"
    status, out, err = run(
        "train", "--short", "--layout", "encoder-decoder", "--seeds", "2", "--base-steps", "3", "--arm-steps", "2",
        "-o", str(folder), "--format", "json",
    )  # fmt: skip
    assert status == 0, err
    assert {"conventional", "pregate_1", "pregate_2", "reuse_1"} <= json.loads(out)["arms"].keys()
    trained = folder / "seed-0" / "pregate_2.safetensors"
    status, out, err = run("generate", str(trained), "--policies", "on_demand,pregate(2)", *FEW, "--format", "json")
    assert status == 0, err
    assert json.loads(out)["lookahead"] == 2


def test_ids_that_no_op_reads_back_are_waited_for_until_what_they_decide_starts() -> None:
    recorder = Recorder()
    gate = recorder.issue(Lane.COMPUTE, Work(OpKind.GATE), step=0)
    recorder.issue(Lane.COMPUTE, Work(OpKind.EXPERTS), (gate,), step=0)
    timeline = Timeline(recorder.schedule(), np.array([0.0, 3.0]), np.array([1.0, 4.0]), "a run")
    assert ids_wait_s(timeline, {}) == 0
    assert ids_wait_s(timeline, {1: 0}) == pytest.approx(2.0)


def test_designs_run_in_turn_so_that_a_pace_that_changes_is_everybodys(model: Path) -> None:
    said: list[str] = []
    found = pregate.generate(
        model, ["ab"], ["gpu_only", "on_demand"], new_tokens=2, device=pregate.Device("cpu"), repeats=2, say=said.append
    )
    in_turn = [f"running {name}, {i} of 2" for i in (1, 2) for name in ("gpu_only", "on_demand")]
    assert [one for one in said if one.startswith("running")] == in_turn
    assert [one.policy for one in found.designs] == ["gpu_only", "on_demand"]
    assert all(1 <= one.n_runs <= 2 for one in found.designs)
