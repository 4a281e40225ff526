"""From texts to token ids, and which tokens are the text's own.

``template="none"`` tokenises prefix + text + suffix as one string, exactly ``tokenizer(prefix + text + suffix)``: the text
is never stripped or changed, and tokenising the parts apart could give other tokens. ``template="chat"`` puts that string
into a user turn of the model's chat template, or into the last message of a conversation, and ends where the model would
answer. A token belongs to the text when it starts inside it.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from strataprobe.capture.chat import ChatTemplate, Wrapped, with_text
from strataprobe.content import Content, text_of
from strataprobe.errors import DataError, ModelError, OptionError
from strataprobe.models import LoadedModel
from strataprobe.progress import note

TEMPLATES = ("none", "chat")
# texts tokenised together: enough to be fast, few enough that the memory they take on the way stays small
_CHUNK_TEXTS, _CHUNK_CHARACTERS = 2048, 2**18
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
PlaceOf = Callable[[int], str]


@dataclass(frozen=True)
class PromptForm:
    """What is put around each text before it is tokenised."""

    prefix: str = ""
    suffix: str = ""
    template: str = "none"

    def __post_init__(self) -> None:
        for name in ("prefix", "suffix"):
            if not isinstance(getattr(self, name), str):
                raise OptionError(f"{name} is {type(getattr(self, name)).__name__}, not a string.")
        if self.template not in TEMPLATES:
            raise OptionError(f"--template {self.template!r} is none of {', '.join(TEMPLATES)}.")


class TokenRow(NamedTuple):
    """One text as tokens: ``ids`` (T,) int64; its own tokens are ``own_start:own_end``; ``last`` is the last real one.

    ``last`` leaves out what the tokenizer adds at the end ([SEP], EOS). ``truncated`` says that the text was cut.
    ``last_assistant`` is the last token of what the assistant said last; -1 where it said nothing.
    """

    ids: Int64
    own_start: int
    own_end: int
    last: int
    truncated: bool
    last_assistant: int = -1


class TokenTable(Sequence[TokenRow]):
    """N texts as tokens, kept flat: 4 bytes a token and 25 a text. ``table[i]`` makes a ``TokenRow``; a slice a table.

    ``ids`` (sum of T,) int32; ``offsets`` (N + 1,) int64 says where each text begins in them; ``positions`` (N, 4) int32
    holds own_start, own_end, last and last_assistant; ``truncated`` (N,) bool.
    """

    def __init__(self, ids: Int32, lengths: NDArray[Any], positions: Int32, truncated: NDArray[np.bool_]) -> None:
        self.ids, self.positions, self.truncated = ids, positions, truncated
        self.offsets: Int64 = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=self.offsets[1:])

    @classmethod
    def concat(cls, tables: Sequence[TokenTable]) -> TokenTable:
        """The rows of several tables, one table after the other."""
        parts = zip(*((t.ids, t.lengths, t.positions, t.truncated) for t in tables), strict=True)
        return cls(*(np.concatenate(part) for part in parts))

    @property
    def lengths(self) -> Int64:
        """Tokens of each text (N,)."""
        return np.diff(self.offsets)

    @property
    def last_assistant(self) -> Int32:
        """``TokenRow.last_assistant`` of each text (N,)."""
        found: Int32 = self.positions[:, 3]
        return found

    @property
    def n_tokens(self) -> int:
        """Tokens of all texts."""
        return len(self.ids)

    @property
    def n_truncated(self) -> int:
        """How many texts were cut."""
        return int(self.truncated.sum())

    def __len__(self) -> int:
        return len(self.truncated)

    @overload
    def __getitem__(self, i: int) -> TokenRow: ...
    @overload
    def __getitem__(self, i: slice) -> TokenTable: ...
    def __getitem__(self, i: int | slice) -> TokenRow | TokenTable:
        if isinstance(i, slice):
            rows = np.arange(len(self))[i]
            lengths = self.lengths[rows]
            shift = self.offsets[rows] - (np.cumsum(lengths) - lengths)
            ids = self.ids[np.arange(lengths.sum()) + np.repeat(shift, lengths)]
            return TokenTable(ids, lengths, self.positions[rows], self.truncated[rows])
        at = range(len(self))[i]
        ids = self.ids[self.offsets[at] : self.offsets[at + 1]].astype(np.int64)
        own_start, own_end, last, last_assistant = self.positions[at].tolist()
        return TokenRow(ids, own_start, own_end, last, bool(self.truncated[at]), last_assistant)


class Tokenizer:
    """Tokenises texts in one prompt form for one model. Checks once what would make every number wrong."""

    def __init__(self, model: LoadedModel, form: PromptForm, max_tokens: int | None = None) -> None:
        self.model, self.form = model, form
        self._tokenizer = model.tokenizer
        self.max_tokens = model.max_positions if max_tokens is None else max_tokens
        name = model.identity.name
        if not isinstance(self.max_tokens, int):
            raise OptionError(f"--max-tokens {max_tokens!r} is not a whole number.")
        if self.max_tokens > model.max_positions:
            raise OptionError(f"--max-tokens {max_tokens} is more than the {model.max_positions} positions of {name}.")
        if self.max_tokens < 1:
            raise OptionError("--max-tokens must be at least 1.")
        if not getattr(self._tokenizer, "is_fast", False):
            raise ModelError(f"{name}: its tokenizer gives no character offsets (it is a slow one); load a fast one.")
        if form.template == "chat" and not getattr(self._tokenizer, "chat_template", None):
            raise ModelError(f"{name} has no chat template: use --template none.")
        self._chat = ChatTemplate(self._tokenizer, form.prefix, form.suffix) if form.template == "chat" else None

    def rows(self, texts: Sequence[Content], place_of: PlaceOf | None = None) -> TokenTable:
        """Tokens of each text or conversation, in order. ``place_of(i)`` names text i in messages.

        Raises DataError for a text that leaves no token of its own, or that the chat template refuses or changes;
        OptionError for a conversation without the chat template; ModelError for a Gemma without exactly one BOS.
        """
        ids, lengths, positions, truncated = array("i"), array("i"), array("i"), bytearray()
        for begin, end in _chunks(texts):
            places = [place_of(i) if place_of else f"text {i}" for i in range(begin, end)]
            chunk = [texts[i] for i in range(begin, end)]
            table = self._encode([self._wrap(content, place) for content, place in zip(chunk, places, strict=True)])
            table = self._with_long_ones_cut(table, chunk, places)
            self._check(table, places)
            ids.frombytes(table.ids.tobytes())
            lengths.frombytes(table.lengths.astype(np.int32).tobytes())
            positions.frombytes(table.positions.tobytes())
            truncated += table.truncated.tobytes()
        flat, four = np.frombuffer(ids, np.int32), np.frombuffer(positions, np.int32).reshape(-1, 4)
        return TokenTable(flat, np.frombuffer(lengths, np.int32), four, np.frombuffer(truncated, np.bool_))

    def class_token_ids(self, class_names: Sequence[str]) -> list[int]:
        """First token of " " + class name that is more than white space: the word the model would go on with.

        Says so where classes share theirs.
        """
        of_token: dict[int, list[str]] = {}
        ids = []
        for name in class_names:
            row = self._tokenizer(f" {name}", add_special_tokens=False)["input_ids"]
            ids.append(next((int(i) for i in row if self._tokenizer.decode([i]).strip()), int(row[0])))
            of_token.setdefault(ids[-1], []).append(repr(name))
        for names in of_token.values():
            if len(names) > 1:
                listed = f"{', '.join(names[:-1])} and {names[-1]}"
                note(f"zero_shot: {listed} begin with the same token; it cannot tell them apart.")
        return ids

    def _wrap(self, content: Content, place: str) -> Wrapped:
        """The string to tokenise and where the text stands in it."""
        if self._chat is not None:
            return self._chat.wrap(content, place)
        if not isinstance(content, str):
            raise OptionError(f"{place} is a conversation ('messages'), which only --template chat reads.")
        start = len(self.form.prefix)
        return Wrapped(f"{self.form.prefix}{content}{self.form.suffix}", start, start + len(content))

    def _batch(self, strings: list[str]) -> Any:
        return self._tokenizer(
            strings,
            add_special_tokens=self._chat is None,
            return_attention_mask=False,
            return_token_type_ids=False,
            truncation=False,
            verbose=False,
        )

    def _encode(self, wrapped: Sequence[Wrapped]) -> TokenTable:
        """Tokens of the strings, none cut, and where the characters of interest lie among them."""
        batch = self._batch([w.string for w in wrapped])
        lengths = np.array([len(e) for e in batch.encodings], dtype=np.int64)
        n = int(lengths.sum())
        ids = np.fromiter(chain.from_iterable(batch["input_ids"]), np.int32, n)
        begins = np.fromiter((a for e in batch.encodings for a, _ in e.offsets), np.int32, n)
        special = np.zeros(n, dtype=bool)
        if self._chat is None:  # a template writes its special tokens as part of the string
            special = np.fromiter(chain.from_iterable(e.special_tokens_mask for e in batch.encodings), bool, n)
        row = np.repeat(np.arange(len(wrapped)), lengths)
        spans = np.array([w[1:] for w in wrapped], dtype=np.int32)
        own, said = ((begins >= spans[row, c]) & (begins < spans[row, c + 1]) & ~special for c in (0, 2))
        first_own, last_own = _first_and_last(own, row, lengths)
        last, last_said = _first_and_last(~special, row, lengths)[1], _first_and_last(said, row, lengths)[1]
        positions = np.stack([first_own.clip(0), last_own + 1, last.clip(0), last_said], axis=1).astype(np.int32)
        return TokenTable(ids, lengths, positions, np.zeros(len(wrapped), dtype=bool))

    def _with_long_ones_cut(self, table: TokenTable, chunk: Sequence[Content], places: Sequence[str]) -> TokenTable:
        pieces, begin = [], 0
        for i in np.flatnonzero(table.lengths > self.max_tokens).tolist():
            pieces += [table[begin:i], self._cut(chunk[i], table[i], places[i])]
            begin = i + 1
        return TokenTable.concat([*pieces, table[begin:]]) if pieces else table

    def _cut(self, content: Content, row: TokenRow, place: str) -> TokenTable:
        """The text cut at its end until everything fits; the suffix and what is before the text stay whole."""
        around = len(row.ids) - (row.own_end - row.own_start)
        keep = self.max_tokens - around
        whole, text = self._wrap(content, place), text_of(content)
        begins = [a for a, _ in self._batch([whole.string]).encodings[0].offsets]
        while keep > 0:
            kept = text[: begins[row.own_start + keep] - whole.start]
            if not kept:
                break
            try:
                shorter = self._encode([self._wrap(with_text(content, kept), place)])
            except DataError:  # a template that trims changes a text that is cut behind white space
                keep -= 1
                continue
            if shorter.n_tokens <= self.max_tokens:
                shorter.truncated[:] = True
                return shorter
            keep -= max(1, shorter.n_tokens - self.max_tokens)
        raise OptionError(
            f"{place}: {self.max_tokens} tokens leave no room for the text beside prefix, suffix and "
            f"template ({around} tokens): raise --max-tokens."
        )

    def _check(self, table: TokenTable, places: Sequence[str]) -> None:
        """Raise the error of the first row that cannot be read rightly."""
        bos = self._tokenizer.bos_token_id
        begins = np.append(table.ids, np.full(2, -1, np.int32))
        front = begins[table.offsets[:-1]]
        second = np.where(table.lengths > 1, begins[table.offsets[:-1] + 1], -1)
        empty = table.positions[:, 1] <= table.positions[:, 0]
        lacking = (front != bos) & self.model.family.startswith("gemma")
        double = (front == bos) & (second == bos)
        wrong = np.flatnonzero(empty | lacking | double)
        if not len(wrong):
            return
        i = int(wrong[0])
        if empty[i]:
            raise DataError(
                f"{places[i]} holds no token of its own (white space or characters the tokenizer drops): "
                "remove it or fill it in."
            )
        if lacking[i]:
            raise ModelError(
                f"{self.model.identity.name}: its tokenizer adds no BOS token, without which Gemma gives "
                "meaningless activations; load the tokenizer that belongs to the model."
            )
        raise DataError(
            f"{places[i]} begins with the model's BOS token, which would then stand there twice: remove it "
            "from the text or template."
        )


def _chunks(texts: Sequence[Content]) -> Iterator[tuple[int, int]]:
    """Ranges of texts that are tokenised together; one of any length is taken."""
    begin = n_characters = 0
    for i, content in enumerate(texts):
        n = len(content) if isinstance(content, str) else sum(len(m["content"]) for m in content)
        if i > begin and (i - begin == _CHUNK_TEXTS or n_characters + n > _CHUNK_CHARACTERS):
            yield begin, i
            begin, n_characters = i, 0
        n_characters += n
    if len(texts) > begin:
        yield begin, len(texts)


def _first_and_last(mask: NDArray[np.bool_], row: Int64, lengths: Int64) -> tuple[Int64, Int64]:
    """The first and the last token of each row (N,) where the flat ``mask`` holds; -1 where it does nowhere."""
    at = np.flatnonzero(mask)
    rows = np.arange(len(lengths))
    begins = np.cumsum(lengths) - lengths
    left, right = np.searchsorted(row[at], rows), np.searchsorted(row[at], rows, side="right")
    some = right > left
    first, last = np.full(len(rows), -1), np.full(len(rows), -1)
    first[some] = at[left[some]] - begins[some]
    last[some] = at[right[some] - 1] - begins[some]
    return first, last
