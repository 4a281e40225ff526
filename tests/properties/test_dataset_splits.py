"""Splits by group and near-duplicates, for any texts."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from strataprobe.dataset import Text, fill_groups, fill_splits, split_by_group
from strataprobe.neardup import NearDuplicates, near_duplicate_groups, near_duplicate_pairs, shingles, similarity

SHARES = (0.70, 0.15, 0.15)
words = st.sampled_from(["rain", "sun", "lamp", "coat", "seat", "job", "the", "a", "and", "we"])
text_lists = st.lists(st.lists(words, min_size=1, max_size=12).map(" ".join), max_size=25)
rows_of_groups = st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["x", "y", "z", None])), max_size=200)


@given(rows=rows_of_groups, seed=st.integers(0, 5))
def test_a_group_lies_in_one_split_and_the_seed_decides(rows: list[tuple[int, str | None]], seed: int) -> None:
    groups, labels = [f"g{g}" for g, _ in rows], [label for _, label in rows]
    found = split_by_group(groups, labels, SHARES, seed)
    assert len(found) == len(rows)
    assert all(split in ("train", "val", "test") for split in found)
    assert len(set(zip(groups, found, strict=True))) == len(set(groups))
    assert found == split_by_group(groups, labels, SHARES, seed)


@settings(max_examples=20)
@given(n=st.integers(1, 120), size=st.integers(1, 4), seed=st.integers(0, 5))
def test_each_split_gets_its_share_of_every_class_to_within_a_group_or_two(n: int, size: int, seed: int) -> None:
    labels = [name for _ in range(n) for name in ("x", "y") for _ in range(size)]
    groups = [f"g{i}" for i in range(n) for _ in range(2 * size)]
    found = split_by_group(groups, labels, SHARES, seed)
    counts = Counter(zip(found, labels, strict=True))
    for split, share in zip(("train", "val", "test"), SHARES, strict=True):
        for label in ("x", "y"):
            assert abs(counts[split, label] - share * n * size) <= 2 * size


def test_seven_hundred_matched_pairs_are_split_exactly() -> None:
    groups = [f"pair-{i}" for i in range(700) for _ in range(2)]
    found = split_by_group(groups, ["negative", "positive"] * 700, SHARES, 0)
    assert Counter(found) == {"train": 980, "val": 210, "test": 210}
    assert found != split_by_group(groups, ["negative", "positive"] * 700, SHARES, 1)


@given(texts=text_lists, seed=st.integers(0, 3))
def test_near_duplicates_never_lie_in_different_splits(texts: list[str], seed: int) -> None:
    rows = [Text(str(i), text) for i, text in enumerate(texts)]
    fill_groups(rows)
    fill_splits(rows, SHARES, seed)
    for i, j in near_duplicate_pairs(texts):
        assert rows[i].group == rows[j].group
        assert rows[i].split == rows[j].split


@given(texts=text_lists)
def test_near_duplicates_are_exactly_the_pairs_that_share_enough(texts: list[str]) -> None:
    sets = [shingles(t) for t in texts]
    expected = {(i, j) for j in range(len(texts)) for i in range(j) if similarity(sets[i], sets[j]) >= 0.6}
    assert set(near_duplicate_pairs(texts)) == expected


@given(texts=text_lists)
def test_groups_are_the_chains_of_near_duplicates(texts: list[str]) -> None:
    found = near_duplicate_groups(texts)
    reach = {i: {i} for i in range(len(texts))}
    for i, j in near_duplicate_pairs(texts):
        joined = reach[i] | reach[j]
        for k in joined:
            reach[k] = joined
    assert found == [min(reach[i]) for i in range(len(texts))]


@settings(max_examples=40)
@given(
    texts=st.lists(st.lists(words, max_size=14).map(" ".join), max_size=110),
    framed=st.booleans(),
    threshold=st.sampled_from([0.2, 0.5, 0.55, 0.6, 2 / 3, 0.75, 1.0]),
)
def test_texts_added_one_by_one_are_compared_as_if_each_were_with_each(
    texts: list[str], framed: bool, threshold: float
) -> None:
    texts = [f"it was in the early spring of that year {text}" if framed else text for text in texts]
    sets = [shingles(t) for t in texts]
    seen = NearDuplicates(threshold)
    for j, text in enumerate(texts):
        assert seen.like(text) == [i for i in range(j) if similarity(sets[i], sets[j]) >= threshold]
        seen.add(text)
    pairs = near_duplicate_pairs(texts, threshold)
    assert all(similarity(sets[i], sets[j]) >= threshold for i, j in pairs)
    like = {j for j in range(len(texts)) for i in range(j) if similarity(sets[i], sets[j]) >= threshold}
    assert {j for _, j in pairs} == like
