"""Forms of English words: the families they belong to, and rules that add an ending or take one off.

The rules go from a word to what is made of it and take off one ending at most, so "bother" is not of "both".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from strataprobe.generate.families import FAMILIES, NO_INFLECTION, OF_THEIR_OWN, VERBS, WHOLE

_FAMILY = [re.compile(family) for family in FAMILIES]
_JOINING = "in out up down on off of to at by for with and or the a an not no as into over"
_PARTICLES = frozenset(_JOINING.split())
_MONOSYLLABLE = re.compile(r"[^aeiouy]*(?:qu)?[aeiouy][^aeiouwxy]")
_SHORT_END = re.compile(r".*[^aeiou][aeiou][bdgklmnprtvz]")


@cache
def family_of(word: str) -> re.Pattern[str] | None:
    """The pattern of the family that a word belongs to, None where it has none."""
    return next((family for family in _FAMILY if family.fullmatch(word)), None)


@cache
def forms_of(word: str) -> frozenset[str]:
    """The forms of a word: its inflections, and what one ending more or less makes of it.

    A word that only joins others ("in", "of") has itself alone, and so has a contraction.
    """
    if word in _PARTICLES or "'" in word or len(word) < 3:
        return frozenset([word])
    bases = {word, *_uninflected(word), *_underived(word)}
    found: set[str] = set()
    for base in bases:
        found |= _inflected(base)
        found |= {form for other in _derived(base) if other not in WHOLE for form in _with_endings(other)}
    return frozenset(found | {word})


def _inflected(word: str) -> set[str]:
    """A word with its regular and irregular inflections, in either spelling."""
    found = {form for spelling in _spellings(word) for form in _verbal(spelling)}
    for group in VERBS:
        if word == group[0] or (word in group and word not in OF_THEIR_OWN):
            found |= {
                form for other in [group[0], *group] for form in (_verbal(other) if other == group[0] else {other})
            }
    return found


def _spellings(word: str) -> Iterator[str]:
    yield word
    for british, american in (("yse", "yze"), ("ise", "ize"), ("our", "or"), ("tre", "ter")):
        if len(word) > 4 and word.endswith(british):
            yield word.removesuffix(british) + american
        if len(word) > 5 and word.endswith(american) and american != "or":
            yield word.removesuffix(american) + british
    if len(word) > 4 and word.endswith("or"):
        yield word.removesuffix("or") + "our"


def _stems(word: str) -> list[str]:
    """What an ending with a vowel is put to: "hopp" of "hop", "hop" of "hope"; both where it may be either."""
    if word.endswith("e") and not word.endswith(("ee", "oe", "ye")):
        return [word[:-1]]
    if _MONOSYLLABLE.fullmatch(word):
        return [word + word[-1]]
    return [word, word + word[-1]] if len(word) > 4 and _SHORT_END.fullmatch(word) else [word]


def _verbal(word: str) -> set[str]:
    """Plural, third person, past and participles; comparative and superlative; who does it."""
    if re.search(r"[^aeiou]y$", word):
        stem = word[:-1]
        return {word, f"{stem}ies", f"{stem}ied", f"{word}ing", f"{word}s", f"{stem}ier", f"{stem}iest"}
    found = {word, word + ("es" if re.search(r"(?:s|x|z|ch|sh)$", word) else "s")}
    if word.endswith("o"):
        found.add(f"{word}es")
    if word.endswith("ie"):
        found.add(f"{word[:-2]}ying")
    for stem in _stems(word):
        found |= {stem + ending for ending in ("ed", "ing", "ings", "er", "ers", "est")}
    plain = {word, f"{word}s", f"{word}es", *(stem + ending for stem in _stems(word) for ending in ("ed", "ing"))}
    plain -= NO_INFLECTION
    return {form for form in found if form in plain or WHOLE.isdisjoint([form, form.removesuffix("s")])}


def _derived(word: str) -> set[str]:
    """What one ending makes of a word: "luck" gives "lucky", "decide" "decision", "curious" "curiosity"."""
    soft = word[:-1] + "i" if re.search(r"[^aeiou]y$", word) else word
    found = {f"{soft}ly", f"{soft}ness", f"{soft}ful", f"{soft}less", f"{soft}ment"}
    vowel = [soft] if soft != word else _stems(word)
    found |= {stem + ending for stem in vowel for ending in ("able", "ably")}
    found |= {f"{stem}y" for stem in _stems(word) if not word.endswith("y") and len(stem) > 2}
    if len(word) > 3:
        found |= {f"un{word}"} | {f"un{stem}{ending}" for stem in vowel for ending in ("ed", "ing", "able")}
    for ending, others in _CHANGES:
        if word.endswith(ending) and len(word) - len(ending) > 2:
            found |= {word.removesuffix(ending) + other for other in others}
    return found


# Endings that others take the place of.
_CHANGES = (
    ("ate", ("ation", "ative", "ator")), ("ify", ("ification",)), ("ize", ("ization",)), ("ise", ("isation",)),
    ("ct", ("ction", "ctive", "ctor")), ("ss", ("ssion", "ssive")), ("de", ("sion", "sive")), ("se", ("sion",)),
    ("use", ("usion",)), ("x", ("xation",)), ("rm", ("rmation",)), ("ine", ("ination",)), ("ore", ("oration",)),
    ("ous", ("osity",)), ("ile", ("ility",)), ("ble", ("bility", "bly")), ("ere", ("erity",)), ("ure", ("urity",)),
    ("ent", ("ence", "ency")), ("ant", ("ance", "ancy")), ("ic", ("ically", "icism")), ("ia", ("ic", "ically")),
    ("ion", ("ional", "ionally", "ionate")), ("al", ("ality",)), ("ry", ("rious", "riously")), ("ive", ("ivity",)),
    ("ple", ("ply",)), ("tle", ("tly",)),
)  # fmt: skip


def _with_endings(word: str) -> set[str]:
    """A derived word with its plural, its adverb and its opposite: "lucky" gives "luckier", "luckily" and "unlucky"."""
    if word.endswith("y") and not word.endswith(("ly", "ity", "cy")):
        stem = word[:-1]
        return {
            word,
            *(stem + ending for ending in ("ier", "iest", "ily", "iness")),
            f"un{word}",
            f"un{stem}ily",
        } - WHOLE
    found = {word, f"{word}s"}
    if word.endswith(("ful", "less", "al", "ive")):
        found |= {f"{word}ly", f"{word}ness"}
    return found - WHOLE


def _uninflected(word: str) -> set[str]:
    """The words that a word may be an inflection of: "hoping" of "hope", "worries" of "worry"."""
    if word in WHOLE:
        return set()
    for ending in ("ies", "ied"):
        if word.endswith(ending) and len(word) > 4:
            return {word.removesuffix(ending) + "y"}
    for ending in ("ing", "ed"):
        stem = word.removesuffix(ending)
        if stem != word and len(stem) > 2 and re.search("[aeiouy]", stem):
            return _without_vowel_ending(stem)
    if re.search(r"(?:ss|x|z|ch|sh)es$", word):
        return {word[:-2]}
    if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3:
        return {word[:-1]}
    own = {group[0] for group in VERBS if word in group and word not in OF_THEIR_OWN}
    return own - {word}


def _without_vowel_ending(stem: str) -> set[str]:
    """The words that have this stem before "ing" or "ed"."""
    if stem[-1] == stem[-2] and stem[-1] not in "aeiouls":
        return {stem[:-1]}
    if _MONOSYLLABLE.fullmatch(stem):
        return {f"{stem}e"}
    return {form for form in (stem, f"{stem}e") if form not in WHOLE}


def _underived(word: str) -> set[str]:
    """The words that a word may be made of with one ending: "happiness" of "happy", "relaxation" of "relax"."""
    if word in WHOLE:
        return set()
    for ending, others in _TAKEN_OFF:
        stem = word.removesuffix(ending)
        if stem != word and len(stem) > 2:
            return {stem + other for other in others}
    return set()


_TAKEN_OFF = (
    ("iness", ("y",)), ("fulness", ("ful", "")), ("lessness", ("less",)), ("ness", ("",)), ("ification", ("ify",)),
    ("isation", ("ise",)), ("ization", ("ize",)), ("ation", ("", "e", "ate")), ("osity", ("ous",)), ("ility", ("ile",)),
    ("erity", ("ere",)), ("urity", ("ure",)), ("ality", ("al",)), ("usion", ("use",)), ("ction", ("ct",)),
    ("ssion", ("ss",)), ("ement", ("e",)), ("ment", ("",)), ("ence", ("ent",)), ("ousy", ("ous",)), ("ily", ("y",)),
    ("fully", ("ful", "")), ("ful", ("",)), ("lessly", ("less", "")), ("less", ("",)), ("ly", ("",)),
)  # fmt: skip
