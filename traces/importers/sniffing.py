"""Which format a file is of, by its first bytes, the names in it, and its first line: never by its ending."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.errors import InvalidFile
from traces.importers.arrivals import are_arrivals
from traces.importers.counts.tensor_counts import COUNTS, tensor_counts
from traces.importers.counts.wide_counts import is_bare, is_wide
from traces.importers.files.arrays import npy_array, npz_headers, npz_names
from traces.importers.files.text_lines import only_list, regular_file
from traces.importers.files.torch_archive import read_torch_archive
from traces.importers.json_rows import LAYER_KEY, TOKEN_KEYS
from traces.importers.llama_cpp import ACTIVATIONS_HEADER, RANKS_HEADER, SERVER_LOG_HEADER
from traces.importers.plain_formats import PLAIN_CSV, PLAIN_NPZ
from traces.importers.routed_arrays import kind_of_arrays, kind_of_npz, kind_of_tensors, named_arrays
from traces.importers.routed_experts import REQUEST_KEYS
from traces.importers.router_scores import GATE_CSV_HEADER
from traces.importers.tables import columns, json_names, plain_keys, states_model
from traces.importers.unread_lines import way_out

OWN_FORMAT = "pregate"
OWN_MARK = b"pregate-routing-trace"
_HEAD_BYTES = 1 << 16
_MAX_BYTES = 1 << 40
_PACKED = {
    b"\x1f\x8b": "packed twice: unpack it first (gunzip)",
    b"\x28\xb5\x2f\xfd": "packed twice: unpack it first (unzstd)",
    b"\xfd7zXZ": "packed twice: unpack it first (unxz)",
    b"7z\xbc\xaf": "packed with 7z: unpack it first (7z x)",
    b"Rar!": "packed with rar: unpack it first (unrar x)",
    b"SQLite format 3": "a database: export its table as CSV",
    b"\x89HDF": "HDF5: save its arrays with numpy.savez",
    b"\x80\x02\x8a": "a file of torch.save from before 1.6, a pickle, which runs code when loaded: save it again, "
    "or with safetensors.torch.save_file",
    b"\x80": "a pickle, which runs code when loaded, so it is not read: save its arrays with numpy.savez",
    b"version https://git-lfs": "a pointer of Git LFS, and the file itself is not here: fetch it (git lfs pull)",
    b"<!DOCTYPE": "a page of the web, not the file: download the raw file",
    b"<html": "a page of the web, not the file: download the raw file",
    b"\xff\xfe": "UTF-16 text: save it as UTF-8",
    b"\xfe\xff": "UTF-16 text: save it as UTF-8",
}
"""By their first bytes, files that hold a trace perhaps, in a form that is not read."""
_DEEPEST = 8
_TAR_AT, _TAR = 257, b"ustar"

_BY_KEYS: dict[str, tuple[str, ...]] = {
    "policylang": ("model_name", "num_layers"),
    "speculative_moe": ("problem_id", "experts"),
    "moe_balance": ("batch_id", "topk_experts"),
    "moe_vis": ("layer", "experts"),
    "olmoe_blocks": ("exp_ids",),
    "gptoss_json": ("router_data",),
}
"""Keys that the first JSON object of a format has, the more telling first."""


_OF_TOKENS = re.compile(rf'"(?:{"|".join(TOKEN_KEYS)})"\s*:\s*\[\s*\[\s*-?\d+\s*[,\]]', re.ASCII)
"""Experts of a token, layer by layer, in a document over many lines."""

_OLD_IMATRIX = re.compile(rb"[\x01-\xff].\0\0[\x01-\xc8]\0\0\0(?:blk\.|output|token_embd)", re.DOTALL)
"""The number of its tensors, the length of the first one's name, and the name."""
_ROW_OF_MASKS = re.compile(
    rb'\A\s*\[?\s*\{[^\[\]]{0,500}"[\w.]*(?:mask|routing_map|one_hot)"\s*:\s*\[+\s*(?:[01]\b(?!\.)|true|false)',
    re.IGNORECASE,
)

