"""The pictures of docs/field.md: what they say, on a few points."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def rules() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "rules_of_thumb", Path(__file__).parents[3] / "docs" / "rules_of_thumb.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_host_with_twice_the_bandwidth_of_the_link_beats_copies(rules: ModuleType) -> None:
    for ratio, host_wins in ((1.0, False), (2.0, True)):
        host, copied = (
            rules.tpot_s(p, 1, rules.PCIE4, ratio * rules.PCIE4) for p in ("gpu_only@experts=cpu", "on_demand")
        )
        assert (host < copied) is host_wins


def test_whole_layers_ahead_are_slower_for_one_sequence(rules: ModuleType) -> None:
    all_ahead, on_demand = (
        rules.tpot_s(p, 1, rules.PCIE4, 400.0, "mixtral-8x7b") for p in ("prefetch_all", "on_demand")
    )
    assert 3 < all_ahead / on_demand < 4


def test_a_picture_is_drawn(rules: ModuleType, tmp_path: Path) -> None:
    rules.cpu_or_copy(tmp_path / "p.png", batches=(1,), n_points=2)
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_a_label_that_would_be_cut_is_no_picture(rules: ModuleType, tmp_path: Path) -> None:
    words = {
        "title": "t",
        "x": "x",
        "y": "time a token with experts copied over the link, over experts computed on the host (ratio)",
    }
    with pytest.raises(ValueError, match=r"on the host \(ratio\)' is longer than the picture"):
        rules.draw([1, 2], {"a": [1.0, 2.0]}, tmp_path / "p.png", **words, even=1.0)
    assert not list(tmp_path.iterdir())
