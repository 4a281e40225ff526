"""Write one layer's HDF5 file, in bounded memory, so that a full disk is an error and never a crash.

The HDF5 library can end the process when a write of its own fails, so it never sees one: its headers, ids and groups go
through pages in memory, and what fails when a page is put on the disk is raised once the library is done. Numbers go
straight from their source to the place in the file that the library has given them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5t
from numpy.typing import NDArray

from strataprobe.manifest import atomic_file

SLAB_BYTES = 2**19
_TEXT_ROWS = 4096
_CACHE_BYTES = 2**20
_TEXT = ("ids", "groups")
_FLOAT, _WHOLE = np.dtype("<f4"), np.dtype("<i8")
_DTYPES = {"targets": _FLOAT}


class Rows(Protocol):
    """Rows that are fetched a slice at a time; an array is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first."""

    def __getitem__(self, rows: slice, /) -> Any:
        """An array of those rows."""


def write_layer_file(path: Path, *, splits: Mapping[str, Mapping[str, Any]], attrs: Mapping[str, Any]) -> None:
    """Write one layer's HDF5 file aside, then rename it.

    ``splits`` maps a group name to its data sets: ``activations`` {readout: ``Rows`` (n, D) float32}, primary first;
    ``ids`` and ``groups``, sequences of text; ``targets`` float32; any other name int64, such as ``labels`` (n,). All are
    taken in slices, of numbers at most ``SLAB_BYTES`` at a time. The same arguments give the same bytes: no time or path
    is stored. Raises StageError when there is no space left.
    """
    with atomic_file(path, buffering=0) as out:
        pages = _Pages(out)
        try:
            with h5py.File(pages, "w") as file:
                _keep_cache_small(file)
                for name, value in attrs.items():
                    if isinstance(value, (list, tuple)):
                        file.attrs.create(name, list(value), shape=(len(value),), dtype=h5py.string_dtype("utf-8"))
                    else:
                        file.attrs[name] = value
                numbers = [n for name, columns in splits.items() for n in _make(file.create_group(name), columns)]
        finally:
            pages.finish()
        for offset, dtype, source in numbers:
            out.seek(offset)
            for slab in _slabs(source, dtype):
                _write_all(out, slab)
        out.truncate(pages.size)


def _keep_cache_small(file: h5py.File) -> None:
    """Keep the library from holding more of the texts the more there are."""
    config = file.id.get_mdc_config()
    config.initial_size = config.min_size = config.max_size = _CACHE_BYTES
    file.id.set_mdc_config(config)


def _write_all(out: BinaryIO, data: Any) -> None:
    view = memoryview(data).cast("B")
    while len(view):
        view = view[out.write(view) :]


def _make(group: h5py.Group, columns: Mapping[str, Any]) -> list[tuple[int, np.dtype[Any], Rows]]:
    """Make a group's data sets and write its texts; of numbers, what belongs where in the file."""
    numbers: list[tuple[int, np.dtype[Any], Rows]] = []
    for name, rows in _datasets(columns):
        if name in _TEXT:
            _write_text(group, name, rows)
            continue
        dtype = _FLOAT if name.startswith("activations") else _DTYPES.get(name, _WHOLE)
        source: Rows = np.asarray(rows, dtype=dtype) if isinstance(rows, (list, np.ndarray)) else rows
        offset = _reserve(group, name, source.shape, dtype)
        if offset is not None:
            numbers.append((offset, dtype, source))
    return numbers


def _datasets(columns: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, rows in columns.items():
        if name != "activations":
            if rows is not None:
                yield name, rows
            continue
        for i, (readout, vectors) in enumerate(rows.items()):
            yield "activations" if i == 0 else f"activations_{readout}", vectors


def _reserve(group: h5py.Group, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> int | None:
    """Make a contiguous data set without writing it: where its bytes belong in the file, None when it has none."""
    how = h5p.create(h5p.DATASET_CREATE)
    how.set_layout(h5d.CONTIGUOUS)
    how.set_obj_track_times(False)
    how.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    how.set_fill_time(h5d.FILL_TIME_NEVER)
    made = h5d.create(group.id, name.encode(), h5t.py_create(dtype, logical=True), h5s.create_simple(shape), how)
    offset: int | None = made.get_offset()
    return offset


def _write_text(group: h5py.Group, name: str, rows: Sequence[str]) -> None:
    made = group.create_dataset(name, shape=(len(rows),), dtype=h5py.string_dtype("utf-8"))
    for begin in range(0, len(rows), _TEXT_ROWS):
        made[begin : begin + _TEXT_ROWS] = rows[begin : begin + _TEXT_ROWS]


def _slabs(source: Rows, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    n_rows = source.shape[0]
    row_bytes = dtype.itemsize * int(np.prod(source.shape[1:], dtype=np.int64))
    step = max(1, SLAB_BYTES // row_bytes)
    for begin in range(0, n_rows, step):
        yield np.ascontiguousarray(source[begin : min(begin + step, n_rows)], dtype=dtype)


class _Pages(io.RawIOBase):
    """A file as the HDF5 library sees it: pages in memory, of which all but a few are on the disk. Never fails.

    Room that is left for numbers is never touched, and takes no page.
    """

    _PAGE_BYTES, _MOST_PAGES = 2**16, 16

    def __init__(self, out: BinaryIO) -> None:
        self.size = 0
        self._out = out
        self._pages: dict[int, bytearray] = {}  # the one used last comes last
        self._on_disk: set[int] = set()
        self._error: OSError | None = None
        self._at = 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def truncate(self, size: int | None = None) -> int:
        self.size = self._at if size is None else size
        return self.size

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        for page, begin, there in self._pieces(len(view)):
            page[begin : begin + len(there)] = view[there.start : there.stop]
        self._at += len(view)
        self.size = max(self.size, self._at)
        return len(view)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        for page, begin, there in self._pieces(len(view)):
            view[there.start : there.stop] = page[begin : begin + len(there)]
        self._at += len(view)
        return len(view)

    def finish(self) -> None:
        """Put every page on the disk. Raises the first OSError there was."""
        while self._pages and self._error is None:
            self._put_away()
        if self._error is not None:
            raise self._error

    def _pieces(self, n_bytes: int) -> Iterator[tuple[bytearray, int, range]]:
        """Page, first byte in it and bytes of the data, for each page that ``n_bytes`` from here lie on."""
        done = 0
        while done < n_bytes:
            page, begin = divmod(self._at + done, self._PAGE_BYTES)
            n = min(n_bytes - done, self._PAGE_BYTES - begin)
            yield self._page(page), begin, range(done, done + n)
            done += n

    def _page(self, i: int) -> bytearray:
        page = self._pages.pop(i, None)
        if page is None:
            page = bytearray(self._PAGE_BYTES)
            if i in self._on_disk:
                self._try(i, lambda: self._out.readinto(page))  # type: ignore[attr-defined]
        self._pages[i] = page
        if len(self._pages) > self._MOST_PAGES and self._error is None:
            self._put_away()
        return page

    def _put_away(self) -> None:
        """Put the page not used for longest on the disk; where that fails it stays, as do all others from then on."""
        i = next(iter(self._pages))
        page = memoryview(self._pages[i])[: max(0, self.size - i * self._PAGE_BYTES)]
        self._try(i, lambda: _write_all(self._out, page))
        if self._error is None:
            del self._pages[i]
            self._on_disk.add(i)

    def _try(self, page: int, do: Callable[[], Any]) -> None:
        """Do something at a page's place in the file, and remember the first error."""
        try:
            self._out.seek(page * self._PAGE_BYTES)
            do()
        except OSError as error:
            self._error = self._error or error
