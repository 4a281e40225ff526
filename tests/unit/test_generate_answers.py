"""Answers as they come: what is taken off, what is mended, and how soon a huge one is judged."""

from __future__ import annotations

import time

import pytest

from scripted_backend import three_classes
from strataprobe.generate.acceptance import Acceptance, cleaned

ENGLISH = three_classes(writing={"sentences": [1, 6], "words": [3, 120]})


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("  I walked home.\n", "I walked home."),
        ("<think>They want a walk.</think>\n\nI walked home.", "I walked home."),
        ("\n<think>\nOne.\n\nTwo.\n</think>I walked home.", "I walked home."),
        ("They want a walk, so a walk.\n</think>\n\nI walked home.", "I walked home."),
        ("<thinking>A walk.</thinking> I walked home.", "I walked home."),
        ("<think>They want a walk, and then", ""),
        ("\ufeffI wal\u00adked home.\u200b", "I walked home."),
        ("I think < think > is no tag.", "I think < think > is no tag."),
        ("I saw \ud83d it.", "I saw \ufffd it."),
        ("I saw \ud83d\ude00.", "I saw \U0001f600."),
        ("I sat.\r\nI stood.", "I sat.\nI stood."),
    ],
)
def test_what_surrounds_a_text_is_taken_off(answer: str, text: str) -> None:
    assert cleaned(answer) == text


@pytest.mark.parametrize(
    "answer", ['"I walked home and slept."', "“I walked home and slept.”", ' "I walked home and slept. " ']
)
def test_quotation_marks_round_a_whole_answer_are_taken_off(answer: str) -> None:
    assert cleaned(answer) == "I walked home and slept."
    assert cleaned('"Home," I said, "at last."') == '"Home," I said, "at last."'


def test_a_huge_answer_is_too_long_and_nothing_else_is_looked_for() -> None:
    acceptance = Acceptance(ENGLISH)
    acceptance._checks["refusal"] = lambda *_: pytest.fail("a huge text was searched")
    for text in ("I can't write this. " * 50_000, "x" * 2_401, "- \x00" * 9_999 + "a"):
        found = acceptance.find(text)
        assert found is not None
        assert (found.check, found.found) == ("length", f"{len(text):,} characters")
        assert found.advice == f"it had {len(text):,} characters, and 3 to 120 words are wanted"
    del acceptance._checks["refusal"]
    assert Acceptance(ENGLISH, check_language=False).find("I saw a " + "x" * 2_391 + ".") is None


def test_findings_stay_short() -> None:
    found = Acceptance(three_classes(banned_words=["disgust"], writing={"sentences": [1, 6]}), False).find(
        "I was disgust" + "x" * 2_000 + " today, with all of it, and said so to my sister at noon."
    )
    assert found is not None
    assert found.check == "banned_word"
    assert len(found.found) <= 80


@pytest.mark.parametrize(
    "text",
    [
        "I walked " * 5_000 + "home.",
        "I" + " \n" * 20_000 + "walked.",
        "I went" + "!" * 20_000 + "x",
        "I said '" * 5_000 + ".",
        "‘I " * 5_000 + ".",
        "Here is " * 5_000 + ".",
        "_ " * 10_000 + "text",
        "<think>" * 5_000,
        "I wrote " + "ab" * 40_000 + ".",
    ],
)
def test_a_very_long_answer_is_judged_quickly(text: str) -> None:
    acceptance = Acceptance(ENGLISH, check_language=False)
    started_s = time.process_time()
    for check in acceptance._checks.values():
        check(cleaned(text), "a prompt")
    assert time.process_time() - started_s < 1.5
