"""For any size and seed the plan is exact: counts, members, pairs, splits."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strataprobe.generate.builtin.material import load_material
from strataprobe.generate.builtin.plan import make_plan
from strataprobe.recipe import load_recipe

RECIPE = load_recipe("sentiment")
EMOTIONS = load_recipe("emotions")
MATERIAL = load_material(RECIPE, "sentiment")


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 900), seed=st.integers(0, 2**40))
def test_a_plan_has_exactly_n_cells_a_class_with_members_even_and_pairs_matched(n, seed):
    plan = make_plan(RECIPE, MATERIAL, n, seed)
    assert Counter(c.label for c in plan) == {"positive": n, "negative": n}
    for cls in RECIPE.classes:
        sizes = Counter(c.member for c in plan if c.label == cls.name)
        assert max(sizes.values()) - min(sizes[m] for m in cls.members) <= 1
    for left, right in zip(plan[::2], plan[1::2], strict=True):
        assert left.pair == right.pair
        assert (left.scene, left.style, left.form, left.split) == (right.scene, right.style, right.form, right.split)
    split_of = {}
    for cell in plan:
        assert split_of.setdefault(cell.group, cell.split) == cell.split
    assert plan == make_plan(RECIPE, MATERIAL, n, seed)


@settings(max_examples=8, deadline=None)
@given(n=st.integers(1, 300), seed=st.integers(0, 2**40))
def test_a_plan_of_one_class_a_member_is_exact_and_no_group_crosses_the_splits(n, seed):
    plan = make_plan(EMOTIONS, MATERIAL, n, seed)
    assert [(c.pair, c.label) for c in plan] == [(pair, name) for pair in range(n) for name in EMOTIONS.class_names]
    split_of = {}
    for cell in plan:
        assert cell.member == cell.label
        assert cell.label in cell.scene.outcomes[cell.side][cell.outcome].members
        assert split_of.setdefault(cell.group, cell.split) == cell.split
    assert plan == make_plan(EMOTIONS, MATERIAL, n, seed)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_scenes_are_used_evenly(seed):
    uses = Counter(c.scene.id for c in make_plan(RECIPE, MATERIAL, 700, seed))
    assert max(uses.values()) - min(uses.values()) <= 2
    assert len(uses) == len(MATERIAL.scenes)
