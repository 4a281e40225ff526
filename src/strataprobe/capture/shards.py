"""Shards: the vectors of one batch each, on disk as soon as they are read, until they are closed into layer files.

A shard is complete or absent, so a killed capture goes on at its first missing batch. The batch plan is stored beside the
shards and used again, so that the same rows meet in the same batches.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from strataprobe.capture.shardfile import Place, read_header, read_rows, write_shard
from strataprobe.errors import StageError
from strataprobe.manifest import write_atomic

if TYPE_CHECKING:
    from strataprobe.capture.reader import BatchResult

PLAN_NAME = "plan.npz"
ZERO_SHOT = "zero_shot"
# a block of a column is large enough for some rows of each shard, which is opened once a block, within these bounds
_ROWS_OF_SHARD, _BLOCK_BYTES, _MOST_BLOCK_BYTES = 4, 2 * 2**20, 32 * 2**20
_SHARDS = "[0-9]*.safetensors"
_TOKENS = "tokens."


def array_names(layers: Sequence[int], readouts: Sequence[str], *, tokens: bool, zero_shot: bool) -> set[str]:
    """Names of the arrays that a batch's shard holds; of layer 0 there is the mean alone."""
    names = {f"{readout}.{layer}" for layer in layers for readout in (readouts if layer else ("mean",))}
    if tokens:
        names |= {f"{_TOKENS}{layer}" for layer in layers}
    return names | ({ZERO_SHOT} if zero_shot else set())


@dataclass(frozen=True)
class Plan:
    """Which rows meet in which batch: row numbers (N,) int32 as they are read, and where each batch begins among them.

    ``begins`` (n_batches + 1,) int64 ends with N; ``batch_tokens`` is the budget the batches were made for.
    """

    order: NDArray[np.int32]
    begins: NDArray[np.int64]
    batch_tokens: int

    @classmethod
    def of(cls, batches: Sequence[NDArray[np.int64]], batch_tokens: int) -> Self:
        """A plan of batches, each the row numbers (B,) it holds."""
        begins = np.cumsum([0, *map(len, batches)], dtype=np.int64)
        return cls(np.concatenate(batches).astype(np.int32), begins, batch_tokens)

    def __len__(self) -> int:
        return len(self.begins) - 1

    def rows(self, batch: int) -> NDArray[np.int32]:
        """Row numbers (B,) of one batch."""
        return self.order[self.begins[batch] : self.begins[batch + 1]]

    def write(self, path: Path) -> None:
        """Store the plan."""
        file = io.BytesIO()
        np.savez(file, order=self.order, begins=self.begins, batch_tokens=np.int64(self.batch_tokens))
        write_atomic(path, file.getvalue())

    @classmethod
    def read(cls, path: Path) -> Self:
        """A plan that was stored. Raises StageError when it is damaged."""
        try:
            with np.load(io.BytesIO(path.read_bytes())) as stored:
                return cls(stored["order"], stored["begins"], int(stored["batch_tokens"]))
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise StageError(f"{path} is damaged ({error}): delete {path.parent.parent} and run again.") from error


