"""Recipes: the built-in ones, the user's own, and the sentence for each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from strataprobe.errors import RecipeError
from strataprobe.recipe import builtin_recipes, load_recipe, recipe_from_json

GOOD = """
name = "mine"
suffix = " is"
readouts = ["mean"]
[[classes]]
name = "b"
[[classes]]
name = "a"
"""


def test_every_built_in_recipe_is_valid() -> None:
    assert "sentiment" in builtin_recipes()
    for name in builtin_recipes():
        recipe = load_recipe(name)
        assert recipe.name == name
        assert recipe_from_json(recipe.to_json()) == recipe


def test_the_sentiment_recipe_is_the_one_described() -> None:
    recipe = load_recipe("sentiment")
    assert recipe.class_names == ["negative", "positive"]
    assert recipe.suffix == "\n\nThe sentiment of this section is"
    assert recipe.readouts == ("last", "mean")
    assert recipe.n_per_class == 700
    members = {c.name: c.members for c in recipe.classes}
    positive = "joy gratitude hope excitement love pride contentment inspiration relief satisfaction"
    negative = "sadness anger fear disgust shame anxiety frustration disappointment guilt loneliness"
    assert sorted(members["positive"]) == sorted(positive.split())
    assert sorted(members["negative"]) == sorted(negative.split())
    assert set(recipe.banned_words) >= {"positive", "negative", *members["positive"], *members["negative"]}


def test_a_recipe_file_is_read_and_its_classes_are_sorted(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    recipe = load_recipe(path)
    assert recipe.class_names == ["a", "b"]
    assert recipe.split.as_tuple() == (0.70, 0.15, 0.15)
    assert load_recipe(str(path)) == recipe


MISTAKES = {
    "not TOML": ("name = ", "is not valid TOML"),
    "no name": (GOOD.replace('name = "mine"', ""), "name: Field required"),
    "an unknown key": ("sufix = 'x'\n" + GOOD, "sufix: there is no such field; docs/recipes.md lists"),
    "a label field that every row has": ('label_field = "text"\n' + GOOD, "'text' is a field that every row has"),
    "one field for class and member": (
        'member_field = "label"\n' + GOOD,
        "label_field and member_field are both 'label'",
    ),
    "a name that is a path": (GOOD.replace('"mine"', '"../mine"'), "may hold only letters"),
    "a class that is a path": (GOOD.replace('"a"', '"a/b"'), "class name 'a/b' may hold only letters"),
    "one class": (GOOD.replace('[[classes]]\nname = "a"', ""), "at least two classes"),
    "a class twice": (GOOD.replace('"a"', '"b"'), "'b' is named twice"),
    "an unknown readout": (GOOD.replace('"mean"', '"first"'), "readouts.0"),
    "a readout twice": (GOOD.replace('["mean"]', '["mean", "mean"]'), "each once"),
    "no readout": (GOOD.replace('["mean"]', "[]"), "at least one readout"),
    "no texts": ("n_per_class = 0\n" + GOOD, "n_per_class: Input should be greater than or equal to 1"),
    "shares beyond one": (GOOD + "[split]\ntrain = 0.8\nval = 0.2\ntest = 0.2\n", "must add up to 1"),
    "a lexicon for no class": (GOOD + '[lexicon]\nname = "vader"\nhigh = "c"\n', "'c' is none of the classes a, b"),
    "another format": ("format_version = 2\n" + GOOD, "format_version"),
}


@pytest.mark.parametrize(("text", "sentence"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_in_a_recipe_is_one_sentence_that_names_it(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=sentence) as caught:
        load_recipe(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no recipe named 'sentimant', and no such file; .*sentiment"):
        load_recipe("sentimant")
    (tmp_path / "latin.toml").write_bytes("name = 'ü'".encode("latin-1"))
    with pytest.raises(RecipeError, match="must be a UTF-8 TOML file"):
        load_recipe(tmp_path / "latin.toml")
