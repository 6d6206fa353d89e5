"""Limits of the system: what ran out and the way out, not what happened to be open."""

from __future__ import annotations

import builtins
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pregate.ask.result_display import to_dataframe
from pregate.cli import main as command_line
from pregate.cli.system_limits import limit_reached
from pregate.extras import _require_address_space
from tests.command_line import Run
from traces.errors import InvalidInput

MEMORY = (
    "this needs more memory than there is: ask for fewer tokens, sequences or points, or raise the limit where the "
    "shell sets one (ulimit -v)"
)
FILES = "this needs more open files than a process may have: raise the limit (ulimit -n), or ask for fewer jobs"
STARTED = "this needs more processes or threads than may be started: raise the limit (ulimit -u), or ask for fewer jobs"


def system(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def unloaded(why: str, *, told: bool) -> OSError:
    """As llvmlite has it: in words of its own, after what the loader said."""
    error = OSError("Could not find/load shared object file 'libllvmlite.so'")
    if told:
        error.__cause__ = OSError(why)
    else:
        error.__context__ = OSError(why)
    return error


ENDED: list[tuple[Exception, str | None]] = [
    (MemoryError(), MEMORY),
    (system(errno.ENOMEM), MEMORY),
    (ImportError("lib.so: failed to map segment from shared object"), MEMORY),
    (ImportError("lib.so: cannot allocate memory in static TLS block"), MEMORY),
    (ImportError("lib.so: cannot create shared object descriptor: Cannot allocate memory"), MEMORY),
    (unloaded("libllvmlite.so: failed to map segment from shared object", told=True), MEMORY),
    (unloaded("libllvmlite.so: failed to map segment from shared object", told=False), MEMORY),
    (unloaded("libllvmlite.so: undefined symbol", told=True), None),
    (OSError("Could not find/load 'libllvmlite.so'"), None),
    (system(errno.EMFILE), FILES),
    (system(errno.ENFILE), FILES),
    (system(errno.EAGAIN), STARTED),
    (RuntimeError("can't start new thread"), STARTED),
    (system(errno.ENOENT), "the current folder is no longer there: change to another"),
    (FileNotFoundError(errno.ENOENT, "no such file", "a.yaml"), None),
    (RuntimeError("failed to map segment"), None),
    (ImportError("cannot import name 'x'"), None),
    (system(errno.ENOSPC), None),
    (ValueError("can't start new thread"), None),
]


@pytest.mark.parametrize(("error", "line"), ENDED)
def test_what_ran_out_is_told(error: Exception, line: str | None) -> None:
    assert limit_reached(error) == line


def test_a_reader_that_is_slow_is_no_limit() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with os.fdopen(reader, "rb"):
        file = os.fdopen(writer, "wb", buffering=1 << 24)
        file.write(b"x" * (1 << 23))
        with pytest.raises(BlockingIOError) as error:
            file.flush()
        file.raw.close()
    assert limit_reached(error.value) is None


@pytest.mark.parametrize(("error", "line"), [(error, line) for error, line in ENDED if line])
def test_a_command_ends_in_that_line(error: Exception, line: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended() -> Callable[..., Any]:
        def command(**_: object) -> None:
            raise error

        return command

    monkeypatch.setattr(command_line, "application", ended)
    assert run("compare") == (2, "", f"error: {line}\n")


def test_a_full_disk_is_told_by_the_file(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended() -> Callable[..., Any]:
        def command(**_: object) -> None:
            raise system(errno.ENOSPC)

        return command

    monkeypatch.setattr(command_line, "application", ended)
    monkeypatch.setattr(command_line, "_close_output", lambda: None)
    assert run("compare") == (2, "", "error: standard output: cannot be written (No space left on device)\n")


def test_a_library_that_is_broken_is_told_as_its_loader_does(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended() -> Callable[..., Any]:
        def command(**_: object) -> None:
            raise OSError("Could not find/load 'libllvmlite.so'")

        return command

    monkeypatch.setattr(command_line, "application", ended)
    monkeypatch.setattr(command_line, "_close_output", lambda: None)
    assert run("compare") == (2, "", "error: Could not find/load 'libllvmlite.so'\n")


def test_a_library_that_does_not_load_is_not_called_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without_room(name: str, *rest: Any) -> Any:
        if name == "pandas":
            raise ImportError("lib.so: failed to map segment from shared object")
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_room)
    with pytest.raises(ImportError, match="failed to map segment"):
        to_dataframe([{"a": 1}])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of a process are those of Linux")
def test_jobs_that_may_open_no_files_are_told_so(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(
        "model: switch-base-8\nhardware: a100-sxm4-80gb\nworkload: {input_tokens: 1, output_tokens: 2}\n"
        "policies: [on_demand]\naxes:\n  batch: [1, 2]\n"
    )
    code = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12))\n"
        f"sys.argv = ['pregate', 'sweep', {str(sweep)!r}, '--jobs', '2', '-o', {str(tmp_path / 's.nc')!r}]\n"
        "from pregate.cli.main import main\nmain()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[4])
    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (2, f"error: {FILES}")
    assert "Traceback" not in ended.stderr


def test_a_folder_that_was_removed_under_a_command_is_named(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "os.rmdir(os.getcwd())\n"
        "sys.argv = ['pregate', 'trace', 'synth', 'switch-mini-16', '--output-tokens', '2', '-o', 't.safetensors']\n"
        "from pregate.cli.main import main\nmain()\n"
    )
    (tmp_path / "gone").mkdir()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[4])}
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path / "gone", env=environment
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "error: the current folder is no longer there: change to another\n"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of a process are those of Linux")
@pytest.mark.parametrize(("limit_bytes", "refused"), [(600_000 << 10, True), (1 << 50, False), (-1, False)])
def test_pytorch_is_not_loaded_where_its_libraries_have_no_room(
    limit_bytes: int, refused: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Under 575,000 to 600,000 KiB glibc ended the process by itself."""
    import resource

    with (tmp_path / "libtorch_cpu.so").open("wb") as file:
        file.truncate(500_000_000)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit_bytes, limit_bytes))
    if not refused:
        _require_address_space(tmp_path)
        return
    with pytest.raises(InvalidInput, match=r"PyTorch takes .* GB of address space .* allows 0.61 GB: raise the limit"):
        _require_address_space(tmp_path)
