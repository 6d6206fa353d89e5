"""Weights have the published shapes, their values depend on the seed alone, and a file gives them back."""

from __future__ import annotations

import math
import os
from collections import namedtuple
from pathlib import Path

import pytest

from tests.small_models import MODELS
from traces.errors import InvalidFile
from traces.model.architecture import architecture_names, load_architecture

torch = pytest.importorskip("torch", reason="the runtime needs PyTorch (the extra 'runtime')")

from offload.slots.memory import CapacityExceeded  # noqa: E402
from runtime import memory, storage  # noqa: E402
from runtime.memory import PAGE_BYTES, aligned  # noqa: E402
from runtime.model.shapes import expert_shapes, static_shapes  # noqa: E402
from runtime.model.weights import Experts  # noqa: E402
from runtime.storage import ExpertFile  # noqa: E402

MODEL = MODELS["shared experts, three matrices"]
KEYS = [(2, 5), (0, 0), (1, 3)]


EXECUTABLE = [name for name in architecture_names() if load_architecture(name).is_executable]
"""Others the runtime refuses."""


@pytest.mark.parametrize("name", EXECUTABLE)
def test_every_shipped_architecture_has_exactly_its_parameters(name: str) -> None:
    model = load_architecture(name)
    assert sum(math.prod(shape) for shape in static_shapes(model).values()) == model.non_expert_params
    assert sum(math.prod(shape) for shape in expert_shapes(model).values()) == model.expert_params


def test_an_expert_depends_on_seed_layer_and_number_alone() -> None:
    here, there, other = Experts(MODEL, 1), Experts(MODEL, 1), Experts(MODEL, 2)
    here.require(KEYS)
    there.require([(1, 3)])
    there.require(reversed(KEYS))
    other.require(KEYS)
    for key in KEYS:
        assert len(here[key]) == MODEL.expert_bytes
        assert here[key].data_ptr() % PAGE_BYTES == 0
        assert torch.equal(here[key], there[key])
        assert not torch.equal(here[key], other[key])
        made = aligned(MODEL.expert_bytes)
        Experts(MODEL, 1).copy_to(made, key)
        assert torch.equal(made, here[key])
    assert len({bytes(here[key].numpy()) for key in KEYS}) == len(KEYS)


def test_more_host_memory_than_there_is_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 10_000)
    with pytest.raises(CapacityExceeded, match=r"^3 experts of small-decoder: .* are needed, .* free: try .*ssd$") as e:
        Experts(MODEL).require(KEYS)
    assert e.value.memory == "DRAM"


def test_a_file_gives_back_what_was_written_until_it_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experts = Experts(MODEL)
    experts.require(KEYS)
    file = ExpertFile(tmp_path, KEYS, experts)
    staging = aligned(-(-MODEL.expert_bytes // PAGE_BYTES) * PAGE_BYTES)
    for key in KEYS:
        assert file.read(key, staging, MODEL.expert_bytes) == MODEL.expert_bytes
        assert torch.equal(staging[: MODEL.expert_bytes], experts[key])
    monkeypatch.setattr(storage.os, "preadv", lambda *_: 0)
    with pytest.raises(InvalidFile, match=r"ends within expert 3 of MoE layer 1$"):
        file.read((1, 3), staging, MODEL.expert_bytes)
    monkeypatch.undo()
    file.close()
    file.close()
    with pytest.raises(InvalidFile, match="experts cannot be read"):
        file.read(KEYS[0], staging, MODEL.expert_bytes)


def test_a_file_has_no_name_while_it_is_open_so_that_a_killed_process_leaves_nothing(tmp_path: Path) -> None:
    before = open_files()
    file = ExpertFile(tmp_path, KEYS, Experts(MODEL))
    assert not list(tmp_path.iterdir())
    assert open_files() > before
    file.close()
    assert open_files() == before


def open_files() -> int:
    return sum(1 for number in range(256) if is_open(number))


def is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def test_an_interrupt_while_experts_are_stored_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = open_files()
    monkeypatch.setattr(Experts, "copy_to", interrupt)
    with pytest.raises(KeyboardInterrupt):
        ExpertFile(tmp_path, KEYS, Experts(MODEL))
    assert not list(tmp_path.iterdir())
    assert open_files() == before


def test_a_file_system_without_unbuffered_reads_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, flags: int, *mode: int) -> int:
        if flags & getattr(os, "O_DIRECT", 0):
            raise OSError(22, "Invalid argument")
        return real(path, flags, *mode)

    real = os.open
    monkeypatch.setattr(storage.os, "open", refuse)
    file = ExpertFile(tmp_path, KEYS, Experts(MODEL))
    staging = aligned(-(-MODEL.expert_bytes // PAGE_BYTES) * PAGE_BYTES)
    assert file.read(KEYS[0], staging, MODEL.expert_bytes) == MODEL.expert_bytes
    assert not file.direct
    file.close()


def test_a_folder_without_room_or_rights_is_refused_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidFile, match="experts cannot be stored there"):
        ExpertFile(tmp_path / "missing", KEYS, Experts(MODEL))
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda path: usage(1000))
    with pytest.raises(InvalidFile, match=r"3 experts take .* GB, the disk has .* GB free: name another folder"):
        ExpertFile(tmp_path, KEYS, Experts(MODEL))
    monkeypatch.undo()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(InvalidFile, match="No space left on device"):
        ExpertFile(tmp_path, KEYS, Experts(MODEL))
    assert not list(tmp_path.iterdir())
