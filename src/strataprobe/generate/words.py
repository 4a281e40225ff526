"""Checks of one text: words that give its class away, first person, number of sentences."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

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

# Words whose family no suffix rule finds: each member of a family stands for all of it.
_FAMILIES = (
    r"joy(?:s|ed|ing|ful|fully|fulness|ous|ously|ousness|less|ride)?|(?:en|over)joy\w*|rejoic\w+|killjoy",
    r"grate(?:ful|fully|fulness)|ungrateful\w*|ingratitude|gratitude|gratif\w+",
    r"hop(?:e|es|ed|ing|eful|efully|efulness|efuls|eless|elessly|elessness)",
    r"(?:un)?excit(?:e|es|ed|edly|ing|ingly|ement|able|ability)",
    r"(?:un|be)?lov(?:e|es|ed|er|ers|ing|ingly|ely|elier|eliest|eliness|able|eless|esick|eless)",
    r"prou(?:d|der|dest|dly)|prid(?:e|ed|es|ing|eful)",
    r"(?:dis)?content(?:ed|edly|ment|edness)?",
    r"(?:un)?inspir(?:e|es|ed|er|ing|ingly|ation|ations|ational)",
    r"(?:un)?reliev(?:e|es|ed|ing|edly)|reliefs?",
    r"(?:dis|un|self)?satisf(?:y|ies|ied|ying|yingly|action|actions|actory|actorily)",
    r"sad(?:s|den|dens|dened|dening|der|dest|ly|ness)?",
    r"ang(?:er|ers|ered|ering|ry|rier|riest|rily)",
    r"(?:un)?afraid|fear(?:s|ed|ing|ful|fully|fulness|less|lessly|some)?",
    r"disgust\w*",
    r"(?:un)?(?:a)?sham(?:e|es|ed|ing|eful|efully|efulness|eless|elessly|efaced|efacedly)",
    r"(?:over)?anxi(?:ous|ously|ousness|ety|eties)",
    r"frustrat(?:e|es|ed|edly|ing|ingly|ion|ions)",
    r"disappoint\w*",
    r"guilt(?:y|ier|iest|ily|less|ridden)?",
    r"lonel(?:y|ier|iest|iness)|loner?s?|lonesome\w*",
    r"feel(?:s|ing|ings|ingly)?|felt",
    r"(?:un)?emotion(?:s|al|ally|less)?|emotiv\w*",
    r"sentiment(?:s|al|ally|ality)?",
    r"positiv(?:e|es|ely|ity|ism)",
    r"negativ(?:e|es|ely|ity|ism)",
    r"(?:mis)?underst(?:and|ands|anding|andings|andable|andably|ood)",
)

# Endings with what stands in the base word instead: "applied" is of "apply", "creating" of "creat" or "create".
_ENDINGS = (
    ("ied", ("y", "ie")), ("ies", ("y", "ie")), ("ier", ("y",)), ("iest", ("y",)), ("ily", ("y",)), ("iness", ("y",)),
    ("ing", ("", "e")), ("ings", ("", "e")), ("ed", ("", "e")), ("edly", ("", "e")), ("ingly", ("", "e")),
    ("er", ("", "e")), ("ers", ("", "e")), ("or", ("", "e")), ("ors", ("", "e")), ("est", ("", "e")), ("s", ("",)),
    ("ication", ("y",)), ("ications", ("y",)), ("ation", ("", "e", "ate")), ("ations", ("", "e", "ate")),
    ("ition", ("", "e")), ("ion", ("", "e")), ("ions", ("", "e")), ("ive", ("", "e")), ("ively", ("", "e")),
    ("ment", ("", "e")), ("ments", ("", "e")), ("ance", ("", "e")), ("ence", ("", "e")), ("able", ("", "e")),
    ("ably", ("", "e")), ("ible", ("", "e")), ("iable", ("y",)), ("ness", ("",)), ("less", ("",)), ("lessness", ("",)),
    ("ful", ("",)), ("fully", ("",)), ("fulness", ("",)), ("ly", ("",)), ("ally", ("",)), ("al", ("", "e")),
    ("ous", ("", "e", "y")), ("ously", ("", "e", "y")), ("ious", ("y",)), ("ity", ("", "e")), ("ety", ("",)),
    ("ical", ("y",)), ("ically", ("y",)), ("ist", ("", "y", "e")), ("ism", ("", "e")),
)  # fmt: skip
# Words that only look as if they were derived.
_WHOLE = frozenset([
    "question", "mention", "station", "nation", "motion", "notion", "passion", "mission", "version", "session",
    "section", "fashion", "caution", "portion", "fiction", "function", "number", "matter", "letter", "better",
    "dinner", "corner", "offer", "order", "answer", "business", "comment", "moment", "reply", "supply", "family",
    "early", "ally", "rely", "belly", "jelly", "ugly", "wedding", "evening", "morning", "ceiling", "building",
    "nothing", "something", "during", "party", "army", "story", "country", "county", "city", "body",
])  # fmt: skip
# "content" is an emotion only as an adjective: "the content of the letter" and "new content" are something else.
_CONTENT_NOUN = re.compile(
    r"\b(?:the|this|that|its|their|your|my|our|his|her|new|more|any|all|no|video|web|online|fat|sugar|water|salt) "
    r"content\b|\bcontents\b|\bcontent (?:of|creators?|providers?)\b"
)


class WordChecker:
    """Finds the words of a list in a text, with their inflections and close derivatives.

    Emotion words have hand-written families ("saddened", "enjoy", "unloved"); any other word matches every token that is
    made of the same base word, and words of several parts match tokens that are so in turn. Where ``inflections`` is
    False words are found as they stand: the rules know English only.
    """

    def __init__(self, words: Iterable[str], inflections: bool = True) -> None:
        self.words = sorted({w.lower().strip().replace("\u2019", "'") for w in words if w.strip()})
        self._bases: set[str] = set()
        self._phrases: dict[str, list[tuple[frozenset[str], ...]]] = {}
        patterns, exact = [], []
        for word in self.words:
            tokens = _TOKEN.findall(word)
            if not inflections or not tokens or re.sub(r"[\s-]+", " ", word) != " ".join(tokens):
                exact.append(rf"(?<!\w){re.escape(word)}(?!\w)")
            elif len(tokens) > 1:
                phrase = tuple(_bases(token) for token in tokens)
                for base in phrase[0]:
                    self._phrases.setdefault(base, []).append(phrase)
            elif family := next((f for f in _FAMILIES if re.fullmatch(f, word)), None):
                patterns.append(family)
            else:
                self._bases |= _bases(word) | (_with_y(word) - _WHOLE)
        self._families = re.compile("|".join(f"(?:{p})" for p in dict.fromkeys(patterns))) if patterns else None
        self._exact = re.compile("|".join(exact)) if exact else None

    def find(self, text: str) -> list[str]:
        """The offending tokens of a text, lower-cased, in order."""
        lowered = text.lower().replace("\u2019", "'")
        found = [(m.start(), m.group()) for m in self._exact.finditer(lowered)] if self._exact else []
        if self._families is not None:
            lowered = _CONTENT_NOUN.sub(lambda m: " " * len(m.group()), lowered)
        tokens = list(_TOKEN.finditer(lowered))
        bases = [_bases(m.group().removesuffix("'s")) for m in tokens]
        for i, (token, own) in enumerate(zip(tokens, bases, strict=True)):
            bare = token.group().removesuffix("'s")
            if (self._families is not None and self._families.fullmatch(bare)) or not own.isdisjoint(self._bases):
                found.append((token.start(), token.group()))
            if not own.isdisjoint(self._phrases):
                found += self._phrases_at(lowered, tokens, bases, i)
        return [word for _, word in sorted(found)]

    def _phrases_at(
        self, text: str, tokens: list[re.Match[str]], bases: list[frozenset[str]], start: int
    ) -> list[tuple[int, str]]:
        """The phrases that begin with a token, one after another with nothing but spaces or hyphens between."""
        found = []
        for phrase in {p for base in bases[start] for p in self._phrases.get(base, ())}:
            own = bases[start : start + len(phrase)]
            if len(own) == len(phrase) and all(a & b for a, b in zip(own, phrase, strict=True)):
                whole = text[tokens[start].start() : tokens[start + len(phrase) - 1].end()]
                if not re.sub(r"[a-z']+", "", whole).strip(" -\n"):
                    found.append((tokens[start].start(), whole))
        return found


@cache
def _bases(word: str) -> frozenset[str]:
    """The words that a word may be made of, itself among them: two words with one in common are forms of each other."""
    found, last = {word}, {word}
    for _ in range(2):
        last = {base for w in last if w not in _WHOLE for base in _stripped(w)} - found
        found |= last
    return frozenset(found)


def _with_y(word: str) -> set[str]:
    """The adjectives in "y" of a noun: lucky, noisy, funny."""
    stem = word.removesuffix("e")
    return set() if len(stem) < 3 or stem.endswith("y") else {f"{stem}y", f"{stem}{stem[-1]}y"}


def _stripped(word: str) -> set[str]:
    """The words that one ending less leaves."""
    if word.removesuffix("s") in _WHOLE:
        return {word.removesuffix("s")}
    bases: set[str] = set()
    for ending, endings in _ENDINGS:
        stem = word.removesuffix(ending)
        if stem == word or len(stem) < (2 if ending.startswith("i") and "" not in endings else 3):
            continue
        if ending == "s" and stem[-1] in "su":
            continue
        if "e" in endings and re.fullmatch(r"[^aeiouy]*[aeiouy][^aeiouwxy]", stem):
            bases.add(f"{stem}e")  # hoping is of hope, and hopping of hop
            if ending in ("ation", "ations", "ment", "ments", "able", "ably", "ance", "al", "or", "ors", "ion", "ions"):
                bases.add(stem)
            continue
        bases |= {stem + base for base in endings}
        if "e" in endings and len(stem) > 3 and stem[-1] == stem[-2] and stem[-1] not in "aeiou":
            bases.add(stem[:-1])
    if re.search(r"(?:s|x|z|ch|sh|o)es$", word) and len(word) > 4:
        bases.add(word[:-2])
    for other, spelling in (("yse", "yze"), ("ise", "ize"), ("our", "or")):
        if word.endswith(other) and len(word) > 5:
            bases.add(word.removesuffix(other) + spelling)
    if word.endswith("sis") and len(word) > 5:
        bases |= {word[:-3] + "ze", word[:-2] + "es", word[:-2] + "ize"}
    if word.startswith("un") and len(word) > 6:
        bases.add(word[2:])
    return {base for base in bases if len(base) > 2}


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
