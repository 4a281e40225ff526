"""Texts that show something being done in the mind: a scene, then sentences that show one act, from templates.

Every scene brings the words for the slots of the templates ({topic}, {part}, {other}, {who}, {way}, {way2}, {cause}), so
that the same template reads differently in each scene. A pair is one scene told once for every class. Scenes and
templates are dealt into worlds, and a world is a group: a template in a test text was never seen in training.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import comb
from random import Random

from strataprobe.dataset import split_by_group
from strataprobe.generate.acceptance import Acceptance
from strataprobe.generate.builtin.contractions import contracted
from strataprobe.generate.builtin.material import ROOT, read_toml, toml_files, unknown
from strataprobe.generate.cells import Cell, cell_id, dealt, seeded
from strataprobe.recipe import Recipe

SLOTS = ("topic", "part", "other", "who", "way", "way2", "cause")
_ATTEMPTS = 60
_STYLES = ("diary", "message", "letter", "conversation", "report", "post")
_CONTRACTING = ("message", "conversation", "post")
# Texts of one class in one world are told apart by their acts, and by their scene where no scene is told twice: so many
# times more choices of acts than texts are wanted.
_FEWEST_WORLDS = 10
_ROOM, _ROOM_WITH_SCENES_AGAIN = 1.4, 2.2
# How many sentences on the act follow the scene, and how often.
_ACTS = {1: 15, 2: 60, 3: 25}
_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")
_SENTENCE_START = re.compile(r"^[a-z]|(?<=[.?!] )[a-z]")


@dataclass(frozen=True)
class ActScene:
    """A situation that somebody has to deal with, and the words for the templates' slots."""

    id: str
    domain: str
    trigger: str
    text: str
    slots: Mapping[str, str]


@dataclass(frozen=True)
class ActMaterial:
    """Scenes, and the templates of each class."""

    scenes: tuple[ActScene, ...]
    acts: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class ActCell(Cell):
    """One text to compose: a scene and ``n_acts`` of the sentences that its world has for its class."""

    scene: ActScene
    acts: tuple[str, ...]
    n_acts: int


def load_acts(recipe: Recipe, name: str) -> ActMaterial:
    """The material ``name`` for a recipe. Raises OptionError when the recipe knows other classes or members."""
    material = _load(name)
    for cls in recipe.classes:
        if cls.name not in material.acts:
            raise unknown(recipe, f"class {cls.name!r}", sorted(material.acts))
        for member in cls.members:
            raise unknown(recipe, f"member {member!r} of {cls.name!r}", [])
    return material


def plan_acts(recipe: Recipe, material: ActMaterial, n_per_class: int, seed: int) -> list[ActCell]:
    """The cells, pair after pair, the classes of a pair in label order; ``n_per_class`` pairs."""
    scenes = dealt(material.scenes, n_per_class, seed, "scenes")
    n_worlds = _number_of_worlds(recipe, material, n_per_class)
    worlds = {s.id: i % n_worlds for i, s in enumerate(dealt(material.scenes, len(material.scenes), seed, "worlds"))}
    acts = {c: dealt(material.acts[c], len(material.acts[c]), seed, "acts", c) for c in recipe.class_names}
    groups = [f"{recipe.name}-{worlds[scene.id]:02d}" for scene in scenes]
    splits = split_by_group(groups, [None] * n_per_class, recipe.split.as_tuple(), seed)
    rng = seeded(seed, "forms")
    cells = []
    for pair, scene in enumerate(scenes):
        style = rng.choice(_STYLES)
        n_acts = rng.choices(list(_ACTS), list(_ACTS.values()))[0]
        for name in recipe.class_names:
            cells.append(
                ActCell(
                    id=cell_id(recipe, pair, name),
                    pair=pair,
                    label=name,
                    member="",
                    domain=scene.domain,
                    trigger=scene.trigger,
                    style=style,
                    persona="",
                    telling="",
                    group=groups[pair],
                    split=splits[pair],
                    scene=scene,
                    acts=tuple(acts[name][worlds[scene.id] :: n_worlds]),
                    n_acts=n_acts,
                )
            )
    return cells


def _number_of_worlds(recipe: Recipe, material: ActMaterial, n_per_class: int) -> int:
    """As many worlds as leave each enough acts for its texts: the more worlds, the more groups to split by."""
    n_acts = min(len(material.acts[name]) for name in recipe.class_names)
    room = _ROOM if n_per_class <= len(material.scenes) else _ROOM_WITH_SCENES_AGAIN
    for acts_of_a_world in range(2, n_acts + 1):
        n_worlds = n_acts // acts_of_a_world
        if sum(comb(acts_of_a_world, k) for k in _ACTS) >= room * n_per_class / n_worlds:
            return max(n_worlds, _FEWEST_WORLDS)
    return _FEWEST_WORLDS


class ActWriter:
    """Composes cells one after another; ``remember`` takes back texts accepted before an interruption."""

    def __init__(self, acceptance: Acceptance, seed: int) -> None:
        self._acceptance, self._seed = acceptance, seed
        self._used: Counter[str] = Counter()

    def write(self, cell: ActCell) -> tuple[str, list[str]] | None:
        """The text of a cell and the templates it is made of, or None when nothing new enough can be composed."""
        for attempt in range(_ATTEMPTS):
            rng = seeded(self._seed, "acts", cell.pair, cell.label, attempt)
            acts = self._least_used(cell, rng, attempt)
            sentences = [_filled(raw, cell.scene, rng) for raw in (cell.scene.text, *acts)]
            text = " ".join(sentences)
            text = contracted(text) if cell.style in _CONTRACTING else text
            if self._acceptance.find(text) is None:
                return text, acts
        return None

    def remember(self, cell: ActCell, parts: Sequence[str]) -> None:
        """Count a text as written."""
        self._used.update(parts)

    def _least_used(self, cell: ActCell, rng: Random, attempt: int) -> list[str]:
        """Templates of the cell's class, those used least so far first; later attempts care less, and take one less."""
        noise = 0.9 + attempt
        n_acts = cell.n_acts if attempt < _ATTEMPTS // 2 else max(cell.n_acts - 1, 1)
        pool = sorted(cell.acts)
        cost = {template: self._used[template] + noise * rng.random() for template in pool}
        chosen = sorted(pool, key=lambda template: cost[template])[:n_acts]
        return rng.sample(chosen, len(chosen))


def _filled(raw: str, scene: ActScene, rng: Random) -> str:
    """The sentence with its alternatives chosen and its slots filled from the scene, capitalised."""
    sentence = _CHOICE.sub(lambda m: rng.choice(m.group(1).split("|")), raw)
    sentence = _SLOT.sub(lambda m: scene.slots[m.group(1)], sentence)
    return _SENTENCE_START.sub(lambda m: m.group().upper(), sentence)


@cache
def _load(name: str) -> ActMaterial:
    scenes = []
    for entry in toml_files(ROOT / name / "scenes"):
        value = read_toml(entry)
        for number, scene in enumerate(value["scene"], start=1):
            place = f"{entry.name.removesuffix('.toml')}-{number:02d}"
            slots = {slot: scene[slot] for slot in SLOTS}
            scenes.append(ActScene(place, value["domain"], scene["trigger"], scene["text"], slots))
    acts = {
        action: tuple(found["acts"])
        for entry in toml_files(ROOT / name / "acts")
        for action, found in read_toml(entry).items()
    }
    return ActMaterial(tuple(scenes), acts)
