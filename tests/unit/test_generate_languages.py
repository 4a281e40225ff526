"""Languages: what is in another one is rejected, what is in the recipe's own is not, and neither is what is well written."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from scripted_backend import three_classes
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


def check_of(text: str, recipe: Recipe = ENGLISH) -> str:
    """The check that an answer fails, "" where it passes all."""
    found = Acceptance(recipe).find(cleaned(text))
    return found.check if found else ""


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
