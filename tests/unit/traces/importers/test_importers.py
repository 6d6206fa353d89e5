from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from traces.errors import InvalidFile, UnknownName
from traces.importers import IMPORTERS, import_trace
from traces.importers.route_trace_v1 import import_route_trace_v1, read_residency
from traces.phase import Phase

SHARED = Path(__file__).resolve().parents[5] / "shared" / "traces"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the recorded traces are not beside this checkout")

HEADER = """# route_trace v1
# model=/some/where/toy.gguf arch=toy n_layer=3 n_expert=8 n_expert_used=2
# layer=0 expert_bytes=0 dense_bytes=500
# layer=1 expert_bytes=100 dense_bytes=50
# layer=2 expert_bytes=120 dense_bytes=50
turn,phase,step,layer,slot,expert,weight,residency,expert_bytes
"""
ROWS = [
    "0,0,0,1,0,3,0.75,0,100",
    "0,0,0,1,1,5,0.25,0,100",
    "0,0,1,1,0,3,0.5,0,0",
    "0,0,1,1,1,4,0.5,0,100",
    "0,0,1,2,0,7,0.9,0,120",
    "0,0,1,2,1,0,0.1,0,120",
    "0,1,2,1,0,3,0.6,1,0",
    "0,1,2,1,1,6,0.4,0,100",
    "0,1,2,2,0,7,0.8,2,0",
    "0,1,2,2,1,1,0.2,0,120",
]


def written(tmp_path: Path, rows: list[str], header: str = HEADER) -> Path:
    path = tmp_path / "toy.csv"
    path.write_text(header + "".join(row + "\n" for row in rows))
    return path


def test_prompt_is_one_step_and_decode_one_step_a_token(tmp_path: Path) -> None:
    trace = import_trace(written(tmp_path, ROWS), "route_trace_v1")
    assert trace.step.tolist() == [0, 0, 1]
    assert trace.phase.tolist() == [Phase.PREFILL, Phase.PREFILL, Phase.DECODE]
    assert trace.experts[1].tolist() == [[3, 4], [7, 0]]
    assert trace.gate_weights is not None
    assert trace.gate_weights[2, 1].tolist() == pytest.approx([0.8, 0.2])
    assert trace.provenance.model == "toy.gguf"


def test_dense_layers_are_left_out_and_sizes_kept(tmp_path: Path) -> None:
    trace = import_route_trace_v1(written(tmp_path, ROWS))
    assert trace.n_moe_layers == 2
    assert trace.expert_bytes is not None
    assert trace.expert_bytes.tolist() == [100, 120]


def test_cells_that_the_last_prompt_layer_skips_become_minus_one(tmp_path: Path) -> None:
    path = written(tmp_path, ROWS)
    assert import_route_trace_v1(path).experts[0, 1].tolist() == [-1, -1]
    assert read_residency(path)[0, 1].tolist() == [-1, -1]
    assert read_residency(path)[2].tolist() == [[1, 0], [2, 0]]


def test_a_recorder_that_saw_no_weights_writes_nan(tmp_path: Path) -> None:
    rows = [",".join([*row.split(",")[:6], "nan", *row.split(",")[7:]]) for row in ROWS]
    assert import_route_trace_v1(written(tmp_path, rows)).gate_weights is None


