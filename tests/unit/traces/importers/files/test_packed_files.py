"""Traces and tables that are packed: gzip, bzip2, xz, zstd, a zip of one file; bounded, whole or refused."""

from __future__ import annotations

import bz2
import gzip
import importlib.util
import io
import lzma
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import pregate
from tests.recorded_files import EXPERTS, npz, plain_csv, plain_npz
from traces.errors import InvalidFile
from traces.importers import import_trace
from traces.importers.files import packed_files
from traces.importers.files.packed_files import unpacked_file

COUNTS = b"layer,expert,count\n0,0,3\n0,1,1\n"


def zipped(data: bytes, *more: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner.csv", data)
        for name in more:
            archive.writestr(name, b"")
    return buffer.getvalue()


def zstd(data: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(data))


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd, "zip": zipped,
}  # fmt: skip
PACKS = pytest.mark.parametrize("ending", PACKED)


@PACKS
@pytest.mark.parametrize("content", [plain_csv, plain_npz])
def test_a_packed_trace_is_the_trace(ending: str, content: Callable[[], bytes], tmp_path: Path) -> None:
    path = tmp_path / f"trace.csv.{ending}"
    path.write_bytes(PACKED[ending](content()))
    assert np.array_equal(import_trace(path).experts, EXPERTS)
    assert pregate.load_popularity(path).counts.sum() == EXPERTS.size


@PACKS
def test_a_packed_table_of_counts_is_the_table(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"counts.{ending}"
    path.write_bytes(PACKED[ending](COUNTS))
    assert pregate.load_popularity(path).counts.tolist() == [[3.0, 1.0]]


@PACKS
def test_what_is_refused_is_named_as_it_was_given_and_nothing_stays(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    path = tmp_path / f"trace.csv.{ending}"
    path.write_bytes(PACKED[ending](plain_csv().replace(b"0,1,4,1,1,", b"0,7,4,1,1,")))
    with pytest.raises(InvalidFile, match=f"^{path}: line 4: phase 7 is not 0 or 1"):
        import_trace(path)
    assert not list((tmp_path / "temporary").iterdir())


@PACKS
def test_a_packed_file_that_is_cut_short_is_refused(ending: str, tmp_path: Path) -> None:
    whole = PACKED[ending](plain_csv())
    path = tmp_path / "t"
    for n in range(4, len(whole), max(1, len(whole) // 20)):
        path.write_bytes(whole[:n])
        with pytest.raises(InvalidFile, match="^" + str(path)):
            import_trace(path)


@PACKS
def test_nothing_is_unpacked_beyond_the_bound(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_files, "MAX_UNPACKED_BYTES", 1 << 21)
    path = tmp_path / "bomb"
    path.write_bytes(PACKED[ending](b"0" * (1 << 23)))
    assert path.stat().st_size < 1 << 14
    with pytest.raises(InvalidFile, match="unpacks to more than 2097152 bytes"):
        import_trace(path)


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz", "zst"])
def test_streams_that_follow_each_other_are_one_file(ending: str, tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(3 << 20)
    path = tmp_path / "t"
    path.write_bytes(PACKED[ending](data[:1000]) + PACKED[ending](data[1000:]))
    with unpacked_file(path) as plain:
        assert plain.read_bytes() == data


def test_memory_that_unpacking_asks_for_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "t.xz"
    path.write_bytes(lzma.compress(plain_csv(), filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}]))
    with pytest.raises(InvalidFile, match=r"not a sound xz file .*[Mm]emory usage limit"):
        import_trace(path)


def test_zstd_without_its_library_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(packed_files, "find_spec", lambda name: None if name == "pyarrow" else found(name))
    (tmp_path / "t").write_bytes(zstd(plain_csv()))
    with pytest.raises(InvalidFile, match=r"pip install 'pregate\[parquet\]', or unpack it first \(unzstd\)"):
        import_trace(tmp_path / "t")


def test_archives_of_several_files_are_what_they_were(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(npz(experts=EXPERTS))
    (tmp_path / "b.zip").write_bytes(zipped(plain_csv(), "other.csv"))
    (tmp_path / "c.zip").write_bytes(zipped(plain_csv(), "__MACOSX/inner.csv"))
    for name, same in (("a.npz", True), ("b.zip", True), ("c.zip", False)):
        with unpacked_file(tmp_path / name) as plain:
            assert (plain == tmp_path / name) is same
