"""Slots of an expert memory: what a copy into a reused slot has to wait for."""

from __future__ import annotations

from offload.memory import Copies, ExpertMemory
from offload.ops import Lane, OpKind, Work
from offload.recorder import Recorder
from offload.residency import ResidentSet


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
