"""A file of Python that a user wrote and named: read, executed once, and recognised by what it says.

Only `OwnCode.run` executes a file. Nothing that was read from a table, a trace or a YAML file gets there: a name that
such a file holds finds code that is running already, or nothing.
"""

from __future__ import annotations

import ast
import hashlib
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from traces.errors import InvalidInput
from traces.foundation.documents import read_text

MAX_BYTES = 1 << 20
"""A file of code of more than a MiB is something else."""

_PREFIX = "pregate_own_"
_PLAIN = {
    "__future__", "bisect", "collections", "dataclasses", "enum", "functools", "heapq", "itertools", "math", "numpy",
    "offload", "operator", "pregate", "statistics", "traces", "typing",
}  # fmt: skip
_READING = {
    "__builtins__", "__import__", "compile", "eval", "exec", "fromfile", "genfromtxt", "getattr", "globals", "input",
    "import_trace", "load", "load_popularity", "load_trace", "loadtxt", "memmap", "open", "read_bytes", "read_text",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class OwnCode:
    """The text of the file `path`, as it was when it was read. Equal texts at equal paths are one module."""

    path: str
    text: str = field(repr=False)
    digest: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", hashlib.sha256(self.text.encode()).hexdigest()[:16])

    @property
    def module_name(self) -> str:
        """Under which the executed file is found, and its functions are pickled."""
        return f"{_PREFIX}{hashlib.sha256(self.path.encode()).hexdigest()[:8]}_{self.digest}"

    @property
    def module(self) -> ModuleType | None:
        """The executed file; None before `run`."""
        return sys.modules.get(self.module_name)

    def run(self) -> ModuleType:
        """Execute the file, once a process. Raises `InvalidInput` where it cannot be compiled, or raises."""
        if self.module is not None:
            return self.module
        made = ModuleType(self.module_name)
        made.__file__ = self.path
        sys.modules[self.module_name] = made
        try:
            exec(compile(self.text, self.path, "exec", dont_inherit=True), made.__dict__)
        except BaseException as error:
            del sys.modules[self.module_name]
            if isinstance(error, SyntaxError) and error.filename == self.path:
                raise InvalidInput(f"{self.path}, line {error.lineno}: {error.msg}") from error
            if isinstance(error, Exception | SystemExit):
                raise InvalidInput(f"{self.path}: {where_raised(error, self.path)} as it is loaded") from error
            raise
        return made

    @property
    def is_closed(self) -> bool:
        """Whether what it does depends on its text alone: it imports no other file and reads none, as far as can be
        seen.
        """
        for node in ast.walk(ast.parse(self.text)):
            names: list[str] = []
            match node:
                case ast.Import():
                    names = [alias.name for alias in node.names]
                case ast.ImportFrom():
                    names = [node.module or "."] if not node.level else ["."]
                    if _READING & {alias.name for alias in node.names}:
                        return False
                case ast.Name() if node.id in _READING:
                    return False
                case ast.Attribute() if node.attr in _READING:
                    return False
            if any(name.partition(".")[0] not in _PLAIN for name in names):
                return False
        return True


def own_code(path: str) -> OwnCode:
    """The file at `path` as it is now. Raises `InvalidFile` where it cannot be read."""
    return OwnCode(path, read_text(Path(path), MAX_BYTES))


def where_raised(error: BaseException, path: str | None) -> str:
    """What was raised, in one clause, with the last line of the file `path` that it came through."""
    lines = [n for frame, n in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == path]
    told = f": {error}" if str(error) else ""
    place = f" (line {lines[-1]} of {path})" if lines else ""
    return f"raises {type(error).__name__}{told}{place}"
