"""Activations on disk, and in memory: one HDF5 file a layer, read one layer and split at a time.

Each file has the groups ``train``, ``val``, ``test`` (or ``eval``), and in each group the data sets ``activations`` (n, D)
float32 of the primary readout, ``activations_{readout}`` for further ones, ``labels`` (n,) int64 (-1: no label), ``ids``
and ``groups`` (n,) UTF-8, and ``targets`` (n,) float32 where there is a continuous target. To read a file, its name,
``activations`` and ``labels`` are enough, so files written by others open too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from strataprobe.dataset import SPLITS
from strataprobe.errors import OptionError, StageError
from strataprobe.manifest import MANIFEST_NAME, Manifest, read_manifest, sha256_file
from strataprobe.textfiles import parse_jsonl
from strataprobe.tokenfile import TokenRows, read_token_file, token_file_name

FORMAT_VERSION = 1
SITE = "resid_post"
TEXTS_NAME = "texts.jsonl"
_LAYER_FILE = re.compile(r"layer_(\d+)_activations\.h5")
INFO_FIELDS = ("model_name", "model_revision", "prefix", "suffix", "template", "recipe_name")

Numbering = Literal["strataprobe", "brije"]
FloatArray = NDArray[np.float32]


class LayerRows(NamedTuple):
    """Rows of one split of one layer; ``labels`` is -1 where a row has none, ``targets`` None where there are none."""

    activations: FloatArray
    labels: NDArray[np.int64]
    ids: list[str]
    groups: list[str]
    targets: FloatArray | None


class Activations:
    """Activations in memory: what ``capture`` returns. Row order is that of the texts.

    ``arrays`` are (N, D) float32 by (readout, layer); ``tokens`` N arrays (T, D) float32 by layer, where they were kept.
    """

    def __init__(
        self,
        arrays: Mapping[tuple[str, int], FloatArray],
        readouts: Sequence[str],
        info: dict[str, Any],
        tokens: Mapping[int, list[FloatArray]] | None = None,
    ) -> None:
        self._arrays = dict(arrays)
        self._tokens = dict(tokens or {})
        self.readouts = list(readouts)
        self.info = dict(info)
        self.layers = sorted({layer for _, layer in self._arrays})

    @property
    def readout(self) -> str:
        """The primary readout: the first one asked for."""
        return self.readouts[0]

    @property
    def n_texts(self) -> int:
        """N, the number of texts."""
        return len(next(iter(self._arrays.values())))

    def layer(self, layer: int, readout: str | None = None) -> FloatArray:
        """Activations (N, D) float32 of one layer; layer 0 holds the mean over the text's own tokens for any readout.

        Raises OptionError when the layer or readout was not captured.
        """
        name = self.readout if readout is None else readout
        if name not in self.readouts:
            raise OptionError(f"readout {name!r} was not captured; there are: {', '.join(self.readouts)}.")
        key = ("mean", 0) if layer == 0 else (name, layer)
        if key not in self._arrays:
            raise OptionError(f"layer {layer} was not captured; there are: {span(self.layers)}.")
        return self._arrays[key]

    def tokens(self, layer: int) -> list[FloatArray]:
        """Every token of each text at one layer, N arrays (T, D) float32.

        Raises OptionError when the layer's tokens were not kept.
        """
        if layer not in self._tokens:
            raise OptionError(
                f"the tokens of layer {layer} were not kept; there are those of {span(self._tokens)}: capture with "
                "keep_tokens=True."
            )
        return self._tokens[layer]

    def __repr__(self) -> str:
        return f"Activations({self.n_texts} texts, layers {span(self.layers)}, readouts {', '.join(self.readouts)})"


def span(layers: Iterable[int]) -> str:
    """Layer numbers in short form: [1, 2, 3, 7] -> "1-3,7"."""
    parts: list[list[int]] = []
    for layer in sorted(set(layers)):
        if parts and layer == parts[-1][1] + 1:
            parts[-1][1] = layer
        else:
            parts.append([layer, layer])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts) or "none"


def parse_layers(asked: str | int | Iterable[int] | None, n_layers: int) -> list[int]:
    """Layers from "all" (or None), "1-10,20", a number or numbers; sorted, each once.

    Raises OptionError for text of another form, and for a layer outside 0..``n_layers`` (0: the embeddings).
    """
    if asked is None or asked == "all":
        return list(range(1, n_layers + 1))
    layers: set[int] = set()
    if isinstance(asked, str):
        for part in asked.split(","):
            match = re.fullmatch(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?", part)
            if not match or (match[2] and int(match[2]) < int(match[1])):
                raise OptionError(f"layers {asked!r} cannot be read: write them like 1-10,20.")
            first, last = int(match[1]), int(match[2] or match[1])
            if last > n_layers:
                raise OptionError(
                    f"there are layers 1 to {n_layers} (0: the embeddings); {part.strip()} was asked for."
                )
            layers.update(range(first, last + 1))
    else:
        layers.update([asked] if isinstance(asked, int) else asked)
    beyond = sorted(k for k in layers if not 0 <= k <= n_layers)
    if beyond or not layers:
        raise OptionError(
            f"there are layers 1 to {n_layers} (0: the embeddings); "
            f"{span(beyond) if beyond else 'no layer'} was asked for."
        )
    return sorted(layers)


def layer_file_name(layer: int, eval_name: str | None = None) -> str:
    """Name of one layer's file."""
    return f"layer_{layer}_activations.h5" if eval_name is None else f"layer_{layer}_eval_{eval_name}.h5"


