"""When a text that is being written cannot become better: told from its token ids alone, with no decoding on the way.

A text is over at the model's end token, at a blank line once a sentence is over (a salutation is none), and when it has
begun one more sentence than can be accepted.
The rules work on characters; they are carried over to whole tokens once for a vocabulary, as a table of transitions.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import StoppingCriteria

# How a text ended; a row that was still going on is none of these.
ENDED, SENTENCES, BLANK_LINE = "ended", "sentences", "blank line"
_FINAL = (ENDED, SENTENCES, BLANK_LINE)


class _State(NamedTuple):
    """What has to be known of a text so far: sentences that are over, and how its last characters look.

    ``mark`` is "" or what ends it: one full stop ".", several "..", "!", or any other end "?". ``called`` holds while the
    only sentence that is over ended in "!": a salutation does ("Hi Mum!"), and a blank line after it ends no text.
    """

    sentences: int = 0
    mark: str = ""
    has_words: bool = False
    new_line: bool = False
    called: bool = False


def _next(state: _State, kind: str, most: int) -> _State | str:
    """The state after one more character of a kind, or the reason to stop.

    A sentence is over at a mark, closing quotes or brackets, and white space, but not at several full stops, which may be
    a pause; ``words.count_sentences`` knows more (abbreviations, for one), so ask for one sentence to spare.
    """
    sentences, mark, has_words, new_line, called = state
    if kind in " \n":
        if mark not in ("", ".."):
            called = sentences == 0 and mark == "!"
            sentences = min(sentences + 1, most)
        if kind == "\n" and new_line and has_words and sentences and not called:
            return BLANK_LINE
        return _State(sentences, "", has_words, new_line or kind == "\n", called)
    if sentences >= most:
        return SENTENCES
    return _State(sentences, _mark_after(mark, kind), has_words or kind == "x", False, called)


def _mark_after(mark: str, kind: str) -> str:
    if kind == "x" or (kind == ")" and not mark):
        return ""
    if kind == ".":
        return {"": ".", ".": "..", "..": ".."}.get(mark, "?")
    if kind == ")":
        return "?" if mark == "." else mark
    return kind


def first_part(text: str) -> str:
    """A text up to the blank line at which it would have stopped; the whole of it where there is none."""
    text = text.strip()
    state = _State()
    for place, character in enumerate(text):
        following = _next(state, _kind(character), len(text))
        if isinstance(following, str):
            return text[:place].rstrip()
        state = following
    return text


def _kind(character: str) -> str:
    if character in ".!?":
        return character
    if character in "\"')]":
        return ")"
    if character == "\n":
        return "\n"
    return " " if character.isspace() else "x"


def shape_of(text: str) -> str:
    """A token's text as far as the rules see it: marks, closers ")", white space, and "x" for all else."""
    kinds = "".join(map(_kind, text))
    return "".join(kind * min(len(list(run)), 2 if kind in "\n." else 1) for kind, run in groupby(kinds))


def token_texts(tokenizer: Any) -> list[str]:
    """The text that each token adds when it follows a word, with the space before it if it brings one."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoded = backend.decode_batch if backend is not None else partial(tokenizer.batch_decode, skip_special_tokens=True)
    first = [*tokenizer("a", add_special_tokens=False)["input_ids"][-1:], *range(len(tokenizer))]
    word = next((i for i in first if any(map(str.isalnum, decoded([[i]])[0]))), first[0])
    head = decoded([[word]])[0]
    return [text.removeprefix(head) for text in decoded([[word, token] for token in range(len(tokenizer))])]


class Stops:
    """The rules for one vocabulary and one number of sentences, as tables on a device.

    ``classes`` (V,) maps a token id to its column in ``table`` (states x columns), which holds the next state. The last
    three states are final and are never left; state 0 is the start.
    """

    def __init__(
        self, texts: Sequence[str], n_ids: int, end_ids: Collection[int], most_sentences: int, device: torch.device
    ) -> None:
        found = [shape_of(text) for text in texts[:n_ids]]
        shapes = list(dict.fromkeys(["", *found]))
        column = {shape: i for i, shape in enumerate(shapes)}
        known = [column[shape] for shape in found]
        classes = torch.tensor(known + [0] * (n_ids - len(known)))
        classes[[i for i in end_ids if i < n_ids]] = len(shapes)
        rows = _table(shapes, most_sentences)
        self.first_final = len(rows) - len(_FINAL)
        self.classes, self.table = classes.to(device), torch.tensor(rows).to(device)

    def reason(self, state: int) -> str | None:
        """How a text in this state ended, None for one that was still going on."""
        return _FINAL[state - self.first_final] if state >= self.first_final else None


def _table(shapes: Sequence[str], most: int) -> list[list[int]]:
    """Next state for every state (row) and every shape, then the end token (column), numbered as they are reached."""
    numbers: dict[_State | str, int] = {_State(): 0}
    reached: list[_State] = [_State()]
    rows: list[list[_State | str]] = []
    for state in reached:  # grows as it goes
        row: list[_State | str] = []
        for shape in shapes:
            there: _State | str = state
            for kind in shape:
                there = there if isinstance(there, str) else _next(there, kind, most)
            if isinstance(there, _State) and there not in numbers:
                numbers[there] = len(reached)
                reached.append(there)
            row.append(there)
        rows.append([*row, ENDED])
    numbers |= {reason: len(reached) + i for i, reason in enumerate(_FINAL)}
    rows += [[reason] * (len(shapes) + 1) for reason in _FINAL]
    return [[numbers[there] for there in row] for row in rows]


class Watch(StoppingCriteria):
    """Follows the rows of one batch through ``Stops``; ``lengths`` (B,) counts the tokens of each up to its stop."""

    def __init__(self, stops: Stops, n_rows: int) -> None:
        self._stops = stops
        self.states = torch.zeros(n_rows, dtype=torch.long, device=stops.table.device)
        self.lengths = torch.zeros_like(self.states)

    def __call__(self, input_ids: Tensor, scores: Any = None, **_: Any) -> Any:
        """Which rows are over (B,), after one more token each."""
        self.lengths += self.states < self._stops.first_final
        self.states = self._stops.table[self.states, self._stops.classes[input_ids[:, -1]]]
        return self.states >= self._stops.first_final
