"""What is said of a recipe before anything is asked."""

from __future__ import annotations

from typing import Any

import pytest

from scripted_backend import three_classes
from strataprobe.errors import OptionError
from strataprobe.generate.cells import make_cells
from strataprobe.generate.prompts import request
from strataprobe.generate.recipe_check import check_recipe
from strataprobe.recipe import builtin_recipes, load_recipe

DESCRIBED = [{"name": "fog", "description": "Nothing is seen."}, {"name": "frost", "description": "Water is hard."}]


def levels(**changes: Any) -> dict[str, str]:
    """Code and level of each finding on a recipe like the small one but for ``changes``."""
    found = check_recipe(three_classes(**{"suffix": " so", "classes": DESCRIBED, "writing": {}, **changes}))
    return {f["code"]: f["level"] for f in found["findings"]}


@pytest.mark.parametrize("name", builtin_recipes())
def test_nothing_is_wrong_with_the_recipes_that_ship(name: str) -> None:
    found = check_recipe(load_recipe(name))
    assert {f["level"] for f in found["findings"]} == {"ok"}
    assert [f["code"] for f in found["findings"]] == [f"R00{n}" for n in range(1, 10)]
    assert found["plan"]["n_texts"] == load_recipe(name).n_per_class * len(found["plan"]["classes"])


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("R001", {"classes": [{"name": "fog"}, DESCRIBED[1]]}),
        ("R002", {"classes": [{"name": "fog", "description": "Nothing is seen and " * 5}, DESCRIBED[1]]}),
        ("R003", {"n_per_class": 40, "writing": {"situations": {"home": ["a door", "a stair"]}}}),
        ("R004", {"writing": {"personas": ["a foggy old sailor", "a child"]}}),
        ("R005", {"writing": {"sentences": [8, 9], "words": [10, 20]}}),
        ("R006", {"suffix": ""}),
        ("R009", {"writing": {"language": "xx"}}),
        ("R008", {"banned_words": ["the", "walrus"]}),
    ],
)
def test_each_finding_is_made_where_it_belongs_and_nowhere_else(code: str, changes: dict[str, Any]) -> None:
    assert set(levels().values()) == {"ok"}
    assert {c for c, level in levels(**changes).items() if level != "ok"} == {code}


def test_the_requests_shown_are_those_of_the_first_pair() -> None:
    recipe = three_classes()
    cells = make_cells(recipe, recipe.n_per_class, 3)[:3]
    found = check_recipe(recipe, seed=3)
    assert found["prompts"] == {cell.label: request(recipe, cell) for cell in cells}
    assert "parasol" in found["forbidden"]


def test_a_number_below_one_is_refused() -> None:
    with pytest.raises(OptionError, match="--n-per-class is 0"):
        check_recipe(three_classes(), n_per_class=0)
