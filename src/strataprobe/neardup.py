"""Near-duplicates: texts that share most of their three-word shingles."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

SHINGLE_WORDS = 3
SIMILARITY = 0.6
# A shingle that this many texts share (a common frame) says nothing about two of them being copies.
_COMMON = 200
_WORD = re.compile(r"\w+")


def shingles(text: str) -> frozenset[str]:
    """The distinct runs of three words, lower-cased, punctuation left out; the whole text where it is shorter."""
    words = _WORD.findall(text.lower())
    if len(words) < SHINGLE_WORDS:
        return frozenset([" ".join(words) if words else text])
    return frozenset(" ".join(words[i : i + SHINGLE_WORDS]) for i in range(len(words) - SHINGLE_WORDS + 1))


def similarity(a: frozenset[str], b: frozenset[str]) -> float:
    """Jaccard similarity of two shingle sets, 0 to 1."""
    return len(a & b) / len(a | b) if a or b else 1.0


class NearDuplicates:
    """Texts seen so far, and which of them a new one comes too close to."""

    def __init__(self, threshold: float = SIMILARITY) -> None:
        self._threshold = threshold
        self._holders: dict[str, list[int]] = defaultdict(list)
        self._sets: list[frozenset[str]] = []

    def like(self, text: str) -> list[int]:
        """Numbers, in the order they were added, of the texts with a Jaccard similarity of at least the threshold."""
        mine = shingles(text)
        shared: Counter[int] = Counter()
        for shingle in mine:
            holders = self._holders.get(shingle, ())
            if len(holders) < _COMMON:
                shared.update(holders)
        return sorted(
            i
            for i, n in shared.items()
            if n >= self._threshold * max(len(mine), len(self._sets[i]))
            and similarity(mine, self._sets[i]) >= self._threshold
        )

    def add(self, text: str) -> None:
        """Remember a text."""
        mine = shingles(text)
        for shingle in mine:
            if len(self._holders[shingle]) < _COMMON:
                self._holders[shingle].append(len(self._sets))
        self._sets.append(mine)


def near_duplicate_pairs(texts: Sequence[str], threshold: float = SIMILARITY) -> list[tuple[int, int]]:
    """Index pairs (i < j) of texts whose shingle sets have a Jaccard similarity of at least ``threshold``."""
    seen = NearDuplicates(threshold)
    pairs = []
    for j, text in enumerate(texts):
        pairs += [(i, j) for i in seen.like(text)]
        seen.add(text)
    return pairs


def near_duplicate_groups(texts: Sequence[str], threshold: float = SIMILARITY) -> list[int]:
    """A group number for each text, the index of its first member: near-duplicates, chains of them too, share one."""
    parent = list(range(len(texts)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first_of: dict[frozenset[str], int] = {}
    for i, text in enumerate(texts):
        parent[i] = root(first_of.setdefault(shingles(text), i))
    for i, j in near_duplicate_pairs(texts, threshold):
        a, b = root(i), root(j)
        parent[max(a, b)] = min(a, b)
    return [root(i) for i in range(len(texts))]