_PROFILE = re.compile(rb'"traceEvents"|"deviceProperties"|"ph"\s*:\s*"[XBEiM]"|"CudaEvent"|CUPTI_ACTIVITY|^NSYS')


def recognise(path: Path) -> str:
    """The name of the format of a routing trace.

    Raises `InvalidFile` for a popularity table (with what to do with it), and for what no importer reads: it lists
    what can be read.
    """
    found = _routing(path, _head(path))
    if found is not None:
        return found
    head = _head(path)
    packed = next((how for first, how in _PACKED.items() if head.startswith(first)), None)
    if head[_TAR_AT:].startswith(_TAR):
        packed = "an archive of files: take the trace out of it (tar xf)"
    if packed is not None:
        raise InvalidFile(f"{path}: {packed}")
    if head.startswith(b"\x93NUMPY"):
        _refuse_no_counts(path, npy_array(path))
    if head.startswith(b"PK\x03\x04") and not _is_torch(path) and {"prefill", "decode"} <= set(npz_names(path)):
        raise InvalidFile(
            f"{path}: arrays prefill and decode: one array experts [tokens, layers, k] is read, with sequence, "
            f"position, step and phase (0 and 1) beside it"
        )
    if recognise_popularity(path) is not None:
        raise InvalidFile(
            f"{path}: counts of experts, not a routing trace: give it to --popularity (choices of all layers in a row "
            f"are an array [tokens, layers, k])"
        )
    if are_arrivals(next(iter(head.decode("utf-8-sig", errors="replace").splitlines()), "").strip()):
        raise InvalidFile(f"{path}: times of requests, not a routing trace: `pregate arrivals` takes it as --arrivals")
    if _OLD_IMATRIX.match(head):
        raise InvalidFile(
            f"{path}: an importance matrix of llama.cpp in its older form, which keeps no counts by expert: write it "
            f"anew with --output-format gguf"
        )
    if _PROFILE.search(head):
        raise InvalidFile(
            f"{path}: a profile of kernels, which says when they ran, not what gates chose: record routing, as "
            f"`pregate record --help` says"
        )
    if _ROW_OF_MASKS.search(head):
        raise InvalidFile(
            f'{path}: rows of masks over all experts: call their key "experts" where each chooses as many, else write '
            f"the ids of those that were chosen"
        )
    how = way_out(head.decode("utf-8", errors="ignore"))
    if how is not None:
        raise InvalidFile(f"{path}: {how}")
    raise InvalidFile(
        f"{path}: not a routing trace of a known format (`pregate trace import --help` lists them): write choices of "
        f"your own as CSV, sequence,phase,position,layer,slot,expert (docs/traces.md)"
    )


def _refuse_no_counts(path: Path, array: NDArray[Any]) -> None:
    """Raise `InvalidFile` for an array that holds neither choices nor counts."""
    if array.dtype.kind == "b":
        raise InvalidFile(
            f"{path}: a mask {array.shape} whose rows choose unlike many experts, all or none: experts last?"
        )
    if array.dtype.kind not in "iuf" or array.ndim not in (2, 3) or not array.size or not np.isfinite(array).all():
        raise InvalidFile(f"{path}: {array.dtype} {array.shape} are no choices [tokens, layers, k], scores or counts")


def is_routing(path: Path) -> bool:
    """Whether a file shows itself to be a routing trace."""
    return path.is_file() and _routing(path, _head(path)) is not None


