"""The plan: every cell known before the first text is written (scene, domain, trigger, member and style of each pair).

A pair is one scene told once for every class. Scenes are used in seeded rounds, so that each is used as often as any
other; members are spread evenly within their class, and go where they suit the scene.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from random import Random

from strataprobe.dataset import split_by_group
from strataprobe.generate.material import Material, Scene
from strataprobe.manifest import sha256_json
from strataprobe.recipe import Recipe


@dataclass(frozen=True)
class Cell:
    """One text to write. The cells of a pair share ``scene``, ``form``, ``style`` and ``split``."""

    pair: int
    label: str
    member: str
    outcome: int
    scene: Scene
    form: str
    style: str
    split: str

    def id(self, recipe: Recipe) -> str:
        """The row's id: recipe, pair number and class."""
        return f"{recipe.name}-{self.pair:05d}-{self.label}"

    def group(self, recipe: Recipe) -> str:
        """The row's group: all texts on one scene lie in one split."""
        return f"{recipe.name}-{self.scene.id}"


def seeded(*parts: object) -> Random:
    """A random generator that depends on nothing but ``parts``."""
    return Random(int(sha256_json([str(p) for p in parts])[:16], 16))


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


def make_plan(recipe: Recipe, material: Material, n_per_class: int, seed: int) -> list[Cell]:
    """The cells, pair after pair, the classes of a pair in label order; ``n_per_class`` pairs."""
    scenes = _scene_rounds(material, n_per_class, seed)
    forms, styles = _forms(scenes, seed), _styles(material, scenes, seed)
    splits = split_by_group([s.id for s in scenes], [None] * len(scenes), recipe.split.as_tuple(), seed)
    of_class = {name: _members(recipe, material, scenes, name, seed) for name in recipe.class_names}
    return [
        Cell(pair, name, *of_class[name][pair], scene=scene, form=forms[pair], style=styles[pair], split=splits[pair])
        for pair, scene in enumerate(scenes)
        for name in recipe.class_names
    ]


def _scene_rounds(material: Material, n: int, seed: int) -> list[Scene]:
    chosen: list[Scene] = []
    while len(chosen) < n:
        chosen += seeded(seed, "scenes", len(chosen)).sample(material.scenes, len(material.scenes))
    return chosen[:n]


def _forms(scenes: list[Scene], seed: int) -> list[str]:
    rng, chosen = seeded(seed, "forms"), []
    seen: Counter[str] = Counter()
    for scene in scenes:
        weights = _FORMS[scene.kind if seen[scene.id] < _FRESH_ROUNDS else f"{scene.kind} again"]
        seen[scene.id] += 1
        chosen.append(rng.choices(list(weights), list(weights.values()))[0])
    return chosen


def _styles(material: Material, scenes: list[Scene], seed: int) -> list[str]:
    rng = seeded(seed, "styles")
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
