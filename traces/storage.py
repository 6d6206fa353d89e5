"""Routing traces on disk: safetensors with a JSON header. Never a pickle, never half a file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from traces.errors import InvalidFile, InvalidInput
from traces.foundation.atomic_files import whole_file
from traces.foundation.documents import Section, open_regular, require_regular
from traces.phase import Phase
from traces.prompt_parts import going_on, is_of, prompt_parts
from traces.routing import Provenance, RoutingTrace, Step
from traces.token_checks import check_tokens

FORMAT = "pregate-routing-trace"
VERSION = 1
MAX_HEADER_BYTES = 1 << 20
"""Largest safetensors header read (1 MiB); ours is under 4 KiB."""
MAX_LOADED_BYTES = 16 << 30
"""Largest file that `load_trace` takes into memory (16 GiB); `open_trace` streams any size."""
CHUNK_CELLS = 1 << 21
"""Expert ids read at a time by `TraceReader.steps` (4 MiB)."""

_REQUIRED = {"experts": "I16", "sequence": "I32", "position": "I32", "phase": "I8", "step": "I32"}
_OPTIONAL = {"gate_weights": "F32", "expert_bytes": "I64", "rejected": "BOOL", "popularity": "F64"}


@dataclass(frozen=True, slots=True)
class TraceReader:
    """A trace on disk, read step by step: the whole of it is never in memory."""

    path: Path
    n_tokens: int
    n_moe_layers: int
    top_k: int
    n_experts: int
    provenance: Provenance
    tensors: frozenset[str]

    def steps(self, chunk_tokens: int | None = None) -> Iterator[Step]:
        """The forward passes in order, read `chunk_tokens` at a time (a longer step is read whole).

        Contents are checked as they are read. Raises `InvalidFile` when they are wrong.
        """
        rows = chunk_tokens or max(1, CHUNK_CELLS // (self.n_moe_layers * self.top_k))
        if rows < 1:
            raise InvalidInput(f"chunk_tokens = {rows}: it must be at least 1")
        with _opened(self.path) as file:
            read = [*_REQUIRED, *(["rejected"] if "rejected" in self.tensors else [])]
            slices = {name: file.get_slice(name) for name in read}
            going = self._going_on(slices, rows)
            held: dict[str, Any] = {}
            for start in range(0, self.n_tokens, rows):
                stop = min(start + rows, self.n_tokens)
                fresh = {name: part[start:stop] for name, part in slices.items()}
                if held:
                    fresh = {name: np.concatenate((held[name], part)) for name, part in fresh.items()}
                self._check(fresh, stop - len(fresh["step"]))
                if going.size:
                    fresh["unfinished"] = is_of(going, fresh["sequence"], fresh["phase"], fresh["step"])
                edges = (np.flatnonzero(np.diff(fresh["step"])) + 1).tolist()
                bounds = [0, *edges] if stop < self.n_tokens else [0, *edges, len(fresh["step"])]
                for first, last in pairwise(bounds):
                    yield _step(fresh, first, last)
                held = {name: fresh[name][bounds[-1] :] for name in read}

    def _going_on(self, slices: Mapping[str, Any], rows: int) -> NDArray[np.int64]:
        """The parts of prompts that later steps go on with, as of `going_on`: a stream does not know them by itself."""
        names = ("sequence", "position", "phase", "step")
        chunks = [slice(start, min(start + rows, self.n_tokens)) for start in range(0, self.n_tokens, rows)]
        parts = [prompt_parts(*(slices[name][chunk] for name in names)) for chunk in chunks]
        return going_on(np.concatenate(parts))

    def _check(self, columns: Mapping[str, Any], first_token: int) -> None:
        try:
            check_tokens(
                **{name: columns[name] for name in _REQUIRED}, n_experts=self.n_experts, first_token=first_token
            )
        except InvalidInput as error:
            raise InvalidFile(f"{self.path}: {error}") from error


def save_trace(trace: RoutingTrace, path: Path | str) -> None:
    """Write `trace` to `path`, whole or not at all. Raises `InvalidFile` when it cannot be written."""
    path = Path(path)
    arrays = {name: getattr(trace, name) for name in (*_REQUIRED, *_OPTIONAL)}
    tensors = {name: np.ascontiguousarray(array) for name, array in arrays.items() if array is not None}
    origin = trace.provenance
    header = {
        "format": FORMAT,
        "version": VERSION,
        "n_experts": trace.n_experts,
        "provenance": {
            "model": origin.model,
            "source": origin.source,
            "licence": origin.licence,
            "recorder": origin.recorder,
            "versions": dict(origin.versions),
            "note": origin.note,
        },
    }
    try:
        with whole_file(path) as partial:
            save_file(tensors, partial, metadata={"pregate": json.dumps(header, sort_keys=True)})
    except SafetensorError as error:
        raise InvalidFile(f"{path}: the trace cannot be written ({str(error).splitlines()[0]})") from error


def load_trace(path: Path | str) -> RoutingTrace:
    """The whole trace in `path`. Raises `InvalidFile` when it is missing, foreign, broken or too big."""
    reader = open_trace(path)
    size = reader.path.stat().st_size
    if size > MAX_LOADED_BYTES:
        raise InvalidFile(f"{path}: {size} bytes, at most {MAX_LOADED_BYTES} are loaded: stream it with open_trace")
    with _opened(reader.path) as file:
        arrays = {name: file.get_tensor(name) for name in sorted(reader.tensors)}
    try:
        return RoutingTrace(**arrays, n_experts=reader.n_experts, provenance=reader.provenance)
    except InvalidInput as error:
        raise InvalidFile(f"{path}: {error}") from error


def open_trace(path: Path | str) -> TraceReader:
    """A reader that streams `path`; only the header is read now, and all sizes in it are checked.

    Raises `InvalidFile` when the file is missing, truncated or of another format.
    """
    path = Path(path)
    _check_header_size(path)
    with _opened(path) as file:
        header = _header(file.metadata() or {}, path)
        found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        forms = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in found.items()}
    known = _REQUIRED | _OPTIONAL
    for name in sorted(set(_REQUIRED) - set(forms)):
        raise InvalidFile(f"{path}: tensor {name!r} is missing")
    for name in sorted(set(forms) - set(known)):
        raise InvalidFile(f"{path}: unknown tensor {name!r}, known: {', '.join(sorted(known))}")
    shape = forms["experts"][1]
    if len(shape) != 3 or 0 in shape:
        raise InvalidFile(f"{path}: experts has shape {shape}, not (n_tokens, n_moe_layers, top_k) above 0")
    n_experts, provenance = header
    by_expert = (shape[1], n_experts)
    whole = {"experts": shape, "gate_weights": shape, "expert_bytes": shape[1:2], "popularity": by_expert}
    for name, (dtype, found_shape) in forms.items():
        due = (known[name], whole.get(name, shape[:1]))
        if (dtype, found_shape) != due:
            raise InvalidFile(f"{path}: {name} is {dtype} {found_shape}, it must be {due[0]} {due[1]}")
    return TraceReader(path, *shape, n_experts, provenance, frozenset(forms))


def _check_header_size(path: Path) -> None:
    try:
        with open_regular(path) as file:
            stated = int.from_bytes(file.read(8), "little")
        if stated > min(MAX_HEADER_BYTES, path.stat().st_size - 8):
            raise InvalidFile(f"{path}: not a safetensors file, or cut short (header of {stated} bytes stated)")
    except OSError as error:
        raise InvalidFile(f"{path}: cannot be read ({error.strerror})") from error


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """`safe_open` with its errors turned into `InvalidFile`."""
    require_regular(path)
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InvalidFile(f"{path}: not a sound safetensors file ({reason})") from error


def _header(metadata: Mapping[str, str], path: Path) -> tuple[int, Provenance]:
    """`n_experts` and the provenance from the file's metadata."""
    try:
        data = json.loads(metadata.get("pregate", "null"))
    except (ValueError, RecursionError) as error:
        raise InvalidFile(f"{path}: the header is not valid JSON") from error
    if not isinstance(data, dict):
        raise InvalidFile(f"{path}: a safetensors file, but not a {FORMAT}: import it first")
    section = Section(data, str(path))
    if (name := section.text("format")) != FORMAT:
        raise InvalidFile(f"{path}: format is {name!r}, not {FORMAT!r}")
    if (version := section.integer("version")) != VERSION:
        raise InvalidFile(f"{path}: version {version} of {FORMAT}, this program reads {VERSION}")
    n_experts = section.integer("n_experts", minimum=1)
    origin = section.section("provenance")
    section.done()
    versions = origin.take("versions")
    if not isinstance(versions, dict) or not all(isinstance(text, str) for text in versions.values()):
        raise InvalidFile(f"{path}: provenance: versions is not a mapping of names to text")
    provenance = Provenance(
        model=origin.text("model"),
        source=origin.text("source"),
        licence=origin.text("licence"),
        recorder=origin.text("recorder"),
        versions=versions,
        note=origin.text("note"),
    )
    origin.done()
    return n_experts, provenance


def _step(columns: Mapping[str, Any], first: int, last: int) -> Step:
    part = {name: column[first:last] for name, column in columns.items()}
    for array in part.values():
        array.flags.writeable = False
    return Step(
        int(part["step"][0]),
        Phase(int(part["phase"][0])),
        part["experts"],
        part["sequence"],
        part["position"],
        rejected=part.get("rejected"),
        unfinished=part.get("unfinished"),
    )
