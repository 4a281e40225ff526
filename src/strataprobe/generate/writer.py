"""The built-in writer: composes the text of a cell from the material, the same way every time for the same seed.

Nothing here looks at a clock or at the order of a set. What is said once is remembered, so that sentences are used
evenly and no text is (nearly) written twice.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from random import Random

from strataprobe.generate.checks import checker_for, count_sentences, is_first_person
from strataprobe.generate.contractions import contracted
from strataprobe.generate.material import Material
from strataprobe.generate.plan import SPARE_FORMS, Cell, seeded
from strataprobe.neardup import shingles, similarity
from strataprobe.recipe import Recipe

ATTEMPTS = 100
_ATTEMPTS_IN_OWN_FORM = 8
# Closer than this to a text already written is too close (``neardup.SIMILARITY`` calls .6 a near-duplicate).
_TOO_CLOSE = 0.55
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


class Writer:
    """Writes cells one after another; ``remember`` takes back texts accepted before an interruption."""

    def __init__(self, recipe: Recipe, material: Material, seed: int) -> None:
        self._recipe, self._material, self._seed = recipe, material, seed
        self._checker = checker_for(recipe)
        self._used: Counter[str] = Counter()
        self._scenes: dict[str, set[str]] = defaultdict(set)
        self._holders: dict[str, list[int]] = defaultdict(list)
        self._sets: list[frozenset[str]] = []
        self._exact: set[str] = set()

    def write(self, cell: Cell) -> tuple[str, list[str]] | None:
        """The text of a cell and the sentences it is made of, or None when nothing new enough can be composed."""
        spare = SPARE_FORMS[cell.scene.kind]
        for attempt in range(ATTEMPTS):
            late = attempt >= _ATTEMPTS_IN_OWN_FORM
            parts = self._parts(cell, spare[attempt % len(spare)] if late else cell.form, attempt)
            text = self._join(cell, parts, seeded(self._seed, "join", cell.pair, cell.label, attempt))
            if self._acceptable(text):
                return text, [sentence for _, sentence in parts]
        return None

    def remember(self, cell: Cell, text: str, parts: list[str]) -> None:
        """Count a text as written: its sentences as used in its scene, its shingles as taken."""
        self._used.update(parts)
        for sentence in parts:
            self._scenes[sentence].add(cell.scene.id)
        self._exact.add(text.lower())
        mine = shingles(text)
        for shingle in mine:
            self._holders[shingle].append(len(self._sets))
        self._sets.append(mine)

    def _parts(self, cell: Cell, form: str, attempt: int) -> list[tuple[str, str]]:
        """The raw sentences of a text with their roles, in order. The role "turn CLASS" points away from that class."""
        material, scene, label = self._material, cell.scene, cell.label
        shared = seeded(self._seed, "shared", cell.pair, attempt)
        own = seeded(self._seed, "own", cell.pair, label, attempt)
        planned = ("any", "planned") if scene.planned else ("any",)
        reactions = material.reactions[label].get(cell.member, {})
        roles, told, kinds = form.split(), "outcome" in form, ("any", scene.kind)
        if not told and not scene.planned:  # nothing was begun that could be judged
            roles = ["reaction" if role == "verdict" else role for role in roles]
        away = shared.choice(sorted(material.turns))
        pools = {
            "scene": (scene.text,),
            "outcome": (scene.outcomes[label][cell.outcome].text,),
            "reaction": _pool(reactions, kinds if told else ("any",)),
            "aftermath": _pool(material.aftermath[label], planned),
            "remark": scene.remarks[label],
            "verdict": _pool(material.verdicts[label], kinds),
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

    def _join(self, cell: Cell, parts: list[tuple[str, str]], rng: Random) -> str:
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
                sentence = _turned(sentence, before == f"turn {cell.label}", rng)
            sentences.append(sentence)
            before = role
        text = " ".join(sentences)
        return contracted(text) if cell.style in self._material.contracting else text

    def _filled(self, sentence: str, rng: Random) -> str:
        """The sentence with a word in each slot, no word twice, and "a" or "an" before it."""
        words = {kind: rng.sample(values, len(values)) for kind, values in self._material.words.items()}
        filled = _SLOT.sub(lambda m: words[m.group(1)].pop(), sentence)
        return filled if filled == sentence else _A_BEFORE_VOWEL.sub(r"\1n ", filled)

    def _acceptable(self, text: str) -> bool:
        if text.lower() in self._exact or self._checker.find(text):
            return False
        if not 2 <= count_sentences(text) <= 4 or not is_first_person(text):
            return False
        mine = shingles(text)
        common: Counter[int] = Counter()
        for shingle in sorted(mine):
            common.update(self._holders.get(shingle, ()))
        return all(
            n < _TOO_CLOSE * max(len(mine), len(self._sets[i])) or similarity(mine, self._sets[i]) < _TOO_CLOSE
            for i, n in common.items()
        )


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
