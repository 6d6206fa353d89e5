"""Every format of routing traces and of expert counts, written here in small, is read for what it says."""

from __future__ import annotations

import base64
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import pregate
from tests.recorded_files import EXPERTS, FILES, PHASED, SHAPE, npy, npz, outcome, pt, text
from traces.errors import InvalidFile
from traces.importers import IMPORTERS, ModelShape, import_trace, recognise
from traces.importers.counts.expert_counts import import_popularity
from traces.importers.files.torch_archive import read_torch_archive
from traces.phase import Phase
from traces.routing import RoutingTrace
from traces.statistics.popularity import popularity_of
from traces.storage import save_trace

PUBLIC = Path(__file__).resolve().parents[5] / "shared" / "public" / "traces"


@pytest.mark.parametrize("name", FILES)
def test_a_file_shows_its_format_and_is_read_for_what_it_says(name: str, tmp_path: Path) -> None:
    expected, content, (phase, step) = FILES[name]
    path = tmp_path / "file"
    path.write_bytes(content())
    assert recognise(path) == expected
    trace = import_trace(path, shape=SHAPE)
    assert np.array_equal(trace.experts, EXPERTS)
    assert (trace.n_experts, trace.n_sequences, trace.position.tolist()) == (4, 1, [0, 1, 2, 3, 4])
    assert (trace.phase.tolist(), trace.step.tolist()) == (phase, step)


def test_every_importer_has_a_file_here_or_a_test_of_its_own() -> None:
    assert set(IMPORTERS) - {name for name, *_ in FILES.values()} == {"pregate", "route_trace_v1", "gptoss_npz"}


def is_told_or_shorter(found: RoutingTrace | str, path: Path) -> bool:
    if isinstance(found, str):
        return "\n" not in found and str(path) in found
    n_tokens, n_layers, top_k = found.experts.shape
    return np.array_equal(found.experts, EXPERTS[:n_tokens, :n_layers, :top_k])


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_is_one_clear_line_or_a_shorter_trace(name: str, tmp_path: Path) -> None:
    content, path, wrong = FILES[name][1](), tmp_path / "file", {}
    for share in (0.0, 0.3, 0.6, 0.97):
        path.write_bytes(content[: int(share * len(content))])
        found = outcome(path)
        if not is_told_or_shorter(found, path):
            wrong[share] = found
    assert not wrong


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_never_ends_in_another_error(name: str, tmp_path: Path) -> None:
    content = bytearray(FILES[name][1]())
    path = tmp_path / "file"
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(content), 40).tolist():
        changed = bytearray(content)
        changed[place] ^= int(rng.integers(1, 256))
        path.write_bytes(changed)
        found = outcome(path)
        assert isinstance(found, RoutingTrace) or "\n" not in found


def test_what_is_no_trace_is_answered_with_what_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("1. wash the car\n")
    with pytest.raises(
        InvalidFile,
        match=r"not a routing trace of a known format \(.*\): write choices of your own as CSV, sequence,phase,",
    ):
        import_trace(path)


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbf" + FILES["llama ranks"][1]())
    assert import_trace(path).n_tokens == 5


def test_own_safetensors_is_imported_as_it_is(tmp_path: Path) -> None:
    trace = pregate.synthesize(pregate.load_model("switch-base-8"), 4, 3, 2)
    save_trace(trace, tmp_path / "t.safetensors")
    assert recognise(tmp_path / "t.safetensors") == "pregate"
    assert import_trace(tmp_path / "t.safetensors").digest == trace.digest


def test_a_row_without_experts_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(text("-1,0,0,1", "-1"))
    with pytest.raises(InvalidFile, match="line 2: 1 fields"):
        import_trace(tmp_path / "t.csv")


