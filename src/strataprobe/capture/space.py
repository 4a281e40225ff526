"""Is there room on the disk for what is about to be captured? Said before the first batch, not after the last."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from strataprobe.capture.corpus import Corpus
from strataprobe.capture.shards import ZERO_SHOT, ShardFolder
from strataprobe.dataset import Text
from strataprobe.errors import OptionError, StageError

# a text's share of a layer file beside its vectors, id and group: label, target, references to both and their lengths;
# of a file of tokens, in addition: where it begins among them, and where its own begin and end
_ROW_BYTES, _TOKEN_ROW_BYTES, _TOKEN_ID_BYTES = 84, 24, 8
# what else a layer file holds, and what the header of a shard says of an array
_FILE_BYTES, _ARRAY_BYTES = 2**14, 80
# a text's share of texts.jsonl: what stands around its values, and around one message or one class word's logit
_LINE_BYTES, _ITEM_BYTES = 160, 32


def check_space(
    out: Path, work: Path, parts: Iterable[tuple[Corpus, ShardFolder]], readouts: Sequence[str], d_model: int
) -> None:
    """Compare what is still to be written with the free space; what an interrupted attempt holds is not counted.

    Vectors are on the disk twice before the capture is complete: in the shards, and in the layer files. Raises OptionError
    when every token's vectors alone do not fit, StageError when there is too little space otherwise.
    """
    other_bytes = tokens_bytes = 0
    for corpus, shards in parts:
        rows, layers, token_layers = corpus.dataset.rows, corpus.layers, corpus.token_layers
        n_vectors = sum(len(readouts) if layer else 1 for layer in layers)
        other_bytes += 4 * d_model * n_vectors * (shards.n_rows + shards.n_rows_missing)
        other_bytes += _ARRAY_BYTES * len(shards.names) * len(shards.missing)
        names_bytes = _FILE_BYTES + sum(_utf8(text.id) + _utf8(text.group) + _ROW_BYTES for text in rows)
        n_tokens = int(corpus.lengths.sum())
        other_bytes += names_bytes * (len(layers) + len(token_layers))
        other_bytes += (_TOKEN_ROW_BYTES * len(rows) + _TOKEN_ID_BYTES * n_tokens) * len(token_layers)
        other_bytes += sum(map(_line_bytes, rows))
        if shards.holds(ZERO_SHOT):
            words = corpus.dataset.class_names
            other_bytes += sum(_utf8(word) + _ITEM_BYTES for word in words) * len(rows)
            other_bytes += 4 * len(words) * shards.n_rows_missing
        tokens_bytes += 4 * d_model * len(token_layers) * (n_tokens + shards.n_tokens_missing)
    held_bytes = sum(file.stat().st_size for file in work.glob("*.h5"))
    needed_bytes = max(0, other_bytes + tokens_bytes - held_bytes)
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


def _line_bytes(text: Text) -> int:
    """A text's share of texts.jsonl, but for class words; a conversation is there beside its last message."""
    n_bytes = _LINE_BYTES + _utf8(text.id) + _utf8(text.group) + _utf8(text.label or "") + _utf8(text.text)
    if text.messages is not None:
        n_bytes += _utf8(text.whole_text) + _ITEM_BYTES * len(text.messages)
    return n_bytes


def _utf8(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:,.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:,.1f} MB"