class ShardFolder:
    """Shards of one corpus, each with arrays of just these ``names``.

    ``lengths`` (N,) int64 are the tokens of each row, ``missing`` the batches without a shard.
    """

    def __init__(self, path: Path, plan: Plan, lengths: NDArray[np.int64], names: Collection[str]) -> None:
        self.path, self.plan, self.lengths, self.names = path, plan, lengths, frozenset(names)
        self.n_damaged = 0
        self.missing = [batch for batch in range(len(plan)) if not self._usable(batch)]

    @classmethod
    def open(cls, path: Path, plan: Plan, lengths: NDArray[np.int64], names: Collection[str]) -> Self:
        """The shards under ``path`` with the plan stored there; a new folder gets ``plan``."""
        stored = path / PLAN_NAME
        if stored.is_file():
            return cls(path, Plan.read(stored), lengths, names)
        path.mkdir(parents=True, exist_ok=True)
        for orphan in path.glob(_SHARDS):  # nobody knows which rows they hold
            _remove(orphan)
        plan.write(stored)
        return cls(path, plan, lengths, names)

    @property
    def n_rows(self) -> int:
        """N, the number of texts."""
        return len(self.plan.order)

    @property
    def n_rows_missing(self) -> int:
        """How many of them have no vectors on disk yet."""
        return sum(len(self.plan.rows(batch)) for batch in self.missing)

    @property
    def n_tokens_missing(self) -> int:
        """How many tokens those have."""
        return sum(int(self.lengths[self.plan.rows(batch)].sum()) for batch in self.missing)

    @property
    def n_padded_tokens(self) -> int:
        """How many tokens all batches have, padding counted."""
        batches = (self.plan.rows(batch) for batch in range(len(self.plan)))
        return sum(len(rows) * int(self.lengths[rows].max()) for rows in batches)

    def file(self, batch: int) -> Path:
        """Path of one batch's shard."""
        return self.path / f"{batch:06d}.safetensors"

    def _usable(self, batch: int) -> bool:
        """Whether a batch has its shard; one that is not as it was written is removed."""
        file = self.file(batch)
        if not file.is_file():
            return False
        try:
            found = {name: place.shape[:1] for name, place in read_header(file).items()}
        except (OSError, ValueError):
            found = {}
        rows = self.plan.rows(batch)
        n_tokens = int(self.lengths[rows].sum())
        whole = found == {name: (n_tokens if name.startswith(_TOKENS) else len(rows),) for name in self.names}
        if not whole:
            _remove(file)
            self.n_damaged += 1
        return whole

    def write(self, batch: int, result: BatchResult) -> None:
        """Put one batch's vectors on disk. Raises StageError when there is no space left."""
        arrays = {f"{readout}.{layer}": vectors for (readout, layer), vectors in result.vectors.items()}
        arrays |= {f"{_TOKENS}{layer}": vectors for layer, vectors in result.tokens.items()}
        if result.zero_shot is not None:
            arrays[ZERO_SHOT] = result.zero_shot
        try:
            write_shard(self.file(batch), arrays)
        except OSError as error:
            raise StageError(
                f"{self.path} could not be written ({error.strerror or error}): free some space, then run the same "
                "command again; finished batches are kept."
            ) from error

    def rows_at(self, rows: NDArray[np.integer]) -> Places:
        """Where the vectors of some rows lie, in that order."""
        place = np.empty(self.n_rows, dtype=np.int32)
        place[self.plan.order] = np.arange(self.n_rows, dtype=np.int32)
        return Places(place[rows], self.plan.begins)

    def tokens_at(self, rows: NDArray[np.integer]) -> Places:
        """Where the vectors of all tokens of some rows lie, in that order: text after text."""
        before = np.concatenate([[0], np.cumsum(self.lengths[self.plan.order])])
        lengths = self.lengths[rows]
        ends = np.cumsum(lengths)
        first = before[self.rows_at(rows).at] - (ends - lengths)
        return Places(np.repeat(first, lengths) + np.arange(lengths.sum()), before[self.plan.begins])

    def column(self, name: str, places: Places) -> Column:
        """Vectors by name, "mean.3" for a readout and layer, "tokens.3", or ``ZERO_SHOT``, from those places."""
        return Column(self, name, places)

    def holds(self, name: str) -> bool:
        """Whether an array of this name was read."""
        return name in self.names

    def width(self, name: str) -> int:
        """How many numbers a row of an array has."""
        return self._first_header[name].shape[1]

    @cached_property
    def _begin_bytes(self) -> dict[str, NDArray[np.int64]]:
        """First byte of each array by its name, in each shard."""
        begins = {name: np.empty(len(self.plan), dtype=np.int64) for name in self.names}
        for batch in range(len(self.plan)):
            for name, place in self._header(batch).items():
                begins[name][batch] = place.begin
        return begins

    @cached_property
    def _first_header(self) -> dict[str, Place]:
        return self._header(0)

    def _header(self, batch: int) -> dict[str, Place]:
        """Where each array of a batch lies."""
        try:
            places = read_header(self.file(batch))
            if places.keys() != self.names:
                raise ValueError("it holds other arrays than were read")
        except (OSError, ValueError) as error:
            raise self.damaged(batch, error) from error
        return places

    def damaged(self, batch: int, error: Exception) -> StageError:
        """What is said of a shard that cannot be read while closing."""
        return StageError(f"{self.file(batch)} is damaged ({error}): run the same command again, which reads it anew.")


