"""The command line: `pregate --help`. One clear line and status 2 for anything a user can get wrong."""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typer import Typer


INTERRUPTED = 130
"""Exit status after Ctrl-C, as a shell has it: 128 and the number of the signal."""


def application() -> Typer:
    """The command line with every command on it."""
    from pregate.cli.commands import root

    return root()


_NEW_OBJECTS = 100_000
"""Objects made between two looks for circles of them: schedules are many small ones, and hold none."""


_NO_THREADS = "OPENBLAS_NUM_THREADS"
"""Read when NumPy is loaded: its linear algebra starts a thread a core, which spin for a tenth of a second, and nothing
here has products for them (LOG.md, 2026-11-29). PyTorch has its own.
"""


_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
"""Parameters of `mallopt` (glibc, malloc.h)."""


def _keep_freed_memory() -> None:
    """Let glibc keep what arrays give back for the next ones: pages of the system are cleared when they are first
    touched, which took a tenth of a table's time (LOG.md, 2026-11-29). Whoever has set its allocator is not overruled.
    """
    if sys.platform != "linux" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    import ctypes

    with suppress(AttributeError, OSError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in ((_TRIM_THRESHOLD, -1), (_TOP_PAD, 1 << 24), (_MMAP_THRESHOLD, 1 << 30)):
            mallopt(parameter, value)


def main() -> None:
    """Entry point: run the command line; what a user can mend ends in one line and status 2."""
    os.environ.setdefault(_NO_THREADS, "1")
    _keep_freed_memory()
    gc.set_threshold(_NEW_OBJECTS)
    if sys.stdout is None:  # closed before Python began
        raise SystemExit(_refused("standard output: cannot be written (it is closed)"))
    try:
        status = _status()
        gc.freeze()  # what is left is given back at once: nobody looks for cycles in it on the way out
        sys.stdout.flush()
    except BrokenPipeError:
        _close_output()
        status = 0
    except KeyboardInterrupt:
        status = INTERRUPTED
    except OSError as error:  # standard output on a full disk, or what no command expected
        _close_output()
        unwritten = f"{error.filename or 'standard output'}: cannot be written ({error.strerror})"
        status = _refused(str(error) if error.errno is None else unwritten)  # no number: no call of the system failed
    raise SystemExit(status)


def _status() -> int:
    """Run the command of `sys.argv` and say how it ended."""
    from pregate.cli.system_limits import limit_reached
    from traces.errors import PregateError

    try:
        ended = application()(standalone_mode=False)  # a status where the command says one
        return ended if isinstance(ended, int) else 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except PregateError as error:
        return _refused(str(error))
    except Exception as error:
        reached = limit_reached(error)
        return _misused(error) if reached is None else _refused(reached)


def _misused(error: Exception) -> int:
    """What the library of the command line has against the words it was given; its classes move between releases."""
    if type(error).__name__ == "Abort":
        raise KeyboardInterrupt from error
    told = getattr(error, "format_message", None)
    if told is None:
        raise error
    if type(error).__name__ == "NoArgsIsHelpError":
        print(told())
        return 0
    context = getattr(error, "ctx", None)
    path = getattr(context, "command_path", "pregate")
    if type(error).__name__ == "NoSuchOption":
        from pregate.cli.options_elsewhere import called_here

        option = str(getattr(error, "option_name", ""))
        known = [name for param in context.command.get_params(context) for name in param.opts] if context else []
        if found := called_here(option, known, path.rpartition(" ")[2]):
            return _refused(f"No such option: {option}: {found}: see {path} --help")
    return _refused(f"{told().rstrip('.')}: see {path} --help")


def _refused(message: str) -> int:
    """Say why not, on one line that no name in it can move the cursor of."""
    line = " ".join(word if len(word) <= 300 else f"{word[:120]}...{word[-120:]}" for word in message.split())
    print("error: " + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line), file=sys.stderr)
    return 2


def _close_output() -> None:
    """Let what is still buffered go nowhere: there is nobody to read it, or no room."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
