from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from traces import storage
from traces.errors import InvalidFile, PregateError
from traces.routing import Provenance, RoutingTrace
from traces.storage import load_trace, open_trace, save_trace
from traces.synthesis.dials import Dials, synthesize_routing


def made(output_tokens: int = 40, batch: int = 3, n_layers: int = 4) -> RoutingTrace:
    trace = synthesize_routing(
        n_moe_layers=n_layers,
        n_encoder_moe_layers=0,
        n_experts=16,
        top_k=2,
        input_tokens=5,
        output_tokens=output_tokens,
        batch=batch,
        dials=Dials(1.0, 0.2, 0.2),
        rng=np.random.default_rng(0),
        model_name="toy",
    )
    weights = np.random.default_rng(1).random(trace.experts.shape).astype(np.float32)
    origin = Provenance("toy", "test", "none", "hand", {"numpy": "2"}, "é")
    return replace(trace, gate_weights=weights, expert_bytes=np.full(n_layers, 1000, dtype=np.int64), provenance=origin)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "trace.safetensors"
    save_trace(made(), path)
    return path


def test_saved_trace_loads_as_it_was(saved: Path) -> None:
    loaded = load_trace(saved)
    assert loaded.digest == made().digest
    assert loaded.provenance == made().provenance


def test_trace_without_optional_arrays_loads_as_it_was(tmp_path: Path) -> None:
    bare = replace(made(), gate_weights=None, expert_bytes=None)
    save_trace(bare, tmp_path / "t")
    assert load_trace(tmp_path / "t").digest == bare.digest


@pytest.mark.parametrize("chunk_tokens", [1, 2, 7, 16, 1000])
def test_streamed_steps_are_the_loaded_steps(saved: Path, chunk_tokens: int) -> None:
    streamed = list(open_trace(saved).steps(chunk_tokens))
    whole = list(load_trace(saved).steps())
    assert len(streamed) == len(whole)
    for one, other in zip(streamed, whole, strict=True):
        assert (one.i_step, one.phase) == (other.i_step, other.phase)
        for name in ("experts", "sequence", "position"):
            assert np.array_equal(getattr(one, name), getattr(other, name))


def test_reader_states_the_sizes(saved: Path) -> None:
    reader, trace = open_trace(saved), made()
    for name in ("n_tokens", "n_moe_layers", "top_k", "n_experts", "provenance"):
        assert getattr(reader, name) == getattr(trace, name)


def test_streaming_never_holds_the_whole_trace(tmp_path: Path) -> None:
    trace = replace(made(output_tokens=20_000, batch=1, n_layers=24), gate_weights=None, expert_bytes=None)
    save_trace(trace, tmp_path / "long")
    tracemalloc.start()
    n_tokens = sum(len(step.sequence) for step in open_trace(tmp_path / "long").steps(500))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n_tokens == trace.n_tokens
    assert peak_bytes < trace.experts.nbytes / 4


def test_failed_save_leaves_the_old_file_and_no_other(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def fails(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "save_file", fails)
    with pytest.raises(InvalidFile, match="No space left"):
        save_trace(made(), saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_unwritable_place_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="cannot be written"):
        save_trace(made(), tmp_path / "no" / "such" / "folder")


def header(**changes: Any) -> dict[str, str]:
    provenance = {"model": "m", "source": "s", "licence": "l", "recorder": "r", "versions": {}, "note": ""}
    data = {"format": storage.FORMAT, "version": 1, "n_experts": 16, "provenance": provenance}
    return {"pregate": json.dumps(data | changes)}


def tensors(**changes: Any) -> dict[str, Any]:
    trace = made()
    names = ("experts", "sequence", "position", "phase", "step")
    return {name: np.array(getattr(trace, name)) for name in names} | changes


def test_hand_made_file_of_the_format_is_read(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "t", metadata=header())
    assert load_trace(tmp_path / "t").n_experts == 16


@pytest.mark.parametrize(
    ("arrays", "metadata", "message"),
    [
        (tensors(), None, "not a pregate-routing-trace"),
        (tensors(), {"pregate": "{"}, "not valid JSON"),
        (tensors(), {"pregate": "[" * 100_000}, "not valid JSON"),
        (tensors(), header(format="other"), "format is 'other'"),
        (tensors(), header(version=9), "version 9"),
        (tensors(), header(n_experts=0), "below 1"),
        (tensors(), header(n_experts=4), "is not in"),
        (tensors(), header(extra=1), "unknown key 'extra'"),
        (tensors(wights=np.zeros(3)), header(), "unknown tensor 'wights'"),
        (tensors(step=np.zeros(3, np.int32)), header(), "step is I32"),
        (tensors(phase=np.zeros(132, np.int32)), header(), "phase is I32"),
        (tensors(experts=np.zeros((132, 4), np.int16)), header(), "experts has shape"),
        (tensors(phase=np.full(132, 7, np.int8)), header(), "phase not 0 or 1"),
    ],
)
def test_foreign_or_hostile_file_is_refused_in_one_line(
    tmp_path: Path, arrays: dict[str, Any], metadata: dict[str, str] | None, message: str
) -> None:
    save_file(arrays, tmp_path / "t", metadata=metadata)
    with pytest.raises(PregateError, match=message) as caught:
        load_trace(tmp_path / "t")
    assert "\n" not in str(caught.value)


def test_missing_tensor_is_named(tmp_path: Path) -> None:
    arrays = tensors()
    del arrays["position"]
    save_file(arrays, tmp_path / "t", metadata=header())
    with pytest.raises(InvalidFile, match="'position' is missing"):
        open_trace(tmp_path / "t")


@pytest.mark.parametrize("kept", [0, 4, 8, 100, 0.5, 0.99])
def test_truncated_file_is_refused(saved: Path, kept: float) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data[: int(kept if kept > 1 or kept == 0 else kept * len(data))])
    with pytest.raises(InvalidFile):
        load_trace(saved)


def test_header_that_states_terabytes_allocates_nothing(tmp_path: Path) -> None:
    text = json.dumps({"experts": {"dtype": "I16", "shape": [1 << 30, 1 << 9, 2], "data_offsets": [0, 1 << 41]}})
    (tmp_path / "t").write_bytes(len(text).to_bytes(8, "little") + text.encode())
    with pytest.raises(InvalidFile, match="not a sound safetensors file"):
        load_trace(tmp_path / "t")
    (tmp_path / "t").write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    with pytest.raises(InvalidFile, match="cut short"):
        load_trace(tmp_path / "t")


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InvalidFile, match=r"no such file|not a regular file"):
            open_trace(path)


def test_bad_contents_are_found_while_streaming(tmp_path: Path) -> None:
    experts = tensors()["experts"].copy()
    experts[100, 2, 1] = 99
    save_file(tensors(experts=experts), tmp_path / "t", metadata=header())
    reader = open_trace(tmp_path / "t")
    with pytest.raises(InvalidFile, match="token 100, MoE layer 2: expert 99"):
        list(reader.steps(10))