def test_turns_are_sequences(tmp_path: Path) -> None:
    second = [row.replace("0,", "1,", 1) for row in ROWS]
    trace = import_route_trace_v1(written(tmp_path, ROWS + second))
    assert trace.sequence.tolist() == [0, 0, 0, 1, 1, 1]
    assert trace.step.tolist() == [0, 0, 1, 2, 2, 3]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS[:-1], "turn 0 step 2 has no row for MoE layer 1 slot 1: cut short"),
        ([*ROWS, ROWS[-1]], "layer 1 slot 1 comes twice"),
        ([*ROWS, "0,1,3"], "line 17 has 3 fields"),
        ([*ROWS, "0,1,3,1,0,x,0.5,0,0"], "line 17 is not numbers"),
        ([*ROWS, "0,1,3,1,0,8,0.5,0,0"], "line 17: .* goes beyond the header"),
        ([*ROWS, "0,1,3,0,0,1,0.5,0,0"], "line 17: .* goes beyond the header"),
        ([*ROWS, "0,1,3,1,0,1,0.5,0,0" + "0" * 5000], "line 17 is longer than"),
        ([ROWS[0], ROWS[1].replace("0.25", "inf"), *ROWS[2:]], "line 8 is not numbers, of which none"),
        ([ROWS[0], ROWS[1].replace("0.25", "-0.25"), *ROWS[2:]], "line 8 is not numbers, of which none"),
        ([ROWS[0], ROWS[1].replace(",5,", ",0_5,"), *ROWS[2:]], "line 8 is not numbers, of which none"),
        ([ROWS[0], ROWS[1].replace(",5,", ",+5,"), *ROWS[2:]], "line 8 is not numbers, of which none"),
        ([ROWS[0], ROWS[1].replace(",5,", ",\u0665,"), *ROWS[2:]], "line 8 is not numbers, of which none"),
        ([ROWS[0], ROWS[1].replace(",100", ",-100"), *ROWS[2:]], "line 8 is not numbers, of which none"),
        ([ROWS[0], ROWS[1].replace(",100", ",junk"), *ROWS[2:]], "line 8 is not numbers, of which none"),
        ([ROWS[0], ROWS[1].replace("5", "3", 1), *ROWS[2:]], "expert 3 is chosen twice"),
        ([], "no rows"),
    ],
)
def test_broken_rows_are_named(tmp_path: Path, rows: list[str], message: str) -> None:
    with pytest.raises(InvalidFile, match=message):
        import_route_trace_v1(written(tmp_path, rows))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("route_trace v1", "route_trace v2", "the first line is"),
        ("n_expert=8", "n_expert=99999", "n_expert = '99999' is not an integer in"),
        ("n_expert_used=2", "n_expert_used=9", "n_expert_used = '9' is not an integer in"),
        ("n_layer=3", "n_layer=2", "of 2"),
        ("expert_bytes=100", "expert_bytes=-1", "expert_bytes = '-1'"),
        ("turn,phase", "phase,turn", "columns are"),
    ],
)
def test_broken_header_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(InvalidFile, match=message):
        import_route_trace_v1(written(tmp_path, ROWS, HEADER.replace(old, new, 1)))


def test_sparse_rows_cannot_make_a_huge_table(tmp_path: Path) -> None:
    layers = "".join(f"# layer={i} expert_bytes=1 dense_bytes=1\n" for i in range(4000))
    head = "# route_trace v1\n# model=m n_layer=4096 n_expert=1000 n_expert_used=256\n" + layers
    path = written(tmp_path, ["0,0,0,0,0,1,1,0,0"], head + HEADER.splitlines()[-1] + "\n")
    with pytest.raises(InvalidFile, match="cells for 1 rows"):
        import_route_trace_v1(path)


def npz(path: Path, **changes: Any) -> Path:
    experts = np.tile(np.array([3, 1, 0, 2], np.uint8), (5, 24, 1))
    arrays: dict[str, Any] = {
        "experts": experts,
        "probs": np.full((5, 24, 4), 0.25, np.float16),
        "position": np.array([7, 8, 9, 4, 5], np.int32),
        "seq_start": np.array([0, 3, 5]),
    }
    arrays |= changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_gptoss_sequences_run_one_after_another(tmp_path: Path) -> None:
    trace = import_trace(npz(tmp_path / "t.npz"), "gptoss_npz")
    assert trace.sequence.tolist() == [0, 0, 0, 1, 1]
    assert trace.step.tolist() == [0, 1, 2, 3, 4]
    assert (trace.batch, trace.n_experts) == (1, 32)
    assert trace.gate_weights is not None