def test_prompts_of_llama_moe_trace_may_come_in_batches(tmp_path: Path) -> None:
    """Two batches of 2 and 1 tokens of one prompt overlap in position; after decode rows another prompt begins."""
    rows = ["-2,0,0,1", "-1,0,1,2", "-2,1,0,1", "-1,1,1,2", "-1,0,2,3", "-1,1,2,3", "0,0,3,0", "0,1,3,0",
            "-1,0,0,1", "-1,1,0,1", "0,0,1,2", "0,1,1,2"]  # fmt: skip
    (tmp_path / "t.csv").write_bytes(text(*rows))
    trace = import_trace(tmp_path / "t.csv")
    assert trace.sequence.tolist() == [0, 0, 0, 0, 1, 1]
    assert trace.position.tolist() == [0, 1, 2, 3, 0, 1]
    assert trace.phase.tolist() == [0, 0, 0, 1, 0, 1]


def test_sequences_of_a_batch_are_rebuilt_from_positions(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    ids = torch.tensor([[[0, 1], [1, 2], [2, 3], [3, 0], [0, 2]]], dtype=torch.int32)
    first = {"positions": [0, 1, 2, 0, 1], "extend_seq_lens": [3, 2], "forward_mode": 1, "topk_ids_of_layer": ids}
    more = [
        {"positions": torch.tensor([3 + i, 2 + i]), "extend_seq_lens": None, "forward_mode": 2,
         "topk_ids_of_layer": ids[:, :2]} for i in range(2)
    ]  # fmt: skip
    (tmp_path / "t.pt").write_bytes(pt({"records": [first, *more]}))
    trace = import_trace(tmp_path / "t.pt")
    assert trace.sequence.tolist() == [0, 0, 0, 1, 1, 0, 1, 0, 1]
    assert trace.step.tolist() == [0] * 5 + [1, 1, 2, 2]
    assert trace.batch == 2


def test_layers_that_no_expert_was_captured_for_are_left_out(tmp_path: Path) -> None:
    experts = np.concatenate((np.zeros((5, 1, 2), int), EXPERTS), axis=1)
    (tmp_path / "t.npy").write_bytes(npy(experts))
    trace = import_trace(tmp_path / "t.npy")
    assert np.array_equal(trace.experts, EXPERTS)
    assert "1 layers without experts left out" in trace.provenance.note


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("sglang base64", ModelShape(), "say the model it is of"),
        ("rtrace01", ModelShape(), "say the model it is of"),
        ("router logits", ModelShape(), "say the model it is of"),
    ],
)
def test_what_a_file_leaves_out_is_asked_for(name: str, shape: ModelShape, message: str, tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(FILES[name][1]())
    with pytest.raises(InvalidFile, match=message):
        import_trace(tmp_path / "t", shape=shape)


def test_a_number_of_experts_that_is_not_recorded_is_the_models(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(FILES["vllm npz"][1]())
    assert import_trace(tmp_path / "t", shape=ModelShape(n_experts=9)).n_experts == 9
    assert "largest id" in import_trace(tmp_path / "t").provenance.note


@pytest.mark.parametrize(("start", "phases"), [(1, [0, 0, 1, 1]), (3, [1, 1])])
def test_tokens_that_were_returned_before_are_left_out(start: int, phases: list[int], tmp_path: Path) -> None:
    """`routed_experts_start_len`: the array begins in the prompt, or after it."""
    data = base64.b64encode(EXPERTS[start:].astype("<i4").tobytes()).decode()
    about = {"prompt_tokens": 3, "routed_experts": data, "routed_experts_start_len": start}
    (tmp_path / "t.json").write_text(json.dumps({"meta_info": about}))
    trace = import_trace(tmp_path / "t.json", shape=SHAPE)
    assert trace.position.tolist() == list(range(start, 5))
    assert trace.phase.tolist() == phases
    assert np.array_equal(trace.experts, EXPERTS[start:])


@pytest.mark.parametrize(
    ("routed", "more", "message"),
    [
        ("A" * 7, {}, "routed_experts is neither a list nor base64"),
        ("AAAA", {}, "has 3 bytes, not whole numbers of 4"),
        ("AAAA", {"routed_experts_dtype": "bfloat16"}, "is stated as 'bfloat16', known: uint8"),
        (base64.b64encode(npy(EXPERTS)[:-8]).decode(), {}, "states another size than its own"),
        (base64.b64encode(npy(np.zeros((2, 2)))).decode(), {}, "whole numbers of 3 axes are needed"),
        (base64.b64encode(b"\x93NUMPY\x01\x00").decode(), {}, "is no sound npy file"),
        ({"shape": [1, 2, 2]}, {}, "is a mapping without data"),
        ({"data": "AAAA", "shape": [1, 2]}, {}, r"has the shape \[1, 2\]: three whole numbers"),
        ({"data": "AAAA", "shape": [1, 2, 2], "dtype": "uint8"}, {}, "is not uint8 of the shape"),
        ({"data": "AAAA", "shape": [1 << 40, 2, 2]}, {}, "more than [0-9]+ choices"),
        ({"data": "AAAAAA==", "shape": [1, 2, 2], "dtype": "uint8", "start": -1}, {}, "begin at '-1'"),
    ],
)
def test_packed_experts_that_are_broken_are_named(
    routed: Any, more: dict[str, Any], message: str, tmp_path: Path
) -> None:
    (tmp_path / "t.json").write_text(json.dumps({"meta_info": {"routed_experts": routed} | more}))
    with pytest.raises(InvalidFile, match=message):
        import_trace(tmp_path / "t.json", shape=SHAPE)


def test_nothing_in_a_torch_file_is_called(tmp_path: Path) -> None:
    """A pickle that would make a folder when loaded is refused by the name of what it calls."""
    target = tmp_path / "made"
    pickled = b"\x80\x02cos\nmkdir\nX" + struct.pack("<I", len(str(target))) + str(target).encode() + b"\x85R."
    with zipfile.ZipFile(tmp_path / "t.pt", "w") as archive:
        archive.writestr("t/data.pkl", pickled)
    with pytest.raises(InvalidFile, match="holds 'os mkdir', which is not data"):
        read_torch_archive(tmp_path / "t.pt")
    with pytest.raises(InvalidFile, match="holds 'os mkdir'"):
        import_trace(tmp_path / "t.pt")
    assert not target.exists()


def test_tensors_come_as_torch_stores_them(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    stored = {"a": torch.arange(24).reshape(2, 3, 4).transpose(0, 2), "b": [torch.tensor(1.5).bfloat16(), None, "x"],
              "c": {"d": torch.zeros(0, 3, dtype=torch.int8), "e": (True, -7, 1 << 40, 0.25)}}  # fmt: skip
    (tmp_path / "t.pt").write_bytes(pt(stored))
    found = read_torch_archive(tmp_path / "t.pt")
    assert np.array_equal(found["a"], stored["a"].numpy())
    assert (float(found["b"][0]), found["b"][1:]) == (1.5, [None, "x"])
    assert found["c"]["d"].shape == (0, 3)
    assert found["c"]["e"] == (True, -7, 1 << 40, 0.25)


COUNTS = np.array([[3, 3, 2, 2], [2, 3, 3, 2]])


def counts_csv() -> bytes:
    places = [(layer, expert) for layer in range(2) for expert in range(4)]
    return text("layer,expert,count", *(f"{i},{j},{COUNTS[i, j]}" for i, j in reversed(places)))


def stat_recorder() -> bytes:
    torch = pytest.importorskip("torch")
    return pt({"rank": 0, "logical_count": torch.tensor(np.stack([COUNTS, COUNTS])).int()})


@pytest.mark.parametrize(
    "content",
    [
        lambda: npy(COUNTS),
        lambda: npy(np.stack([COUNTS, 2 * COUNTS]).astype(np.float64)),
        lambda: json.dumps(COUNTS.tolist()).encode(),
        lambda: npz(qwen=COUNTS, other=np.ones((2, 8))),
        counts_csv,
        stat_recorder,
    ],
)
def test_expert_counts_are_a_popularity_and_no_trace(content: Callable[[], bytes], tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content())
    profile = import_popularity(path, SHAPE)
    assert np.allclose(profile.shares, COUNTS / 10)
    with pytest.raises(InvalidFile, match="counts of experts, not a routing trace: give it to --popularity"):
        import_trace(path)


def test_expert_counts_of_tensorrt_llm_lie_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "meta_info.json").write_text("{}")
    for rank in range(2):
        save_file({f"{i}_{layer}": COUNTS[layer] for i in (5, 6) for layer in range(2)},
                  tmp_path / f"rank{rank}.safetensors")  # fmt: skip
    assert np.array_equal(import_popularity(tmp_path).counts, 4 * COUNTS)
    assert np.array_equal(import_popularity(tmp_path / "meta_info.json").counts, 4 * COUNTS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy(np.array([[1, -1]])), "below 0 or not finite"),
        (npy(np.array([[1.0, np.nan]])), "below 0 or not finite"),
        (npy(np.zeros((2, 4))), "layer 0 has no counts"),
        (npy(np.ones(4)), "not counts"),
        (b"[[1, 2], [3]]", "rows differ in length"),
        (b"[[1, 2], [3", "not valid JSON"),
        (b"hello", "not a table of expert counts"),
        (b"layer,expert,count\n0,0,1\n0,0,2\n", "line 3: layer 0 expert 0 has two rows"),
        (b"layer,expert,count\n0,-1,1\n", "line 2: layer 0, expert -1: below"),
        (b"layer,expert,count\n0,1,x\n", "line 2: count 'x' is not a number"),
        (b"layer,expert,count\n", "no rows"),
        (npy(COUNTS).replace(b"(2, 4)", b"(2, 4("), "its header is broken"),
    ],
)
def test_wrong_counts_are_one_clear_line(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(InvalidFile, match=message):
        import_popularity(tmp_path / "f")


def test_a_popularity_shapes_what_is_synthesised_and_says_what_to_keep(tmp_path: Path) -> None:
    model = pregate.load_model("switch-base-8")
    counts = np.ones((model.n_moe_layers, 8))
    counts[:, 5] = 1000
    counts[3, 2] = 1e6
    (tmp_path / "f.npy").write_bytes(npy(counts))
    profile = pregate.load_popularity(tmp_path / "f.npy", model=model)
    assert profile.hottest(2) == [(3, 2), (0, 5)]
    made = pregate.synthesize(model, 64, 64, popularity=profile)
    found = popularity_of(made).shares
    assert found.argmax(axis=1).tolist() == [5, 5, 5, 2, *[5] * (model.n_moe_layers - 4)]
    assert "popularity of f.npy" in made.provenance.note
    with pytest.raises(pregate.InvalidInput, match=r"popularity of .* is of 12 MoE layers x 8 experts, model"):
        pregate.load_popularity(tmp_path / "f.npy", model=pregate.load_model("mixtral-8x7b"))


@pytest.mark.skipif(not PUBLIC.is_dir(), reason="the public material is not beside this checkout")
@pytest.mark.parametrize("case", ["T01", "T03", "T06", "T08", "T09", "T10", "T12", "T17"])
def test_public_examples_are_read_as_they_state(case: str) -> None:
    (path,) = (file for file in (PUBLIC / case).iterdir() if file.name != "SOURCE.txt")
    trace = import_trace(path)
    assert np.array_equal(trace.experts, EXPERTS)
    assert trace.n_experts == 4
    if case in ("T01", "T03", "T06", "T08", "T17"):
        assert (trace.phase.tolist(), trace.step.tolist()) == PHASED


@pytest.mark.skipif(not PUBLIC.is_dir(), reason="the public material is not beside this checkout")
@pytest.mark.parametrize("case", ["T04", "T15"])
def test_public_counts_are_read_as_they_state(case: str) -> None:
    for path in (PUBLIC / case).iterdir():
        if path.name != "SOURCE.txt":
            assert np.allclose(import_popularity(path).shares, COUNTS / 10)


@pytest.mark.skipif(not PUBLIC.is_dir(), reason="the public material is not beside this checkout")
def test_a_recorder_without_weights_writes_nan() -> None:
    trace: RoutingTrace = import_trace(PUBLIC / "T16" / "nan.route.csv")
    assert (trace.n_sequences, trace.n_moe_layers, trace.n_tokens) == (2, 2, 8)
    assert trace.gate_weights is None
    assert trace.phase.tolist().count(int(Phase.DECODE)) == 4
