"""Tables of how often experts were chosen: popularity, not routing.

npy           [n_layers, n_experts] (DeepSeek EPLB, MIT), or [n, n_layers, n_experts] summed over n sequences or steps
              (MoE-Infinity's expert activation matrices, Apache-2.0, encoder layers first)
npz           such an array; of several, the one that has the model's layers and experts
json          [[...], ...], [n_layers, n_experts] (EPLB); under one of `COUNTS`, or by layer:
              {"3": [...]} or {"3": {"expert": count}}, {"model.layers.3.mlp": [...]}, or a line a layer,
              {"layer": 3, "counts": [...]}, or a list of such
csv           columns `layer`, `expert` and `count` and a row for each, in any order; what has no row was not chosen;
              or a row a layer with a column an expert, or numbers alone (`wide_counts`)
recorder      a file of `torch.save`: a tensor as in npy, alone or under one of `COUNTS`; a row a layer (Megatron's
              `tokens_per_expert`); SGLang's recorder in mode stat, `logical_count` [n_steps, n_layers, n_experts], or
              per_pass, `global_physical_count` of each pass and which physical expert is which
imatrix       llama.cpp's importance matrix as GGUF: `counts` of the experts' matrices
tensorrt_llm  a folder of EXPERT_STATISTIC_PATH: rank*.safetensors of "<iteration>_<layer>" -> int64 [n_experts]
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from traces.errors import InvalidFile, InvalidInput
from traces.foundation.documents import NUMBER
from traces.importers.counts.imatrix import imatrix_counts
from traces.importers.counts.tensor_counts import COUNTS, tensor_counts
from traces.importers.counts.wide_counts import wide_counts
from traces.importers.files.arrays import npy_array, npz_arrays, npz_names, safetensors_arrays
from traces.importers.files.text_lines import (
    MAX_LINE_CHARACTERS,
    json_document,
    json_lines,
    regular_file,
    text_lines,
    whole_numbers,
)
from traces.importers.files.torch_archive import read_torch_archive
from traces.importers.recording import ModelShape, refused
from traces.importers.sniffing import recognise_popularity
from traces.importers.tables import named_rows
from traces.routing import MAX_EXPERTS, Provenance
from traces.statistics.popularity import PopularityProfile

MAX_RANK_BYTES = 1 << 30
MAX_LAYERS = 4096


def import_popularity(path: Path | str, shape: ModelShape = ModelShape()) -> PopularityProfile:  # noqa: B008 (frozen)
    """The table in a file or folder. Raises `InvalidFile` for one of another kind."""
    path = Path(path)
    match recognise_popularity(path):
        case "npy":
            recorder, array = "array of counts", npy_array(path)
        case "npz":
            recorder, array = "array of counts", _from_npz(path, shape)
        case "json":
            recorder, array = "list of counts", _from_json(path, _json(path))
        case "imatrix":
            recorder, array = "llama.cpp importance matrix", imatrix_counts(path)
        case "csv":
            recorder, array = "CSV of counts", _from_csv(path)
        case "wide_csv":
            recorder, array = "CSV of counts", wide_counts(path)
        case "bare":
            recorder, array = "rows of counts", wide_counts(path, bare=True)
        case "recorder":
            recorder, array = "tensor of counts", _from_recorder(path)
        case "tensorrt_llm":
            recorder, array = "TensorRT-LLM expert statistic", _from_tensorrt_llm(path)
        case _:
            raise refused(
                path,
                "not a table of expert counts: npy, npz, json, csv, recorder .pt, imatrix GGUF or a folder of ranks",
            )
    if array.dtype.kind not in "iuf" or array.ndim not in (2, 3) or 0 in array.shape:
        raise refused(path, f"{array.dtype} {array.shape} are not counts [layers, experts] or [n, layers, experts]")
    counts = array.astype(np.float64)
    if not np.isfinite(counts).all() or counts.min() < 0:
        raise refused(path, "counts are below 0 or not finite")
    if counts.ndim == 3:
        counts = counts.sum(axis=0)
    try:
        counts = counts[counts.any(axis=1)] if counts.any() else counts  # dense layers count nothing
        return PopularityProfile(counts, Provenance("not stated in the file", path.name, recorder=recorder))
    except InvalidInput as error:
        raise refused(path, str(error)) from error


def _json(path: Path) -> Any:
    """The document, or a line a layer as one by the layers' numbers."""
    _, first = next(text_lines(path, MAX_LINE_CHARACTERS), (1, ""))
    if not re.match(r'\s*\{\s*"layer"\s*:', first):
        document = json_document(path)
        listed = isinstance(document, list) and document and all(isinstance(row, dict) for row in document)
        return _by_layer(path, enumerate(document, 1)) if listed else document
    return _by_layer(path, json_lines(path))


