"""What a language model is asked: alike for the classes of a pair but for the concept, with every forbidden word named."""

from __future__ import annotations

import re

import pytest

from scripted_backend import three_classes
from strataprobe.generate.acceptance import _languages
from strataprobe.generate.cells import Cell, make_cells
from strataprobe.generate.prompts import LANGUAGES, concept_lines, messages, request
from strataprobe.generate.words import checker_for, forbidden
from strataprobe.recipe import Recipe, load_recipe

RECIPES = ["sentiment", "emotions", "cognitive_actions"]


def apart(recipe: Recipe, cell: Cell) -> tuple[str, str]:
    """The request without its lines on the concept, and those lines."""
    concept = "\n".join(concept_lines(recipe, cell))
    whole = request(recipe, cell)
    assert whole.count(concept) == 1
    return whole.replace(concept, ""), concept


@pytest.mark.parametrize("name", RECIPES)
def test_the_prompts_of_a_pair_are_alike_but_for_the_lines_on_the_concept(name: str) -> None:
    recipe = load_recipe(name)
    for pair in range(4):
        cells = [c for c in make_cells(recipe, 4, 0) if c.pair == pair]
        found = [apart(recipe, cell) for cell in cells]
        assert len({rest for rest, _ in found}) == 1
        assert len({concept for _, concept in found}) == len(cells)
    assert len({apart(recipe, c)[0] for c in make_cells(recipe, 4, 0)}) == 4


@pytest.mark.parametrize("name", RECIPES)
def test_every_word_that_is_checked_for_is_forbidden_in_so_many_words(name: str) -> None:
    recipe = load_recipe(name)
    asked = request(recipe, make_cells(recipe, 1, 0)[0])
    line = next(line for line in asked.split("\n") if line.startswith("Do not use these words"))
    named = line.partition(": ")[2].removesuffix(".").split(", ")
    assert named == forbidden(recipe)
    assert set(named) == set(checker_for(recipe).words)
    for cls in recipe.classes:
        assert cls.name.replace("_", " ") in named


@pytest.mark.parametrize("name", RECIPES)
def test_no_class_is_named_outside_the_concept_and_the_forbidden_words(name: str) -> None:
    recipe = load_recipe(name)
    checker = checker_for(recipe)
    for cell in make_cells(recipe, 40, 0)[:: len(recipe.classes)]:
        rest = [line for line in apart(recipe, cell)[0].split("\n") if not line.startswith("Do not use these words")]
        assert checker.find("\n".join(rest)) == []
        assert checker.find("\n".join([*rest, recipe.classes[0].name.replace("_", " ")])) != []


def test_a_request_says_everything_that_is_planned_and_checked() -> None:
    recipe = three_classes(writing={"sentences": [2, 3], "words": [10, 50], "instructions": "Keep to one afternoon."})
    cell = next(c for c in make_cells(recipe, 5, 0) if c.member == "dust_storm")
    asked = request(recipe, cell)
    for part in (
        cell.domain,
        cell.trigger,
        cell.style,
        cell.persona,
        cell.telling,
        "Nothing comes down.",
        "dust storm",
    ):
        assert part in asked
    assert "in English, in the first person: 2 to 3 complete sentences, 10 to 50 words." in asked
    assert "Keep to one afternoon." in asked
    for kind in ("title", "introduction", "comment", "quotation marks", "list"):
        assert f"no {kind}" in asked
    assert not re.search(r"[{}\[\]_]", asked)


def test_a_class_without_a_description_is_asked_for_by_its_name() -> None:
    recipe = Recipe.model_validate({"name": "any", "classes": [{"name": "wet_days"}, {"name": "dry"}]})
    cells = make_cells(recipe, 1, 0)
    assert [concept_lines(recipe, c) for c in cells] == [
        ["What the text must show: dry"],
        ["What the text must show: wet days"],
    ]


@pytest.mark.parametrize(
    ("writing", "first"),
    [
        ({"language": "de"},
         "Write one short text in German, in the first person: 2 to 4 complete sentences, 12 to 120 words."),
        ({"language": "sv", "first_person": False},
         "Write one short text in Swedish: 2 to 4 complete sentences, 12 to 120 words."),
        ({"language": "zh", "first_person": False},
         "Write one short text in Chinese: 2 to 4 complete sentences, 12 to 120 characters."),
        ({"language": "nds", "first_person": False, "sentences": [1, 2]},
         "Write one short text in nds: 1 to 2 complete sentences, 12 to 120 words."),
    ],
)  # fmt: skip
def test_language_and_person_are_the_recipes(writing: dict, first: str) -> None:
    recipe = three_classes(writing=writing)
    assert request(recipe, make_cells(recipe, 1, 0)[0]).split("\n")[0] == first


def test_the_languages_with_a_name_are_those_that_can_be_checked() -> None:
    assert set(LANGUAGES) <= _languages()
    assert len(LANGUAGES) >= 30
    assert "nds" not in LANGUAGES


def test_a_second_attempt_says_what_was_wrong_with_the_first() -> None:
    recipe = three_classes()
    cell = make_cells(recipe, 1, 0)[0]
    first, second = messages(recipe, cell), messages(recipe, cell, "it held a list or other formatting")
    assert first == [{"role": "user", "content": request(recipe, cell)}]
    assert "earlier" not in first[0]["content"]
    assert second[0]["content"].startswith(request(recipe, cell))
    assert "An earlier answer could not be used: it held a list or other formatting." in second[0]["content"]
