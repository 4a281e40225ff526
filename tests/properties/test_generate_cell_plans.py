"""For any recipe, size and seed the plan for a language model is exact."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from strataprobe.generate.cells import make_cells, settings_of
from strataprobe.generate.prompts import concept_lines, request
from strataprobe.recipe import Recipe

NAMES = st.lists(st.text("abcdefghij", min_size=2, max_size=6), min_size=2, max_size=5, unique=True)
VALUES = st.lists(st.text("klmnopq rst", min_size=1, max_size=8), min_size=1, max_size=4, unique=True)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """A recipe with any number of classes, members and settings; settings may be left out."""
    classes = [
        {"name": name, "members": draw(st.lists(st.text("uvwxyz", min_size=2, max_size=5), max_size=4, unique=True))}
        for name in draw(NAMES)
    ]
    writing = {
        "situations": draw(
            st.one_of(st.just({}), st.dictionaries(st.text("klm", min_size=1), VALUES, min_size=1, max_size=3))
        ),
        "styles": draw(st.one_of(st.just([]), VALUES)),
        "personas": draw(st.one_of(st.just([]), VALUES)),
        "tellings": draw(st.one_of(st.just([]), VALUES)),
    }
    return Recipe.model_validate({"name": "any", "classes": classes, "writing": writing})


@settings(max_examples=40)
@given(recipes(), st.integers(1, 60), st.integers(0, 2**40))
def test_a_plan_is_exact_even_and_paired(recipe: Recipe, n: int, seed: int) -> None:
    cells = make_cells(recipe, n, seed)
    assert [(c.pair, c.label) for c in cells] == [(pair, name) for pair in range(n) for name in recipe.class_names]
    assert len({c.id for c in cells}) == len(cells)
    for cls in recipe.classes:
        counts = Counter(c.member for c in cells if c.label == cls.name)
        sizes = [counts[m] for m in cls.members or ("",)]
        assert sum(sizes) == n
        assert max(sizes) - min(sizes) <= 1
    chosen = settings_of(recipe)
    firsts = cells[:: len(recipe.classes)]
    for found, values in (
        (Counter((c.domain, c.trigger) for c in firsts), chosen.situations),
        (Counter(c.style for c in firsts), chosen.styles),
        (Counter(c.persona for c in firsts), chosen.personas),
        (Counter(c.telling for c in firsts), chosen.tellings),
    ):
        assert max(found.values()) - min(found[v] for v in values) <= 1
    split_of: dict[str, str] = {}
    for cell in cells:
        assert split_of.setdefault(cell.group, cell.split) == cell.split
        assert replace(cell, id="", label="", member="") == replace(firsts[cell.pair], id="", label="", member="")
    assert cells == make_cells(recipe, n, seed)


@settings(max_examples=25)
@given(recipes(), st.integers(0, 2**40))
def test_the_prompts_of_a_pair_differ_in_the_lines_on_the_concept_alone(recipe: Recipe, seed: int) -> None:
    bare = set()
    for cell in make_cells(recipe, 1, seed):
        lines = request(recipe, cell).split("\n")
        start = lines.index("", 2) + 1
        concept = concept_lines(recipe, cell)
        assert lines[start : start + len(concept)] == concept
        bare.add("\n".join(lines[:start] + lines[start + len(concept) :]))
    assert len(bare) == 1
