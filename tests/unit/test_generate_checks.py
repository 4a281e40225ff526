"""The checks that a generated text must pass, each shown to find what it looks for and to leave the rest alone."""

import pytest

from strataprobe.generate.words import WordChecker, checker_for, count_sentences, is_first_person
from strataprobe.recipe import load_recipe


@pytest.fixture(scope="module")
def checker():
    return checker_for(load_recipe("sentiment"))


@pytest.mark.parametrize(
    "word",
    [
        "sad",
        "sadder",
        "sadness",
        "saddened",
        "sadly",
        "joy",
        "joyous",
        "enjoy",
        "enjoyed",
        "overjoyed",
        "rejoicing",
        "hope",
        "hoping",
        "hoped",
        "hopefully",
        "hopeless",
        "grateful",
        "ungrateful",
        "gratitude",
        "gratifying",
        "love",
        "loved",
        "lovely",
        "beloved",
        "unloved",
        "loving",
        "excited",
        "exciting",
        "excitement",
        "unexciting",
        "proud",
        "prouder",
        "proudly",
        "pride",
        "contented",
        "discontented",
        "contentment",
        "inspire",
        "inspiring",
        "uninspired",
        "relieved",
        "relief",
        "relieving",
        "satisfying",
        "dissatisfied",
        "unsatisfactory",
        "anger",
        "angry",
        "angrily",
        "angered",
        "fear",
        "fearless",
        "afraid",
        "feared",
        "disgusting",
        "disgusted",
        "ashamed",
        "shame",
        "shameful",
        "unashamed",
        "shameless",
        "anxious",
        "anxiety",
        "anxiously",
        "frustrating",
        "frustrated",
        "disappointing",
        "disappointment",
        "guilt",
        "guilty",
        "guiltily",
        "lonely",
        "loneliness",
        "loneliest",
        "loner",
        "feel",
        "feeling",
        "felt",
        "feelings",
        "emotional",
        "emotions",
        "sentimental",
        "positive",
        "positively",
        "negative",
        "negativity",
    ],
)
def test_inflections_and_derivatives_of_banned_words_are_found(checker, word):
    assert checker.find(f"It was {word} in the end.") == [word]
    assert checker.find(f"“{word.capitalize()}!” I said.") == [word]


@pytest.mark.parametrize(
    "sentence",
    [
        "I read the contents of the box and the content of the letter.",
        "The hopper, the saddle and the glove lay in the clover.",
        "An angler with a feather and a shampoo bottle sat at an angle.",
        "I passed the sentinel's post, and the bridge has a guild sign.",
        "My fellow traveller lost a satchel near the joint.",
    ],
)
def test_words_that_only_look_like_banned_ones_are_left_alone(checker, sentence):
    assert checker.find(sentence) == []


def test_content_as_an_adjective_is_found(checker):
    assert checker.find("I was content with my lot.") == ["content"]


def test_words_of_the_users_own_are_found_with_their_inflections():
    checker = WordChecker(["worry", "plan ahead", "calm"])
    assert checker.find("Worried and worrying, she worries.") == ["worried", "worrying", "worries"]
    assert checker.find("I plan ahead, calmly.") == ["plan ahead", "calmly"]
    assert checker.find("I walked in the palm house.") == []


@pytest.mark.parametrize(
    ("text", "n"),
    [("One. Two! Three?", 3), ("No end", 1), ("One. And the rest", 2), ("It cost 3.50 in all.", 1), ("Go! I went.", 2)],
)
def test_sentences_are_counted(text, n):
    assert count_sentences(text) == n


def test_first_person_is_recognised():
    assert is_first_person("They gave it to me.")
    assert is_first_person("I'm here.")
    assert not is_first_person("She was home in time.")
