"""Checks of one text: words that give its class away, first person, number of sentences."""

from __future__ import annotations

import re
from collections.abc import Iterable

from strataprobe.recipe import Recipe

_TOKEN = re.compile(r"[a-z]+(?:'[a-z]+)?")
_FIRST_PERSON = re.compile(r"\b(?:i|me|my|mine|myself|we|us|our|ours|ourselves)\b")
_SENTENCE_END = re.compile(r"[.!?]+[\"')\]]*(?=\s|$)")

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
    r"emotion(?:s|al|ally|less)?|emotiv\w*",
    r"sentiment(?:s|al|ally|ality)?",
    r"positiv(?:e|es|ely|ity|ism)",
    r"negativ(?:e|es|ely|ity|ism)",
)
_SUFFIXES = ("fulness", "lessness", "iness", "ously", "fully", "lessly", "ation", "ition", "ement", "ingly", "edly",
             "ness", "ment", "able", "ible", "ious", "less", "ful", "ing", "ion", "ous", "ity", "ety", "ies", "ied",
             "ily", "est", "ier", "ed", "er", "es", "ly", "al", "y", "e", "s")  # fmt: skip
# "content" is an emotion only as an adjective: "the content of the letter" and "new content" are something else.
_CONTENT_NOUN = re.compile(
    r"\b(?:the|this|that|its|their|your|my|our|his|her|new|more|any|all|no|video|web|online|fat|sugar|water|salt) "
    r"content\b|\bcontents\b|\bcontent (?:of|creators?|providers?)\b"
)


class WordChecker:
    """Finds the words of a list in a text, with their inflections and close derivatives.

    Emotion words have hand-written families ("saddened", "enjoy", "unloved"); any other word matches every token with
    the same stem. Words of several parts match as they stand.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self.words = sorted({w.lower().strip() for w in words if w.strip()})
        patterns, self._stems, self._phrases = [], set(), []
        for word in self.words:
            if not _TOKEN.fullmatch(word):
                self._phrases.append(re.compile(rf"(?<!\w){re.escape(word)}(?!\w)"))
                continue
            family = next((f for f in _FAMILIES if re.fullmatch(f, word)), None)
            if family is None:
                self._stems.add(_stem(word))
            elif family not in patterns:
                patterns.append(family)
        self._families = re.compile("|".join(f"(?:{p})" for p in patterns)) if patterns else None

    def find(self, text: str) -> list[str]:
        """The offending tokens of a text, lower-cased, in order."""
        lowered = text.lower().replace("\u2019", "'")
        found = [m.group() for phrase in self._phrases for m in phrase.finditer(lowered)]
        for token in _TOKEN.findall(_CONTENT_NOUN.sub(" ", lowered)):
            bare = token.removesuffix("'s")
            if (self._families is not None and self._families.fullmatch(bare)) or _stem(bare) in self._stems:
                found.append(token)
        return found


def _stem(word: str) -> str:
    """A word without its endings: what "worried", "worrying" and "worries" share."""
    for _ in range(2):
        for suffix in _SUFFIXES:
            if word.endswith(suffix) and len(word) - len(suffix) >= 3:
                word = word[: -len(suffix)]
                break
        else:
            break
    if len(word) > 3 and word[-1] == word[-2]:
        word = word[:-1]
    return word[:-1] if len(word) > 3 and word[-1] in "iy" else word


def checker_for(recipe: Recipe) -> WordChecker:
    """The checker of a recipe: its banned words, its class names and its members."""
    named = [c.name for c in recipe.classes] + [m for c in recipe.classes for m in c.members]
    return WordChecker([*recipe.banned_words, *(w.replace("_", " ") for w in named)])


def count_sentences(text: str) -> int:
    """Number of sentences: ends in ".", "!" or "?" before a space or the end; an unfinished last one counts."""
    ends = list(_SENTENCE_END.finditer(text))
    tail = text[ends[-1].end() :] if ends else text
    return len(ends) + bool(tail.strip())


def is_first_person(text: str) -> bool:
    """Whether the writer speaks of themselves ("I", "me", "we", ...)."""
    return _FIRST_PERSON.search(text.lower().replace("\u2019", "'")) is not None
