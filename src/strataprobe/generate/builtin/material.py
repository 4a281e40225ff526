"""What tales are written from: scenes, outcomes, reactions and frames, as TOML files in ``material/NAME``.

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

ROOT = resources.files("strataprobe") / "generate" / "builtin" / "material"


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

    def side_of(self, member: str) -> str | None:
        """The side whose reactions know ``member``, None where none does."""
        return next((side for side, members in self.reactions.items() if member in members), None)


def load_material(recipe: Recipe, name: str) -> Material:
    """The material ``name`` for a recipe. Raises OptionError when the recipe knows other classes or members."""
    material = _load(name)
    sides = all(cls.name in material.reactions for cls in recipe.classes)
    for cls in recipe.classes:
        if not sides and material.side_of(cls.name) is None:
            known = sorted(member for members in material.reactions.values() for member in members)
            raise unknown(recipe, f"class {cls.name!r}", known)
        for member in cls.members:
            if not sides or member not in material.reactions[cls.name]:
                raise unknown(
                    recipe, f"member {member!r} of {cls.name!r}", sorted(material.reactions.get(cls.name, ()))
                )
    return material


def unknown(recipe: Recipe, what: str, known: list[str]) -> OptionError:
    names = f", only {', '.join(known)}" if known else ""
    return OptionError(
        f"the builtin writer's material for {recipe.name!r} has no {what}{names}: keep to the built-in recipe's classes "
        "and members, or use another --backend, or give texts with --data FILE."
    )


@cache
def _load(name: str) -> Material:
    folder = ROOT / name
    frame = read_toml(folder / "frame.toml")
    reactions = {
        entry.name: _merged([read_toml(file) for file in toml_files(entry)])
        for entry in sorted((folder / "reactions").iterdir(), key=lambda e: e.name)
    }
    scenes: list[Scene] = []
    for entry in toml_files(folder / "scenes"):
        scenes += _scenes(entry.name.removesuffix(".toml"), read_toml(entry), sorted(reactions))
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


def read_toml(entry: Traversable) -> dict[str, Any]:
    return tomllib.loads(entry.read_text("utf-8"))


def toml_files(folder: Traversable) -> list[Traversable]:
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
