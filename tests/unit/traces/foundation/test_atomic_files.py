"""Files are written whole or not at all, and nothing but regular files is replaced."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from traces.errors import InvalidFile
from traces.foundation.atomic_files import whole_file


def fail_halfway(path: Path) -> None:
    path.write_text("half")
    raise KeyError(path)


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    with pytest.raises(KeyError), whole_file(path) as partial:
        fail_halfway(partial)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    with whole_file(link) as partial:
        partial.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_what_is_not_a_regular_file_is_left_alone(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (fifo, tmp_path):
        with pytest.raises(InvalidFile, match="not a regular file"), whole_file(path) as partial:
            partial.write_text("x")
    assert stat.S_ISFIFO(fifo.stat().st_mode)


@pytest.mark.parametrize("name", ["no/such/folder/x", "a" * 300])
def test_a_path_that_cannot_be_is_one_clear_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidFile, match="cannot be written"), whole_file(tmp_path / name) as partial:
        partial.write_text("x")


def test_others_may_read_what_the_mask_allows(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with whole_file(path) as partial:
        partial.touch(mode=0o600)
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_writers_of_one_path_at_once_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "out"

    def write(text: str) -> None:
        with whole_file(path) as partial, partial.open("w") as file:
            for _ in range(200):
                file.write(text)
                file.flush()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, "abcd" * 10))
    assert len(set(path.read_text())) == 1
    assert len(path.read_text()) == 200
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


ENDED = """
import os, signal, sys
from pathlib import Path
from traces.foundation.atomic_files import whole_file
with whole_file(Path(sys.argv[1])) as partial:
    partial.write_text("half")
    os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_process_that_is_asked_to_end_leaves_nothing_half_written(tmp_path: Path) -> None:
    status = subprocess.run([sys.executable, "-c", ENDED, str(tmp_path / "out")], check=False).returncode
    assert status == -signal.SIGTERM
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("theirs", [signal.SIG_IGN, lambda *_: None])
def test_who_waits_for_that_signal_goes_on_waiting(theirs: Any, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGTERM, theirs)
    try:
        with whole_file(tmp_path / "out") as partial:
            partial.write_text("whole")
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is theirs
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (tmp_path / "out").read_text() == "whole"


def test_the_signal_is_as_before_once_the_file_is_written(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with whole_file(tmp_path / "out") as partial:
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
            partial.write_text("whole")
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
