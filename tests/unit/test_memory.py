"""Slots of an expert memory: what a copy into a reused slot has to wait for."""

from __future__ import annotations

import dataclasses

import pytest

from offload.execution import EXECUTIONS
from offload.memory import Copies, ExpertMemory
from offload.ops import Lane, OpKind, Work
from offload.recorder import Recorder
from offload.residency import ResidentSet
from traces.errors import InvalidInput


def test_a_cached_expert_guessed_in_vain_still_protects_its_last_reader() -> None:
    """Read, then guessed again and not needed, then evicted: the copy into its slot waits for the read."""
    recorder = Recorder()
    cache = ResidentSet(1, "lru", n_layers=1, n_experts=4)
    copies = Copies(None, Work(OpKind.FETCH, copy_bytes=10), None)
    memory = ExpertMemory(recorder, 1, 10, copies, cache, (0,))

    def ffn(used: set[int]) -> int:
        reader = recorder.issue(Lane.COMPUTE, Work(OpKind.EXPERTS), step=0)
        memory.release(0, reader, used)
        return reader

    memory.bring(0, [2], 0)
    reader = ffn({2})
    memory.bring(0, [2], 0)
    ffn(set())
    memory.bring(0, [3], 0)
    schedule = recorder.schedule()
    fetches = [i for i in range(len(schedule)) if schedule.kind[i] == OpKind.FETCH]
    assert schedule.slot[fetches[0]] == schedule.slot[fetches[1]]
    assert reader in schedule.deps(fetches[1]).tolist()


@pytest.mark.parametrize("n_host_buffers", [1, 2])
def test_a_read_from_storage_waits_for_the_copy_that_empties_its_host_buffer(n_host_buffers: int) -> None:
    recorder = Recorder()
    copies = Copies(Work(OpKind.DISK_READ, copy_bytes=10), Work(OpKind.FETCH, copy_bytes=10), None)
    memory = ExpertMemory(recorder, 4, 10, copies, None, (0,), n_host_buffers=n_host_buffers)
    memory.bring(0, [3, 1, 0, 2], 0)
    schedule = recorder.schedule()
    reads = [i for i in range(len(schedule)) if schedule.kind[i] == OpKind.DISK_READ]
    fetches = [i for i in range(len(schedule)) if schedule.kind[i] == OpKind.FETCH]
    waits_for = [[dep for dep in schedule.deps(read).tolist() if dep in fetches] for read in reads]
    assert waits_for == [[]] * n_host_buffers + [[fetch] for fetch in fetches[: 4 - n_host_buffers]]
    assert memory.live_ops() >= set(fetches[-n_host_buffers:])


def test_only_the_released_code_reads_storage_and_copies_in_turn() -> None:
    assert {name: execution.n_host_buffers for name, execution in EXECUTIONS.items()} == {
        "fastertransformer": 1,
        "streams": 2,
    }
    with pytest.raises(InvalidInput, match="n_host_buffers = 3: must be 1 or 2"):
        dataclasses.replace(EXECUTIONS["streams"], n_host_buffers=3)
