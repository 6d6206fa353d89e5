"""Unions of experts kept with the choices that they are of."""

from __future__ import annotations

import gc
import weakref

import pytest

import pregate
from offload.decode import DecodeStream
from offload.decoding import work_rows
from offload.fast import block_unions
from pregate.ask.capturing.request import request
from traces.foundation.memoised_values import KeptWithArray


def test_unions_kept_with_a_trace_keep_no_works_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a trace that is asked of again and again keeps works that `works_of` has let go."""
    model, hw = pregate.load_model("olmoe-1b-7b"), pregate.load_hardware("rtx-4090")
    trace = pregate.synthesize(model, 400, 2)
    asked = request(model, hw, trace, "on_demand")
    monkeypatch.setattr(block_unions, "_KEPT", KeptWithArray[block_unions.BlockUnions]())  # without others' traces
    for _ in DecodeStream(
        model, trace.steps(), asked.policy, asked.execution, n_buffers=asked.plan.n_buffers, placed=asked.placed,
        compiled=True,
    ):  # fmt: skip
        pass
    assert len(block_unions._KEPT) == 1
    works = [weakref.ref(one) for one in gc.get_objects() if isinstance(one, work_rows.Works) and one.model is model]
    assert works
    work_rows._latest.cache_clear()
    gc.collect()
    assert [one() for one in works if one() is not None] == []
    assert len(block_unions._KEPT) == 1
