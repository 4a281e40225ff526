"""Checks of one text: words that give its class away, first person, number of sentences."""

from __future__ import annotations

import re
from collections.abc import Iterable

from strataprobe.generate.forms import family_of, forms_of
from strataprobe.generate.patterns import GREETING
from strataprobe.recipe import Recipe

_TOKEN = re.compile(r"[a-z]+(?:'[a-z]+)?")
# In capitals US is a country, ME an illness; "i.e." is nobody.
_FIRST_PERSON = re.compile(
    r"\b(?:(?:[Ii](?!\.e\b)|[Mm]e|[Mm]y|MY|[Ww]e|WE|[Uu]s|[Oo]ur|OUR|[Oo]urs)\b|(?:[Mm]y|[Oo]ur)sel(?:f|ves)\b)"
)
# "Mine" is a person's where no noun can be: after "of", "is" or "than", and as the subject of a sentence or clause.
_MINE = re.compile(
    r"\b(?:of|(?:i|wa|')s|are|were|been?|being|becomes?|became|not|than|like|as|and|or|but|on|in|with|beside|against|over"
    r"|under|near|from|for|by|into|onto|behind|next to|called?) mine\b(?! (?:shaft|worker|owner|field|entrance)s?\b)"
    r"|\bto mine(?=\s*[.,;:!?]|\s*$)"
    r"|(?:\A|[.!?,;:\u2026\u2013\u2014]\s+|\n)[Mm]ine\b(?! (?:shaft|worker|owner|field|entrance|closure)s?\b)"
)
_RULERS = (
    r"(?:Elizabeth|James|Charles|William|George|Edward|Henry|Richard|Mary|Anne|Napoleon|Nicholas|Alexander|Francis|Ivan"
    r"|Otto|Frederick|Leopold|Peter|Paul|John|Louis|Philip|Catherine|Ferdinand|Franz|Wilhelm|Carlos|Pedro|Haile)"
)
# A number that looks like the writer: "Elizabeth I ruled", "World War I".
_THE_FIRST = re.compile(
    rf"(?:(?:\A|(?<=[.!?]\s))|\b(?:King|Queen|Pope|Emperor|Empress|Tsar|Czar|Kaiser|under|of|by)\s+){_RULERS}(?: \w+)? I\b"
    r"(?!')|\b(?:World War|Part|Chapter|Type|Phase|Act|Volume|Book|Article|Section|Stage) I\b(?!')"
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
# "No. 5"; an initial, as in "J. R. Smith", unless what follows begins a sentence.
_NUMBERED = re.compile(r"(?<!\w)(?:No|Nos|Nr|Vol|Ch|Fig|pp?)\.$")
_NUMBER_NEXT = re.compile(r"\s+\d")
_INITIAL = re.compile(r"(?<![\w.])(?:[A-Z]\.)*[A-Z]\.$")
_NAME_NEXT = re.compile(
    r"\s+(?:[A-Z]\.|(?!(?:A|An|The|He|She|It|We|You|They|My|Our|His|Her|Its|Their|This|That|These|Those|There|Then|And|But|So"
    r"|Or|Nor|Yet|In|On|At|By|For|From|With|To|Of|As|If|When|While|After|Before|Since|Until|Because|Not|No|Nobody|Nothing"
    r"|Every\w*|Some\w*|Any\w*|All|One|Two|What|Who|Why|How|Where|Still|Now|Later|Next|Once|Even|Just|Only|Here|I)\b)[A-Z]\w)"
)
_LOWER_NEXT = re.compile(r"\s+[^\W\d_A-Z]")
_CAPITAL_NEXT = re.compile(r"\s+[^\w\s]*[^\W\da-z_]|\s*$")
# The first line of a letter: who it is to, and no sentence.
_SALUTATION = re.compile(
    rf"\A\W*(?:{GREETING})\b[^\n.?!]{{0,60}}[,:!]?[ \t]*\n",
    re.IGNORECASE,
)
# Languages that put no spaces between words; lengths are counted in characters there.
UNSPACED_LANGUAGES = frozenset(["zh", "ja", "th", "km", "lo", "my"])
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


def forbidden(recipe: Recipe) -> list[str]:
    """The words that a text may not use, the same for every class: its names, its members, and the banned words."""
    named = [c.name for c in recipe.classes] + [m for c in recipe.classes for m in c.members]
    words = [*(w.replace("_", " ").lower() for w in named), *(w.lower() for w in recipe.banned_words)]
    return sorted(set(words))


def checker_for(recipe: Recipe) -> WordChecker:
    """The checker of a recipe's forbidden words; with inflections in English."""
    return WordChecker(forbidden(recipe), inflections=recipe.writing.language == "en")


def count_sentences(text: str) -> int:
    """Number of sentences: ends in ".", "!" or "?" before a space or the end; an unfinished last one counts.

    "Dr. Hale", "J. R. Smith", "No. 5" and "3 p.m. on Monday" have no end in them, nor has an ellipsis before a small
    letter. A blank line is white space, and a salutation ("Dear Mum,", "Hi Tom!") belongs to the first sentence.
    """
    text = _SALUTATION.sub("", text)
    ends = [m for m in _SENTENCE_END.finditer(text) if _is_end(text, m)]
    tail = text[ends[-1].end() :] if ends else text
    return len(ends) + (_PICTURES.fullmatch(tail) is None)


def _is_end(text: str, mark: re.Match[str]) -> bool:
    if mark.group().startswith("..") and not mark.group().strip("\"')]\u2019\u201d\u00bb."):
        following = _LOWER_NEXT.match(text, mark.end())
        return following is None or not following.group()[-1].islower()
    if mark.group() != ".":
        return True
    before = text[max(0, mark.start() - 12) : mark.end()]
    if _NUMBERED.search(before) and _NUMBER_NEXT.match(text, mark.end()):
        return False
    if _INITIAL.search(before) and _NAME_NEXT.match(text, mark.end()):
        return False
    if _TITLE.search(before):
        return mark.end() == len(text)
    return not _SHORTENED.search(before) or _CAPITAL_NEXT.match(text, mark.end()) is not None


def is_first_person(text: str) -> bool:
    """Whether the writer speaks of themselves ("I", "me", "we", ...); not in "Elizabeth I" or "the coal mine"."""
    return _MINE.search(text) is not None or _FIRST_PERSON.search(_THE_FIRST.sub("", text)) is not None
