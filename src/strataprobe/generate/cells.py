"""The plan for a language model: every text to be asked for, known before the first request.

A cell says what one text is to be. The cells of a pair, one for each class, are alike in everything but the concept:
situation, style, persona and way of telling are the pair's. All texts on one situation share a group, and so a split.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from random import Random
from typing import Any, TypeVar

from strataprobe.dataset import Text, split_by_group
from strataprobe.generate.words import checker_for
from strataprobe.manifest import sha256_json
from strataprobe.recipe import Recipe

_T = TypeVar("_T")


@dataclass(frozen=True)
class Cell:
    """One text to be written. ``member`` is "" for a class without members; so are parts that a writer does not plan."""

    id: str
    pair: int
    label: str
    member: str
    domain: str
    trigger: str
    style: str
    persona: str
    telling: str
    group: str
    split: str

    def to_json(self) -> dict[str, Any]:
        """The cell as a line of the saved plan."""
        return {part.name: getattr(self, part.name) for part in fields(Cell)}

    def row(self, recipe: Recipe, text: str, written_by: dict[str, Any]) -> Text:
        """The row of a text written for this cell."""
        planned = {
            recipe.label_field: self.label,
            recipe.member_field: "" if self.member == self.label else self.member,
            "domain": self.domain,
            "trigger": self.trigger,
            "language_style": self.style,
            "persona": self.persona,
        }
        fields = {name: value for name, value in planned.items() if value and name != "label"}
        return Text(self.id, text, self.label, self.split, self.group, fields={**fields, **written_by})


@dataclass(frozen=True)
class Settings:
    """What cells are made of: (domain, trigger) situations, styles, personas, ways of telling."""

    situations: tuple[tuple[str, str], ...]
    styles: tuple[str, ...]
    personas: tuple[str, ...]
    tellings: tuple[str, ...]


def seeded(*parts: object) -> Random:
    """A random generator that depends on nothing but ``parts``."""
    return Random(int(sha256_json([str(p) for p in parts])[:16], 16))


def settings_of(recipe: Recipe) -> Settings:
    """The recipe's own settings; where it names none the usual ones, but for those that use a word it bans.

    Where all of them do they stay: something has to be asked for.
    """
    usual, own, checker = _usual(), recipe.writing, checker_for(recipe)

    def spoken(values: Sequence[str]) -> tuple[str, ...]:
        return tuple(value for value in values if not checker.find(value)) or tuple(values)

    situations = [(d, t) for d, triggers in (own.situations or usual["situations"]).items() for t in triggers]
    if not own.situations:
        situations = [(d, t) for d, t in situations if not checker.find(f"{d}, {t}")] or situations
    return Settings(
        situations=tuple(situations),
        styles=own.styles or spoken(usual["styles"]),
        personas=own.personas or spoken(usual["personas"]),
        tellings=own.tellings or spoken(usual["tellings"]),
    )


def make_cells(recipe: Recipe, n_per_class: int, seed: int) -> list[Cell]:
    """The cells, pair after pair, the classes of a pair in label order; ``n_per_class`` pairs.

    Members are even within each class to within one text, and so are situations, styles, personas and tellings over the
    pairs. Each of these is dealt out on its own, so that none goes with another.
    """
    settings = settings_of(recipe)
    situations = dealt(settings.situations, n_per_class, seed, "situations")
    styles = dealt(settings.styles, n_per_class, seed, "styles")
    personas = dealt(settings.personas, n_per_class, seed, "personas")
    tellings = dealt(settings.tellings, n_per_class, seed, "tellings")
    groups = [_group(recipe, domain, trigger) for domain, trigger in situations]
    splits = split_by_group(groups, [None] * n_per_class, recipe.split.as_tuple(), seed)
    members = {c.name: dealt(c.members or ("",), n_per_class, seed, "members", c.name) for c in recipe.classes}
    return [
        Cell(
            id=cell_id(recipe, pair, name),
            pair=pair,
            label=name,
            member=members[name][pair],
            domain=situations[pair][0],
            trigger=situations[pair][1],
            style=styles[pair],
            persona=personas[pair],
            telling=tellings[pair],
            group=groups[pair],
            split=splits[pair],
        )
        for pair in range(n_per_class)
        for name in recipe.class_names
    ]


def cell_id(recipe: Recipe, pair: int, label: str) -> str:
    """The id of a cell, and of its row: recipe, pair and class."""
    return f"{recipe.name}-{pair:05d}-{label}"


def dealt(values: Sequence[_T], n: int, *seed: object) -> list[_T]:
    """``n`` values in seeded rounds over all of them, each round in an order of its own."""
    dealt: list[_T] = []
    for number in range(-(-n // len(values))):
        dealt += seeded(*seed, number).sample(list(values), len(values))
    return dealt[:n]


def _group(recipe: Recipe, domain: str, trigger: str) -> str:
    name = "-".join("".join(c if c.isalnum() else " " for c in f"{domain} {trigger}").lower().split())
    return f"{recipe.name}-{name}"


@cache
def _usual() -> dict[str, Any]:
    return tomllib.loads((resources.files("strataprobe") / "generate" / "situations.toml").read_text("utf-8"))


def in_file_order(rows: Sequence[Text], pairs: Sequence[int], seed: int) -> list[Text]:
    """Rows pair after pair, the texts of each pair in a seeded order, so that no class is always first."""
    ordered: list[Text] = []
    by_pair: dict[int, list[Text]] = {}
    for row, pair in zip(rows, pairs, strict=True):
        by_pair.setdefault(pair, []).append(row)
    for pair in sorted(by_pair):
        texts = by_pair[pair]
        ordered += seeded(seed, "order", pair).sample(texts, len(texts))
    return ordered
