"""The plan of the built-in writer: every cell known before the first text (scene, outcome, member, form and style).

Where the classes are the two sides of the material, a pair is one scene told once for every class. Where they are its
members (one emotion against the rest), each class gets the outcomes that suit it; texts on one scene share a group.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from random import Random

from strataprobe.dataset import split_by_group
from strataprobe.generate.builtin.material import Material, Scene
from strataprobe.generate.cells import Cell, cell_id, seeded
from strataprobe.recipe import Recipe


@dataclass(frozen=True)
class TaleCell(Cell):
    """One text to compose: ``side`` and ``member`` say whose outcomes and reactions, ``form`` which sentences."""

    side: str
    scene: Scene
    outcome: int
    form: str


# Which sentences a text is made of, and how often: of life scenes, of things bought or seen; "again" for a scene whose
# outcomes have been told before, where more must be new.
_FORMS = {
    "life": {
        "scene outcome reaction": 20,
        "opener scene outcome reaction": 10,
        "scene turn outcome reaction": 14,
        "scene outcome verdict reaction": 12,
        "scene outcome reaction reaction": 14,
        "scene expectation outcome reaction": 6,
        "scene verdict reaction": 8,
        "scene reaction reaction": 8,
        "scene reaction": 4,
        "scene outcome": 4,
    },
    "thing": {
        "scene outcome reaction": 12,
        "opener scene outcome reaction": 8,
        "scene turn outcome reaction": 12,
        "scene outcome remark reaction": 14,
        "scene outcome verdict": 8,
        "opener scene remark reaction": 8,
        "scene remark reaction": 12,
        "scene outcome": 4,
        "scene outcome remark": 8,
        "scene verdict reaction": 8,
        "scene remark remark reaction": 6,
    },
    "life again": {
        "scene turn outcome reaction": 16,
        "scene outcome reaction aftermath": 10,
        "scene outcome verdict reaction": 10,
        "scene outcome reaction reaction": 10,
        "opener scene outcome reaction": 10,
        "scene reaction aftermath": 10,
        "scene verdict reaction": 12,
        "scene reaction reaction": 12,
        "scene reaction": 10,
    },
    "thing again": {
        "scene turn outcome reaction": 15,
        "scene outcome verdict reaction": 15,
        "scene outcome remark reaction": 15,
        "opener scene verdict reaction": 10,
        "scene remark reaction": 15,
        "scene verdict reaction": 10,
        "scene remark remark": 10,
        "scene remark verdict": 10,
    },
}
_FRESH_ROUNDS = 2
# Tried one after another, both texts of a pair alike or not, when a cell's own form yields nothing new.
SPARE_FORMS = {
    "life": ("scene turn outcome reaction", "scene verdict reaction", "opener scene verdict reaction",
             "scene outcome reaction aftermath", "scene turn verdict reaction", "scene expectation verdict reaction"),
    "thing": ("scene turn outcome reaction", "scene verdict reaction", "opener scene verdict reaction",
              "scene outcome reaction verdict", "scene turn verdict reaction", "scene expectation verdict reaction"),
}  # fmt: skip


def make_plan(recipe: Recipe, material: Material, n_per_class: int, seed: int) -> list[TaleCell]:
    """The cells, pair after pair, the classes of a pair in label order; ``n_per_class`` pairs."""
    names = recipe.class_names
    if all(name in material.reactions for name in names):
        scenes = _scene_rounds(material, n_per_class, seed)
        forms, styles = _forms(scenes, seed, "forms"), _styles(material, scenes, seed, "styles")
        told = {
            name: [
                (scene, outcome, name, member, form, style)
                for scene, (member, outcome), form, style in zip(
                    scenes, _members(recipe, material, scenes, name, seed), forms, styles, strict=True
                )
            ]
            for name in names
        }
    else:
        told = {name: _tales_of_member(material, name, n_per_class, seed) for name in names}
    order = [(pair, name) for pair in range(n_per_class) for name in names]
    groups = [f"{recipe.name}-{told[name][pair][0].id}" for pair, name in order]
    paired = all(len({t[pair][0].id for t in told.values()}) == 1 for pair in range(n_per_class))
    splits = split_by_group(groups, [None if paired else name for _, name in order], recipe.split.as_tuple(), seed)
    cells = []
    for (pair, name), group, split in zip(order, groups, splits, strict=True):
        scene, outcome, side, member, form, style = told[name][pair]
        cells.append(
            TaleCell(
                id=cell_id(recipe, pair, name),
                pair=pair,
                label=name,
                member=member,
                domain=scene.domain,
                trigger=scene.trigger,
                style=style,
                persona="",
                telling="",
                group=group,
                split=split,
                side=side,
                scene=scene,
                outcome=outcome,
                form=form,
            )
        )
    return cells


def _tales_of_member(material: Material, member: str, n: int, seed: int) -> list[tuple[Scene, int, str, str, str, str]]:
    """(scene, outcome number, side, member, form, style) of ``n`` texts on outcomes that suit ``member``, in rounds."""
    side = material.side_of(member)
    assert side is not None, member  # ``load_material`` has looked
    suited = [(s, k) for s in material.scenes for k, o in enumerate(s.outcomes[side]) if member in o.members]
    chosen: list[tuple[Scene, int]] = []
    while len(chosen) < n:
        chosen += seeded(seed, "tales", member, len(chosen)).sample(suited, len(suited))
    scenes = [scene for scene, _ in chosen[:n]]
    forms, styles = _forms(scenes, seed, f"forms {member}"), _styles(material, scenes, seed, f"styles {member}")
    return [(s, k, side, member, form, style) for (s, k), form, style in zip(chosen[:n], forms, styles, strict=True)]


def _scene_rounds(material: Material, n: int, seed: int) -> list[Scene]:
    chosen: list[Scene] = []
    while len(chosen) < n:
        chosen += seeded(seed, "scenes", len(chosen)).sample(material.scenes, len(material.scenes))
    return chosen[:n]


def _forms(scenes: list[Scene], seed: int, what: str) -> list[str]:
    rng, chosen = seeded(seed, what), []
    seen: Counter[str] = Counter()
    for scene in scenes:
        weights = _FORMS[scene.kind if seen[scene.id] < _FRESH_ROUNDS else f"{scene.kind} again"]
        seen[scene.id] += 1
        chosen.append(rng.choices(list(weights), list(weights.values()))[0])
    return chosen


def _styles(material: Material, scenes: list[Scene], seed: int, what: str) -> list[str]:
    rng = seeded(seed, what)
    return [rng.choice(material.styles[scene.kind]) for scene in scenes]


def _members(recipe: Recipe, material: Material, scenes: list[Scene], name: str, seed: int) -> list[tuple[str, int]]:
    """Member and outcome number for each pair, on the side of class ``name``: members even to within one text.

    An outcome goes to the member it suits whose outcomes are scarcest; where none of those is wanted any more, the pair
    waits for what is left, scenes of things first, because fewer members suit them.
    """
    rng = seeded(seed, "members", name)
    members = next(c.members for c in recipe.classes if c.name == name) or ("",)
    order = rng.sample(members, len(members))
    left = Counter({m: len(scenes) // len(members) + (i < len(scenes) % len(members)) for i, m in enumerate(order)})
    numbers = _outcome_numbers(scenes, name, rng)
    suited = [scene.outcomes[name][k].members for scene, k in zip(scenes, numbers, strict=True)]
    supply = Counter(m for some in suited for m in some)
    chosen: dict[int, str] = {}
    waiting = []
    for pair in sorted(rng.sample(range(len(scenes)), len(scenes)), key=lambda p: len(suited[p])):
        wanted = [m for m in suited[pair] if left[m] > 0]
        if wanted:
            chosen[pair] = max(wanted, key=lambda m: (left[m] / max(supply[m], 1), m))
            left[chosen[pair]] -= 1
        else:
            waiting.append(pair)
        supply.subtract(suited[pair])
    waiting.sort(key=lambda p: scenes[p].kind != "thing")
    for pair in waiting:
        fit = [m for m in material.members_for.get(scenes[pair].kind, ()) if left[m] > 0]
        pool = fit or [m for m in order if left[m] > 0]
        chosen[pair] = rng.choices(pool, [left[m] for m in pool])[0]
        left[chosen[pair]] -= 1
    return [(chosen[pair], numbers[pair]) for pair in range(len(scenes))]


def _outcome_numbers(scenes: list[Scene], name: str, rng: Random) -> list[int]:
    """Which outcome each pair tells: those of a scene in turn, from a seeded start."""
    start = {scene.id: rng.randrange(len(scene.outcomes[name])) for scene in scenes}
    seen: Counter[str] = Counter()
    numbers = []
    for scene in scenes:
        numbers.append((start[scene.id] + seen[scene.id]) % len(scene.outcomes[name]))
        seen[scene.id] += 1
    return numbers