def recognise_popularity(path: Path) -> str | None:
    """The kind of a table of counts: npy, npz, json, csv, bare, recorder, imatrix or tensorrt_llm; None: another.

    Raises `InvalidFile` for an archive of several files.
    """
    if path.is_dir() or path.name == "meta_info.json":
        return "tensorrt_llm"
    head = _head(path)
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head.startswith(b"GGUF"):
        return "imatrix"
    if head.startswith(b"PK\x03\x04"):
        if _is_torch(path):
            return None if tensor_counts(read_torch_archive(path)) is None else "recorder"
        if not npz_headers(path):
            raise InvalidFile(f"{path}: an archive of files: take the trace out of it (unzip), a file at a time")
        return "npz"
    text = head.removeprefix(b"\xef\xbb\xbf")
    first = next((line for line in text.decode(errors="replace").splitlines() if not line.startswith("#")), "")
    if {"layer", "experts", "count"} <= set(columns(first) or ()):
        return "csv"
    if is_wide(first):
        return "wide_csv"
    if is_bare(text.decode(errors="replace")):
        return "bare"
    opens = (
        rb"\s*(\[\s*\[\s*\[?\s*[-\d]"
        rb'|\{\s*"(' + "|".join(COUNTS).encode() + rb'|\d+)"\s*:|\{\s*"[\w.]*\d[\w.]*"\s*:\s*[\[{]'
        rb'|(\[\s*)?\{\s*"layer"\s*:\s*\d+\s*,\s*"(count|' + "|".join(COUNTS).encode() + rb')"\s*:\s*\[)'
    )
    return "json" if re.match(opens, text) else None


def _head(path: Path) -> bytes:
    regular_file(path, _MAX_BYTES)
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise InvalidFile(f"{path}: cannot be read ({error.strerror}): check the path") from error
    if not head:
        raise InvalidFile(f"{path}: the file is empty")
    return head


def _routing(path: Path, head: bytes) -> str | None:
    if head.startswith(b"MBLT"):
        return "mbolt"
    if head.startswith(b"RTRACE01"):
        return "rtrace01"
    if head[8:9] == b"{" and head[4:8] == bytes(4):  # how long the header is, of which text has no zeros
        return (OWN_MARK not in head and kind_of_tensors(path, head)) or OWN_FORMAT
    if head.startswith(b"PK\x03\x04"):
        return _of_torch(path) if _is_torch(path) else _of_npz(path)
    if head.startswith(b"\x93NUMPY"):
        return {"routed_array": "routed_npy"}.get(found := kind_of_arrays({"": npy_array(path)}) or "", found) or None
    return _of_text(head)


def _is_torch(path: Path) -> bool:
    return any(name == "data.pkl" or name.endswith("/data.pkl") for name in npz_names(path))


def _of_torch(path: Path) -> str | None:
    document = read_torch_archive(path)
    if isinstance(document, list | tuple):
        chosen = all(isinstance(item, np.ndarray) for item in document) and _of_named(document) == "routed_array"
        return "routed_array" if chosen else "router_logits"
    if isinstance(document, np.ndarray):
        return kind_of_arrays({"": document})
    if not isinstance(document, dict):
        return None
    records = document.get("records")
    if isinstance(records, list) and records and isinstance(records[0], dict) and _CHOICES not in records[0]:
        return None
    known = next((name for key, name in _TORCH_KEYS.items() if isinstance(document.get(key), list | tuple)), None)
    return known or _of_named(document)


def _of_named(document: Any) -> str | None:
    return kind_of_arrays({key: item for key, item in named_arrays(document).items() if isinstance(item, np.ndarray)})


_TORCH_KEYS = {"records": "sglang_recorder", "router_logits": "router_logits"}
_CHOICES = "topk_ids_of_layer"


def _of_npz(path: Path) -> str | None:
    names = set(npz_names(path))
    if names >= set(PLAIN_NPZ):
        return "plain_npz"
    if "routed_experts" in names:
        return "vllm_npz"
    return "gptoss_npz" if "seq_start" in names else kind_of_npz(path)


