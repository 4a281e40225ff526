"""A writing backend that answers what a test tells it to, and a small recipe of the user's own to write for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from strataprobe.generate.asking import Asking
from strataprobe.generate.cells import Cell
from strataprobe.generate.prompts import Messages
from strataprobe.manifest import ModelIdentity
from strataprobe.recipe import Recipe

THREE_CLASSES = {
    "name": "weather",
    "n_per_class": 6,
    "label_field": "sky",
    "member_field": "kind",
    "classes": [
        {"name": "wet_days", "description": "Water comes down.", "members": ["drizzle", "cloudburst"]},
        {"name": "dry", "description": "Nothing comes down.", "members": ["drought", "heatwave", "dust_storm"]},
        {"name": "still", "description": "Nothing stirs."},
    ],
    "banned_words": ["parasol"],
    "writing": {
        "situations": {"garden": ["a wet lawn", "a bench", "a gate"], "harbour": ["a pier", "a rope", "a gull"]},
        "styles": ["a note", "a letter"],
        "personas": ["a gardener", "a sailor", "a child"],
        "tellings": ["plainly", "backwards"],
        "instructions": "Keep to one afternoon.",
    },
}


def three_classes(**changes: Any) -> Recipe:
    """A recipe with three classes, two of them with members, and settings of its own."""
    return Recipe.model_validate({**THREE_CLASSES, **changes})


class ScriptedBackend:
    """Settles ``answer(cell, attempt)`` for every open cell, round after round; ``replies`` answers other prompts.

    ``prompts`` keeps what a judge asked, ``asked`` the cells that were asked for, in order.
    """

    name = "openai"
    identity = ModelIdentity(name="scripted", revision="1")

    def __init__(
        self,
        answer: Callable[[Cell, int], str] = lambda cell, attempt: "",
        replies: Callable[[str], str | None] = lambda prompt: None,
    ) -> None:
        self._answer, self._replies = answer, replies
        self.asked: list[str] = []
        self.prompts: list[str] = []

    def write(self, asking: Asking, seed: int) -> None:
        """Answer until nothing is open."""
        while cells := asking.open():
            for cell in cells:
                self.asked.append(cell.id)
                asking.settle(cell, self._answer(cell, len(asking.ledger.of(cell.id)) + 1))

    def answers(self, prompts: Sequence[Messages]) -> list[str | None]:
        """One reply for each prompt."""
        self.prompts += [p[-1]["content"] for p in prompts]
        return [self._replies(p[-1]["content"]) for p in prompts]

    def details(self) -> dict[str, Any]:
        """How often it was asked."""
        return {"requests": len(self.asked)}
