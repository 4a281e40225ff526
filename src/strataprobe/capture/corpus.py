"""Texts that are captured together, and their tokens."""

from __future__ import annotations

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
    """The main texts, or one ``--eval`` set. ``layers`` are those still to be captured; of ``token_layers`` every token is.

    After ``tokenize`` there are ``lengths`` (N,) int64, tokens of each text, ``truncated`` (N,) bool, which were cut, and
    ``table`` until ``drop_tokens``.
    """

    name: str
    dataset: Dataset
    layers: list[int]
    token_layers: list[int] = field(default_factory=list)
    table: TokenTable = field(init=False)
    lengths: NDArray[np.int64] = field(init=False)
    truncated: NDArray[np.bool_] = field(init=False)

    @property
    def eval_name(self) -> str | None:
        """NAME of ``--eval NAME=FILE``; None for the main texts."""
        return None if self.name == MAIN else self.name.removeprefix("eval_")

    @cached_property
    def texts_sha256(self) -> str:
        """The data set's digest."""
        return self.dataset.sha256

    def key(self) -> dict[str, Any]:
        """What is to be captured of it, as JSON values."""
        tokens = {"token_layers": self.token_layers} if self.token_layers else {}
        return {"layers": self.layers, "texts_sha256": self.texts_sha256, **tokens}

    def tokenize(self, tokenizer: Tokenizer, readouts: Sequence[str]) -> None:
        """Fill ``table``, and say how many texts were cut. Raises what the tokenizer and ``check_rows`` raise."""
        texts = self.dataset.rows

        def place_of(i: int) -> str:
            return f"text {texts[i].id!r}"

        self.table = tokenizer.rows([text.content for text in texts], place_of)
        check_rows(self.table, readouts, place_of)
        self.lengths, self.truncated = self.table.lengths, self.table.truncated
        if self.table.n_truncated:
            first = texts[int(np.argmax(self.table.truncated))].id
            note(
                f"{self.table.n_truncated} of {len(texts)} texts were longer than {tokenizer.max_tokens} tokens and were "
                f"cut at their end ({first!r} the first)."
            )

    def drop_tokens(self) -> None:
        """Free the tokens once they are read, unless they are to be written down."""
        if not self.token_layers:
            del self.table

    def details(self, held_layers: Sequence[int]) -> dict[str, Any]:
        """What the manifest records of it; ``held_layers`` were captured earlier."""
        cut = np.flatnonzero(self.truncated)[:100]
        return {
            "texts_sha256": self.texts_sha256,
            "layers": sorted({*self.layers, *held_layers}),
            "n_texts": len(self.dataset.rows),
            "n_tokens": int(self.lengths.sum()),
            "n_truncated": int(self.truncated.sum()),
            "truncated_ids": [self.dataset.rows[i].id for i in cut.tolist()],
        }
