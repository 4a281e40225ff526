"""Near-duplicates: what counts as one, and what does not."""

from __future__ import annotations

import time

from strataprobe.neardup import (
    MOST_PAIRS_A_TEXT,
    NearDuplicates,
    near_duplicate_groups,
    near_duplicate_pairs,
    shingles,
    similarity,
)

TEXT = "My sister called me about the job and I could not stop smiling at the wall."


def test_a_changed_word_case_or_comma_makes_a_near_duplicate() -> None:
    texts = [TEXT, TEXT.replace("wall", "window"), TEXT.upper(), TEXT.replace(" and", ", and")]
    assert near_duplicate_groups(texts) == [0, 0, 0, 0]


def test_texts_about_other_things_are_none() -> None:
    assert near_duplicate_pairs([TEXT, "The train was late and the soup was cold by noon."]) == []
    assert near_duplicate_groups([TEXT, "The train was late and the soup was cold by noon."]) == [0, 1]


def test_the_same_words_in_another_order_are_none() -> None:
    assert near_duplicate_pairs([TEXT, " ".join(reversed(TEXT.split()))]) == []


def test_short_texts_are_near_duplicates_only_of_themselves() -> None:
    assert near_duplicate_groups(["Yes.", "yes", "No.", "!!", "??"]) == [0, 0, 2, 3, 4]


def test_two_texts_are_joined_by_a_third_between_them() -> None:
    words = [f"w{i}" for i in range(12)]
    ends = [" ".join(words[:10]), " ".join(words[1:11]), " ".join(words[2:12])]
    first, last = shingles(ends[0]), shingles(ends[2])
    assert similarity(first, last) < 0.65 <= similarity(first, shingles(ends[1]))
    assert near_duplicate_groups([ends[0], ends[2]], 0.65) == [0, 1]
    assert near_duplicate_groups([ends[0], ends[2], ends[1]], 0.65) == [0, 0, 0]


def test_copies_share_a_group_however_many_there_are() -> None:
    assert near_duplicate_groups([TEXT] * 500) == [0] * 500


def test_a_frame_that_hundreds_share_does_not_join_them() -> None:
    framed = [
        f"I want to say this now and here: number{i} other{i} third{i} fourth{i} fifth{i} sixth{i}." for i in range(400)
    ]
    assert near_duplicate_groups(framed) == list(range(400))


FRAME = " ".join(f"f{i}" for i in range(14))


def framed(number: int, own: int = 18, frame: str = FRAME) -> str:
    """A text of ``own`` words of its own after a frame that many share."""
    return frame + "".join(f" n{number}w{i}" for i in range(own))


def test_near_copies_within_a_frame_that_thousands_share_are_found() -> None:
    texts = [framed(i) for i in range(3_000)]
    near = texts[7].replace("n7w17", "other")
    seen = NearDuplicates(0.55)
    for text in texts:
        assert seen.like(text) == []
        seen.add(text)
    assert seen.like(near) == [7]
    assert seen.like(texts[2_999]) == [2_999]
    assert near_duplicate_pairs([*texts, near, texts[5]]) == [(7, 3_000), (5, 3_001)]
    assert near_duplicate_groups([*texts, near, texts[5]]) == [*range(3_000), 7, 5]


def test_short_texts_of_one_frame_are_found_among_hundreds_of_longer_ones() -> None:
    seen = NearDuplicates(0.55)
    for i in range(220):
        seen.add(framed(i))
    seen.add(f"{FRAME} x y z")
    assert seen.like(f"{FRAME} x y w") == [220]
    assert seen.like(f"{FRAME} x y z") == [220]


def test_a_mass_of_near_duplicates_is_one_group_and_pairs_stay_in_proportion() -> None:
    texts = [framed(i, own=3) for i in range(1_500)]
    started_s = time.process_time()
    assert near_duplicate_groups(texts) == [0] * 1_500
    pairs = near_duplicate_pairs(texts)
    assert time.process_time() - started_s < 5
    assert {j for _, j in pairs} == set(range(1, 1_500))
    assert len(pairs) <= MOST_PAIRS_A_TEXT * 1_500
    assert len(near_duplicate_pairs([TEXT] * 300)) <= MOST_PAIRS_A_TEXT * 300
