"""A configuration held against the bytes that the index of the weights beside it states."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.traces.model.model_configs import SHAPES, read
from traces.errors import InvalidFile
from traces.model.architecture import load_architecture


def _stated(folder: Path, total_size: object) -> None:
    index = {"metadata": {"total_size": total_size}, "weight_map": {"model.norm.weight": "model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("share", [0.9, 1.0, 1.2])
def test_a_size_near_what_is_read_says_nothing(share: float, tmp_path: Path) -> None:
    model = read(tmp_path)
    _stated(tmp_path, int(share * model.total_bytes))
    assert load_architecture(tmp_path / "config.json") == model


def test_weights_smaller_than_their_configuration_are_stored_otherwise(tmp_path: Path) -> None:
    _stated(tmp_path, read(tmp_path).total_bytes * 9 // 32)
    with pytest.raises(InvalidFile, match=r"stored in other formats, or not all there: .* give the formats") as caught:
        load_architecture(tmp_path / "config.json")
    assert "\n" not in str(caught.value)


def test_weights_far_larger_are_told_in_a_note(tmp_path: Path) -> None:
    _stated(tmp_path, read(tmp_path).total_bytes * 2)
    assert "the rest is not read" in load_architecture(tmp_path / "config.json").note


@pytest.mark.parametrize("size", [None, 0, -4, "many", 1.5e9])
def test_an_index_without_a_size_is_passed_over(size: object, tmp_path: Path) -> None:
    model = read(tmp_path)
    _stated(tmp_path, size)
    assert load_architecture(tmp_path / "config.json") == model


def test_a_link_of_a_cache_is_read_with_what_lies_beside_the_link(tmp_path: Path) -> None:
    model, blobs = tmp_path / "models--maker--small-moe", tmp_path / "models--maker--small-moe" / "blobs"
    snapshot = model / "snapshots" / "0a1b2c"
    for folder in (blobs, snapshot):
        folder.mkdir(parents=True)
    bare = read(tmp_path)
    (tmp_path / "config.json").rename(blobs / "4d5e")
    (snapshot / "config.json").symlink_to(blobs / "4d5e")
    assert load_architecture(snapshot / "config.json").name == "small-moe"
    (snapshot / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "FP8"}}))
    assert load_architecture(snapshot / "config.json").expert_dtype.bits == 8
    _stated(snapshot, bare.total_bytes // 4)
    with pytest.raises(InvalidFile, match="stored in other formats"):
        load_architecture(snapshot / "config.json")


def test_weights_in_a_format_of_jang_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="weight_format 'mxtq' says how the weights are quantised"):
        read(tmp_path, weight_format="mxtq")
    (tmp_path / "jang_config.json").write_text("{}")
    with pytest.raises(InvalidFile, match=r"jang_config\.json beside it says how"):
        read(tmp_path, **SHAPES)
