"""The built-in writer: composes the text of a cell from the material, the same way every time for the same seed.

Nothing here looks at a clock or at the order of a set. What is said once is remembered, so that sentences are used
evenly and no text is (nearly) written twice.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from random import Random

from strataprobe.generate.acceptance import Acceptance
from strataprobe.generate.builtin.contractions import contracted
from strataprobe.generate.builtin.material import Material
from strataprobe.generate.builtin.plan import SPARE_FORMS, TaleCell
from strataprobe.generate.cells import seeded

ATTEMPTS = 100
_ATTEMPTS_IN_OWN_FORM = 8
_SLOT = re.compile(r"\{(\w+)\}")
_A_BEFORE_VOWEL = re.compile(r"\b([Aa]) (?=[aeio]|u(?!s))")
_CHOICE = re.compile(r"\[([^\[\]]*)\]")
# An outcome that starts with one of these can follow "But" as it stands.
_AFTER_BUT = frozenset(
    [
        "a",
        "after",
        "all",
        "and",
        "at",
        "both",
        "by",
        "even",
        "every",
        "everybody",
        "everyone",
        "everything",
        "for",
        "half",
        "he",
        "hot",
        "i",
        "in",
        "it",
        "my",
        "neither",
        "no",
        "nobody",
        "not",
        "nothing",
        "on",
        "our",
        "people",
        "she",
        "somebody",
        "someone",
        "strangers",
        "the",
        "then",
        "there",
        "they",
        "this",
        "today",
        "two",
        "we",
        "what",
        "when",
        "whole",
        "you",
    ]
)
_KEEPS_CAPITAL = re.compile(r"I\b|[A-Z][a-z]+day\b|Dad\b|Mum\b|Grandad\b|Christmas\b")


class TaleWriter:
    """Composes cells one after another; ``remember`` takes back texts accepted before an interruption."""

    def __init__(self, material: Material, acceptance: Acceptance, seed: int) -> None:
        self._material, self._acceptance, self._seed = material, acceptance, seed
        self._used: Counter[str] = Counter()
        self._scenes: dict[str, set[str]] = defaultdict(set)

    def write(self, cell: TaleCell) -> tuple[str, list[str]] | None:
        """The text of a cell and the sentences it is made of, or None when nothing new enough can be composed."""
        spare = SPARE_FORMS[cell.scene.kind]
        for attempt in range(ATTEMPTS):
            late = attempt >= _ATTEMPTS_IN_OWN_FORM
            parts = self._parts(cell, spare[attempt % len(spare)] if late else cell.form, attempt)
            text = self._join(cell, parts, seeded(self._seed, "join", cell.pair, cell.label, attempt))
            if self._acceptance.find(text) is None:
                return text, [sentence for _, sentence in parts]
        return None

    def remember(self, cell: TaleCell, parts: Sequence[str]) -> None:
        """Count a text as written: its sentences as used in its scene."""
        self._used.update(parts)
        for sentence in parts:
            self._scenes[sentence].add(cell.scene.id)

    def _parts(self, cell: TaleCell, form: str, attempt: int) -> list[tuple[str, str]]:
        """The raw sentences of a text with their roles, in order. The role "turn CLASS" points away from that class."""
        material, scene, side = self._material, cell.scene, cell.side
        shared = seeded(self._seed, "shared", cell.pair, attempt)
        own = seeded(self._seed, "own", cell.pair, cell.label, attempt)
        planned = ("any", "planned") if scene.planned else ("any",)
        reactions = material.reactions[side].get(cell.member, {})
        roles, told, kinds = form.split(), "outcome" in form, ("any", scene.kind)
        if not told and not scene.planned:  # nothing was begun that could be judged
            roles = ["reaction" if role == "verdict" else role for role in roles]
        away = shared.choice(sorted(material.turns))
        pools = {
            "scene": (scene.text,),
            "outcome": (scene.outcomes[side][cell.outcome].text,),
            "reaction": _pool(reactions, kinds if told else ("any",)),
            "aftermath": _pool(material.aftermath[side], planned),
            "remark": scene.remarks[side],
            "verdict": _pool(material.verdicts[side], kinds),
            "opener": material.openers[cell.style],
            "expectation": _pool(material.expectations, planned),
            "turn": _pool(material.turns[away], planned),
        }
        parts = []
        for role in roles:
            if role in ("opener", "expectation", "turn"):
                parts.append((f"turn {away}" if role == "turn" else role, shared.choice(pools[role])))
            elif any((role, s) not in parts for s in pools[role]):
                unsaid = tuple(s for s in pools[role] if (role, s) not in parts)
                parts.append((role, self._least_used(unsaid, cell.scene.id, own, 0.9 + attempt)))
        return parts

    def _least_used(self, pool: tuple[str, ...], scene_id: str, rng: Random, noise: float) -> str:
        """A sentence that no other scene has used where there is one, so that splits by scene share few sentences."""

        def cost(sentence: str) -> tuple[float, str]:
            elsewhere = len(self._scenes[sentence] - {scene_id})
            return elsewhere + 2 * self._used[sentence] + noise * rng.random(), sentence

        return min(pool, key=cost)

    def _join(self, cell: TaleCell, parts: list[tuple[str, str]], rng: Random) -> str:
        """The text: alternatives chosen, slots filled, turns turned. What the pair shares comes out alike."""
        of_pair = seeded(self._seed, "names", cell.pair)
        names = {slot: of_pair.choice(values) for slot, values in self._material.names.items()}
        sentences: list[str] = []
        before = ""
        for role, raw in parts:
            chooser = seeded(self._seed, "alternatives", cell.pair, raw) if role == "scene" else rng
            sentence = _CHOICE.sub(lambda m, r=chooser: r.choice(m.group(1).split("|")), raw)  # type: ignore[misc]
            for slot, name in names.items():
                sentence = sentence.replace("{" + slot + "}", name)
            sentence = self._filled(sentence, rng)
            if before.startswith("turn "):
                sentence = _turned(sentence, before == f"turn {cell.side}", rng)
            sentences.append(sentence)
            before = role
        text = " ".join(sentences)
        return contracted(text) if cell.style in self._material.contracting else text

    def _filled(self, sentence: str, rng: Random) -> str:
        """The sentence with a word in each slot, no word twice, and "a" or "an" before it."""
        words = {kind: rng.sample(values, len(values)) for kind, values in self._material.words.items()}
        filled = _SLOT.sub(lambda m: words[m.group(1)].pop(), sentence)
        return filled if filled == sentence else _A_BEFORE_VOWEL.sub(r"\1n ", filled)


def _pool(by_kind: Mapping[str, tuple[str, ...]], kinds: Sequence[str]) -> tuple[str, ...]:
    return tuple(sentence for kind in kinds for sentence in by_kind.get(kind, ()))


def _turned(sentence: str, against: bool, rng: Random) -> str:
    """The sentence after an expectation: ``against`` it ("But ...") or bearing it out ("And ..."), where that works."""
    first = re.split(r"[\s,;:]", sentence, maxsplit=1)[0].lower()
    if first not in _AFTER_BUT:
        return sentence
    lowered = sentence if _KEEPS_CAPITAL.match(sentence) else sentence[0].lower() + sentence[1:]
    word = rng.choice(("But", "But", "But", "And yet") if against else ("And", "And", "And sure enough,", ""))
    return f"{word} {lowered}" if word else sentence
