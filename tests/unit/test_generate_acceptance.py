"""Every check on an answer finds what it looks for, and leaves alone what only resembles it."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest

from scripted_backend import three_classes
from scripted_server import good_text
from strataprobe.generate.acceptance import Acceptance, cleaned
from strataprobe.generate.asking import Asking
from strataprobe.generate.builtin.backend import Builtin
from strataprobe.generate.cells import make_cells
from strataprobe.generate.ledger import Ledger
from strataprobe.generate.prompts import request
from strataprobe.progress import Progress
from strataprobe.recipe import Recipe, load_recipe

ENGLISH = three_classes(writing={"sentences": [1, 6], "words": [3, 120]})
GERMAN = three_classes(writing={"language": "de", "sentences": [1, 6], "words": [3, 120]})
CHINESE = three_classes(writing={"language": "zh", "sentences": [2, 4], "words": [12, 120]})
GERMAN_TEXT = (
    "Gestern bin ich mit meiner Schwester zum Markt gegangen, und wir haben Kartoffeln gekauft. "
    "Der Verkäufer hat mir noch einen Apfel geschenkt, weil ich so lange gewartet hatte."
)
CHINESE_TEXT = "昨天下午我和妹妹去了市场，买了一些土豆和苹果。回家的路上我们坐在河边休息，看着船慢慢地开过去。"
OTHERS = {
    "de": GERMAN_TEXT,
    "es": "Ayer fui al mercado con mi hermana y compramos patatas para la cena. El vendedor me regaló una manzana.",
    "fr": "Hier je suis allé au marché avec ma sœur et nous avons acheté des pommes de terre. Puis il a plu.",
    "zh": CHINESE_TEXT,
    "ar": "ذهبت أمس إلى السوق مع أختي واشترينا البطاطس للعشاء. ثم عدنا إلى البيت مشيا على الأقدام قبل المطر.",
    "he": "אתמול הלכתי לשוק עם אחותי וקנינו תפוחי אדמה לארוחת הערב. אחר כך חזרנו הביתה ברגל לפני הגשם.",
}


def check_of(text: str, recipe: Recipe = ENGLISH, prompt: str = "") -> str:
    """The check that an answer fails, "" where it passes all."""
    found = Acceptance(recipe).find(cleaned(text), prompt)
    return found.check if found else ""


REJECTED = {
    "empty": ["", "   \n\t ", "...", "?!", "\u200b\ufeff\u2060", "😅 😅", "<think>I had a day off and walked.", "—"],
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
        '"I walked home and slept."',
        "“I walked home and slept.”",
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
    "language": list(OTHERS.values())[:4],
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
        ({"sentences": [1, 1]}, "I paid 3.50 for it... and left.", "sentences"),
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


@pytest.mark.parametrize("language", sorted(OTHERS))
def test_a_text_in_another_language_is_not_accepted(language: str) -> None:
    assert check_of(OTHERS[language]) == "language"
    assert (
        check_of(
            OTHERS[language], three_classes(writing={"language": language, "sentences": [2, 4], "words": [12, 99]})
        )
        == ""
    )


def test_german_is_accepted_where_german_is_asked_for_and_english_is_not() -> None:
    assert check_of(GERMAN_TEXT, GERMAN) == ""
    assert (
        check_of("Yesterday I went to the market with my sister and bought potatoes for supper.", GERMAN) == "language"
    )
    assert check_of("Als KI habe ich keine Gefühle. Ich gehe spazieren.", GERMAN) == "refusal"
    assert check_of("Hier ist der Text:\n" + GERMAN_TEXT, GERMAN) == "preamble"


def test_banned_words_of_another_language_match_as_they_stand() -> None:
    recipe = three_classes(
        banned_words=["Regenschirm"], writing={"language": "de", "sentences": [1, 6], "words": [3, 99]}
    )
    assert check_of("Ich habe gestern meinen Regenschirm im Bus vergessen.", recipe) == "banned_word"
    assert check_of("Ich habe gestern einen Regen und einen Schirm gesehen, mehr nicht.", recipe) == ""


def test_chinese_sentences_and_characters_are_counted() -> None:
    assert check_of(CHINESE_TEXT, CHINESE) == ""
    assert check_of(CHINESE_TEXT.partition("。")[0] + "。", CHINESE) == "sentences"
    assert check_of("我走回家。睡了。", CHINESE) == "length"


def test_a_language_that_cannot_be_told_is_not_checked() -> None:
    recipe = three_classes(writing={"language": "nds", "sentences": [1, 6], "words": [3, 120]})
    assert check_of(GERMAN_TEXT, recipe) == ""


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
    ],
)
def test_what_surrounds_a_text_is_taken_off(answer: str, text: str) -> None:
    assert cleaned(answer) == text


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


@pytest.mark.parametrize(("name", "n_per_class"), [("sentiment", 150), ("emotions", 15), ("cognitive_actions", 7)])
def test_no_check_rejects_what_the_builtin_writer_writes(name: str, n_per_class: int, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    builtin = Builtin(recipe)
    plan = builtin.plan(n_per_class, 0)
    with Ledger(tmp_path / "ledger") as ledger, Progress("write", len(plan), "texts") as bar:
        builtin.write(Asking(recipe, plan, Acceptance(recipe, check_language=False), ledger, bar, 1), 0)
    prompts = {cell.label: request(recipe, cell) for cell in make_cells(recipe, 1, 0)}
    acceptance = Acceptance(recipe)
    rejected = []
    for cell, entry in zip(plan, ledger.entries, strict=True):
        found = acceptance.find(entry.text, prompts[cell.label])
        if found is not None:
            rejected.append((found, entry.text))
        acceptance.remember(entry.text)
    assert len(ledger.entries) >= 300
    assert rejected == []


def test_what_another_model_wrote_is_hardly_ever_taken_for_a_refusal_a_list_or_another_language(
    data_folder: Path,
) -> None:
    source = data_folder / "brije" / "cognitive_actions_stratified_4500.jsonl"
    if not source.is_file():
        pytest.skip(f"{source.name} is not there: set STRATAPROBE_DATA to the folder of real texts")
    texts = [cleaned(json.loads(line)["text"]) for line in source.read_text("utf-8").splitlines()]
    checks = Acceptance(load_recipe("cognitive_actions"))._checks
    for check in ("empty", "refusal", "list"):
        assert sum(checks[check](text, "") is not None for text in texts) <= 4, check
    sample = random.Random(0).sample(texts, 600)
    assert sum(checks["language"](text, "") is not None for text in sample) <= 2
    introduced = [text for text in texts if checks["preamble"](text, "") is not None]
    assert len(introduced) <= 0.07 * len(texts)
    plain = [text for text in introduced if "\n" not in text]
    assert len(plain) <= 4  # all others do have an introduction, in a paragraph of its own
