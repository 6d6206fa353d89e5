"""Files packed with gzip, bzip2, xz or zstd, or alone in a zip: what is in them, in a folder that goes again.

A table of Parquet or Arrow is unpacked as text: CSV, or a JSON object a row where a column holds lists. Nothing is
unpacked beyond `MAX_UNPACKED_BYTES`, nor with more memory than `_MAX_MEMORY`, however small the file.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

from traces.errors import InvalidFile
from traces.foundation.documents import open_regular

MAX_UNPACKED_BYTES = 2 << 30
_MAX_MEMORY = 256 << 20  # xz -9 needs 65 MiB
_CHUNK = 1 << 20
_UNSOUND = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
_ENDINGS = (".gz", ".bz2", ".xz", ".zst", ".zstd", ".zip")


@contextmanager
def unpacked_file(path: Path) -> Iterator[Path]:
    """`path`, or where it is packed a file of what is in it, for as long as the context lasts.

    Raises `InvalidFile` for a packed file that is cut short, too big, or packed in a way that is not read here; what
    the context raises names `path`.
    """
    kind = _kind(path)
    if kind is None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="pregate-") as folder:
        plain = Path(folder) / (path.stem if path.suffix.lower() in _ENDINGS else path.name)
        try:
            _unpack(path, kind, plain)
            yield plain
        except InvalidFile as error:
            raise InvalidFile(str(error).replace(str(plain), str(path))) from error


def _kind(path: Path) -> str | None:
    if path.is_dir():
        return None
    with open_regular(path) as file:
        head = file.read(4)
    if head == b"PK\x03\x04":
        return "zip" if _only_member(path) else None
    return next((name for first, name in _FIRST.items() if head.startswith(first)), None)


_FIRST = {
    b"PAR1": "parquet",
    b"ARRO": "arrow",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zX": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}


def _only_member(path: Path) -> str | None:
    """The one file of a zip that is an archive of nothing else: no npz, no file of `torch.save`."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX/")]
    except (OSError, ValueError, RuntimeError, *_UNSOUND):
        return None
    return names[0] if len(names) == 1 and not names[0].endswith((".npy", "data.pkl")) else None


def _unpack(path: Path, kind: str, plain: Path) -> None:
    try:
        with plain.open("xb") as target:
            n_bytes = 0
            for chunk in _chunks(path, kind):
                n_bytes += len(chunk)
                if n_bytes > MAX_UNPACKED_BYTES:
                    raise InvalidFile(f"{path}: unpacks to more than {MAX_UNPACKED_BYTES} bytes, the most that is read")
                target.write(chunk)
    except (OSError, RuntimeError, ValueError, *_UNSOUND) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise InvalidFile(f"{path}: cannot be unpacked ({error.strerror}): unpack it yourself first") from error
        why = " ".join(str(error).split())[:80]
        raise InvalidFile(f"{path}: not a sound {kind} file ({why}): cut short?") from error


def _chunks(path: Path, kind: str) -> Iterator[bytes]:
    with open_regular(path) as file:
        match kind:
            case "gzip":
                yield from _read(gzip.GzipFile(fileobj=file, mode="rb"))
            case "bzip2":
                yield from _streams(file, bz2.BZ2Decompressor)
            case "xz":
                yield from _streams(file, partial(lzma.LZMADecompressor, memlimit=_MAX_MEMORY))
            case "zip":
                with zipfile.ZipFile(file) as archive, archive.open(str(_only_member(path))) as member:
                    yield from _read(member)
            case "zstd":
                yield from _of_zstd(path)
            case _:
                _require_arrow(path, f"a table of {kind.capitalize()}", "or save it as CSV")
                from traces.importers.files.column_files import rows_as_text

                yield from rows_as_text(path, kind)


def _read(file: object) -> Iterator[bytes]:
    return iter(partial(file.read, _CHUNK), b"")  # type: ignore[attr-defined]


def _streams(file: BinaryIO, make: Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor]) -> Iterator[bytes]:
    """Streams one after the other, a chunk at a time however much one unpacks to. Raises `EOFError` for half of one."""
    stream, waiting = make(), file.read(_CHUNK)
    while waiting or not (stream.eof or stream.needs_input):
        yield stream.decompress(waiting, _CHUNK)
        waiting = b""
        if stream.eof:
            waiting = stream.unused_data.lstrip(b"\0") or file.read(_CHUNK)
            if waiting:
                stream = make()
        elif stream.needs_input:
            waiting = file.read(_CHUNK)
            if not waiting:
                raise EOFError("it ends within a stream")


def _of_zstd(path: Path) -> Iterator[bytes]:
    _require_arrow(path, "packed with zstd", "or unpack it first (unzstd)")
    import pyarrow as pa

    with pa.OSFile(str(path)) as file, pa.CompressedInputStream(file, "zstd") as stream:
        yield from _read(stream)


def _require_arrow(path: Path, what: str, otherwise: str) -> None:
    if find_spec("pyarrow") is None:
        raise InvalidFile(f"{path}: {what}: pip install 'pregate[parquet]', {otherwise}")
