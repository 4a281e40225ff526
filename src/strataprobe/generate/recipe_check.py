"""Look over a recipe before anything is asked: what would be written, and what would make its texts less good."""

from __future__ import annotations

from collections import Counter
from typing import Any

from strataprobe.errors import OptionError
from strataprobe.generate.builtin.backend import Builtin
from strataprobe.generate.cells import make_cells, settings_of
from strataprobe.generate.findings import Finding
from strataprobe.generate.prompts import LANGUAGES, request
from strataprobe.generate.words import checker_for, forbidden
from strataprobe.recipe import Recipe

# Hardly a text of a few sentences does without these.
_FUNCTION_WORDS = (
    "the", "a", "an", "and", "or", "but", "of", "to", "in", "on", "at", "for", "with", "from", "by", "as", "is",
    "was", "were", "be", "been", "had", "have", "has", "did", "do", "not", "no", "it", "that", "this", "he", "she",
    "they", "we", "you", "my", "me", "his", "her", "its", "our", "their", "all", "so", "then", "when", "what",
    "which", "who", "there", "here", "up", "out", "if",
)  # fmt: skip
_FEW_GROUPS = 20
_MANY_TEXTS_A_SITUATION = 10
_FEW_WORDS_A_SENTENCE = 4


def check_recipe(recipe: Recipe, *, n_per_class: int | None = None, seed: int = 0) -> dict[str, Any]:
    """What ``generate`` would do with a recipe, as JSON values.

    ``plan`` counts texts and situations, ``prompts`` holds the requests of the first pair, ``forbidden`` the words no text
    may use, ``findings`` permanent codes R001 to R009, each with a level and what to do. Raises OptionError for a number
    below 1.
    """
    n = recipe.n_per_class if n_per_class is None else n_per_class
    if n < 1:
        raise OptionError(f"--n-per-class is {n}, it must be at least 1.")
    cells = make_cells(recipe, n, seed)
    settings = settings_of(recipe)
    groups = Counter(cell.group for cell in cells)
    plan = {
        "classes": recipe.class_names,
        "n_per_class": n,
        "n_texts": len(cells),
        "members": {c.name: len(c.members) for c in recipe.classes if c.members},
        "situations": len(settings.situations),
        "styles": len(settings.styles),
        "personas": len(settings.personas),
        "tellings": len(settings.tellings),
        "groups": len(groups),
        "split": dict(Counter(cell.split for cell in cells)),
    }
    return {
        "name": recipe.name,
        "suffix": recipe.suffix,
        "plan": plan,
        "prompts": {cell.label: request(recipe, cell) for cell in cells[: len(recipe.classes)]},
        "forbidden": forbidden(recipe),
        "findings": [
            _described(recipe),
            _alike(recipe),
            _situations(n, len(settings.situations), len(groups)),
            _unsaid(recipe),
            _lengths(recipe),
            _suffix(recipe),
            _builtin(recipe),
            _writable(recipe),
            _language(recipe),
        ],
    }


def _finding(code: str, good: bool, problem: str, fine: str) -> Finding:
    return {"code": code, "level": "ok" if good else "warning", "message": fine if good else problem}


def _described(recipe: Recipe) -> Finding:
    bare = [c.name for c in recipe.classes if not c.description.strip()]
    return _finding(
        "R001",
        not bare,
        f"{', '.join(bare)}: no description, so a language model is told the name alone; say in a sentence or two what the "
        "writer goes through or does, and what tells the class from its neighbours.",
        "every class is described.",
    )


def _alike(recipe: Recipe) -> Finding:
    words = {c.name: len(c.description.split()) for c in recipe.classes if c.description.strip()}
    longest, shortest = max(words, key=lambda k: words[k], default=""), min(words, key=lambda k: words[k], default="")
    return _finding(
        "R002",
        not words or words[longest] <= 3 * words[shortest],
        f"the description of {longest} is more than three times as long as that of {shortest}: prompts should differ in the "
        "concept alone, so describe the classes in like detail.",
        "the classes are described in like detail.",
    )


def _situations(n: int, n_situations: int, n_groups: int) -> Finding:
    if n_groups < _FEW_GROUPS and n >= _FEW_GROUPS:
        problem = (
            f"there are {n_groups} situations, and a situation lies in one split: give {_FEW_GROUPS} or more under "
            "[writing.situations], or leave that section out to use the usual ones."
        )
        return _finding("R003", False, problem, "")
    return _finding(
        "R003",
        n <= _MANY_TEXTS_A_SITUATION * n_situations,
        f"{n:,} texts a class on {n_situations:,} situations is {n / n_situations:.0f} on each: texts will resemble each "
        "other, so add situations.",
        f"{n_groups:,} situations in use, about {n / n_groups:.1f} texts of each class on one.",
    )


def _unsaid(recipe: Recipe) -> Finding:
    checker, settings = checker_for(recipe), settings_of(recipe)
    said = [word for situation in settings.situations for word in situation] + [
        *settings.styles,
        *settings.personas,
        *settings.tellings,
    ]
    named = sorted({word for text in said for word in checker.find(text)})
    return _finding(
        "R004",
        not named,
        f"situations, styles, personas or tellings use words that no text may use ({', '.join(named[:6])}): answers will "
        "repeat them and be rejected, so word those otherwise.",
        "no situation or persona names a class.",
    )


def _lengths(recipe: Recipe) -> Finding:
    (low, high), (fewest, most) = recipe.writing.sentences, recipe.writing.words
    return _finding(
        "R005",
        most >= _FEW_WORDS_A_SENTENCE * low and fewest <= 40 * high,
        f"{low} to {high} sentences hardly fit into {fewest} to {most} words: widen [writing] sentences or words.",
        f"{low} to {high} sentences of {fewest} to {most} words in all.",
    )


def _suffix(recipe: Recipe) -> Finding:
    return _finding(
        "R006",
        bool(recipe.suffix),
        'there is no suffix, so readout last takes the last token of the text itself: a suffix such as "\\n\\nThe concept '
        'shown here is" lets a decoder gather what it knows there.',
        f"decoders are read after the suffix {recipe.suffix!r}.",
    )


def _builtin(recipe: Recipe) -> Finding:
    try:
        Builtin(recipe)
    except OptionError as error:
        return {"code": "R007", "level": "ok", "message": str(error)}
    return {"code": "R007", "level": "ok", "message": "the built-in writer can write it, and so can any --backend."}


def _writable(recipe: Recipe) -> Finding:
    checker = checker_for(recipe)
    needed = [word for word in ("i", *_FUNCTION_WORDS) if recipe.writing.language == "en" and checker.find(word)]
    return _finding(
        "R008",
        not needed,
        f"no text may use {', '.join(needed[:6])}, and hardly any does without: every answer would be rejected, so name the "
        "classes otherwise or take those words out of banned_words.",
        "no word that every text needs is banned.",
    )


def _language(recipe: Recipe) -> Finding:
    language = recipe.writing.language
    return _finding(
        "R009",
        language in LANGUAGES,
        f"the language {language!r} is none that can be told from others, so answers in any language would be accepted: "
        f"use one of {', '.join(sorted(LANGUAGES))}.",
        f"answers must be in {LANGUAGES.get(language, language)}.",
    )
