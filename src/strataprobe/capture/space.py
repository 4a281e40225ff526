"""Is there room on the disk for what is about to be captured? Said before the first batch, not after the last."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from strataprobe.capture.corpus import Corpus
from strataprobe.capture.shards import ShardFolder
from strataprobe.errors import OptionError, StageError

# a text's share of a layer file beside its vectors: labels, references to id and group, and the lengths of both
_ROW_BYTES = 72


def check_space(
    out: Path, work: Path, parts: Iterable[tuple[Corpus, ShardFolder]], readouts: Sequence[str], d_model: int
) -> None:
    """Compare what is still to be written with the free space; what an interrupted attempt holds is not counted.

    Vectors are on the disk twice before the capture is complete: in the shards, and in the layer files. Raises OptionError
    when every token's vectors alone do not fit, StageError when there is too little space otherwise.
    """
    vectors_bytes = tokens_bytes = 0
    for corpus, shards in parts:
        n_vectors = sum(len(readouts) if layer else 1 for layer in corpus.layers)
        n_rows = shards.n_rows + shards.n_rows_missing
        names_bytes = sum(len(text.id) + len(text.group) + _ROW_BYTES for text in corpus.dataset.rows)
        texts_bytes = sum(len(text.text) for text in corpus.dataset.rows)
        vectors_bytes += 4 * d_model * n_vectors * n_rows + names_bytes * (len(corpus.layers) + 1) + texts_bytes
        n_tokens = int(corpus.lengths.sum()) + shards.n_tokens_missing
        tokens_bytes += 4 * d_model * len(corpus.token_layers) * n_tokens
    held_bytes = sum(file.stat().st_size for file in work.glob("*.h5"))
    needed_bytes = max(0, vectors_bytes + tokens_bytes - held_bytes)
    total_bytes, _, free_bytes = shutil.disk_usage(out.parent)
    if needed_bytes <= free_bytes or not total_bytes:  # some file systems do not say
        return
    if tokens_bytes > free_bytes:
        raise OptionError(
            f"--keep-tokens: the vectors of every token would take {_size(tokens_bytes // 2)}, and twice that while they "
            f"are read, where {_size(free_bytes)} are free: ask for fewer --layers, cut texts with --max-tokens, or leave "
            "--keep-tokens out."
        )
    raise StageError(
        f"{out} needs {_size(needed_bytes)} more on its disk (vectors as they are read, then the layer files), and "
        f"{_size(free_bytes)} are free: free some space, choose another --out, or ask for fewer --layers."
    )


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:,.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:,.1f} MB"