def _remove(file: Path) -> None:
    try:
        file.unlink()
    except OSError as error:
        raise StageError(
            f"{file} is damaged and could not be removed ({error.strerror or error}): delete it."
        ) from error


class Places(NamedTuple):
    """Places ``at`` (n,) among all rows, or all tokens, as they were read; ``begins`` is where each shard begins there."""

    at: NDArray[np.integer]
    begins: NDArray[np.int64]


class Column:
    """One array over all shards, its rows in an order of one's choosing, read in blocks, of which the last is kept."""

    def __init__(self, shards: ShardFolder, name: str, places: Places) -> None:
        self._shards, self._places = shards, places
        self._begin_bytes = shards._begin_bytes[name]
        self._width = shards.width(name)
        row_bytes = 4 * self._width
        wanted_bytes = _ROWS_OF_SHARD * row_bytes * len(shards.plan)
        self._block_rows = max(1, min(max(wanted_bytes, _BLOCK_BYTES), _MOST_BLOCK_BYTES) // row_bytes)
        self._block: tuple[int, NDArray[np.float32]] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(n, width)."""
        return len(self._places.at), self._width

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        """Those rows (n, width) float32. Raises StageError when a shard is damaged."""
        begin, end, step = rows.indices(len(self._places.at))
        assert step == 1
        parts = []
        for i in range(begin // self._block_rows, max(begin, end - 1) // self._block_rows + 1):
            at = i * self._block_rows
            parts.append(self._read(i)[max(0, begin - at) : max(0, end - at)])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def split(self, sizes: Sequence[int]) -> list[Part]:
        """Consecutive parts of so many rows each; they share the blocks that are read."""
        ends = np.cumsum(sizes).tolist()
        return [Part(self, end - size, end) for size, end in zip(sizes, ends, strict=True)]

    def _read(self, i: int) -> NDArray[np.float32]:
        """Block ``i``. Each shard it lies in is opened once."""
        if self._block is not None and self._block[0] == i:
            return self._block[1]
        self._block = None  # before the next one takes as much again
        places = self._places.at[i * self._block_rows : (i + 1) * self._block_rows]
        order = np.argsort(places, kind="stable")
        places = places[order]
        found = np.empty((len(places), self._width), dtype=np.float32)
        ends = np.searchsorted(places, self._places.begins)
        for batch in np.flatnonzero(np.diff(ends)).tolist():
            a, b = ends[batch], ends[batch + 1]
            inside = places[a:b] - self._places.begins[batch]
            try:
                found[order[a:b]] = read_rows(
                    self._shards.file(batch), int(self._begin_bytes[batch]), self._width, inside
                )
            except OSError as error:
                raise self._shards.damaged(batch, error) from error
        self._block = (i, found)
        return found


class Part:
    """Rows ``begin`` to ``end`` of a column."""

    def __init__(self, column: Column, begin: int, end: int) -> None:
        self._column, self._begin = column, begin
        self.shape = (end - begin, column.shape[1])

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        """Those rows of the part, as ``Column`` gives them."""
        begin, end, _ = rows.indices(self.shape[0])
        return self._column[self._begin + begin : self._begin + end]
