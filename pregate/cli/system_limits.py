"""What ends a command whatever it was asked: too little memory, open files or processes, a current folder gone."""

from __future__ import annotations

import errno

_UNMAPPED = ("failed to map segment", "cannot allocate memory", "Cannot allocate memory")
"""What the loader of shared libraries says where memory is short, inside an `ImportError`, or llvmlite's `OSError`."""


def limit_reached(error: Exception) -> str | None:
    """What the system lacks, as `error` has it, and the way out, in one line; None where it lacks nothing."""
    number, told = getattr(error, "errno", None), str(error)
    loader = f"{told} {error.__cause__ or error.__context__}"  # llvmlite says in its own words that it was not loaded
    unmapped = isinstance(error, ImportError | OSError) and any(words in loader for words in _UNMAPPED)
    if isinstance(error, MemoryError) or unmapped or number == errno.ENOMEM:
        return (
            "this needs more memory than there is: ask for fewer tokens, sequences or points, or raise the limit where "
            "the shell sets one (ulimit -v)"
        )
    if number == errno.ENOENT and getattr(error, "filename", None) is None:  # nothing else is missing without a name
        return "the current folder is no longer there: change to another"
    if number in (errno.EMFILE, errno.ENFILE):
        return "this needs more open files than a process may have: raise the limit (ulimit -n), or ask for fewer jobs"
    unstarted = isinstance(error, RuntimeError) and "can't start new thread" in told
    if unstarted or (number == errno.EAGAIN and not hasattr(error, "characters_written")):
        return (
            "this needs more processes or threads than may be started: raise the limit (ulimit -u), or ask for fewer "
            "jobs"
        )
    return None
