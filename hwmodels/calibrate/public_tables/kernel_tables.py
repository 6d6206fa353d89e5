"""Public tables of measured kernels, in the layout of the package aiconfigurator-core (NVIDIA, Apache-2.0).

`systems/data/GPU/FAMILY/ENGINE/VERSION/NAME_perf.parquet`, a row a kernel, `latency` in milliseconds. What must be
known of them: GEMMs read six weights in turn (`laws.gemm.CYCLED_WEIGHTS`); GEMMs in fp8 and nvfp4 include the kernel
that quantises; attention includes appending keys and values; experts include top-k and permutation.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hwmodels.calibrate.public_tables.table_readers import READERS, Columns, KernelTable, Reader
from hwmodels.laws.families import family_of
from hwmodels.specs.machine_files import load_machine
from traces.errors import InvalidInput, unknown_name
from traces.foundation.documents import open_regular

__all__ = ["MACHINES", "PACKAGE", "KernelTable", "kernel_tables", "tables_folder", "versions"]

PACKAGE = "aiconfigurator-core"

MACHINES: Mapping[str, str] = {
    "a100_sxm": "a100-sxm4-80gb",
    "h100_sxm": "h100-sxm",
    "h200_sxm": "h200-sxm",
    "l40s": "l40s",
    "b200_sxm": "b200",
    "gb200": "gb200",
    "b300_sxm": "b300",
    "gb300": "gb300",
    "rtx_pro_6000_server": "rtx-pro-6000",
}
"""The GPUs of the tables that are described here and have GEMMs there. Intel's B60 is not described."""

_LEAST_ROWS = 50
"""Rows of a table at least: fewer do not tell constants apart."""

_STAND_INS: Mapping[str, str] = {
    "moe/moe_perf": "sglang",
    "mla/generation_mla_perf": "sglang",
    "mla/context_mla_perf": "trtllm",
}
"""The engine whose kernels stand in for another's that has no such table: the same fused Triton kernel of experts, the
same kernels of latents; a prompt's latents are decompressed, as vLLM does it, by TensorRT-LLM."""


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
    """Every kernel of one engine and version on one GPU that a law is known for, with rows enough (`_STAND_INS`).

    Raises `InvalidInput` where there are no dense GEMMs in bf16.
    """
    found: list[KernelTable] = []
    for name, read in READERS.items():
        tables = _read(folder, gpu, name, engine, version, read)
        if not tables and (other := _STAND_INS.get(name)) is not None:
            newest = _newest(folder, gpu, name, other)
            tables = [] if newest is None else _read(folder, gpu, name, other, newest, read)
        found += tables
    if not any(table.form == "gemm" for table in found):
        raise InvalidInput(f"{folder}: of {engine} {version} on {gpu} no bf16 GEMMs, which every fit needs")
    return tuple(found)


def _newest(folder: Path, gpu: str, name: str, engine: str) -> str | None:
    """The newest version of `engine` that has the table; None without any."""
    family, _, stem = name.partition("/")
    found = [path.parent.name for path in (folder / gpu / family / engine).glob(f"*/{stem}.parquet")]
    return max(found, key=_version_key, default=None)


def _read(folder: Path, gpu: str, name: str, engine: str, version: str, read: Reader) -> list[KernelTable]:
    """The tables of one file that have rows enough; none where there is no such file."""
    family, _, stem = name.partition("/")
    path = folder / gpu / family / engine / version / f"{stem}.parquet"
    if not path.is_file():
        return []
    columns, digest = _columns(path)
    kin = family_of(load_machine(MACHINES[gpu]).accelerator.compute_capability)
    place = f"{gpu}/{family}/{engine}/{version}/{path.name}"
    try:
        tables = read(columns, {"table": place, "sha256": digest, "engine": engine, "version": version}, kin)
    except KeyError as error:
        raise InvalidInput(f"{path}: no column {error}") from None
    return [table for table in tables if len(table) >= _LEAST_ROWS]


def _columns(path: Path) -> tuple[Columns, str]:
    """Columns of a Parquet file and the SHA-256 of its bytes. Raises `InvalidInput`."""
    try:
        import pyarrow.parquet as parquet
    except ModuleNotFoundError:
        raise InvalidInput(f"{path}: pip install 'pregate[aiconfigurator]' to read Parquet") from None
    with open_regular(path) as file:
        raw = file.read()
    try:
        table = parquet.read_table(path)
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from None
    columns = {name: np.asarray(table[name].to_pylist()) for name in table.column_names}
    if "latency" not in columns:
        raise InvalidInput(f"{path}: no column latency")
    return columns, hashlib.sha256(raw).hexdigest()
