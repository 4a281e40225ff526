"""Texts and conversations as a model's chat template writes them, and where a text stands in what it wrote.

A plain text becomes one turn of the user. Of a conversation the content of the last message is the text; what is before it
is context. Contents are found by writing the turns once more with a stand-in in their place: a search for the content
could find the same words elsewhere.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

from jinja2 import TemplateError

from strataprobe.content import Content
from strataprobe.errors import DataError, OptionError, StrataprobeError

Messages = list[dict[str, str]]

ASSISTANT = "assistant"
# private characters that no template writes
_TEXT, _ANSWER = "\ue000text\ue001", "\ue000answer\ue001"


class Wrapped(NamedTuple):
    """A string to tokenise, and where characters stand in it.

    The text itself is ``start:end``; the content of the last message by the assistant ``answer_start:answer_end``,
    both 0 where there is none.
    """

    string: str
    start: int
    end: int
    answer_start: int = 0
    answer_end: int = 0


def with_text(content: Content, text: str) -> Content:
    """The same row with another text in the place of its own."""
    return text if isinstance(content, str) else _replaced(content, len(content) - 1, text)


class ChatTemplate:
    """Writes prefix + text + suffix into a user turn, or into the last message of a conversation.

    The string ends where the model would begin its answer; where the last message is the assistant's, it ends with the
    suffix. ``tokenizer`` is one of transformers' with a chat template.
    """

    def __init__(self, tokenizer: Any, prefix: str, suffix: str) -> None:
        self._tokenizer, self.prefix, self.suffix = tokenizer, prefix, suffix

    def wrap(self, content: Content, place: str) -> Wrapped:
        """The string of one row.

        Raises DataError when the template refuses the row, or changes or drops its text; OptionError when it changes the
        prefix or suffix.
        """
        if isinstance(content, str):
            whole = f"{self.prefix}{content}{self.suffix}"
            turn = [{"role": "user", "content": whole}]
            written = self._write(turn, place)
            before, after = self._around_turn
            if written != before + whole + after:
                raise self._changed(turn, place)
            start = len(before) + len(self.prefix)
            return Wrapped(written, start, start + len(content))
        return self._conversation(content, place)

    def _conversation(self, messages: Messages, place: str) -> Wrapped:
        last, text = len(messages) - 1, messages[-1]["content"]
        whole = f"{self.prefix}{text}{self.suffix}"
        answer = max((i for i, m in enumerate(messages) if m["role"] == ASSISTANT), default=-1)
        written = self._write(_replaced(messages, last, whole), place)
        stand_ins = _replaced(messages, last, _TEXT)
        if 0 <= answer < last:
            stand_ins = _replaced(stand_ins, answer, _ANSWER)
        before, found, after = self._write(stand_ins, place).partition(_TEXT)
        if not found:
            raise DataError(f"{place}: the chat template leaves out the last message (role {messages[-1]['role']!r}).")
        # what is written before and after the answer; all of it before where the template drops the answer
        head, answered, between = before.partition(_ANSWER)
        tail = between + whole + after if answered else whole + after
        unchanged = written.startswith(head) and written.endswith(tail) and len(written) >= len(head) + len(tail)
        if not unchanged or (not answered and written != before + tail):
            raise self._changed(messages, place)
        start = len(written) - len(whole) - len(after) + len(self.prefix)
        end = start + len(text)
        if answer == last:
            return Wrapped(written[: len(written) - len(after)], start, end, start, end)
        # the template may have trimmed the answer, which is context: its span is what was written
        return Wrapped(written, start, end, *((len(head), len(written) - len(tail)) if answered else ()))

    @cached_property
    def _around_turn(self) -> tuple[str, str]:
        """What the template writes before and after the content of a single user turn."""
        before, _, after = self._write([{"role": "user", "content": _TEXT}], "a text").partition(_TEXT)
        return before, after

    def _changed(self, messages: Messages, place: str) -> StrataprobeError:
        """The error for a row that the template changes: is it the text, or what is put around every text?"""
        for option, form in (("--prefix", self.prefix + _TEXT), ("--suffix", _TEXT + self.suffix)):
            if form not in self._write(_replaced(messages, len(messages) - 1, form), place):
                return OptionError(
                    f"{option} {form.replace(_TEXT, '')!r} is changed by the model's chat template (white space at an "
                    "end?): strip it, or use --template none."
                )
        return DataError(f"{place}: the chat template changes this text (white space at an end?): strip it first.")

    def _write(self, messages: Messages, place: str) -> str:
        """All turns, and the beginning of the answer unless the last one is the assistant's."""
        opens = messages[-1]["role"] != ASSISTANT
        try:
            return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opens))
        except (TemplateError, TypeError, ValueError) as error:
            words = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise DataError(f"{place}: the model's chat template refuses it: {words}.") from error


def _replaced(messages: Messages, at: int, content: str) -> Messages:
    return [{**m, "content": content} if i == at else m for i, m in enumerate(messages)]
