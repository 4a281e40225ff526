"""From texts to token ids, and which tokens are the text's own.

``template="none"`` tokenises prefix + text + suffix as one string, exactly ``tokenizer(prefix + text + suffix)``: the text
is never stripped or changed, and tokenising the parts apart could give other tokens. ``template="chat"`` puts that string
into a user turn of the model's chat template and ends where the model would answer. A token belongs to the text when it
starts inside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from strataprobe.errors import DataError, ModelError, OptionError
from strataprobe.models import LoadedModel

TEMPLATES = ("none", "chat")
_CHUNK = 2048
# stands for the text while looking where a chat template puts it; private characters that no template writes
_STAND_IN = "\ue000text\ue001"


@dataclass(frozen=True)
class PromptForm:
    """What is put around each text before it is tokenised."""

    prefix: str = ""
    suffix: str = ""
    template: str = "none"

    def __post_init__(self) -> None:
        if self.template not in TEMPLATES:
            raise OptionError(f"--template {self.template!r} is none of {', '.join(TEMPLATES)}.")


class TokenRow(NamedTuple):
    """One text as tokens: ``ids`` (T,) int64; its own tokens are ``own_start:own_end``; ``last`` is the last real one.

    ``last`` leaves out what the tokenizer adds at the end ([SEP], EOS). ``truncated`` says that the text was cut.
    """

    ids: NDArray[np.int64]
    own_start: int
    own_end: int
    last: int
    truncated: bool


class Tokenizer:
    """Tokenises texts in one prompt form for one model. Checks once what would make every number wrong."""

    def __init__(self, model: LoadedModel, form: PromptForm, max_tokens: int | None = None) -> None:
        self.model, self.form = model, form
        self._tokenizer = model.tokenizer
        self.max_tokens = model.max_positions if max_tokens is None else max_tokens
        name = model.identity.name
        if self.max_tokens > model.max_positions:
            raise OptionError(f"--max-tokens {max_tokens} is more than the {model.max_positions} positions of {name}.")
        if self.max_tokens < 1:
            raise OptionError("--max-tokens must be at least 1.")
        if not getattr(self._tokenizer, "is_fast", False):
            raise ModelError(f"{name}: its tokenizer gives no character offsets (it is a slow one); load a fast one.")
        if form.template == "chat" and not getattr(self._tokenizer, "chat_template", None):
            raise ModelError(f"{name} has no chat template: use --template none.")

    def rows(self, texts: Sequence[str], places: Sequence[str] | None = None) -> list[TokenRow]:
        """Tokens of each text, in order. ``places`` name the texts in messages.

        Raises DataError for a text that leaves no token of its own, ModelError for a Gemma without exactly one BOS.
        """
        names = places or [f"text {i}" for i in range(len(texts))]
        found: list[TokenRow] = []
        for begin in range(0, len(texts), _CHUNK):
            chunk, chunk_names = texts[begin : begin + _CHUNK], names[begin : begin + _CHUNK]
            strings, starts = zip(*(self._wrap(t, n) for t, n in zip(chunk, chunk_names, strict=True)), strict=True)
            encoded = self._encode(list(strings))
            for i, text in enumerate(chunk):
                row = _row(encoded, i, starts[i], starts[i] + len(text))
                if len(row.ids) > self.max_tokens:
                    row = self._cut(text, row, chunk_names[i])
                self._check(row, chunk_names[i])
                found.append(row)
        return found

    def class_token_ids(self, class_names: Sequence[str]) -> list[int]:
        """First token of " " + class name, for each class: the word the model would go on with."""
        ids = [self._tokenizer(f" {name}", add_special_tokens=False)["input_ids"] for name in class_names]
        return [int(row[0]) for row in ids]

    def _wrap(self, text: str, place: str) -> tuple[str, int]:
        """The string to tokenise and where the text starts in it."""
        whole = f"{self.form.prefix}{text}{self.form.suffix}"
        if self.form.template == "none":
            return whole, len(self.form.prefix)
        before, after = self._around_turn
        rendered = self._turn(whole)
        if rendered != before + whole + after:
            raise DataError(f"{place}: the chat template changes this text (white space at an end?): strip it first.")
        return rendered, len(before) + len(self.form.prefix)

    def _turn(self, content: str) -> str:
        """A user turn and the beginning of the answer, as the model's chat template writes them."""
        turn = [{"role": "user", "content": content}]
        return str(self._tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))

    @cached_property
    def _around_turn(self) -> tuple[str, str]:
        """What the template writes before and after the text (a search for the text could find the template's words)."""
        before, _, after = self._turn(_STAND_IN).partition(_STAND_IN)
        return before, after

    def _encode(self, strings: list[str]) -> Any:
        return self._tokenizer(
            strings,
            add_special_tokens=self.form.template == "none",
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            truncation=False,
            verbose=False,
        )

    def _cut(self, text: str, row: TokenRow, place: str) -> TokenRow:
        """The text cut at its end until everything fits; the suffix stays whole."""
        around = len(row.ids) - (row.own_end - row.own_start)
        keep = self.max_tokens - around
        while keep > 0:
            kept = self._first_tokens(text, keep)
            if not kept:
                break
            string, start = self._wrap(kept, place)
            shorter = _row(self._encode([string]), 0, start, start + len(kept))
            if len(shorter.ids) <= self.max_tokens:
                return shorter._replace(truncated=True)
            keep -= max(1, len(shorter.ids) - self.max_tokens)
        raise OptionError(
            f"{place}: {self.max_tokens} tokens leave no room for the text beside prefix, suffix and "
            f"template ({around} tokens): raise --max-tokens."
        )

    def _first_tokens(self, text: str, n: int) -> str:
        """The characters of the text's first ``n`` tokens."""
        string, start = self._wrap(text, "text")
        encoded = self._encode([string])
        offsets = [a for a, _ in encoded["offset_mapping"][0]]
        row = _row(encoded, 0, start, start + len(text))
        return text[: offsets[row.own_start + n] - start] if row.own_start + n < row.own_end else text

    def _check(self, row: TokenRow, place: str) -> None:
        if row.own_end <= row.own_start:
            raise DataError(
                f"{place} holds no token of its own (white space or characters the tokenizer drops): "
                "remove it or fill it in."
            )
        bos = self._tokenizer.bos_token_id
        n_bos = 0 if bos is None else int(np.argmin(np.append(row.ids, -1) == bos))
        if self.model.family.startswith("gemma") and n_bos == 0:
            raise ModelError(
                f"{self.model.identity.name}: its tokenizer adds no BOS token, without which Gemma gives "
                "meaningless activations; load the tokenizer that belongs to the model."
            )
        if n_bos > 1:
            raise DataError(
                f"{place} begins with the model's BOS token, which would then stand there twice: remove it "
                "from the text or template."
            )


def _row(encoded: Any, i: int, start: int, end: int) -> TokenRow:
    ids = np.asarray(encoded["input_ids"][i], dtype=np.int64)
    special = np.asarray(encoded["special_tokens_mask"][i], dtype=bool)
    begins = np.asarray([a for a, _ in encoded["offset_mapping"][i]], dtype=np.int64).reshape(-1)
    own = np.flatnonzero((begins >= start) & (begins < end) & ~special)
    real = np.flatnonzero(~special)
    own_start, own_end = (int(own[0]), int(own[-1]) + 1) if len(own) else (0, 0)
    return TokenRow(ids, own_start, own_end, int(real[-1]) if len(real) else 0, False)
