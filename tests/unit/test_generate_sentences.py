"""Sentences are counted and the first person is told, with names, numbers, pauses and salutations among the words."""

import pytest

from strataprobe.generate.words import count_sentences, is_first_person


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("One. Two! Three?", 3),
        ("No end", 1),
        ("One. And the rest", 2),
        ("It cost 3.50 in all.", 1),
        ("Go! I went.", 2),
        ("Dr. Hale and Mrs. Hill came at 3 p.m. on Monday.", 1),
        ("It was 3 p.m. Nobody came.", 2),
        ("We left at 3 p.m.", 1),
        ("I like fruit, e.g. plums, pears etc. and so on.", 1),
        ("So I said no. So did Dr.", 2),
        ("I waited… and waited… Nobody came…", 2),
        ("I waited... Nobody came...", 2),
        ("I waited... and then he came.", 1),
        ("I waited. and then he came.", 2),
        ("I live at No. 5. It rains.", 2),
        ("I said no. It rains.", 2),
        ("I met J. R. Smith there.", 1),
        ("I met J.R. Smith there. We talked.", 2),
        ("It was plan B. We went.", 2),
        ("Dear Mum,\n\nI baked.", 1),
        ("Hi Mum!\n\nI baked. It rose.", 2),
        ("I baked!\n\nIt rose.", 2),
        ("(I went home.) She stayed.", 2),
        ("i went home. it was late.", 2),
        ("Why?! Because.", 2),
        ("Done. 😅", 1),
        ("Done. 😅 And dusted.", 2),
        ("我走回家。天黑了！睡了？", 3),
        ("ذهبت إلى السوق. هل جاء أحد؟ لا.", 3),
        ("मैं घर गया। वह रुकी।", 2),
        ("Line one.\nLine two.", 2),
        ("", 0),
        ("   ", 0),
    ],
)
def test_sentences_are_counted(text, n):
    assert count_sentences(text) == n


def test_first_person_is_recognised():
    assert is_first_person("They gave it to me.")
    assert is_first_person("I'm here.")
    for text in ("WE WENT HOME.", "It was mine.", "They saw us.", "So ran myself.", "Ours was red.", "i am late", "I."):
        assert is_first_person(text), text
    for text in (
        "A friend of mine.",
        "The red one is mine.",
        "Mine is red.",
        "It is older than mine.",
        "In Paris I ate.",
    ):
        assert is_first_person(text), text
    for text in (
        "Elizabeth I ruled.",
        "Under King James I the mill burnt.",
        "The coal mine shut.",
        "They went to mine coal.",
        "A mine is deep.",
        "World War I began.",
    ):
        assert not is_first_person(text), text
    assert not is_first_person("She was home in time.")
    for text in ("He moved to the US.", "A fruit, i.e. a plum.", "She has ME.", "An iron mime wed a user's hour.", ""):
        assert not is_first_person(text), text
