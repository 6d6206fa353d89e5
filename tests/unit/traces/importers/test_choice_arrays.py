"""Choices in the forms that they are saved in: ids as floats, masks, one-hot rows, layers in a list; not counts."""

from __future__ import annotations

import collections
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from tests.recorded_files import EXPERTS, SHAPE, npy, npz, pt
from traces.errors import InvalidFile
from traces.importers import ModelShape, import_trace, recognise
from traces.importers.choice_arrays import are_choices
from traces.importers.counts.expert_counts import import_popularity

MASK = np.zeros((5, 2, 4), bool)
np.put_along_axis(MASK, EXPERTS, True, axis=-1)
ONE_HOT = np.eye(4)[EXPERTS]


def by_layer(array: Any, name: str = "model.layers.{}.mlp") -> dict[str, Any]:
    return {name.format(layer): np.ascontiguousarray(array[:, layer]) for layer in range(2)}


def torch_of(array: Any) -> Any:
    return pytest.importorskip("torch").from_numpy(np.ascontiguousarray(array))


def hooked() -> bytes:
    found = collections.defaultdict(list)
    for layer in range(2):
        for t in range(5):
            found[layer].append(torch_of(EXPERTS[t : t + 1, layer]))
    return pt(found)


def numbers(array: Any) -> bytes:
    return json.dumps(array.tolist()).encode()


FORMS: dict[str, Callable[[], bytes]] = {
    "floats npy": lambda: npy(EXPERTS.astype(np.float32)),
    "floats npz": lambda: npz(experts=EXPERTS.astype(float)),
    "floats of an engine": lambda: npz(routed_experts=EXPERTS.astype(float)),
    "floats safetensors": lambda: save({"experts": EXPERTS.astype(np.float32)}),
    "floats torch": lambda: pt(torch_of(EXPERTS.astype(np.float32))),
    "floats json": lambda: numbers(EXPERTS.astype(float)),
    "floats by layer": lambda: npz(**by_layer(EXPERTS.astype(float))),
    "mask npy": lambda: npy(MASK),
    "mask of numbers": lambda: npy(MASK.astype(np.uint8)),
    "mask of floats": lambda: npy(MASK.astype(np.float32)),
    "mask npz": lambda: npz(routing_map=MASK),
    "mask torch": lambda: pt({"expert_mask": torch_of(MASK)}),
    "mask by layer": lambda: npz(**by_layer(MASK)),
    "mask by layer, torch": lambda: pt({i: torch_of(MASK[:, i]) for i in range(2)}),
    "mask in a list": lambda: pt([torch_of(MASK[:, i]) for i in range(2)]),
    "mask by layer, safetensors": lambda: save(by_layer(MASK.astype(np.uint8))),
    "mask json": lambda: numbers(MASK),
    "mask json, numbers": lambda: numbers(MASK.astype(int)),
    "one-hot": lambda: npy(ONE_HOT),
    "one-hot by layer": lambda: pt({i: torch_of(ONE_HOT[:, i]) for i in range(2)}),
    "unsigned torch": lambda: pt(torch_of(EXPERTS.astype(np.uint16))),
    "hooks with a default": hooked,
    "batches of one": lambda: npz(**{name: array[None] for name, array in by_layer(EXPERTS).items()}),
    "a list of tokens": lambda: pt([torch_of(EXPERTS[t]) for t in range(5)]),
}


