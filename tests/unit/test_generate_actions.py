"""Texts that show an act of the mind: templates that cross no group, slots all filled, and as many as are asked for."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from strataprobe.errors import OptionError
from strataprobe.generate.acceptance import Acceptance
from strataprobe.generate.builtin import actions
from strataprobe.generate.builtin.actions import SLOTS, ActCell, ActWriter, load_acts, plan_acts
from strataprobe.generate.ledger import LEDGER_NAME
from strataprobe.generate.run import generate
from strataprobe.generate.words import count_sentences, is_first_person
from strataprobe.recipe import Recipe, load_recipe

RECIPE = load_recipe("cognitive_actions")
MATERIAL = load_acts(RECIPE, "cognitive_actions")
Written = list[tuple[ActCell, str, list[str]]]


@pytest.fixture(scope="module")
def written() -> Written:
    """150 texts of every class, with the templates of each."""
    acceptance = Acceptance(RECIPE, check_language=False)
    writer, found = ActWriter(acceptance, 0), []
    for cell in plan_acts(RECIPE, MATERIAL, 150, 0):
        composed = writer.write(cell)
        assert composed is not None, cell.id
        acceptance.remember(composed[0])
        writer.remember(cell, composed[1])
        found.append((cell, *composed))
    return found


def test_150_texts_a_class_are_written_and_the_first_100_are_those_of_a_smaller_job(written: Written) -> None:
    assert Counter(cell.label for cell, _, _ in written) == dict.fromkeys(RECIPE.class_names, 150)
    assert len({text for _, text, _ in written}) == 45 * 150
    assert all(text for _, text, _ in written)
    for small, (cell, _, _) in zip(plan_acts(RECIPE, MATERIAL, 100, 0), written, strict=False):
        for part in ("id", "scene", "style", "n_acts"):
            assert getattr(small, part) == getattr(cell, part)


def test_a_template_lies_in_one_group_and_a_group_in_one_split(written: Written) -> None:
    groups, splits, scenes = defaultdict(set), defaultdict(set), defaultdict(set)
    for cell, _, acts in written:
        assert set(acts) <= set(cell.acts)
        for act in acts:
            groups[cell.label, act].add(cell.group)
        splits[cell.group].add(cell.split)
        scenes[cell.scene.id].add(cell.group)
    for found in (groups, splits, scenes):
        assert all(len(values) == 1 for values in found.values())
    assert {split for values in splits.values() for split in values} == {"train", "val", "test"}
    assert len(splits) >= 10
    used = Counter(label for label, _ in groups)
    assert min(used.values()) >= 40


def test_a_pair_is_one_scene_told_once_for_every_class(written: Written) -> None:
    for pair in range(0, 150, 13):
        cells = [cell for cell, _, _ in written if cell.pair == pair]
        assert [c.label for c in cells] == RECIPE.class_names
        assert len({(c.scene.id, c.style, c.n_acts, c.group, c.split, c.domain, c.trigger) for c in cells}) == 1


def test_every_text_is_two_to_four_whole_sentences_in_the_first_person(written: Written) -> None:
    for _, text, _ in written:
        assert 2 <= count_sentences(text) <= 4, text
        assert is_first_person(text), text
        assert not set("[]{}|") & set(text), text
        assert "  " not in text
        assert text[-1] in ".!?", text


def test_sentences_start_with_a_capital(written: Written) -> None:
    wrong = re.compile(r"^[a-z]|[.?!] [a-z]")
    assert [text for _, text, _ in written if wrong.search(text)] == []
    assert wrong.search("I went home. then I slept.")


def test_every_scene_fills_every_slot_that_a_template_asks_for() -> None:
    asked = {slot for acts in MATERIAL.acts.values() for act in acts for slot in re.findall(r"\{(\w*)\}", act)}
    assert asked <= set(SLOTS)
    assert len(asked) >= 6
    for scene in MATERIAL.scenes:
        assert set(scene.slots) == set(SLOTS)
        assert all(value.strip() == value and value for value in scene.slots.values()), scene.id
        assert not re.search(r"[{}]", scene.text), scene.id
    assert len({s.id for s in MATERIAL.scenes}) == len(MATERIAL.scenes)
    assert set(MATERIAL.acts) == set(RECIPE.class_names)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("{topic} was odd. {who} knew.", "The tap was odd. My aunt knew."),
        ("I asked {who}.", "I asked my aunt."),
        ("Was it {topic}? {topic}!", "Was it the tap? The tap!"),
        ("[I ran|I ran] to {who}.", "I ran to my aunt."),
    ],
)
def test_slots_are_filled_and_capitals_set(raw: str, text: str) -> None:
    scene = actions.ActScene("s", "home", "tap", "x", {"topic": "the tap", "who": "my aunt"})
    assert actions._filled(raw, scene, actions.seeded(0)) == text


def test_templates_are_used_evenly_within_a_world(written: Written) -> None:
    used: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for cell, _, acts in written:
        used[cell.label, cell.group].update(dict.fromkeys(cell.acts, 0) | dict.fromkeys(acts, 1))
    apart = [max(counts.values()) - min(counts.values()) for counts in used.values()]
    assert sum(apart) / len(apart) < 3


def test_a_cell_whose_templates_make_too_many_sentences_gets_fewer_of_them() -> None:
    cell = next(c for c in plan_acts(RECIPE, MATERIAL, 40, 0) if c.n_acts == 3)
    acts = tuple(f"Was it me, number {i}? It was the {word}." for i, word in enumerate(("hen", "cow", "owl", "elk")))
    crowded = ActCell(**{**cell.to_json(), "scene": cell.scene, "acts": acts, "n_acts": 2})
    composed = ActWriter(Acceptance(RECIPE, check_language=False), 0).write(crowded)
    assert composed is not None
    assert len(composed[1]) == 1


def test_a_job_cut_off_anywhere_is_completed_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classes = [c for c in RECIPE.to_json()["classes"] if c["name"] in ("applying", "noticing", "zooming_in")]
    recipe = Recipe.model_validate({**RECIPE.to_json(), "classes": classes})
    generate(recipe, tmp_path / "whole", n_per_class=12)
    original, asked = ActWriter.write, []

    def interrupted(self: ActWriter, cell: ActCell) -> tuple[str, list[str]] | None:
        asked.append(cell.id)
        if len(asked) == 25:
            raise KeyboardInterrupt
        return original(self, cell)

    monkeypatch.setattr(ActWriter, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(recipe, tmp_path / "cut", n_per_class=12)
    monkeypatch.setattr(ActWriter, "write", original)
    ledger = tmp_path / ".cut.partial" / LEDGER_NAME
    whole = ledger.read_bytes()
    assert whole.count(b"\n") == 24
    ledger.write_bytes(whole[: len(whole) // 2])
    generate(recipe, tmp_path / "cut", n_per_class=12)
    files = {p.name for p in (tmp_path / "whole").iterdir()}
    assert {p.name for p in (tmp_path / "cut").iterdir()} == files
    assert LEDGER_NAME not in files
    for name in files - {"manifest.json"}:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    combined = (tmp_path / "cut" / "cognitive_actions_combined_36.jsonl").read_text("utf-8")
    row = json.loads(combined.split("\n", 1)[0])
    assert list(row) == [
        "id", "text", "label", "split", "group", "cognitive_action", "domain", "trigger", "language_style", "backend",
        "model", "attempt",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("classes", "match"),
    [
        ([{"name": "applying"}, {"name": "juggling"}], "no class 'juggling'"),
        ([{"name": "applying", "members": ["ironing"]}, {"name": "noticing"}], "no member 'ironing' of 'applying'"),
    ],
)
def test_classes_that_the_material_does_not_know_are_refused(classes: list, match: str) -> None:
    with pytest.raises(OptionError, match=match):
        load_acts(Recipe.model_validate({**RECIPE.to_json(), "classes": classes}), "cognitive_actions")
