"""What the decode loop refuses, whose ops it writes, and what of an encoder stays where it is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from offload.decode import decode
from offload.decoding.decode_job import DecodeJob
from offload.decoding.decode_loop import DecodeLoop
from offload.execution import EXECUTIONS
from offload.ops import OpKind
from offload.placing.placed import Placed, place
from offload.policies import policy_named
from offload.recorder import Recorder
from tests.unit.offload.by_hand import DECODER, NEXT, SWITCH, asked, step, written
from traces.errors import InvalidInput
from traces.phase import Phase

NONE = [-1]


@pytest.mark.parametrize(
    ("policy", "stack", "disk", "says"),
    [
        ("on_demand:granularity=layer", "streams", True, "storage is read expert by expert"),
        ("on_demand+lru:2:write_back", "streams", True, "nothing goes back"),
        ("on_demand+lru:2:write_back", "fastertransformer", False, "leave write_back out"),
        ("on_demand:granularity=layer", "fastertransformer", False, "leave granularity=layer out"),
        ("on_demand:granularity=matrix", "fastertransformer", False, "in fused ops"),
    ],
)
def test_a_stack_that_does_not_bring_what_a_policy_asks_for_is_refused_by_the_name_of_the_policy(
    policy: str, stack: str, disk: bool, says: str
) -> None:
    with pytest.raises(InvalidInput, match=says) as refused:
        written(DECODER, [NEXT], policy, stack, disk=disk)
    assert str(refused.value).startswith(f"policy {policy}: ")


def test_ops_go_to_the_recorder_that_was_given() -> None:
    policy, recorder = policy_named("gpu_only"), Recorder()
    job = DecodeJob(DECODER, policy, EXECUTIONS["streams"], 8, None, False, place(DECODER, policy.placement))
    loop = DecodeLoop(job, recorder)
    loop.run(NEXT, 1)
    assert loop.recorder is recorder
    assert recorder.schedule() == written(DECODER, [NEXT], policy).schedule


@pytest.mark.parametrize("where", ["experts", "layers"])
def test_micro_batches_share_nothing_of_what_the_host_computes(where: str) -> None:
    """Whichever way it was put there: a placement refuses it by its words, the loop by what it finds."""
    kept = None if where == "layers" else frozenset({1})
    placed = Placed(frozenset({0} if where == "layers" else ()), frozenset(), (kept,) * 3, "device")
    shared = dataclasses.replace(EXECUTIONS["streams"], name="shared", micro_sequences=1)
    two = step(1, Phase.DECODE, [(4, 2), (7, 9)], [[[0, 1]] * 3, [[1, 2]] * 3])
    with pytest.raises(InvalidInput, match="gpu_only: micro-batches share what is fetched"):
        decode(DECODER, [two], policy_named("gpu_only"), shared, n_buffers=8, placed=placed)


def test_an_encoder_stays_on_the_accelerator_whatever_streams_of_its_decoder() -> None:
    reads = step(0, Phase.PREFILL, [(0, 0), (0, 1)], [[[2], *[NONE] * 3]] * 2)
    makes = step(1, Phase.DECODE, [(0, 0)], [[NONE, [1], [0], [3]]])
    plain, streamed = (written(SWITCH, [reads, makes], f"gpu_only{text}") for text in ("", "@weights=stream"))
    n_read = int(np.count_nonzero(plain.schedule.step == 0))
    assert np.array_equal(streamed.schedule.kind[:n_read], plain.schedule.kind[:n_read])
    assert not asked(streamed, OpKind.STREAM, 0)
    assert len(asked(streamed, OpKind.STREAM, 1)) == SWITCH.decoder.n_layers
