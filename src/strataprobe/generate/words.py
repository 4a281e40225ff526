"""Checks of one text: words that give its class away, first person, number of sentences."""

from __future__ import annotations

import re
from collections.abc import Iterable

from strataprobe.generate.forms import family_of, forms_of
from strataprobe.recipe import Recipe

_TOKEN = re.compile(r"[a-z]+(?:'[a-z]+)?")
# In capitals US is a country, ME an illness; "i.e." is nobody.
_FIRST_PERSON = re.compile(
    r"\b(?:(?:[Ii](?!\.e\b)|[Mm]e|[Mm]y|MY|[Mm]ine|[Ww]e|WE|[Uu]s|[Oo]ur|OUR|[Oo]urs)\b|(?:[Mm]y|[Oo]ur)sel(?:f|ves)\b)"
)
_CLOSING = r"[\"')\]\u2019\u201d\u00bb]*"
_SENTENCE_END = re.compile(
    rf"(?<![.!?])[.!?\u061f\u06d4\u0964]+{_CLOSING}(?=\s|$)"
    rf"|(?<!\u2026)\u2026+{_CLOSING}(?=\s+[^\Wa-z]|\s*$)"
    rf"|[\u3002\uff01\uff1f]+[\u300d\u300f)\]\u201d]*"
)
# A full stop after one of these ends no sentence; after one of the second kind it does where a capital follows.
_TITLE = re.compile(r"(?<!\w)(?:mr|mrs|ms|dr|prof|st|mt|sgt|capt|lt|col|rev|sra?|vs|approx|ca|nr|hr)\.$", re.IGNORECASE)
_SHORTENED = re.compile(r"(?<!\w)(?:[ap]\.m|e\.g|i\.e|u\.[sk]|etc)\.$", re.IGNORECASE)
_CAPITAL_NEXT = re.compile(r"\s+[^\w\s]*[^\W\da-z_]|\s*$")
# Pictures, with what joins and colours them, are no sentence.
_PICTURES = re.compile(r"[\s\u200d\ufe0e\ufe0f\u2190-\u2bff\U0001f000-\U0001faff\U000e0020-\U000e007f]*")

# "content" is an emotion only as an adjective: "the content of the letter" and "new content" are something else.
_CONTENT_NOUN = re.compile(
    r"\b(?:the|this|that|its|their|your|my|our|his|her|new|more|any|all|no|video|web|online|fat|sugar|water|salt) "
    r"content\b|\bcontents\b|\bcontent (?:of|creators?|providers?)\b"
)
# Tokens whose part in a list is kept at hand.
_MOST_KNOWN = 100_000


class WordChecker:
    """Finds the words of a list in a text, with their inflections and close derivatives.

    Words of a hand-written family stand for all of it ("saddened", "enjoy", "unloved"); of any other word, the forms that
    ``forms_of`` knows are found. Words of several parts are found in any forms of these, with nothing but spaces or
    hyphens between. Where ``inflections`` is False words are found as they stand: the rules know English only.
    """

    def __init__(self, words: Iterable[str], inflections: bool = True) -> None:
        self.words = sorted({w.lower().strip().replace("\u2019", "'") for w in words if w.strip()})
        exact = []
        self._phrases: list[tuple[str, ...]] = []
        for word in self.words:
            tokens = tuple(_TOKEN.findall(word))
            if not inflections or not tokens or re.sub(r"[\s-]+", " ", word) != " ".join(tokens):
                exact.append(rf"(?<!\w){re.escape(word)}(?!\w)")
            else:
                self._phrases.append(tokens)
        parts = {part for phrase in self._phrases for part in phrase}
        self._families = {part: family for part in parts if (family := family_of(part)) is not None}
        self._of_form: dict[str, set[str]] = {}
        for part in sorted(parts - self._families.keys()):
            for form in forms_of(part):
                self._of_form.setdefault(form, set()).add(part)
        self._first = {part: [p for p in self._phrases if p[0] == part] for part in parts}
        self._known: dict[str, frozenset[str]] = {}
        self._exact = re.compile("|".join(exact)) if exact else None

    def find(self, text: str) -> list[str]:
        """The offending tokens of a text, lower-cased, in order."""
        lowered = text.lower().replace("\u2019", "'")
        found = {(m.start(), m.group()) for m in self._exact.finditer(lowered)} if self._exact else set()
        if self._families:
            lowered = _CONTENT_NOUN.sub(lambda m: " " * len(m.group()), lowered)
        tokens = list(_TOKEN.finditer(lowered))
        parts = [self._parts(m.group()) for m in tokens]
        for i, own in enumerate(parts):
            for phrase in (phrase for part in own for phrase in self._first[part]):
                last = i + len(phrase) - 1
                if last < len(tokens) and all(part in parts[i + k] for k, part in enumerate(phrase)):
                    whole = lowered[tokens[i].start() : tokens[last].end()]
                    if not re.sub(r"[a-z']+", "", whole).strip(" -\n"):
                        found.add((tokens[i].start(), whole))
        return [word for _, word in sorted(found)]

    def _parts(self, token: str) -> frozenset[str]:
        """The words of the list, or the parts of such, that a token is a form of."""
        if token not in self._known:
            if len(self._known) > _MOST_KNOWN:
                self._known.clear()
            bare = token.removesuffix("'s")
            families = {part for part, family in self._families.items() if family.fullmatch(bare)}
            self._known[token] = frozenset(families | self._of_form.get(bare, set()))
        return self._known[token]


def checker_for(recipe: Recipe) -> WordChecker:
    """The checker of a recipe: its banned words, its class names and its members; with inflections in English."""
    named = [c.name for c in recipe.classes] + [m for c in recipe.classes for m in c.members]
    words = [*recipe.banned_words, *(w.replace("_", " ") for w in named)]
    return WordChecker(words, inflections=recipe.writing.language == "en")


def count_sentences(text: str) -> int:
    """Number of sentences: ends in ".", "!" or "?" before a space or the end; an unfinished last one counts.

    "Dr. Hale" and "3 p.m. on Monday" have no end in them, nor has an ellipsis before a small letter.
    """
    ends = [m for m in _SENTENCE_END.finditer(text) if _is_end(text, m)]
    tail = text[ends[-1].end() :] if ends else text
    return len(ends) + (_PICTURES.fullmatch(tail) is None)


def _is_end(text: str, mark: re.Match[str]) -> bool:
    if mark.group() != ".":
        return True
    before = text[max(0, mark.start() - 8) : mark.end()]
    if _TITLE.search(before):
        return mark.end() == len(text)
    return not _SHORTENED.search(before) or _CAPITAL_NEXT.match(text, mark.end()) is not None


def is_first_person(text: str) -> bool:
    """Whether the writer speaks of themselves ("I", "me", "we", ...)."""
    return _FIRST_PERSON.search(text) is not None
