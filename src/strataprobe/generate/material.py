"""What the built-in writer writes from: scenes, outcomes, reactions and frames, as TOML files in ``material/RECIPE``.

A sentence may hold alternatives, ``[on Tuesday|yesterday]``, and names, ``{name}``. An outcome may start with
``member :: `` when it suits one member of its class best.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from strataprobe.errors import OptionError
from strataprobe.recipe import Recipe

_ROOT = resources.files("strataprobe") / "generate" / "material"


@dataclass(frozen=True)
class Outcome:
    """How a scene ends, on one side; ``member`` is the member of the class it suits best, "" where it suits most."""

    text: str
    member: str = ""


@dataclass(frozen=True)
class Scene:
    """A situation that decides nothing yet, with outcomes and remarks by class."""

    id: str
    domain: str
    trigger: str
    kind: str
    text: str
    planned: bool
    outcomes: Mapping[str, tuple[Outcome, ...]]
    remarks: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Material:
    """Everything one recipe's texts are composed of; mappings are by class, then by what the name says."""

    scenes: tuple[Scene, ...]
    reactions: Mapping[str, Mapping[str, Mapping[str, tuple[str, ...]]]]
    turns: Mapping[str, Mapping[str, tuple[str, ...]]]
    aftermath: Mapping[str, Mapping[str, tuple[str, ...]]]
    openers: Mapping[str, tuple[str, ...]]
    styles: Mapping[str, tuple[str, ...]]
    expectations: Mapping[str, tuple[str, ...]]
    members_for: Mapping[str, tuple[str, ...]]
    names: Mapping[str, tuple[str, ...]]


def material_names() -> list[str]:
    """Names of the recipes the built-in writer has material for, sorted."""
    return sorted(entry.name for entry in _ROOT.iterdir() if entry.is_dir() and not entry.name.startswith("_"))


def load_material(recipe: Recipe) -> Material:
    """The material of a recipe. Raises OptionError when none ships for it, or it knows other classes or members."""
    if recipe.name not in material_names():
        raise OptionError(
            f"the builtin writer has no material for the recipe {recipe.name!r}, only for {', '.join(material_names())}: "
            "give texts written elsewhere with --data FILE."
        )
    material = _load(recipe.name)
    for cls in recipe.classes:
        known = material.reactions.get(cls.name)
        if known is None:
            raise OptionError(
                f"the builtin writer's material for {recipe.name!r} has no class {cls.name!r}, only "
                f"{', '.join(sorted(material.reactions))}: keep those names, or give texts with --data FILE."
            )
        for member in cls.members:
            if member not in known:
                raise OptionError(
                    f"the builtin writer's material for {recipe.name!r} has no member {member!r} of {cls.name!r}: keep "
                    "to the built-in recipe's members, or give texts with --data FILE."
                )
    return material


@cache
def _load(name: str) -> Material:
    folder = _ROOT / name
    frame = _read(folder / "frame.toml")
    reactions = {
        entry.name.removeprefix("reactions_").removesuffix(".toml"): _read(entry)
        for entry in sorted(folder.iterdir(), key=lambda e: e.name)
        if entry.name.startswith("reactions_")
    }
    scenes: list[Scene] = []
    for entry in sorted((folder / "scenes").iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".toml"):
            scenes += _scenes(entry.name.removesuffix(".toml"), _read(entry), sorted(reactions))
    return Material(
        scenes=tuple(scenes),
        reactions={c: {m: _tuples(kinds) for m, kinds in members.items()} for c, members in reactions.items()},
        turns={c: _tuples(kinds) for c, kinds in frame["turns"].items()},
        aftermath={c: _tuples(kinds) for c, kinds in frame["aftermath"].items()},
        openers=_tuples(frame["styles"]),
        styles=_tuples(frame["style_of"]),
        expectations=_tuples(frame["expectations"]),
        members_for=_tuples(frame["members_for"]),
        names=_tuples(frame["names"]),
    )


def _read(entry: Traversable) -> dict[str, Any]:
    return tomllib.loads(entry.read_text("utf-8"))


def _tuples(lists: Mapping[str, list[str]]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(values) for name, values in lists.items()}


def _scenes(file: str, value: dict[str, Any], class_names: list[str]) -> list[Scene]:
    remarks = value.get("remarks", {})
    scenes = []
    for number, scene in enumerate(value["scene"], start=1):
        sets = scene.get("remarks", ["general"])
        scenes.append(
            Scene(
                id=f"{file}-{number:02d}",
                domain=value["domain"],
                trigger=scene["trigger"],
                kind=value["kind"],
                text=scene["text"],
                planned=scene.get("planned", True),
                outcomes={c: tuple(_outcome(text) for text in scene[c]) for c in class_names},
                remarks={c: tuple(r for s in sets if s in remarks for r in remarks[s][c]) for c in class_names},
            )
        )
    return scenes


def _outcome(text: str) -> Outcome:
    member, mark, rest = text.partition(" :: ")
    return Outcome(rest, member) if mark else Outcome(text)
