"""Shards: the vectors of one batch each, on disk as soon as they are read, until they are closed into layer files.

A shard is complete or absent (written aside, then renamed), so a killed capture goes on at its first missing batch. The
batch plan is stored beside the shards and used again, so that the same rows meet in the same batches.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from strataprobe.capture.reader import BatchResult
from strataprobe.errors import StageError
from strataprobe.manifest import read_json, write_json

_ZERO_SHOT = "zero_shot"


class ShardFolder:
    """Shards of one corpus: ``plan`` is the list of batches, each the row numbers (B,) it holds."""

    def __init__(self, path: Path, plan: Sequence[NDArray[np.int64]]) -> None:
        self.path, self.plan = path, list(plan)
        self.n_rows = sum(len(rows) for rows in self.plan)

    @classmethod
    def open(cls, path: Path, plan: Sequence[NDArray[np.int64]]) -> ShardFolder:
        """The shards under ``path`` with the plan stored there; a new folder gets ``plan``."""
        stored = path / "plan.json"
        if stored.is_file():
            return cls(path, [np.asarray(rows, dtype=np.int64) for rows in read_json(stored)])
        path.mkdir(parents=True, exist_ok=True)
        write_json(stored, [rows.tolist() for rows in plan])
        return cls(path, plan)

    def file(self, batch: int) -> Path:
        """Path of one batch's shard."""
        return self.path / f"{batch:06d}.safetensors"

    def missing(self) -> list[int]:
        """Batches without a shard."""
        return [i for i in range(len(self.plan)) if not self.file(i).is_file()]

    def write(self, batch: int, result: BatchResult) -> None:
        """Put one batch's vectors on disk. Raises StageError when there is no space left."""
        tensors = {f"{readout}.{layer}": np.ascontiguousarray(a) for (readout, layer), a in result.vectors.items()}
        if result.zero_shot is not None:
            tensors[_ZERO_SHOT] = np.ascontiguousarray(result.zero_shot)
        path = self.file(batch)
        aside = path.with_name(f".{path.name}.tmp")
        try:
            save_file(tensors, aside)
            os.replace(aside, path)
        except (OSError, SafetensorError) as error:
            aside.unlink(missing_ok=True)
            raise StageError(
                f"{path.parent} could not be written ({error}): free some space, then run the same command "
                "again; finished batches are kept."
            ) from error

    def gather(self, readout: str, layer: int) -> NDArray[np.float32]:
        """Vectors (N, D) of one readout and layer, in the order of the texts."""
        return self._gather(f"{readout}.{layer}")

    def zero_shot(self) -> NDArray[np.float32] | None:
        """Class-word logits (N, C), or None where they were not read."""
        with safe_open(self.file(0), "numpy") as first:
            if _ZERO_SHOT not in first.keys():  # noqa: SIM118 - not a dict
                return None
        return self._gather(_ZERO_SHOT)

    def _gather(self, name: str) -> NDArray[np.float32]:
        whole: NDArray[np.float32] | None = None
        for batch, rows in enumerate(self.plan):
            try:
                with safe_open(self.file(batch), "numpy") as shard:
                    part = shard.get_tensor(name)
            except (SafetensorError, OSError) as error:
                raise StageError(
                    f"{self.file(batch)} is damaged ({error}): delete it and run the same command again."
                ) from error
            if whole is None:
                whole = np.empty((self.n_rows, part.shape[1]), dtype=np.float32)
            whole[rows] = part
        assert whole is not None
        return whole
