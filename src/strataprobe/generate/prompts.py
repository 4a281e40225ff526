"""What a language model is asked for each cell. Prompts of a pair differ in the lines on the concept and nowhere else."""

from __future__ import annotations

from strataprobe.generate.cells import Cell
from strataprobe.generate.words import UNSPACED_LANGUAGES, forbidden
from strataprobe.recipe import Recipe

Messages = list[dict[str, str]]

# The languages that the check of language knows well; any other is asked for by its code.
LANGUAGES = {
    "en": "English", "de": "German", "fr": "French", "es": "Spanish", "it": "Italian", "pt": "Portuguese", "nl": "Dutch",
    "sv": "Swedish", "da": "Danish", "no": "Norwegian",
    "fi": "Finnish", "et": "Estonian", "lv": "Latvian", "lt": "Lithuanian", "pl": "Polish", "cs": "Czech", "sk": "Slovak",
    "hu": "Hungarian", "ro": "Romanian", "bg": "Bulgarian", "sl": "Slovenian", "hr": "Croatian", "el": "Greek",
    "ru": "Russian", "uk": "Ukrainian", "tr": "Turkish", "ar": "Arabic", "he": "Hebrew", "fa": "Persian", "hi": "Hindi",
    "id": "Indonesian", "vi": "Vietnamese", "th": "Thai", "ko": "Korean", "ja": "Japanese", "zh": "Chinese",
}  # fmt: skip


def messages(recipe: Recipe, cell: Cell, rejected: str = "") -> Messages:
    """The chat messages that ask for the text of ``cell``; ``rejected`` says why an earlier answer was not used."""
    user = request(recipe, cell)
    if rejected:
        user += f"\n\nAn earlier answer could not be used: {rejected}. Write a different one that keeps to all of this."
    return [{"role": "user", "content": user}]


def request(recipe: Recipe, cell: Cell) -> str:
    """The request for one text, in plain words."""
    writing = recipe.writing
    low, high = writing.sentences
    fewest, most = writing.words
    unit = "characters" if writing.language in UNSPACED_LANGUAGES else "words"
    lines = [
        f"Write one short text in {LANGUAGES.get(writing.language, writing.language)}"
        + (", in the first person" if writing.first_person else "")
        + f": {low} to {high} complete sentences, {fewest} to {most} {unit}.",
        "",
        f"Where it plays: {cell.domain}, {cell.trigger}.",
        f"Who writes: {cell.persona}.",
        f"Kind of text: {cell.style}.",
        f"How it is told: {cell.telling}.",
        "",
        *concept_lines(recipe, cell),
        "",
        "Show it through what happens, what is done, said to oneself and seen, with details of this one occasion. "
        "A reader must be able to tell, and no word may name it.",
        f"Do not use these words, nor any form of them: {', '.join(forbidden(recipe))}.",
    ]
    if writing.instructions:
        lines.append(writing.instructions)
    lines.append("Answer with the text alone: no title, no introduction, no comment, no quotation marks, no list.")
    return "\n".join(lines)


def concept_lines(recipe: Recipe, cell: Cell) -> list[str]:
    """The lines in which the prompts of a pair differ."""
    described = next(c for c in recipe.classes if c.name == cell.label)
    shown = described.description.strip() or cell.label.replace("_", " ")
    lines = [f"What the text must show: {shown}"]
    if cell.member:
        lines.append(f"More exactly: {cell.member.replace('_', ' ')}.")
    return lines