def _of_text(head: bytes) -> str | None:
    try:
        text = head.decode("utf-8-sig", errors="strict" if len(head) < _HEAD_BYTES else "ignore").lstrip()
    except UnicodeDecodeError:
        return None
    first = text.splitlines()[0].strip() if text else ""
    if first.startswith("# route_trace"):
        return "route_trace_v1"
    if first.startswith("#"):
        first = next((line.strip() for line in text.splitlines() if not line.startswith("#")), "")
    if first.startswith(PLAIN_CSV):
        return "plain_csv"
    if first == RANKS_HEADER:
        return "llama_ranks"
    if first == SERVER_LOG_HEADER:
        return "llama_server_log"
    if first == ACTIVATIONS_HEADER:
        return "llama_activations"
    if GATE_CSV_HEADER.match(first):
        return "gate_csv"
    if re.fullmatch(r"-?\d+,\d+(,\d+)+", first, re.ASCII) and not is_bare(text):
        return "llama_moe_trace"
    if {"position", "layer", "experts"} <= set(columns(first) or ()):
        return "table"
    if re.match(r'((\[\s*){3}|\{\s*"[\w.]*\d[\w.]*"\s*:\s*(\[\s*){2})(-?\d|true|false)', text, re.ASCII):
        return "routed_array"
    return _of_json(text, first) if text.startswith(("{", "[")) else None


def _of_json(text: str, first: str) -> str | None:
    try:
        record = json.loads(first)
    except (ValueError, RecursionError):
        record = None
    if isinstance(record, list) and record:
        record = record[0]
    if isinstance(record, dict) and states_model(record) and _of_record(record) is None:
        second = next((line for line in text.splitlines()[1:] if line.strip()), "")
        record = _object(second) or record
    if isinstance(record, dict):
        return _of_record(record)
    # A document over many lines, or one long line: the names that stand in its beginning.
    keys = set(re.findall(r'"(\w+)"\s*:', text, re.ASCII))
    if keys.isdisjoint(REQUEST_KEYS) and _OF_TOKENS.search(text):
        return "token_lines"
    return _of_record(dict.fromkeys(keys))


def _object(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _of_record(record: Mapping[str, Any]) -> str | None:
    if record.get("type") in ("meta", "route"):
        return "vllm_route_log"
    if str(record.get("format", "")).startswith("moe-cache-lab") or record.get("record_type") is not None:
        return "moe_cache_lab"
    named = next((name for name, keys in _BY_KEYS.items() if all(key in record for key in keys)), None)
    names = set(json_names(record) or ())
    is_row = {"position", "layer", "experts"} <= names
    if named is not None:
        return "table" if is_row and named == "moe_vis" else named  # which has no tokens in its lines
    nested = [record[key] for key in TOKEN_KEYS if key in record]
    if {"layer", "experts"} <= names and not is_row and any(_depth(item) == 2 for item in nested):
        return "moe_vis"
    if any(_depth(item) == 3 for item in nested):
        return "vllm_completion"
    if any(_depth(item) == 2 or _is_by_layer(item) for item in nested):
        return "token_lines"
    if is_row:
        return "table"
    record = plain_keys(record)
    within = _requests(record)
    if within and {"position", "layer", "experts"} <= set(json_names(within[0]) or ()):
        return "table"
    if set(record) & set(REQUEST_KEYS) or any(set(plain_keys(one)) & set(REQUEST_KEYS) for one in within):
        return "vllm_completion"
    answers = {
        "routed_experts",
        "prompt_routed_experts",
        "choices",
        "outputs",
        "meta_info",
        "sgl_ext",
        "engine_data",
        "nvext",
    }
    if answers & set(record):
        return "vllm_completion"
    return "token_lines" if within and _of_record(within[0]) == "token_lines" else None


def _requests(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The requests that a document holds under one name."""
    found = only_list(record)
    return [] if found is None else [found[0]]


def _depth(item: Any) -> int:
    """Of how many lists in each other a value is."""
    depth = 0
    while isinstance(item, list) and item and depth < _DEEPEST:
        item, depth = item[0], depth + 1
    return depth


def _is_by_layer(item: Any) -> bool:
    return (
        isinstance(item, dict)
        and bool(item)
        and all(LAYER_KEY.fullmatch(name) is not None and isinstance(chosen, list) for name, chosen in item.items())
    )
