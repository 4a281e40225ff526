"""What a row brings to be read: a text, or a conversation of messages. Checked here, so that nothing else need be."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

from strataprobe.errors import DataError

Content = str | list[dict[str, str]]

# Neither a zero byte nor half of a surrogate pair can stand in a name that goes into an HDF5 file.
NOT_A_NAME = re.compile(r"[\x00\ud800-\udfff]")
_INSTRUCTIONS = ("system", "developer")


def check_text(value: Any, place: str) -> str:
    """The text of a row, unchanged. Raises DataError when it is missing, empty, not a string or not valid Unicode."""
    if value is None:
        raise DataError(f"{place} has no 'text': every row needs one, or 'messages' in its place.")
    return _checked(value, place, "text")


def check_content(value: Any, place: str) -> Content:
    """A text, or a conversation (a list of messages), as it is to be read.

    A text is given back unchanged. Of a conversation each message becomes ``{"role": ..., "content": ...}``: what
    else it holds must be null, and a content in parts, all of them text, is joined. Raises DataError, naming the message
    by its number from 1, for anything that cannot be read as text.
    """
    if not isinstance(value, list):
        return check_text(value, place)
    if not value:
        raise DataError(f"{place} has an empty list of messages: remove the row or fill it in.")
    messages = [_message(message, f"{place}, message {i}") for i, message in enumerate(value, start=1)]
    last = messages[-1]["role"]
    if last in _INSTRUCTIONS:
        raise DataError(f"{place} ends with a message of role {last!r}: the last one must be something said.")
    return messages


def text_of(content: Content) -> str:
    """The text of a row: itself, or the content of its last message."""
    return content if isinstance(content, str) else content[-1]["content"]


def content_of(row: Mapping[str, Any], place: str) -> Content:
    """What a row of a file is read from: its ``text``; where it has none, its ``messages``. Raises DataError."""
    messages = row.get("messages")
    if row.get("text") is not None or messages is None:
        return check_text(row.get("text"), place)
    if not isinstance(messages, list):
        raise DataError(f"{place}: 'messages' is {type(messages).__name__}, not a list of messages.")
    return check_content(messages, place)


def _checked(value: Any, place: str, field: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{place}: {field!r} is {type(value).__name__}, not a string.")
    if not value.strip():
        raise DataError(f"{place} has an empty {field}: remove the row or fill it in.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{place} holds half of a surrogate pair (character {error.start}), which is not text: repair the row."
        ) from error
    return value


def _message(value: Any, place: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise DataError(f"{place} is {type(value).__name__}, not an object with 'role' and 'content'.")
    further = [key for key, held in value.items() if key not in ("role", "content") and held is not None]
    if further:
        raise DataError(f"{place} holds {further[0]!r}: only 'role' and 'content' can be read, so leave it out.")
    role, content = value.get("role"), value.get("content")
    if not isinstance(role, str) or not role.strip() or NOT_A_NAME.search(role):
        raise DataError(f"{place} has no 'role' that is a name, such as 'user' or 'assistant'.")
    if content is None:
        raise DataError(f"{place} has no 'content': give it what was said.")
    if isinstance(content, list):
        content = "".join(_part(part, place) for part in content)
    return {"role": sys.intern(role), "content": _checked(content, place, "content")}


def _part(part: Any, place: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind != "text":
        raise DataError(f"{place} has a part of type {kind!r}: only text can be read, so leave it out.")
    if not isinstance(part.get("text"), str):
        raise DataError(f"{place} has a part of type 'text' that holds no text: fill it in or leave it out.")
    return str(part["text"])