class ActivationFolder:
    """A folder of layer files. Open one with ``ActivationFolder.open``."""

    def __init__(self, path: Path, files: dict[int, Path], manifest: Manifest | None) -> None:
        self.path = path
        self.manifest = manifest
        self._files = files
        self.layers = sorted(files)
        top = self.layers[-1]
        recorded = manifest.details.get("n_layers", 0) if manifest else 0
        # Blocks of the model; the highest layer there is where nobody wrote down how many there are.
        self.n_layers: int = max(top, recorded)
        with self._opened(files[top]) as file:
            attrs = {k: _plain(v) for k, v in file.attrs.items()}
            group = next((file[s] for s in SPLITS if s in file), None)
            if group is None or "activations" not in group or "labels" not in group:
                raise StageError(
                    f"{files[top]} has no train/activations and train/labels: it is not an activations file."
                )
            self.d_model = int(group["activations"].shape[1])
            further = [n.removeprefix("activations_") for n in group if n.startswith("activations_")]
            self.readouts: list[str] = attrs.get("readouts") or ["last", *further]
            rows = [int(file[s]["activations"].shape[0]) for s in SPLITS if f"{s}/activations" in file]
            labels = [int(np.max(file[s]["labels"][:], initial=-1)) for s in SPLITS if f"{s}/labels" in file]
        # How many numbers one layer and readout holds.
        self.n_entries = sum(rows) * self.d_model
        self.class_names: list[str] = attrs.get("label_names") or [f"class_{i}" for i in range(max(labels) + 1)]
        self.info: dict[str, Any] = {name: attrs.get(name, "") for name in INFO_FIELDS}

    @classmethod
    def open(cls, path: str | Path, numbering: Numbering = "strataprobe") -> Self:
        """Open a folder of layer files. With ``numbering="brije"`` a file's number is a block index, one below our layer.

        Raises StageError when the folder is missing, unfinished, holds no layer files, or a file is damaged.
        """
        path = Path(path)
        if not path.is_dir():
            raise StageError(
                f"{path} is not a folder of activations: run 'strataprobe capture' first, or correct the path."
            )
        files: dict[int, Path] = {}
        for entry in sorted(path.iterdir()):
            match = _LAYER_FILE.fullmatch(entry.name)
            if match:
                files[int(match[1]) + (numbering == "brije")] = entry
        if not files:
            raise StageError(f"{path} holds no layer_K_activations.h5 files: run 'strataprobe capture' first.")
        manifest = read_manifest(path, "capture") if (path / MANIFEST_NAME).is_file() else None
        return cls(path, files, manifest)

    def splits(self, layer: int) -> list[str]:
        """Which of train, val and test one layer's file has. Raises StageError when it is not there or damaged."""
        with self._opened(self.file(layer)) as file:
            return [name for name in SPLITS if name in file]

    @property
    def primary(self) -> str:
        """The primary readout."""
        return self.readouts[0]

    @property
    def eval_names(self) -> list[str]:
        """Names of the texts captured with ``--eval``, sorted."""
        found = (re.fullmatch(r"layer_\d+_eval_(.+)\.h5", p.name) for p in self.path.iterdir())
        return sorted({m[1] for m in found if m})

    def block_index(self, layer: int) -> int:
        """0-based index of the block whose output is ``layer``; -1 for the embeddings."""
        return layer - 1

    def file(self, layer: int) -> Path:
        """Path of one layer's file. Raises StageError when the layer was not captured."""
        if layer not in self._files:
            raise StageError(f"layer {layer} is not in {self.path}; there are layers {span(self.layers)}.")
        return self._files[layer]

    def file_sha256(self, layer: int) -> str:
        """Hex sha256 of one layer's file: from the manifest where there is one."""
        path = self.file(layer)
        recorded = self.manifest.files.get(path.name) if self.manifest else None
        return recorded.sha256 if recorded else sha256_file(path)

    def read(self, layer: int, split: str, readout: str | None = None) -> LayerRows:
        """One split ("train", "val" or "test") of one layer. Layer 0 has the mean only, whatever readout is asked.

        Raises StageError when the layer, split or readout is not there, or the file is damaged.
        """
        return self._read(self.file(layer), split, layer, readout)

    def read_eval(self, layer: int, name: str, readout: str | None = None) -> LayerRows:
        """One layer of the texts captured with ``--eval name=...``. Raises StageError as ``read`` does."""
        path = self.path / layer_file_name(layer, name)
        if not path.is_file():
            raise StageError(f"{path} is missing: run capture with --eval {name}=FILE and this layer.")
        return self._read(path, "eval", layer, readout)

    def read_tokens(self, layer: int, split: str, eval_name: str | None = None) -> TokenRows:
        """Every token of one split ("train", "val", "test") of one layer, or with ``eval_name`` of split "eval".

        Raises StageError when the tokens were not kept, or the file is damaged.
        """
        return read_token_file(self.path / token_file_name(layer, eval_name), split)

    def texts(self) -> list[dict[str, Any]]:
        """Rows of ``texts.jsonl``: id, text, label, split, group, n_tokens, zero_shot; empty where there is no such file."""
        path = self.path / TEXTS_NAME
        if not path.is_file():
            return []
        with path.open(encoding="utf-8", newline="\n") as file:
            return [row for _, row in parse_jsonl(file, str(path))]

    def _opened(self, path: Path) -> h5py.File:
        try:
            return h5py.File(path, "r")
        except OSError as error:
            raise StageError(
                f"{path} cannot be opened ({error}): it is damaged or cut short; capture it again."
            ) from error

    def _read(self, path: Path, split: str, layer: int, readout: str | None) -> LayerRows:
        name = self.primary if readout is None else readout
        if name not in self.readouts:
            raise StageError(f"readout {name!r} is not in {self.path}; there are: {', '.join(self.readouts)}.")
        column = "activations" if layer == 0 or name == self.primary else f"activations_{name}"
        with self._opened(path) as file:
            if split not in file or column not in file[split]:
                raise StageError(f"{path} has no {split}/{column}: capture it again.")
            group = file[split]
            try:
                activations = group[column][:]
                labels = group["labels"][:].astype(np.int64)
            except OSError as error:
                raise StageError(f"{path} cannot be read ({error}): it is damaged; capture it again.") from error
            n = len(labels)
            ids = group["ids"].asstr()[:].tolist() if "ids" in group else [f"{split}-{i:06d}" for i in range(n)]
            groups = group["groups"].asstr()[:].tolist() if "groups" in group else list(ids)
            targets = group["targets"][:] if "targets" in group else None
        if activations.ndim != 2 or len(activations) != n:
            raise StageError(f"{path}: {split}/{column} has shape {activations.shape}, ({n}, D) was expected.")
        return LayerRows(activations.astype(np.float32, copy=False), labels, ids, groups, targets)


def _plain(value: Any) -> Any:
    """An HDF5 attribute as a plain Python value."""
    if isinstance(value, np.ndarray):
        return [v.decode("utf-8") if isinstance(v, bytes) else v for v in value.tolist()]
    if isinstance(value, np.generic):
        return value.item()
    return value.decode("utf-8") if isinstance(value, bytes) else value
