"""What the built-in writer writes from: scenes, outcomes, reactions and frames, as TOML files in ``material/RECIPE``.

A sentence may hold alternatives, ``[on Tuesday|yesterday]``, and slots, ``{name}``. An outcome may start with
``joy+pride :: `` when it suits these members of its class best.
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
    """How a scene ends, on one side; ``members`` are those of the class it suits best, none where it suits most."""

    text: str
    members: tuple[str, ...] = ()


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
    verdicts: Mapping[str, Mapping[str, tuple[str, ...]]]
    words: Mapping[str, tuple[str, ...]]
    openers: Mapping[str, tuple[str, ...]]
    styles: Mapping[str, tuple[str, ...]]
    expectations: Mapping[str, tuple[str, ...]]
    members_for: Mapping[str, tuple[str, ...]]
    names: Mapping[str, tuple[str, ...]]
    contracting: frozenset[str]


def material_names() -> list[str]:
    """Names of the recipes the built-in writer has material for, sorted."""
    return sorted(entry.name for entry in _ROOT.iterdir() if entry.is_dir() and not entry.name.startswith("_"))


def load_material(recipe: Recipe) -> Material:
    """The material of a recipe. Raises OptionError when none ships for it, or it knows other classes or members."""
    if recipe.name not in material_names():
        raise OptionError(
            f"the builtin writer has no material for the recipe {recipe.name!r}, only for"
            f" {', '.join(material_names())}: give texts written elsewhere with --data FILE."
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
        entry.name: _merged([_read(file) for file in _files(entry)])
        for entry in sorted((folder / "reactions").iterdir(), key=lambda e: e.name)
    }
    scenes: list[Scene] = []
    for entry in _files(folder / "scenes"):
        scenes += _scenes(entry.name.removesuffix(".toml"), _read(entry), sorted(reactions))
    return Material(
        scenes=tuple(scenes),
        reactions=reactions,
        turns={c: _tuples(kinds) for c, kinds in frame["turns"].items()},
        aftermath={c: _tuples(kinds) for c, kinds in frame["aftermath"].items()},
        verdicts={c: _tuples(kinds) for c, kinds in frame["verdicts"].items()},
        words=_tuples(frame["words"]),
        openers=_tuples(frame["styles"]),
        styles=_tuples(frame["style_of"]),
        expectations=_tuples(frame["expectations"]),
        members_for=_tuples(frame["members_for"]),
        names=_tuples(frame["names"]),
        contracting=frozenset(frame["contracting"]["styles"]),
    )


def _read(entry: Traversable) -> dict[str, Any]:
    return tomllib.loads(entry.read_text("utf-8"))


def _files(folder: Traversable) -> list[Traversable]:
    """The TOML files of a folder, by name."""
    return sorted((entry for entry in folder.iterdir() if entry.name.endswith(".toml")), key=lambda e: e.name)


def _merged(files: list[dict[str, dict[str, list[str]]]]) -> dict[str, dict[str, tuple[str, ...]]]:
    """Reactions of several files as one: member -> kind -> sentences, in file order."""
    merged: dict[str, dict[str, tuple[str, ...]]] = {}
    for value in files:
        for member, kinds in value.items():
            own = merged.setdefault(member, {})
            for kind, sentences in kinds.items():
                own[kind] = own.get(kind, ()) + tuple(sentences)
    return merged


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
    members, mark, rest = text.partition(" :: ")
    return Outcome(rest, tuple(members.split("+"))) if mark else Outcome(text)
