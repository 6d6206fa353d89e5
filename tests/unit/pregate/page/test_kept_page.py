"""A page that was worked out before is written from what is kept; any change of what it says is worked out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from hwmodels.platform import load_platform
from offload.policies import policy_named
from pregate.named import load_model
from pregate.page import answers, writing
from pregate.page.subject import PageSubject
from pregate.page.writing import explore_page

STOPS: dict[str, Any] = {"batches": (1,), "prompts": (4,), "actives": (0.0,), "hbm_factors": (1.0,), "output_tokens": 2}


def page(path: Path, cache: Path, **changes: Any) -> bytes:
    machines = [load_platform("rtx-4090", "streams")]
    explore_page(["switch-mini-16"], machines, path, ["on_demand", "pregate"], cache_dir=cache, **STOPS | changes)
    return path.read_bytes()


def never(*_: Any) -> dict[str, Any]:
    pytest.fail("worked out again")


def test_the_same_page_is_worked_out_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = page(tmp_path / "a.html", tmp_path / "kept")
    worked_out = answers.document
    monkeypatch.setattr(answers, "document", never)
    assert page(tmp_path / "b.html", tmp_path / "kept") == first
    monkeypatch.setattr(answers, "document", worked_out)
    (kept,) = (tmp_path / "kept").glob("*.answer")
    kept.write_text(kept.read_text().replace('"block": "', '"block": "A', 1))
    assert page(tmp_path / "c.html", tmp_path / "kept") == first


def test_nothing_is_kept_unless_a_folder_is_given(tmp_path: Path) -> None:
    explore_page(["switch-mini-16"], ["rtx-4090"], tmp_path / "a.html", ["on_demand"], **STOPS)
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]


def test_every_part_of_a_page_is_in_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = PageSubject(
        (load_model("switch-mini-16"),), (load_platform("rtx-4090", "streams"),), (policy_named("on_demand"),), **STOPS
    )
    other: dict[str, Any] = {
        "models": (load_model("mixtral-mini-8"),),
        "machines": (load_platform("rtx-4090", "streams", {"link.h2d_bytes_per_s": 1e9}),),
        "designs": (policy_named("pregate"),),
        "batches": (2,), "prompts": (5,), "actives": (0.5,), "hbm_factors": (0.5,), "output_tokens": 3, "seed": 1,
    }  # fmt: skip
    assert other.keys() == {one.name for one in dataclasses.fields(PageSubject)}
    keys = {writing._key(dataclasses.replace(subject, **{name: value})) for name, value in other.items()}
    monkeypatch.setattr(writing, "source_digest", lambda rooms: "other code")
    keys |= {writing._key(subject), None}
    monkeypatch.undo()
    assert len(keys | {writing._key(subject)}) == len(other) + 3


def test_a_page_of_a_design_of_ones_own_is_not_kept() -> None:
    own = dataclasses.replace(policy_named("on_demand"), prefetch=lambda state: [])
    subject = PageSubject((load_model("switch-mini-16"),), (load_platform("rtx-4090", "streams"),), (own,), **STOPS)
    assert writing._key(subject) is None