@pytest.mark.parametrize("form", FORMS)
def test_choices_are_read_in_any_form(form: str, tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_bytes(FORMS[form]())
    found = import_trace(path, shape=SHAPE)
    assert np.array_equal(np.sort(found.experts), np.sort(EXPERTS))
    assert found.n_experts == 4


def test_a_token_that_no_expert_was_recorded_for_is_no_choice(tmp_path: Path) -> None:
    mask = np.concatenate([MASK, np.zeros((5, 1, 4), bool)], axis=1)  # a dense layer
    (tmp_path / "t").write_bytes(npy(mask))
    assert np.array_equal(np.sort(import_trace(tmp_path / "t").experts), np.sort(EXPERTS))


def test_gates_that_are_zero_where_not_chosen_say_how_many_are(tmp_path: Path) -> None:
    gates = np.where(MASK, np.random.default_rng(0).random(MASK.shape), 0.0)
    gates /= gates.sum(axis=-1, keepdims=True)
    (tmp_path / "t").write_bytes(npz(**by_layer(gates)))
    assert np.array_equal(np.sort(import_trace(tmp_path / "t", shape=ModelShape()).experts), np.sort(EXPERTS))


def test_scores_in_bfloat16_are_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save as save_torch

    scores = torch.from_numpy(np.where(MASK, 1.5, -0.25)).bfloat16()
    (tmp_path / "t").write_bytes(save_torch({f"l{i}": scores[:, i].contiguous() for i in range(2)}))
    assert np.array_equal(np.sort(import_trace(tmp_path / "t", shape=SHAPE).experts), np.sort(EXPERTS))
    (tmp_path / "t").write_bytes(save_torch({"l0": scores[:, 0].to(torch.float8_e4m3fn).contiguous()}))
    with pytest.raises(InvalidFile, match="is F8_E4M3, known: BOOL, U8"):
        import_trace(tmp_path / "t", "router_array", shape=SHAPE)


def test_scores_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    scores = np.where(MASK, 1.5, -0.25)
    scores[3, 1, 2] = np.nan
    (tmp_path / "t").write_bytes(npz(router_logits=scores))
    with pytest.raises(InvalidFile, match=r"a score is not a number \(NaN\)"):
        import_trace(tmp_path / "t", "router_array", shape=SHAPE)


@pytest.mark.parametrize("kind", [np.float32, np.int64])
def test_counts_of_sequences_are_no_choices(kind: type, tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    for n_experts, n_tokens in ((8, 300), (64, 300), (128, 40)):
        counts = np.array([chance.multinomial(n_tokens * 2, np.full(n_experts, 1 / n_experts), 6) for _ in range(20)])
        assert not are_choices(counts.astype(kind), repeats=0.5 if kind is np.int64 else 0.0)
        (tmp_path / "t").write_bytes(npy(counts.astype(kind)))
        with pytest.raises(InvalidFile, match="give it to --popularity"):
            recognise(tmp_path / "t")
        assert np.array_equal(import_popularity(tmp_path / "t").counts, counts.sum(axis=0))


def test_scores_that_are_whole_are_scores() -> None:
    assert not are_choices(np.array([[-1.0, 2.0, 1.0, -1.0], [2.0, 1.0, -1.0, -1.0]]))
    assert are_choices(np.array([[3.0, 2.0, -1.0], [2.0, 1.0, 0.0]]))


def test_a_parameter_is_its_tensor_and_other_objects_are_told_the_way_out(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    scores = {i: torch.nn.Parameter(torch_of(np.where(MASK[:, i], 1.5, -0.25))) for i in range(2)}
    (tmp_path / "t").write_bytes(pt(scores))
    assert np.array_equal(np.sort(import_trace(tmp_path / "t", shape=SHAPE).experts), np.sort(EXPERTS))
    buffer = io.BytesIO()
    torch.save({"experts": EXPERTS}, buffer)
    for value in (buffer.getvalue(), pt(torch_of(EXPERTS.astype(np.float32)).to(torch.float8_e5m2))):
        (tmp_path / "t").write_bytes(value)
        with pytest.raises(InvalidFile, match=r"numpy\.savez or safetensors|a tensor of 'torch float8_e5m2', known"):
            import_trace(tmp_path / "t", shape=SHAPE)


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.ones((4, 2, 8), bool), "a mask .* whose rows choose unlike many"),
        (np.zeros((4, 2, 8), bool), "a mask .* whose rows choose unlike many"),
        (np.array([[[1, 0, 0, 0], [1, 1, 0, 0]]], bool), "a mask .* whose rows choose unlike many"),
        (np.full((4, 2, 2), np.nan), "are no choices"),
        (np.array([["a"]]), "are no choices"),
        (np.array(5), "are no choices"),
        (np.zeros((0, 2, 2)), "are no choices"),
    ],
)
def test_an_array_of_nothing_is_told_so(array: Any, told: str, tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(npy(array))
    with pytest.raises(InvalidFile, match=told):
        import_trace(tmp_path / "t")
