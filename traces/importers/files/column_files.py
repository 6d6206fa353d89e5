"""Tables of Parquet and Arrow as text that importers read: CSV, or a JSON object a row where a column holds lists."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from traces.errors import InvalidFile

_ROWS = 4096  # at once
_MAX_ROWS = 1 << 28
_MAX_COLUMNS = 4096


def rows_as_text(path: Path, kind: str) -> Iterator[bytes]:
    """The rows of a file, a header first where they are CSV; columns of dates and other objects are left out.

    Raises `InvalidFile`, or `ValueError` or `OSError` for a broken one.
    """
    if kind == "parquet":
        with parquet.ParquetFile(path) as file:
            names = _read_columns(path, file.schema_arrow, file.metadata.num_rows)
            yield from _text(file.schema_arrow, names, file.iter_batches(batch_size=_ROWS, columns=names))
    else:
        with pa.OSFile(str(path)) as source, pa.ipc.open_file(source) as reader:
            names = _read_columns(path, reader.schema, 0)
            batches = (reader.get_batch(i).select(names) for i in range(reader.num_record_batches))
            yield from _text(reader.schema, names, batches)


def _read_columns(path: Path, schema: Any, n_rows: int) -> list[str]:
    if n_rows > _MAX_ROWS or len(schema) > _MAX_COLUMNS:
        raise InvalidFile(f"{path}: {n_rows} rows of {len(schema)} columns, {_MAX_ROWS} of {_MAX_COLUMNS} are read")
    names = [field.name for field in schema if _is_read(field.type)]
    if not names or len(set(schema.names)) < len(schema):
        raise InvalidFile(f"{path}: no column of numbers, text or lists, or one twice: {', '.join(schema.names)[:80]}")
    return names


def _is_read(type: Any) -> bool:
    if pa.types.is_list(type) or pa.types.is_large_list(type) or pa.types.is_fixed_size_list(type):
        return _is_read(type.value_type)
    if pa.types.is_struct(type):
        return all(_is_read(type.field(i).type) for i in range(type.num_fields))
    known = (pa.types.is_integer, pa.types.is_floating, pa.types.is_string, pa.types.is_large_string)
    return any(is_kind(type) for is_kind in (*known, pa.types.is_boolean, pa.types.is_null))


def _text(schema: Any, names: list[str], batches: Iterator[Any]) -> Iterator[bytes]:
    if any(pa.types.is_nested(schema.field(name).type) for name in names):
        for batch in batches:
            yield "".join(json.dumps(row) + "\n" for row in batch.to_pylist()).encode()
        return
    yield _lines([names])
    for batch in batches:
        yield _lines(list(row.values()) for row in batch.to_pylist())


def _lines(rows: Any) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode()