def _by_layer(path: Path, records: Iterable[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    """The counts of records of a layer each, by its number."""
    rows: dict[str, Any] = {}
    for number, record in records:
        layer = str(record.get("layer"))
        counts = next((record[key] for key in (*COUNTS, "count") if key in record), None)
        if layer in rows or counts is None:
            raise refused(path, f"layer {layer[:20]} comes twice, or has no counts", number)
        rows[layer] = counts
    return rows


def _from_json(path: Path, document: Any) -> NDArray[Any]:
    """A list, one under `logical_count`, or one a layer by its number."""
    if isinstance(document, dict):
        named = next((key for key in COUNTS if key in document), None)
        if named is not None:
            return _array(path, document[named])
        numbers = {key: re.findall(r"\d+", key, re.ASCII) for key in document}
        if not document or not all(len(found) == 1 and len(found[0]) < 5 for found in numbers.values()):
            raise refused(path, "its keys are not numbers of layers")
        rows = [document[key] for key in sorted(document, key=lambda key: int(numbers[key][0]))]
        if all(isinstance(row, dict) for row in rows):
            rows = [
                _by_expert(path, row, max((len(row) and max(map(_expert, row)) for row in rows), default=0))
                for row in rows
            ]
        if any(isinstance(row, list) and row and isinstance(row[0], list) for row in rows):
            raise refused(path, "a list of lists a layer: no counts, these are a number an expert")
        return _array(path, rows)
    return _array(path, document)


def _expert(key: str) -> int:
    match = _EXPERT.fullmatch(key)
    return int(match[1]) if match else MAX_EXPERTS


_EXPERT = re.compile(r"(?:expert|e)?[_ ]?(\d{1,5})", re.ASCII | re.IGNORECASE)


def _by_expert(path: Path, row: dict[str, Any], last: int) -> list[Any]:
    if last >= MAX_EXPERTS:
        raise refused(path, f"an expert that is no number below {MAX_EXPERTS}")
    counts = {_expert(key): count for key, count in row.items()}
    if len(counts) < len(row):
        raise refused(path, "an expert is counted twice in a layer: add them up")
    return [counts.get(expert, 0) for expert in range(last + 1)]


def _array(path: Path, value: Any) -> NDArray[Any]:
    try:
        return np.asarray(value)
    except (ValueError, OverflowError) as error:
        raise refused(path, "rows differ in length: [layers][experts] is needed") from error


def _from_csv(path: Path) -> NDArray[Any]:
    rows: dict[tuple[int, int], float] = {}
    for number, row in named_rows(path, ("layer", "experts", "count")):
        if NUMBER.fullmatch(row["count"]) is None:
            raise refused(path, f"count {row['count'][:60]!r} is not a number", number)
        layer, expert = whole_numbers(path, number, [row["layer"], row["experts"]])
        if not 0 <= layer < MAX_LAYERS or not 0 <= expert < MAX_EXPERTS:
            raise refused(path, f"layer {layer}, expert {expert}: below {MAX_LAYERS} and {MAX_EXPERTS}, from 0", number)
        if (layer, expert) in rows:
            raise refused(path, f"layer {layer} expert {expert} has two rows: add them up", number)
        rows[layer, expert] = float(row["count"])
    if not rows:
        raise refused(path, "no rows: the file ends after its header")
    n_layers, n_experts = (1 + max(place[axis] for place in rows) for axis in (0, 1))
    counts = np.zeros((n_layers, n_experts))
    counts[tuple(np.array(list(rows)).T)] = list(rows.values())
    return counts


def _from_npz(path: Path, shape: ModelShape) -> NDArray[Any]:
    names = npz_names(path)
    arrays = {name: array for name in names for array in npz_arrays(path, (name,)).values() if array.ndim in (2, 3)}
    wanted = (shape.n_moe_layers, shape.n_experts)
    fitting = [name for name, array in arrays.items() if None in wanted or array.shape[-2:] == wanted]
    if len(fitting) != 1:
        raise refused(path, f"{len(fitting)} of its arrays {', '.join(names[:8])} fit: save the one of the model alone")
    return arrays[fitting[0]]


def _from_recorder(path: Path) -> NDArray[Any]:
    document = read_torch_archive(path)
    counts = tensor_counts(document)
    if counts is None:
        raise refused(path, f"no tensor {', '.join(COUNTS)}: recorded in mode stat?")
    return counts


def _from_tensorrt_llm(path: Path) -> NDArray[Any]:
    folder = path if path.is_dir() else path.parent
    files = sorted(folder.glob("rank*.safetensors"))
    if not files:
        raise refused(folder, "no rank*.safetensors in it: is this a folder of expert statistics?")
    layers: dict[int, NDArray[Any]] = {}
    for file in files:
        regular_file(file, MAX_RANK_BYTES)
        for key, counts in safetensors_arrays(file).items():
            match = re.fullmatch(r"\d{1,9}_(\d{1,6})", key, re.ASCII)
            if match is None or counts.ndim != 1 or (layers and counts.shape != next(iter(layers.values())).shape):
                raise refused(file, f"{key[:40]!r} {counts.shape} is not <iteration>_<layer> of one number an expert")
            layer = int(match[1])
            layers[layer] = layers.get(layer, 0) + counts.astype(np.float64)
    if not layers:
        raise InvalidFile(f"{folder}: no counts in it")
    return np.stack([layers[layer] for layer in sorted(layers)])
