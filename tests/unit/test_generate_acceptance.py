"""Every check on an answer finds what it looks for, and leaves alone what only resembles it."""

from __future__ import annotations

import pytest

from scripted_backend import three_classes
from scripted_server import good_text
from strataprobe.generate.acceptance import Acceptance, cleaned
from strataprobe.generate.cells import make_cells
from strataprobe.generate.prompts import request
from strataprobe.recipe import Recipe

ENGLISH = three_classes(writing={"sentences": [1, 6], "words": [3, 120]})


def check_of(text: str, recipe: Recipe = ENGLISH, prompt: str = "") -> str:
    """The check that an answer fails, "" where it passes all."""
    found = Acceptance(recipe).find(cleaned(text), prompt)
    return found.check if found else ""


REJECTED = {
    "empty": ["", "   \n\t ", "...", "?!", "\u200b\ufeff\u2060", "😅 😅", "<think>I had a day off and walked.", "—"],
    "control": [
        "I sat\x1b[2J on the step.",
        "I sat\x00 on the step.",
        "I sat \u202eon the step.",
        "I sat.\u2028I stood.",
        "I sat.\u2029I stood.",
        "I sat \x9bon the step.",
        "I saw \ud83d it.",
        "I saw \ue000 it.",
        "I sat.\rI stood.",
        "I saw \U000e0041 it.",
    ],
    "refusal": [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, but I can’t assist with this request.",
        "I cannot fulfill your request. I walked home.",
        "Sorry, I can't write this kind of text.",
        "I'm sorry, I am unable to generate content about illness.",
        "As an AI language model, I have no garden. I can walk.",
        "As a large language model I do not eat.",
        "I'm just an AI and I never swam.",
        "Unfortunately, I cannot comply with that.",
        "I apologize, but I won't write a story about that.",
        "I must respectfully decline this request.",
        "I don't feel comfortable writing about this prompt.",
        "I can't write that. It is against my guidelines.",
        "I do not have personal experiences, but I walk.",
        "I will not provide such material.",
    ],
    "preamble": [
        "Sure! I walked to the shop and back.",
        "Certainly! Here is the text: I walked home.",
        "Sure, here's a short text. I walked home.",
        "Here is a short diary entry. I walked to the shop.",
        "Here's the text:\n\nI walked to the shop.",
        "Okay, here's an example following your guidelines:\n\nI walked to the shop.",
        "Okay, I'll write a short text for you. I walked home.",
        "Of course! I walked to the shop.",
        "Certainly.\nI walked to the shop.",
        "Below is the text you wanted:\nI walked home.",
        "Title: The Walk\nI walked home.",
        "The Walk\n\nI walked home.",
        "This is a short new story:\nI walked home.",
        "Here is a new version. I walked home.",
        "Diary entry: I walked home.",
        "Text 2: I walked home.",
        "A day at sea:\nI sat in the boat.",
        "I walked home. Let me know if you want any changes!",
        "I walked home. I hope this helps!",
        "I walked home. I hope this meets your requirements.",
        "I walked home. Feel free to adjust it.",
        "I walked home. Would you like me to write another?",
        "I walked home.\n\n(Word count: 58)",
        "I walked home.\nNote: this keeps to the rules.",
        "I walked home. (57 words)",
    ],
    "list": [
        "- I walked home.\n- I slept.",
        "* I walked home.",
        "1. I walked home.\n2. I slept.",
        "1) I walked home.",
        "• I walked home.",
        "# The Walk\nI walked home.",
        "I **walked** home.",
        "```\nI walked home.\n```",
        "| I | walked |",
    ],
    "quotes": [
        '"I walked home and slept." I said so.',
        "'I walked home and slept.'",
        "‘I walked home and slept.’",
        'I walked home. "Late again," said my sister.',
        "I walked home. 'Late again,' said my sister.",
        "I heard 'You're late.' as I came in.",
        "I walked home. ‘Late again,’ said my sister.",
        "I call it my ‘office’ and sweep it.",
        "I said «no» and walked home.",
        "I said „no“ and walked home.",
    ],
    "unfinished": [
        "I walked home and then",
        "I walked home. Then I",
        "I walked home,",
        "I walked home. 😅 And",
        "I walked (",
    ],
    "first_person": [
        "She walked home before the rain came.",
        "They moved to the US. The house was small.",
        "He took the slow road, i.e. the one by the river.",
        "IT WAS A LONG WAY FROM HERE TO THE MINE.",
    ],
    "banned_word": [
        "I left my parasol on the bus.",
        "I counted three parasols in the hall.",
        "I walked home in the drizzle.",
        "I saw it drizzling over the harbour.",
        "I sat there, it was one of those wet days.",
        "I know nothing of droughts.",
    ],
}

