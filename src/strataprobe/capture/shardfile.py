"""One shard on disk: a safetensors file of float32 arrays, written whole or not at all, and read in part."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_FLOAT = np.dtype("<f4")
# one call to read a row costs as much as copying this many bytes that nobody asked for
_CALL_BYTES = 2**14


class Place(NamedTuple):
    """Where an array lies in a shard: its first byte, and its shape, rows first."""

    begin: int
    shape: tuple[int, ...]


def write_shard(path: Path, arrays: Mapping[str, NDArray[np.float32]]) -> None:
    """Write arrays aside, flush them to disk, then rename. Raises OSError, and leaves nothing, when the disk is full."""
    entries: dict[str, Any] = {}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.size * _FLOAT.itemsize
        entries[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [begin, end]}
    header = json.dumps(entries, separators=(",", ":")).encode("ascii")
    header += b" " * (-len(header) % 8)
    aside = path.with_name(f".{path.name}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for array in arrays.values():
                file.write(np.ascontiguousarray(array, dtype=_FLOAT).data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError:
        with suppress(OSError):
            aside.unlink()
        raise


def read_header(path: Path) -> dict[str, Place]:
    """Where each array lies. Raises ValueError when the file is damaged or has another size than its header says."""
    with path.open("rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if length > size_bytes:
            raise ValueError("it is cut short")
        try:
            entries = json.loads(file.read(length))
            places = {
                name: Place(8 + length + entry["data_offsets"][0], tuple(entry["shape"]))
                for name, entry in entries.items()
            }
            end = 8 + length + max(entry["data_offsets"][1] for entry in entries.values())
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError("its header cannot be read") from error
    if end != size_bytes:
        raise ValueError(f"it has {size_bytes:,} bytes, {end:,} were written")
    return places


def read_rows(path: Path, begin: int, width: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Rows (n, ``width``) of the array that begins at byte ``begin``; ``rows`` ascend. Raises OSError."""
    breaks = np.flatnonzero(rows[1:] - rows[:-1] != 1) + 1
    first, row_bytes = int(rows[0]), width * _FLOAT.itemsize
    with path.open("rb", buffering=0) as file:
        if (int(rows[-1]) + 1 - first) * row_bytes <= (len(breaks) + 1) * _CALL_BYTES or not len(breaks):
            span = np.empty((int(rows[-1]) + 1 - first, width), dtype=_FLOAT)
            _fill(file, begin + first * row_bytes, span)
            return span if len(span) == len(rows) else span[rows - first]
        found = np.empty((len(rows), width), dtype=_FLOAT)
        for a, b in zip([0, *breaks.tolist()], [*breaks.tolist(), len(rows)], strict=True):
            _fill(file, begin + int(rows[a]) * row_bytes, found[a:b])
        return found


def _fill(file: Any, offset: int, into: NDArray[np.float32]) -> None:
    file.seek(offset)
    if file.readinto(into) != into.nbytes:
        raise OSError("it is cut short")
