"""Near-duplicates: texts that share most of their three-word shingles.

Two sets with a Jaccard similarity of t or more share a shingle among the first |A| - ceil(t |A|) + 1 of each, in any one
order. Only these are looked up, rare shingles first, so a frame that thousands of texts share is hardly ever among them;
what is found is compared in full. Equal sets are compared once.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

SHINGLE_WORDS = 3
SIMILARITY = 0.6
# A text of a mass of near-duplicates is paired with so many earlier ones, and no more.
MOST_PAIRS_A_TEXT = 50
_WORD = re.compile(r"\w+")
# What fewer texts share is rare: one count serves for all of it.
_RARE = 4
# So many texts may hold a shingle before they are told apart by size and position.
_FEW = 16
_EPSILON = 1e-9


def shingles(text: str) -> frozenset[str]:
    """The distinct runs of three words, lower-cased, punctuation left out; the whole text where it is shorter."""
    words = _WORD.findall(text.lower())
    if len(words) < SHINGLE_WORDS:
        return frozenset([" ".join(words) if words else text])
    return frozenset(" ".join(words[i : i + SHINGLE_WORDS]) for i in range(len(words) - SHINGLE_WORDS + 1))


def similarity(a: frozenset[str], b: frozenset[str]) -> float:
    """Jaccard similarity of two shingle sets, 0 to 1."""
    return len(a & b) / len(a | b) if a or b else 1.0


def _counts(sets: Sequence[frozenset[str]]) -> dict[str, int]:
    """In how many sets each shingle lies, for those that are not rare."""
    counts: Counter[str] = Counter()
    for one in sets:
        counts.update(one)
    return {shingle: n for shingle, n in counts.items() if n >= _RARE}


class _Numbers(list[int]):
    """Numbers of sets; the first ``joined`` of them are known to lie in one group, which they never leave."""

    joined = 0


_NONE = _Numbers()


class _Index:
    """Different shingle sets, numbered as they come, by the first shingles of each in one order: rare ones first."""

    def __init__(self, threshold: float, counts: Mapping[str, int]) -> None:
        self.sets: list[frozenset[str]] = []
        self._threshold, self._counts = threshold, counts
        # The numbers of the few that hold a shingle, or those of many by (size, position of the shingle).
        self._holders: dict[str, _Numbers | dict[tuple[int, int], _Numbers]] = {}

    def add(self, mine: frozenset[str]) -> None:
        """Take in a set that is not there yet."""
        number = len(self.sets)
        self.sets.append(mine)
        for place, shingle in enumerate(self._first(mine)):
            holders = self._holders.setdefault(shingle, _Numbers())
            if isinstance(holders, _Numbers) and len(holders) < _FEW:
                holders.append(number)
                continue
            if isinstance(holders, _Numbers):
                told_apart: dict[tuple[int, int], _Numbers] = {}
                for other in holders:
                    key = len(self.sets[other]), self._first(self.sets[other]).index(shingle)
                    told_apart.setdefault(key, _Numbers()).append(other)
                holders = self._holders[shingle] = told_apart
            holders.setdefault((len(mine), place), _Numbers()).append(number)

    def lists(self, mine: frozenset[str]) -> Iterator[_Numbers]:
        """Lists that hold, between them and more than once perhaps, the number of every set that is similar to ``mine``.

        Of two similar sets, the shingles from the first shared one on are as many as they must share.
        """
        n, share = len(mine), self._threshold / (1 + self._threshold)
        for place, shingle in enumerate(self._first(mine)):
            holders = self._holders.get(shingle, _NONE)
            if isinstance(holders, _Numbers):
                yield holders
                continue
            for (size, other), numbers in holders.items():
                if min(n - place, size - other) >= share * (n + size) - _EPSILON:
                    yield numbers

    def similar(self, mine: frozenset[str], number: int) -> bool:
        """Whether a set that was added is similar to ``mine``."""
        other = self.sets[number]
        shared = len(mine & other)
        return shared / (len(mine) + len(other) - shared) >= self._threshold

    def _first(self, mine: frozenset[str]) -> list[str]:
        counts, n = self._counts, len(mine)
        ordered = sorted(mine, key=lambda shingle: (counts.get(shingle, 0), shingle))
        return ordered[: n - math.ceil(self._threshold * n - _EPSILON) + 1]


class NearDuplicates:
    """Texts seen so far, and which of them a new one comes too close to.

    Which shingles are rare is counted anew whenever the texts have doubled.
    """

    def __init__(self, threshold: float = SIMILARITY) -> None:
        self._threshold = threshold
        self._index = _Index(threshold, {})
        self._numbers: dict[frozenset[str], list[int]] = {}
        self._n = 0
        self._count_at = 64

    def like(self, text: str) -> list[int]:
        """Numbers, in the order they were added, of the texts with a Jaccard similarity of at least the threshold."""
        mine = shingles(text)
        seen = {number for numbers in self._index.lists(mine) for number in numbers}
        found = [self._index.sets[i] for i in seen if self._index.similar(mine, i)]
        return sorted(number for one in found for number in self._numbers[one])

    def add(self, text: str) -> None:
        """Remember a text."""
        mine = shingles(text)
        if mine in self._numbers:
            self._numbers[mine].append(self._n)
        else:
            self._numbers[mine] = [self._n]
            self._index.add(mine)
        self._n += 1
        if len(self._index.sets) >= self._count_at:
            self._count_at *= 2
            sets = self._index.sets
            self._index = _Index(self._threshold, _counts(sets))
            for one in sets:
                self._index.add(one)


def near_duplicate_pairs(texts: Sequence[str], threshold: float = SIMILARITY) -> list[tuple[int, int]]:
    """Index pairs (i < j) of texts whose shingle sets have a Jaccard similarity of at least ``threshold``.

    A text with more than ``MOST_PAIRS_A_TEXT`` earlier ones like it is paired with so many of them, copies first, so
    that each text that is like an earlier one is in a pair and the number of pairs stays in proportion to that of texts.
    """
    sets = [shingles(text) for text in texts]
    index, copies = _Index(threshold, _counts(sets)), dict[frozenset[str], list[int]]()
    pairs = []
    for j, mine in enumerate(sets):
        like, seen = copies.get(mine, [])[:MOST_PAIRS_A_TEXT], set[int]()
        for number in (number for numbers in index.lists(mine) for number in numbers):
            if len(like) >= MOST_PAIRS_A_TEXT:
                break
            if number not in seen and index.sets[number] != mine and index.similar(mine, number):
                like += copies[index.sets[number]]
            seen.add(number)
        pairs += [(i, j) for i in sorted(like[:MOST_PAIRS_A_TEXT])]
        if mine not in copies:
            index.add(mine)
        copies.setdefault(mine, []).append(j)
    return pairs


def near_duplicate_groups(texts: Sequence[str], threshold: float = SIMILARITY) -> list[int]:
    """A group number for each text, the index of its first member: near-duplicates, chains of them too, share one.

    No limit holds here: only texts that lie in one group already are not compared.
    """
    sets = [shingles(text) for text in texts]
    numbers = {mine: number for number, mine in enumerate(dict.fromkeys(sets))}
    parent = list(range(len(numbers)))
    index = _Index(threshold, _counts(sets))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for mine, number in numbers.items():
        for others in index.lists(mine):
            place = 0
            while place < len(others):
                a, b = root(number), root(others[place])
                if a == b and place < others.joined:
                    place = others.joined
                    continue
                if a != b and index.similar(mine, others[place]):
                    parent[max(a, b)] = min(a, b)
                else:
                    place += 1
            while others.joined < len(others) and root(others[others.joined]) == root(others[0]):
                others.joined += 1
        index.add(mine)
    earliest: dict[int, int] = {}
    return [earliest.setdefault(root(numbers[mine]), i) for i, mine in enumerate(sets)]
