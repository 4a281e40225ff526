"""The built-in writer as a backend: composes each cell of its plan, always in plan order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from strataprobe.errors import OptionError
from strataprobe.generate.acceptance import Acceptance
from strataprobe.generate.asking import Asking
from strataprobe.generate.builtin.actions import ActWriter, load_acts, plan_acts
from strataprobe.generate.builtin.material import ROOT, load_material, read_toml
from strataprobe.generate.builtin.plan import make_plan
from strataprobe.generate.builtin.writer import TaleWriter
from strataprobe.generate.cells import Cell
from strataprobe.manifest import ModelIdentity
from strataprobe.recipe import Recipe

# Counts up when the same seed begins to give other texts.
REVISION = "2"


def material_names() -> list[str]:
    """Names of the recipes the built-in writer has material for, sorted."""
    return sorted(read_toml(ROOT / "recipes.toml"))


class Builtin:
    """The backend ``builtin``. Raises OptionError when no material ships for the recipe, or it is not in English."""

    name = "builtin"
    identity = ModelIdentity(name="builtin", revision=REVISION)

    def __init__(self, recipe: Recipe) -> None:
        known = read_toml(ROOT / "recipes.toml")
        if recipe.name not in known:
            raise OptionError(
                f"the builtin writer has no material for the recipe {recipe.name!r}, only for {', '.join(sorted(known))}: "
                "let a language model write (--backend ollama, openai or transformers), or give texts with --data FILE."
            )
        if recipe.writing.language != "en":
            raise OptionError(
                f"the builtin writer writes English, and the recipe asks for {recipe.writing.language!r}: use --backend "
                "ollama, openai or transformers, or give texts with --data FILE."
            )
        self._recipe, self._kind, self._material_name = (
            recipe,
            known[recipe.name]["kind"],
            known[recipe.name]["material"],
        )
        self._tales = load_material(recipe, self._material_name) if self._kind == "tales" else None
        self._acts = load_acts(recipe, self._material_name) if self._kind == "acts" else None

    def plan(self, n_per_class: int, seed: int) -> Sequence[Cell]:
        """The cells, pair after pair."""
        if self._tales is not None:
            return make_plan(self._recipe, self._tales, n_per_class, seed)
        assert self._acts is not None
        return plan_acts(self._recipe, self._acts, n_per_class, seed)

    def write(self, asking: Asking, seed: int) -> None:
        """Compose every open cell. Raises OptionError when the material yields nothing new for one."""
        writer = self._writer(asking.acceptance, seed)
        cells = {cell.id: cell for cell in asking.plan}
        for entry in asking.ledger.entries:
            writer.remember(cells[entry.cell], entry.parts)
        for cell in asking.open():
            written = writer.write(cell)
            if written is None:
                raise OptionError(
                    f"the builtin writer's variety runs out after {cell.pair:,} texts a class of {self._recipe.name!r}: "
                    f"ask for --n-per-class {cell.pair} at most, or let a language model write (--backend ollama, openai "
                    "or transformers), or give texts with --data FILE."
                )
            text, parts = written
            asking.settle(cell, text, parts=parts)
            writer.remember(cell, parts)

    def details(self) -> dict[str, Any]:
        """Nothing is asked of anybody."""
        return {}

    def _writer(self, acceptance: Acceptance, seed: int) -> Any:
        if self._tales is not None:
            return TaleWriter(self._tales, acceptance, seed)
        return ActWriter(acceptance, seed)
