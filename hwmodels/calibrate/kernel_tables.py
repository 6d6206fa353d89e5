"""Public tables of measured kernels, in the layout of the package aiconfigurator-core (NVIDIA, Apache-2.0).

`systems/data/GPU/FAMILY/ENGINE/VERSION/NAME_perf.parquet`, a row a kernel, `latency` in milliseconds. What must be
known of them: GEMMs read six weights in turn (`laws.gemm.CYCLED_WEIGHTS`); GEMMs in fp8 and nvfp4 include the kernel
that quantises; attention includes appending keys and values; experts include top-k and permutation.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwmodels.laws.forms import FORMS
from hwmodels.quantity import ReadOnly
from traces.errors import InvalidInput, unknown_name

__all__ = ["MACHINES", "PACKAGE", "KernelTable", "kernel_tables", "tables_folder", "versions"]

PACKAGE = "aiconfigurator-core"

MACHINES: Mapping[str, str] = {
    "a100_sxm": "a100-sxm4-80gb",
    "h100_sxm": "h100-sxm",
    "h200_sxm": "h200-sxm",
    "l40s": "l40s",
    "b200_sxm": "b200",
    "gb300": "gb300",
    "rtx_pro_6000_server": "rtx-pro-6000",
}
"""The GPUs of the tables that are described here. Others (GB200, B300, Intel's B60) are not."""

_LEFT_OUT: Mapping[tuple[str, str], str] = {
    ("vllm", "fp8_block"): "host time: small shapes all take what launching does",
}
"""GEMM tables, by engine and format, that are not times of a GPU."""

_GEMM_FORMATS = {
    "bfloat16": ("gemm", "bf16", "bf16"),
    "fp8": ("quantised_gemm", "fp8", "fp8"),
    "fp8_block": ("quantised_gemm", "fp8", "fp8-b128"),
    "nvfp4": ("quantised_gemm", "fp4", "nvfp4"),
}

_EXPERT_FORMATS = {
    "bfloat16": ("bf16", "bf16"),
    "fp8": ("fp8", "fp8"),
    "fp8_block": ("fp8", "fp8-b128"),
    "w4a16_mxfp4": ("bf16", "mxfp4"),
    "nvfp4": ("fp4", "nvfp4"),
    "int4_wo": ("bf16", "int4-g128"),
}
_CACHE_FORMATS = {"bfloat16": "bf16", "fp8": "fp8"}

_ATTENTION_KERNELS = (
    ("fa3", "flash-attention-3"),
    ("fa2", "flash-attention-2"),
    ("trtllmprefill", "trtllm-gen"),
    ("trtllmdecode", "trtllm-gen"),
    ("vllm_flash_attn", "flash-attention-2"),
)
"""What a kernel's name in a table ends in, and the layout that it is."""

_UNGATED = frozenset({(2688, 1856), (2048, 5120), (1024, 2688)})
"""(hidden size, FFN size) of experts without a gate projection: the Nemotron models, whose activation is relu2."""

_LEAST_GEMM = 512
"""Columns and inner dimension of a GEMM at least: what a model multiplies on one device."""

_LEAST_ROWS = 50
"""Rows of a table at least: fewer do not tell constants apart."""


_STAND_IN = "sglang"
"""The engine whose experts stand in for another's."""

Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class KernelTable:
    """Rows of one kernel in one format: `shapes` by axis, each (n,), `seconds` (n,), `family` (n,) int.

    `source`: where they were read, as text.
    """

    form: str
    compute: str
    stored: str
    kernel: str
    shapes: Mapping[str, NDArray[np.float64]]
    seconds: NDArray[np.float64]
    family: NDArray[np.int64]
    source: Mapping[str, str]

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is of: law, format of arithmetic, format of storage."""
        return self.form, self.compute, self.stored

    def __len__(self) -> int:
        return len(self.seconds)

    def rows(self, chosen: NDArray[Any]) -> KernelTable:
        """Some of its rows, by index or by mask."""
        shapes = {name: column[chosen] for name, column in self.shapes.items()}
        return KernelTable(
            self.form, self.compute, self.stored, self.kernel, ReadOnly(shapes), self.seconds[chosen],
            self.family[chosen], self.source,
        )  # fmt: skip


def tables_folder(folder: Path | None = None) -> Path:
    """`folder`, or that of the installed package; the package itself is not run. Raises `InvalidInput`."""
    if folder is None:
        found = importlib.util.find_spec(PACKAGE.replace("-", "_"))
        if found is None or not found.submodule_search_locations:
            raise InvalidInput(
                f"{PACKAGE} is not installed: pip install 'pregate[aiconfigurator]', or --tables FOLDER of an "
                f"unpacked one"
            )
        folder = Path(found.submodule_search_locations[0])
    for data in (folder, folder / "systems" / "data", folder / PACKAGE.replace("-", "_") / "systems" / "data"):
        if data.is_dir() and any(data.glob("*/*/*/*/*_perf.parquet")):
            return data
    raise InvalidInput(f"{folder}: no tables GPU/FAMILY/ENGINE/VERSION/NAME_perf.parquet, of {PACKAGE} or like it")


def versions(folder: Path, gpu: str, engine: str) -> tuple[str, ...]:
    """Versions of `engine` that `gpu` has GEMM tables of, oldest first. Raises `UnknownName`."""
    gpus = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name in MACHINES)
    if gpu not in gpus:
        raise unknown_name("GPU of the tables", gpu, gpus)
    engines = sorted(path.name for path in (folder / gpu / "gemm").glob("*"))
    if engine not in engines:
        raise unknown_name("engine", engine, engines)
    found = [path.name for path in (folder / gpu / "gemm" / engine).iterdir()]
    return tuple(sorted(found, key=_version_key))


def _version_key(version: str) -> tuple[tuple[int, ...], str]:
    """Numbers in their order: 0.9 before 0.14."""
    numbers = "".join(letter if letter.isdigit() else " " for letter in version).split()
    return tuple(int(number) for number in numbers), version


def kernel_tables(folder: Path, gpu: str, engine: str, version: str) -> tuple[KernelTable, ...]:
    """Every kernel of one engine and version on one GPU that a law is known for, with rows enough.

    Where an engine's experts are all skewed (vLLM's on A100), those of SGLang stand in: the same fused Triton kernel.
    """
    found: list[KernelTable] = []
    for name, read in _READERS.items():
        found += _read(folder, gpu, name, engine, version, read)
    if not any(table.form == "experts" for table in found) and (folder / gpu / "gemm" / _STAND_IN).is_dir():
        newest = versions(folder, gpu, _STAND_IN)[-1]
        found += _read(folder, gpu, "moe/moe_perf", _STAND_IN, newest, _experts)
    if not any(table.form == "gemm" for table in found):
        raise InvalidInput(f"{folder}: of {engine} {version} on {gpu} no bf16 GEMMs, which every fit needs")
    return tuple(found)


def _read(folder: Path, gpu: str, name: str, engine: str, version: str, read: _Reader) -> list[KernelTable]:
    """The tables of one file that have rows enough; none where there is no such file."""
    family, _, stem = name.partition("/")
    path = folder / gpu / family / engine / version / f"{stem}.parquet"
    if not path.is_file():
        return []
    columns, digest = _columns(path)
    place = f"{gpu}/{family}/{engine}/{version}/{path.name}"
    try:
        tables = read(columns, {"table": place, "sha256": digest, "engine": engine, "version": version})
    except KeyError as error:
        raise InvalidInput(f"{path}: no column {error}") from None
    return [table for table in tables if len(table) >= _LEAST_ROWS]


def _columns(path: Path) -> tuple[Columns, str]:
    """Columns of a Parquet file and the SHA-256 of its bytes. Raises `InvalidInput`."""
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise InvalidInput(f"{path}: pip install 'pregate[aiconfigurator]' to read Parquet") from None
    raw = path.read_bytes()
    try:
        table = parquet.read_table(path)
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from None
    columns = {name: np.asarray(table[name].to_pylist()) for name in table.column_names}
    if "latency" not in columns:
        raise InvalidInput(f"{path}: no column latency")
    return columns, hashlib.sha256(raw).hexdigest()


def _gemms(columns: Columns, source: Mapping[str, str]) -> list[KernelTable]:
    wide = (columns["n"] >= _LEAST_GEMM) & (columns["k"] >= _LEAST_GEMM)
    found = []
    for name, (form, compute, stored) in _GEMM_FORMATS.items():
        rows = wide & (columns["gemm_dtype"] == name)
        if (source["engine"], name) not in _LEFT_OUT:
            shapes = {axis: columns[axis] for axis in ("m", "n", "k")}
            found.append(_table(form, compute, stored, "", shapes, columns, rows, source))
    return found


def _attention(
    columns: Columns, source: Mapping[str, str], form: str, context: NDArray[Any], chosen: NDArray[np.bool_]
) -> list[KernelTable]:
    """Without windows; of each format of the cache the kernel that most rows ran."""
    shapes = {
        "n_sequences": columns["batch_size"],
        "n_heads": columns["num_heads"],
        "n_kv_heads": columns["num_key_value_heads"],
        "head_width": columns["head_dim"],
        "context": context,
    }
    whole = chosen & (columns.get("window_size", np.zeros(len(context))) == 0)
    found = []
    for name, stored in _CACHE_FORMATS.items():
        mine = whole & (columns["kv_cache_dtype"] == name)
        ran = _commonest(columns["kernel_source"][mine])
        kernel = next((kernel for end, kernel in _ATTENTION_KERNELS if ran.endswith(end)), None)
        if kernel is not None:
            rows = mine & (columns["kernel_source"] == ran)
            found.append(_table(form, "bf16", stored, kernel, shapes, columns, rows, source))
    return found


def _decode(columns: Columns, source: Mapping[str, str]) -> list[KernelTable]:
    context = columns["isl"] + columns["step"]
    return _attention(columns, source, "decode_attention", context, np.ones(len(context), np.bool_))


def _context(columns: Columns, source: Mapping[str, str]) -> list[KernelTable]:
    """Prompts of one token are decoding."""
    return _attention(columns, source, "context_attention", columns["isl"], columns["isl"] > 1)


def _experts(columns: Columns, source: Mapping[str, str]) -> list[KernelTable]:
    """Balanced rows on one device: of skewed ones the tables do not say how many rows each expert got."""
    pairs = zip(columns["hidden_size"].tolist(), columns["inter_size"].tolist(), strict=True)
    shapes = {
        "n_tokens": columns["num_tokens"],
        "d_model": columns["hidden_size"],
        "d_ff": columns["inter_size"] / columns["moe_tp_size"],
        "d_ff_whole": columns["inter_size"],
        "top_k": columns["topk"],
        "n_experts": columns["num_experts"],
        "n_up": np.array([1 if pair in _UNGATED else 2 for pair in pairs]),
    }
    alone = (columns["distribution"] == "balanced") & (columns["moe_ep_size"] == 1)
    found = []
    for name, (compute, stored) in _EXPERT_FORMATS.items():
        mine = alone & (columns["moe_dtype"] == name)
        rows = mine & (columns["kernel_source"] == _commonest(columns["kernel_source"][mine]))
        found.append(_table("experts", compute, stored, "", shapes, columns, rows, source))
    return found


def _numbered(columns: Columns, names: Sequence[str]) -> NDArray[np.int64]:
    """Rows alike in all of `names` have one number, from 0."""
    of_family = np.stack([columns[name] for name in names])
    if not of_family.shape[1]:
        return np.zeros(0, np.int64)
    return np.asarray(np.unique(of_family, axis=1, return_inverse=True)[1], np.int64).reshape(-1)


def _commonest(names: NDArray[Any]) -> str:
    """The name that most rows have; "" of none."""
    known, counts = np.unique(names, return_counts=True)
    return str(known[int(np.argmax(counts))]) if len(known) else ""


def _table(
    form: str, compute: str, stored: str, kernel: str, shapes: Columns, columns: Columns, rows: NDArray[np.bool_],
    source: Mapping[str, str],
) -> KernelTable:  # fmt: skip
    """Rows with a positive time, families numbered."""
    rows = rows & (columns["latency"] > 0)
    kept = {name: np.asarray(column, np.float64)[rows] for name, column in shapes.items()}
    family = _numbered(kept, FORMS[form].family)
    if form == "experts" and len(family) and not family.any():  # one model: its slices of the FFN
        family = _numbered(kept, ("d_ff",))
    ran = {"kernel": _commonest(columns["kernel_source"][rows])} if "kernel_source" in columns else {}
    return KernelTable(
        form, compute, stored, kernel, ReadOnly(kept), columns["latency"][rows] * 1e-3, family,
        ReadOnly({**source, **ran}),
    )  # fmt: skip


_Reader = Callable[[Columns, Mapping[str, str]], list[KernelTable]]

_READERS: Mapping[str, _Reader] = {
    "gemm/gemm_perf": _gemms,
    "attention/generation_attention_perf": _decode,
    "attention/context_attention_perf": _context,
    "moe/moe_perf": _experts,
}
"""What reads a table, by its folder and name."""
