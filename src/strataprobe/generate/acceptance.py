"""Which answers become texts: named checks, in order; the first that fails is the reason an answer is rejected."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from strataprobe.generate.patterns import (
    CONTROL,
    FINISHED,
    LIST,
    PICTURES_AT_END,
    PREAMBLE,
    QUOTED,
    QUOTES,
    REFUSAL,
    THOUGHTS,
    UNSEEN,
)
from strataprobe.generate.words import UNSPACED_LANGUAGES, checker_for, count_sentences, is_first_person
from strataprobe.neardup import NearDuplicates
from strataprobe.recipe import Recipe

# Closer than this to a text that was accepted is too close (``neardup.SIMILARITY`` calls .6 a near-duplicate).
TOO_CLOSE = 0.55
# A run of so many words taken from the prompt makes an answer a copy of it.
_COPIED_WORDS = 8
# Surer than this that the text is in another language than the one asked for.
_OTHER_LANGUAGE = 0.9

# A text with more than so many characters for each word that it may have is not looked at any further.
_CHARACTERS_A_WORD = 20
_LONGEST_FINDING = 80

_WORD = re.compile(r"\w[^\s\u2013\u2014]*")
_SPACED = re.compile(r"\w+")
# Languages that a short text does not tell apart.
_ALIKE = ({"no", "nb", "nn", "da"}, {"hr", "bs", "sr"}, {"id", "ms"}, {"cs", "sk"}, {"gl", "pt"})


@dataclass(frozen=True)
class Rejection:
    """Why an answer was not accepted: the name of the check, what it found, and the words for the next request."""

    check: str
    found: str
    advice: str


def cleaned(answer: str) -> str:
    """An answer without white space around it, a reasoning model's thoughts before it, or quotation marks round it all.

    Halves of a character that have lost the other half are replaced, so that the text can be written to a file.
    """
    answer = answer.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\r\n", "\n")
    text = THOUGHTS.sub("", UNSEEN.sub("", answer)).strip()
    quoted = QUOTED.fullmatch(text)
    return quoted.group(1).strip() if quoted else text


class Acceptance:
    """The checks for one recipe, and the texts accepted so far.

    A text far longer than any that is wanted (20 characters for each word it may have) is rejected before all other checks
    but the first. Blank lines are white space: letters and diaries pass, whoever wrote them.

    ``find`` names what is wrong with a text, ``remember`` takes an accepted one into account. English texts are checked
    for the first person and for inflections; in other languages banned words match as they
    stand. ``check_language`` False leaves the language of texts unchecked.
    """

    def __init__(self, recipe: Recipe, check_language: bool = True) -> None:
        self._recipe = recipe
        self._words = checker_for(recipe)
        self._unit = "characters" if recipe.writing.language in UNSPACED_LANGUAGES else "words"
        self._near = NearDuplicates(TOO_CLOSE)
        self._exact: set[str] = set()
        checks: dict[str, Callable[[str, str], str | None]] = {
            "empty": self._empty,
            "control": self._control,
            "refusal": self._refusal,
            "preamble": self._preamble,
            "list": self._list,
            "quotes": self._quotes,
            "unfinished": self._unfinished,
            "sentences": self._sentences,
            "language": self._language,
            "length": self._length,
            "first_person": self._first_person,
            "banned_word": self._banned_word,
            "prompt_copy": self._prompt_copy,
            "duplicate": self._duplicate,
            "near_duplicate": self._near_duplicate,
        }
        if not check_language:
            del checks["language"]
        self._checks = checks

    def find(self, text: str, prompt: str = "") -> Rejection | None:
        """The first check that ``text`` fails, None when it passes all. ``prompt`` is what it answers."""
        for name, check in self._checks.items():
            found = check(text, prompt)
            if found is not None:
                found = found[:_LONGEST_FINDING]
                return Rejection(name, found, self.advice(name, found))
            if name == "empty" and len(text) > _CHARACTERS_A_WORD * self._recipe.writing.words[1]:
                found = f"{len(text):,} characters"
                return Rejection("length", found, self.advice("length", found))
        return None

    def remember(self, text: str) -> None:
        """Count a text as accepted: no other may repeat it."""
        self._exact.add(_folded(text))
        self._near.add(text)

    def advice(self, check: str, found: str) -> str:
        """What to say of an answer that was rejected, when its cell is asked again."""
        low, high = self._recipe.writing.sentences
        few, many = self._recipe.writing.words
        unit = "" if self._unit in found else f" {self._unit}"
        return {
            "control": "it held characters that are no text",
            "refusal": "it was no text but an apology",
            "preamble": "it held an introduction or a comment",
            "list": "it held a list or other formatting",
            "quotes": "it held quotation marks",
            "truncated": "it was too long and was cut off",
            "unfinished": "its last sentence was not finished",
            "sentences": f"it had {found}, and {low} to {high} are wanted",
            "length": f"it had {found}, and {few} to {many}{unit} are wanted",
            "language": "it was in another language",
            "first_person": "nobody in it said I, me or my",
            "banned_word": f"it used the word {found}",
            "prompt_copy": "it repeated words of this request",
            "duplicate": "the same text has been written before",
            "near_duplicate": "it was too like a text written before",
        }.get(check, "there was no text in it")

    def _empty(self, text: str, _: str) -> str | None:
        return None if _WORD.search(text) else "no words"

    def _control(self, text: str, _: str) -> str | None:
        match = CONTROL.search(text)
        return f"U+{ord(match.group()):04X}" if match else None

    def _refusal(self, text: str, _: str) -> str | None:
        return _matched(REFUSAL, text)

    def _preamble(self, text: str, _: str) -> str | None:
        return _matched(PREAMBLE, text)

    def _list(self, text: str, _: str) -> str | None:
        return _matched(LIST, text)

    def _quotes(self, text: str, _: str) -> str | None:
        return _matched(QUOTES, text)

    def _unfinished(self, text: str, _: str) -> str | None:
        return None if FINISHED.search(PICTURES_AT_END.sub("", text)) else text[-20:]

    def _sentences(self, text: str, _: str) -> str | None:
        low, high = self._recipe.writing.sentences
        n = count_sentences(text)
        return None if low <= n <= high else f"{n} sentence{'' if n == 1 else 's'}"

    def _length(self, text: str, _: str) -> str | None:
        low, high = self._recipe.writing.words
        n = len(re.sub(r"\W", "", text)) if self._unit == "characters" else len(_WORD.findall(text))
        return None if low <= n <= high else f"{n} {self._unit}"

    def _language(self, text: str, _: str) -> str | None:
        wanted = self._recipe.writing.language
        if wanted not in _languages():
            return None
        language, probability = _language_of(text)
        alike = any({language, wanted} <= group for group in _ALIKE)
        return language if language != wanted and not alike and probability > _OTHER_LANGUAGE else None

    def _first_person(self, text: str, _: str) -> str | None:
        writing = self._recipe.writing
        if not writing.first_person or writing.language != "en":
            return None
        return None if is_first_person(text) else "no I, me, my, we or us"

    def _banned_word(self, text: str, _: str) -> str | None:
        found = self._words.find(text)
        return found[0] if found else None

    def _prompt_copy(self, text: str, prompt: str) -> str | None:
        asked, words = f" {' '.join(_SPACED.findall(prompt.lower()))} ", _SPACED.findall(text.lower())
        for start in range(len(words) - _COPIED_WORDS + 1):
            run = " ".join(words[start : start + _COPIED_WORDS])
            if f" {run} " in asked:
                return run
        return None

    def _duplicate(self, text: str, _: str) -> str | None:
        return "an accepted text" if _folded(text) in self._exact else None

    def _near_duplicate(self, text: str, _: str) -> str | None:
        return "an accepted text" if self._near.like(text) else None


def _matched(pattern: re.Pattern[str], text: str) -> str | None:
    match = pattern.search(text.replace("\u2019", "'") if pattern is not QUOTES else text)
    return match.group().strip()[:60] if match else None


def _folded(text: str) -> str:
    """A text as far as two copies of it agree: words alone, in lower case."""
    return " ".join(_SPACED.findall(text.lower())) or text


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@cache
def _languages() -> frozenset[str]:
    """The languages that can be told apart, as two-letter codes."""
    return frozenset(str(code) for code in _identifier().nb_classes)


def _language_of(text: str) -> tuple[str, float]:
    """The language a text is most likely in, as a two-letter code, with its probability."""
    language, probability = _identifier().classify(text)
    return str(language), float(probability)