LEFT_ALONE = [
    "I'm sorry I was late.",
    "I'm sorry, but I can't forgive him for that evening.",
    "Sorry, I can't come tonight, my knee is swollen.",
    "I can't help with the move, my back is bad.",
    "I cannot help laughing when I think of it.",
    "I can't provide for four children on that.",
    "I won't write to her again.",
    "I can't write that letter to my father.",
    "I work as an AI engineer and walk to the office.",
    "He told me he works as an AI researcher.",
    "I must decline the offer, I told them.",
    "I have to decline to come on Sunday.",
    "I was unable to assist at the birth of the calf.",
    "Here is where I grew up.",
    "Here's the thing: I never learnt to swim.",
    "Here we are again, I thought.",
    "Okay, here we go again, I thought.",
    "Sure, I was tired, but I went on.",
    "Certainly nobody asked me.",
    "Of course I was late.",
    "Great, now I am stuck here with a flat tyre.",
    "Okay, let me just write this down before I forget it.",
    "Okay, I got a text from my sister at noon.",
    "Absolutely nobody came, so I ate the cake.",
    "This is the letter I never sent.",
    "Below me lay the river.",
    "The following Monday I went back.",
    "I told her to let me know if she needed a lift.",
    "Let me know if you need a lift on Sunday, I can drive.",
    "I hope this works, I thought, and pressed the switch.",
    "I told them to feel free to stay.",
    "I took note: two eggs, no milk.",
    "Dear Anna,\nI walked home.",
    "Dear Anna:\nI walked home along the river.",
    "Dear Anna,\n\nI walked home. I slept.",
    "Hi Tom!\n\nI walked home.",
    "Dear Anna\n\nI walked home.",
    "3. Mai 2020\n\nI walked home.",
    "Monday evening\n\nI walked home.",
    "I walked home.\n\nI slept.",
    "I walked home.\tI slept.\r\nI woke.",
    "I waved my flag \U0001f3f4\U000e0067\U000e0062\U000e007f and left.",
    "This is a new story for us, and I told my sister at once.",
    "This is my new draft and I sent it before dawn.",
    "Here is my new draft. I sent it before dawn.",
    "Here is the first message I got from my brother in a year.",
    "I walked home - slowly - and slept.",
    "I bought 3.5 kilos of plums for 2.20 each.",
    "In 1999. I remember it well.",
    "I can't say it's the neighbours' dog.",
    "'Twas late when I got to my sister's.",
    "Rock 'n' roll was all I had in the '90s, and the dogs' bowls.",
    "I said no, he said yes, and I walked out.",
    "My sister said that I was late. I said nothing.",
    "I waited… and waited. Nobody came…",
    "I walked home. 😅",
    "I walked home 😅🎉!",
    "I walked home (late).",
    "Did I walk home? I did!",
    "I met Dr. Hale at 3 p.m. on the pier.",
    "I want a café crème in the Łódź station.",
    "I am five foot two; my sister is six foot.",
    "We walked home.",
    "I think I am *so* late.",
]


@pytest.mark.parametrize(("check", "text"), [(check, text) for check, texts in REJECTED.items() for text in texts])
def test_an_answer_is_rejected_for_what_is_wrong_with_it(check: str, text: str) -> None:
    assert check_of(text) == check


@pytest.mark.parametrize("text", LEFT_ALONE)
def test_a_text_that_only_resembles_what_is_rejected_is_left_alone(text: str) -> None:
    assert Acceptance(ENGLISH, check_language=False).find(cleaned(text)) is None


@pytest.mark.parametrize(
    ("recipe", "text", "check"),
    [
        ({"sentences": [2, 2]}, "I met Dr. Hale at 3 p.m. on the pier. We talked.", ""),
        ({"sentences": [2, 2]}, "I walked home.", "sentences"),
        ({"sentences": [2, 2]}, "I walked home. I slept. I woke.", "sentences"),
        ({"sentences": [1, 1]}, "I paid 3.50 for it... and left.", ""),
        ({"sentences": [1, 1]}, "I paid 3.50 for it... Then I left.", "sentences"),
        ({"sentences": [1, 1]}, "Dear Mum,\n\nI baked the bread.", ""),
        ({"sentences": [1, 1]}, "Hi Tom!\n\nI baked the bread.", ""),
        ({"sentences": [2, 2]}, "I baked the bread.\n\nI ate it.", ""),
        ({"sentences": [1, 1]}, "I waited… and waited.", ""),
        ({"sentences": [2, 2]}, "I waited… Nobody came.", ""),
        ({"sentences": [1, 1]}, "I walked home. 😅", ""),
        ({"words": [4, 5]}, "I walked home.", "length"),
        ({"words": [4, 5]}, "I walked home well-rested.", ""),
        ({"words": [4, 5]}, "I walked home very late today.", "length"),
    ],
)
def test_sentences_and_words_are_counted_against_the_recipe(recipe: dict, text: str, check: str) -> None:
    limits = {"sentences": [1, 6], "words": [1, 120], **recipe}
    found = Acceptance(three_classes(writing=limits), check_language=False).find(text)
    assert (found.check if found else "") == check


def test_words_of_the_request_are_not_to_be_repeated() -> None:
    cell = make_cells(ENGLISH, 1, 0)[0]
    prompt = request(ENGLISH, cell)
    copied = "I will show it through what happens, what is done, said to oneself and seen."
    assert check_of(copied, prompt=prompt) == "prompt_copy"
    assert check_of(copied) == ""
    assert check_of("I show what happens, what was done and what I noticed.", prompt=prompt) == ""


def test_a_text_is_accepted_once_and_near_copies_not_at_all() -> None:
    acceptance = Acceptance(ENGLISH)
    first, other = good_text(1), good_text(2)
    assert acceptance.find(first) is None
    assert acceptance.find(first) is None  # looking does not count
    acceptance.remember(first)
    for copy in (first, first.upper(), first.replace(".", "!")):
        found = acceptance.find(copy)
        assert found is not None
        assert found.check == "duplicate"
    near = acceptance.find(first.replace("I ", "We ", 1))
    assert near is not None
    assert near.check == "near_duplicate"
    assert acceptance.find(other) is None


def test_every_rejection_says_what_to_do_otherwise() -> None:
    acceptance = Acceptance(ENGLISH)
    advice = {}
    for texts in REJECTED.values():
        found = acceptance.find(cleaned(texts[0]))
        assert found is not None
        advice[found.check] = found.advice
    assert len(set(advice.values())) == len(REJECTED)
    assert "parasol" in advice["banned_word"]
    assert all(a.startswith(("it ", "its ", "there ", "nobody ")) for a in advice.values())