def test_number_of_experts_comes_from_the_side_file(tmp_path: Path) -> None:
    path = npz(tmp_path / "t.npz", experts=np.zeros((5, 3, 1), np.uint8), probs=None)
    with pytest.raises(InvalidFile, match="3 layers fit no gpt-oss model"):
        import_trace(path, "gptoss_npz")
    (tmp_path / "t.meta.json").write_text(json.dumps({"model": "tiny", "num_experts": 7, "top_k": 1}))
    trace = import_trace(path, "gptoss_npz")
    assert (trace.n_experts, trace.provenance.model) == (7, "tiny")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seq_start": None}, "'seq_start' is missing"),
        ({"seq_start": np.array([0, 3, 6])}, "seq_start must rise"),
        ({"experts": np.zeros((5, 24), np.uint8)}, "experts is"),
        ({"experts": np.full((5, 24, 1), 40, np.uint8), "probs": None}, "expert 40"),
        ({"position": np.zeros(4, np.int32)}, "position has shape"),
        ({"probs": np.zeros((5, 24, 3), np.float16)}, "gate_weights has shape"),
        ({"experts": np.array([{}], dtype=object)}, "Python objects"),
    ],
)
def test_broken_npz_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidFile, match=message):
        import_trace(npz(tmp_path / "t.npz", **changes), "gptoss_npz")


def test_npz_that_states_terabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = npz(tmp_path / "t.npz", experts=None)
    head = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776, 24, 4), }".ljust(117) + b"\n"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("experts.npy", b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head)
    with pytest.raises(InvalidFile, match="the archive another number"):
        import_trace(path, "gptoss_npz")


@pytest.mark.parametrize("name", sorted(IMPORTERS))
def test_every_importer_refuses_a_foreign_file_in_one_line(tmp_path: Path, name: str) -> None:
    foreign, longer = [tmp_path / "absent", tmp_path], []
    for i, content in enumerate((b"", b"PK\x03\x04 not a zip", b"\xff\xfe\x00binary", b"{}")):
        foreign.append(tmp_path / str(i))
        foreign[-1].write_bytes(content)
    for path in foreign:
        with pytest.raises(InvalidFile) as caught:
            import_trace(path, name)
        if "\n" in str(caught.value):
            longer.append(caught.value)
    assert not longer


@pytest.mark.parametrize("name", sorted(IMPORTERS))
def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidFile, match=r"not a regular file|no such file"):
        import_trace(tmp_path / "pipe", name)
    with pytest.raises(InvalidFile, match="not a regular file"):
        import_trace(tmp_path / "pipe")


def test_unknown_format_offers_the_nearest() -> None:
    with pytest.raises(UnknownName, match="unknown trace format 'gptos_npz': did you mean 'gptoss_npz'"):
        import_trace("x", "gptos_npz")


@needs_shared
@pytest.mark.parametrize(("name", "shape", "n_missing"), [("qwen", (156, 48, 6), 27), ("gptoss", (149, 36, 2), 84)])
def test_recorded_engine_traces_have_the_stated_sizes(name: str, shape: tuple[int, ...], n_missing: int) -> None:
    path = SHARED / "bigmoeonedge" / f"{name}.route.csv"
    expected = json.loads((SHARED / "bigmoeonedge" / "expected.json").read_text())["bigmoeonedge"][name]
    trace = import_trace(path, "route_trace_v1")
    assert trace.experts.shape == shape
    assert np.count_nonzero((trace.experts < 0).all(axis=2)) == n_missing
    lookups = sum(
        np.unique(step.experts[:, layer][step.experts[:, layer] >= 0]).size
        for step in trace.steps()
        for layer in range(trace.n_moe_layers)
    )
    assert lookups == expected["unique_lookups_all"]
    assert np.count_nonzero(read_residency(path)[trace.experts >= 0] == 0) >= expected["misses"]
