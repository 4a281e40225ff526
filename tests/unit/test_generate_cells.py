"""The plan for a language model: exact counts, pairs alike but for the concept, groups that lie in one split."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from scripted_backend import three_classes
from strataprobe.generate.cells import Cell, dealt, in_file_order, make_cells, seeded, settings_of
from strataprobe.generate.words import checker_for
from strataprobe.recipe import load_recipe

PARTS = ("style", "persona", "telling")
TOML = """
name = "harbour"
n_per_class = 9
label_field = "sky"
banned_words = ["parasol"]

[[classes]]
name = "wet"
members = ["drizzle", "cloudburst"]

[[classes]]
name = "dry"

[[classes]]
name = "still"
members = ["fog"]

[writing]
sentences = [1, 3]
styles = ["a note"]

[writing.situations]
"the quay" = ["a rope", "a gull"]
"Das Café" = ["ein Stuhl"]
"""


def pairs_of(cells: list[Cell]) -> list[list[Cell]]:
    """The cells pair by pair."""
    found: dict[int, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.pair, []).append(cell)
    return list(found.values())


def spread(counts: Counter, n_values: int) -> int:
    """Largest less smallest count, over all values there are."""
    sizes = [*counts.values(), *[0] * (n_values - len(counts))]
    return max(sizes) - min(sizes)


@pytest.mark.parametrize("name", ["sentiment", "emotions", "cognitive_actions"])
@pytest.mark.parametrize("n", [1, 2, 13, 100, 333])
def test_every_class_gets_exactly_n_cells_and_everything_is_dealt_evenly(name: str, n: int) -> None:
    recipe = load_recipe(name)
    cells, settings = make_cells(recipe, n, 0), settings_of(recipe)
    assert Counter(c.label for c in cells) == dict.fromkeys(recipe.class_names, n)
    assert len({c.id for c in cells}) == len(cells)
    for cls in recipe.classes:
        members = Counter(c.member for c in cells if c.label == cls.name)
        assert set(members) <= set(cls.members or ("",))
        assert spread(members, len(cls.members) or 1) <= 1
    firsts = [pair[0] for pair in pairs_of(cells)]
    assert spread(Counter((c.domain, c.trigger) for c in firsts), len(settings.situations)) <= 1
    for part, values in zip(PARTS, (settings.styles, settings.personas, settings.tellings), strict=True):
        assert spread(Counter(getattr(c, part) for c in firsts), len(values)) <= 1


def test_the_cells_of_a_pair_differ_in_the_concept_alone() -> None:
    cells = make_cells(load_recipe("sentiment"), 60, 3)
    for pair in pairs_of(cells):
        assert [c.label for c in pair] == ["negative", "positive"]
        assert len({replace(c, id="", label="", member="") for c in pair}) == 1
    assert len({replace(c, id="", label="", member="") for c in cells}) == 60


def test_no_part_of_a_cell_goes_with_another() -> None:
    cells = [pair[0] for pair in pairs_of(make_cells(load_recipe("sentiment"), 1200, 0))]
    settings = settings_of(load_recipe("sentiment"))
    for a, b, n_a, n_b in (
        ("style", "telling", len(settings.styles), len(settings.tellings)),
        ("style", "persona", len(settings.styles), len(settings.personas)),
        ("member", "style", 10, len(settings.styles)),
    ):
        together = Counter((getattr(c, a), getattr(c, b)) for c in cells)
        assert len(together) > 0.9 * n_a * n_b, (a, b)
        assert max(together.values()) < 4 * 1200 / (n_a * n_b), (a, b)


def test_a_group_is_a_situation_and_lies_in_one_split() -> None:
    cells = make_cells(load_recipe("sentiment"), 700, 1)
    splits: dict[str, set[str]] = {}
    places: dict[str, set[tuple[str, str]]] = {}
    for cell in cells:
        splits.setdefault(cell.group, set()).add(cell.split)
        places.setdefault(cell.group, set()).add((cell.domain, cell.trigger))
    assert all(len(s) == 1 for s in splits.values())
    assert all(len(p) == 1 for p in places.values())
    shares = Counter(c.split for c in cells)
    for split, share in (("train", 0.70), ("val", 0.15), ("test", 0.15)):
        assert abs(shares[split] / 1400 - share) < 0.02


def test_the_usual_settings_hold_no_word_that_the_recipe_bans() -> None:
    for name in ("sentiment", "emotions", "cognitive_actions"):
        recipe = load_recipe(name)
        checker, settings = checker_for(recipe), settings_of(recipe)
        values = [
            *(v for s in settings.situations for v in s),
            *settings.styles,
            *settings.personas,
            *settings.tellings,
        ]
        assert [v for v in values if checker.find(v)] == []
    everywhere = settings_of(three_classes(writing={}))
    assert [s for s in everywhere.situations if re.search(r"\brain\b", s[1])]
    banned = settings_of(three_classes(writing={}, banned_words=["rain", "diary", "nurse", "plainly", "weather"]))
    assert [s for s in banned.situations if re.search(r"\brain\b", s[1]) or "weather" in s[0]] == []
    assert "a diary entry" in everywhere.styles
    assert "a diary entry" not in banned.styles
    assert len(banned.personas) == len(everywhere.personas) - 1
    odd = settings_of(three_classes(writing={}, banned_words=["a", "an", "the"]))
    assert odd.styles
    assert all((odd.situations, odd.personas, odd.tellings))


def test_a_recipe_file_brings_classes_and_situations_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "harbour.toml").write_text(TOML, "utf-8")
    recipe = load_recipe(tmp_path / "harbour.toml")
    cells = make_cells(recipe, recipe.n_per_class, 0)
    assert [c.label for c in cells] == ["dry", "still", "wet"] * 9
    assert {(c.domain, c.trigger) for c in cells} == {
        ("the quay", "a rope"), ("the quay", "a gull"), ("Das Café", "ein Stuhl")
    }  # fmt: skip
    assert {c.group for c in cells} == {
        "harbour-the-quay-a-rope", "harbour-the-quay-a-gull", "harbour-das-café-ein-stuhl"
    }  # fmt: skip
    assert {c.style for c in cells} == {"a note"}
    assert len({c.persona for c in cells}) == 9
    assert Counter(c.member for c in cells if c.label == "wet").most_common()[1][1] == 4
    assert {c.member for c in cells if c.label == "dry"} == {""}


def test_two_situations_that_a_group_name_cannot_tell_apart_stay_together() -> None:
    writing = {"situations": {"a b": ["c"], "a": ["b c"]}}
    cells = make_cells(three_classes(writing=writing), 8, 0)
    assert len({c.split for c in cells if c.group == cells[0].group}) == 1


def test_a_row_holds_the_planned_fields_under_the_recipes_names() -> None:
    recipe = three_classes()
    wet = next(c for c in make_cells(recipe, 1, 0) if c.label == "wet_days")
    row = wet.row(recipe, "I got wet.", {"backend": "openai", "attempt": 2})
    assert row.to_json() == {
        "id": "weather-00000-wet_days", "text": "I got wet.", "label": "wet_days", "split": wet.split, "group": wet.group,
        "sky": "wet_days", "kind": wet.member, "domain": wet.domain, "trigger": wet.trigger, "language_style": wet.style,
        "persona": wet.persona, "backend": "openai", "attempt": 2,
    }  # fmt: skip
    still = next(c for c in make_cells(recipe, 1, 0) if c.label == "still")
    assert "kind" not in still.row(recipe, "I sat.", {}).fields


def test_the_plan_is_the_same_in_another_process_with_another_hash_seed() -> None:
    code = (
        "import json; from scripted_backend import three_classes; from strataprobe.generate.cells import make_cells;"
        "print(json.dumps([c.to_json() for c in make_cells(three_classes(), 40, 7)]))"
    )
    here = json.dumps([c.to_json() for c in make_cells(three_classes(), 40, 7)])
    tests = str(Path(__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": tests}
    for hash_seed in ("1", "99"):
        found = subprocess.run(
            [sys.executable, "-c", code], env={**env, "PYTHONHASHSEED": hash_seed}, capture_output=True
        )
        assert found.stdout.decode().strip() == here
    assert here != json.dumps([c.to_json() for c in make_cells(three_classes(), 40, 8)])


def test_values_are_dealt_in_rounds_of_all_of_them() -> None:
    for n in (0, 1, 4, 5, 23):
        found = dealt("abcde", n, "seed")
        assert len(found) == n
        assert all(len(set(found[i : i + 5])) == len(found[i : i + 5]) for i in range(0, n, 5))
    assert dealt("abcde", 23, "seed")[:7] == dealt("abcde", 7, "seed")
    assert dealt("abcde", 23, "seed") != dealt("abcde", 23, "seed", "other")
    assert seeded(1, "a").random() == seeded("1", "a").random() != seeded(1, "b").random()


def test_a_files_order_keeps_pairs_together_and_puts_no_class_always_first() -> None:
    recipe = three_classes()
    cells = make_cells(recipe, 60, 0)
    rows = [c.row(recipe, c.id, {}) for c in cells]
    ordered = in_file_order(rows, [c.pair for c in cells], 5)
    assert sorted(r.id for r in ordered) == sorted(r.id for r in rows)
    assert [r.id[:13] for r in ordered] == [f"weather-{i // 3:05d}" for i in range(180)]
    assert len({r.label for r in ordered[::3]}) == 3
