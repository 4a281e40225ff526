"""Forms of banned words that no rule of spelling tells: irregular and derived ones, and words that are none."""

import pytest

from strataprobe.generate.words import WordChecker


@pytest.mark.parametrize(
    ("banned", "others"),
    [
        ("longing", "long longer"),
        ("long", "longing longings"),
        ("will", "willing"),
        ("even", "evening evenings"),
        ("move", "movie movies"),
        ("cope", "copy copies"),
        ("live", "liver livers"),
        ("iron", "irony"),
        ("bother", "both"),
        ("bitter", "bit bits bite"),
        ("willing", "will"),
        ("moral", "more morale"),
        ("final", "fine fin"),
        ("metal", "met meet"),
        ("minor", "mine min"),
        ("meaning", "mean means"),
        ("general", "generous gene"),
        ("formal", "form forms"),
        ("applying", "app apps appalling appalled apple"),
        ("being", "bee be"),
        ("left", "leave leaving"),
        ("moth", "mother mothers"),
        ("corn", "corner corners"),
        ("port", "portion"),
        ("miss", "mission"),
        ("department", "depart"),
        ("sentence", "sent"),
    ],
)
def test_everyday_words_that_only_share_letters_with_a_banned_one_are_left_alone(banned, others):
    checker = WordChecker([banned])
    assert checker.find(others) == []
    assert checker.find(f"the {banned} of it") == [banned]


@pytest.mark.parametrize(
    ("banned", "forms"),
    [
        ("mistaken", "mistake mistakes mistook"),
        ("thinking", "think thought thinks"),
        ("understanding", "understood misunderstand"),
        ("jealousy", "jealous jealously"),
        ("curiosity", "curious curiously"),
        ("nostalgia", "nostalgic"),
        ("certainty", "certain uncertain"),
        ("trust", "distrust trusted untrustworthy mistrust"),
        ("boredom", "bored boring"),
        ("grief", "grieve grieving grieved"),
        ("despair", "desperate desperation"),
        ("hostility", "hostile"),
        ("envy", "envious envied"),
        ("mean", "meant means"),
        ("meaning", "meanings"),
        ("longing", "longings"),
        ("bitter", "bitterness bitterly"),
        ("write", "wrote written writing"),
        ("decide", "decision undecided"),
        ("generosity", "generous"),
        ("confidence", "confident"),
        ("modesty", "modesty"),
        ("cooking", "cook cooked"),
    ],
)
def test_irregular_forms_and_derivatives_are_found(banned, forms):
    checker = WordChecker([banned])
    assert checker.find(forms) == forms.split()
    assert checker.find("a garden path by the mill") == []
