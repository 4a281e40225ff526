"""Contractions: how people write in messages, posts and notes ("I'm", "didn't"), as opposed to letters and reports."""

from __future__ import annotations

import re

# Only where something follows in the same clause: "and so I am." and "what it is, I know" stay as they are.
_FOLLOWED = r"(?= [a-z])"
_NOT_AFTER = r"(?<!who )(?<!what )(?<!than )(?<!where )(?<!how )(?<!as )(?<!old )"
_RULES = [
    (re.compile(rf"\b(do|does|did|could|would|should|is|was|were|has|have|had) not\b{_FOLLOWED}"), r"\1n't"),
    (re.compile(rf"\bcannot\b{_FOLLOWED}"), "can't"),
    (re.compile(rf"\bwill not\b{_FOLLOWED}"), "won't"),
    (re.compile(rf"{_NOT_AFTER}\bI am\b{_FOLLOWED}(?! now\b)"), "I'm"),
    (re.compile(rf"{_NOT_AFTER}\b(I|we|they|We|They|You|you) will\b{_FOLLOWED}"), r"\1'll"),
    (re.compile(rf"{_NOT_AFTER}\b(We|we|They|they|you|You) are\b{_FOLLOWED}"), r"\1're"),
    (re.compile(rf"{_NOT_AFTER}\b(It|it|He|he|She|she|That|There|there) is\b{_FOLLOWED}"), r"\1's"),
]


def contracted(text: str) -> str:
    """The text with the contractions of casual writing."""
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text
