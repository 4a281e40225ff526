"""The file of one layer where every token was kept.

Its groups hold ``activations`` (sum of T, D) float32 of all tokens, text after text, ``offsets`` (n + 1,) int64 where each
text begins, ``token_ids`` (sum of T,) int64, ``own_start`` and ``own_end`` (n,) int64, and labels, ids and groups as the
files of the readouts do.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from strataprobe.errors import StageError


class TokenRows(NamedTuple):
    """Every token of n texts at one layer, special tokens included.

    ``activations`` n arrays (T, D) float32 and ``token_ids`` n arrays (T,) int64; the text's own tokens, without prefix,
    suffix and special tokens, are ``own_start:own_end``, (n,) int64 each. ``labels`` is -1 where a text has none.
    """

    activations: list[NDArray[np.float32]]
    token_ids: list[NDArray[np.int64]]
    own_start: NDArray[np.int64]
    own_end: NDArray[np.int64]
    labels: NDArray[np.int64]
    ids: list[str]
    groups: list[str]


def token_file_name(layer: int, eval_name: str | None = None) -> str:
    """Name of the file with every token at one layer."""
    return f"layer_{layer}_tokens.h5" if eval_name is None else f"layer_{layer}_tokens_eval_{eval_name}.h5"


def read_token_file(path: Path, split: str) -> TokenRows:
    """Every token of one split. Raises StageError when there is no such file or split, or the file is damaged."""
    if not path.is_file():
        raise StageError(f"{path} is missing: capture with --keep-tokens and this layer.")
    names = ("activations", "token_ids", "offsets", "own_start", "own_end", "labels")
    try:
        with h5py.File(path, "r") as file:
            if split not in file:
                raise StageError(f"{path} has no {split}, only {', '.join(file)}.")
            flat, token_ids, offsets, own_start, own_end, labels = (file[split][name][:] for name in names)
            ids, groups = (file[split][name].asstr()[:].tolist() for name in ("ids", "groups"))
    except (OSError, KeyError) as error:
        raise StageError(f"{path} cannot be read ({error}): it is damaged; capture it again.") from error
    spans = [slice(*pair) for pair in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]
    rows = [flat[span] for span in spans], [token_ids[span] for span in spans]
    return TokenRows(*rows, own_start, own_end, labels, ids, groups)
