"""Texts that are captured together, and their tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strataprobe.capture.positions import check_rows
from strataprobe.capture.tokens import Tokenizer, TokenTable
from strataprobe.dataset import Dataset
from strataprobe.progress import note

MAIN = "main"


@dataclass
class Corpus:
    """The main texts, or one ``--eval`` set. ``layers`` are those still to be captured.

    After ``tokenize`` there are ``lengths`` (N,) int64, tokens of each text, ``truncated`` (N,) bool, which were cut,
    ``tokens_sha256``, a digest of all tokens and of which are read, and ``table`` until ``drop_tokens``.
    """

    name: str
    dataset: Dataset
    layers: list[int]
    keep_tokens: bool = False
    table: TokenTable = field(init=False)
    lengths: NDArray[np.int64] = field(init=False)
    truncated: NDArray[np.bool_] = field(init=False)
    tokens_sha256: str = field(init=False)

    @property
    def eval_name(self) -> str | None:
        """NAME of ``--eval NAME=FILE``; None for the main texts."""
        return None if self.name == MAIN else self.name.removeprefix("eval_")

    @property
    def token_layers(self) -> list[int]:
        """At which of the layers every token's vector is kept."""
        return self.layers if self.keep_tokens else []

    @cached_property
    def texts_sha256(self) -> str:
        """The data set's digest."""
        return self.dataset.sha256

    def key(self) -> dict[str, Any]:
        """What is to be captured of it, as JSON values."""
        return {"layers": self.layers, "texts_sha256": self.texts_sha256}

    def tokenize(self, tokenizer: Tokenizer, readouts: Sequence[str]) -> None:
        """Fill ``table``, and say how many texts were cut. Raises what the tokenizer and ``check_rows`` raise."""
        texts = self.dataset.rows

        def place_of(i: int) -> str:
            return f"text {texts[i].id!r}"

        self.table = tokenizer.rows([text.content for text in texts], place_of)
        check_rows(self.table, readouts, place_of)
        self.lengths, self.truncated = self.table.lengths, self.table.truncated
        digest = hashlib.sha256()
        for array in (self.table.ids, self.table.offsets, self.table.positions):
            digest.update(np.ascontiguousarray(array).data)
        self.tokens_sha256 = digest.hexdigest()
        if self.table.n_truncated:
            first = texts[int(np.argmax(self.table.truncated))].id
            note(
                f"{self.table.n_truncated} of {len(texts)} texts were longer than {tokenizer.max_tokens} tokens and were "
                f"cut at their end ({first!r} the first)."
            )

    def drop_tokens(self) -> None:
        """Free the tokens once they are read, unless they are to be written down."""
        if not self.keep_tokens:
            del self.table

    def details(self, held_layers: Sequence[int]) -> dict[str, Any]:
        """What the manifest records of it; ``held_layers`` were captured earlier."""
        cut = np.flatnonzero(self.truncated)[:100]
        return {
            "texts_sha256": self.texts_sha256,
            "tokens_sha256": self.tokens_sha256,
            "layers": sorted({*self.layers, *held_layers}),
            "n_texts": len(self.dataset.rows),
            "n_tokens": int(self.lengths.sum()),
            "n_truncated": int(self.truncated.sum()),
            "truncated_ids": [self.dataset.rows[i].id for i in cut.tolist()],
        }
