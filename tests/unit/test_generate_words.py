"""The checks that a generated text must pass, each shown to find what it looks for and to leave the rest alone."""

import pytest

from strataprobe.generate.words import WordChecker, checker_for
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


FORMS = {
    "cognitive_actions": {
        "abstracting": "abstract abstracts abstracted abstraction abstractly",
        "accepting": "accept accepts accepted acceptance acceptable unacceptable",
        "analyzing": "analyze analyzed analyse analysed analysing analyses analysis",
        "applying": "apply applies applied application",
        "connecting": "connect connects connected connection connections unconnected",
        "concretizing": "concretize concretise concretised",
        "creating": "create creates created creation creations creative creatively creator creators",
        "distinguishing": "distinguish distinguished distinguishes distinguishable",
        "evaluating": "evaluate evaluates evaluated evaluation evaluations",
        "noticing": "notice notices noticed noticeable noticeably unnoticed",
        "questioning": "question questions questioned questionable unquestionably",
        "reconsidering": "reconsider reconsiders reconsidered reconsideration",
        "reframing": "reframe reframes reframed",
        "remembering": "remember remembers remembered",
        "understanding": "understand understands understood misunderstood understandable understandably",
        "hypothesis": "hypotheses hypothesize hypothesise",
        "analogy": "analogies analogous",
        "pattern": "patterns patterned",
        "perspective": "perspectives",
    },
    "emotions": {
        "joy": "enjoy joyful joyless overjoyed",
        "inspiration": "inspire inspired uninspiring",
        "emotion": "emotional emotions unemotional",
    },
}
LOOK_ALIKES = {
    "cognitive_actions": [
        "I ate the apples and two apple cakes under the appliance.",
        "Underneath the crate of creatures stood a tunderstand-in.",
        "I kept a note, two notes and a notion of the notary in the notebook.",
        "The valve, the vale and the quest for a quince came to nothing.",
        "A member of the chamber, a connoisseur and a patter of rain.",
        "I accessed the abstruse concert hall with concrete steps.",
        "We sat by the frame of the considerate framer, in September and in an ember's light.",
        "The patient analogue clock in the perspiring attendant's hall.",
        "I zoomed past and was in. An update came, and I believed it.",
        "A recognised cogwheel was recognition enough.",
    ],
    "sentiment": [
        "The contents of the letter, new content and content creators.",
        "I put the glove, the clover and the slovenly hopper on the saddle.",
        "The unfurling shamrock, the proudfoot lane, the loan and the alone.",
        "Feline, fellow and felt-tip are not the same: I filled the fuel.",
    ],
}


@pytest.mark.parametrize(
    ("recipe", "word", "form"),
    [(r, word, form) for r, words in FORMS.items() for word, forms in words.items() for form in forms.split()],
)
def test_forms_of_every_recipes_words_are_found(recipe, word, form):
    checker = checker_for(load_recipe(recipe))
    assert checker.find(f"It was {form} in the end.") == [form]
    assert checker.find(f"It was {word} in the end.") == [word]


@pytest.mark.parametrize(("recipe", "text"), [(r, text) for r, texts in LOOK_ALIKES.items() for text in texts])
def test_look_alikes_of_every_recipes_words_are_left_alone(recipe, text):
    found = checker_for(load_recipe(recipe)).find(text)
    assert found == (["felt"] if "felt-tip" in text else [])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("I was zooming in on it.", ["zooming in"]),
        ("I zoomed in, then zoomed out.", ["zoomed in", "zoomed out"]),
        ("I updated beliefs and took up perspective-taking.", ["updated beliefs", "perspective", "perspective-taking"]),
        ("A meta-awareness, a Meta Awareness.", ["meta-awareness", "meta awareness"]),
        ("I suspended judgement.", ["suspended judgement"]),
        ("I zoomed. In the end I zoomed, out of habit.", []),
        ("Zoom is in the way out.", []),
    ],
)
def test_names_of_several_words_are_found_in_any_form_that_keeps_them_together(text, found):
    assert checker_for(load_recipe("cognitive_actions")).find(text) == found


@pytest.mark.parametrize(
    ("banned", "found", "left"),
    [
        ("hop", "hops hopped hopping hopper", "hope hoping hoped shop"),
        ("luck", "lucky luckier unlucky luckily", "lucre pluck luckenbooth"),
        ("fun", "funny funnier", "fund funds fungus refund"),
        ("noise", "noisy noisily noises noiseless", "nose poison"),
        ("part", "parts parted", "party parties partner apart"),
        ("quest", "quests quested", "question questions request"),
        ("happiness", "happy happily unhappy happier", "happen happened hap"),
        ("relaxation", "relax relaxed relaxing relaxes", "relay lax"),
        ("busy", "busier busiest busily", "business bus buses bust"),
        ("numb", "numbed numbness numbing", "number numbers"),
        ("care", "cares cared caring careful carefully careless carer", "car cars card carpet"),
        ("star", "stars starred starry", "stare stared start"),
        ("plan", "plans planned planning planner", "plane planes plant planet"),
        ("colour", "colours coloured colourful", "collar column"),
        ("decide", "decides decided deciding", "decade"),
        ("can't", "can't", "can cant"),
        ("hip-hop", "hip-hop", "hip hope"),
    ],
)
def test_forms_of_a_users_word_are_found_and_its_look_alikes_are_not(banned, found, left):
    checker = WordChecker([banned])
    assert checker.find(found) == found.split()
    assert checker.find(left) == []


def test_words_of_another_language_are_found_as_they_stand():
    checker = WordChecker(["Glück", "hope", "über alles"], inflections=False)
    assert checker.find("Das Glück, über alles. Hope!") == ["glück", "über alles", "hope"]
    assert checker.find("Glücklich, hopes, hoping, unglück.") == []
    assert checker.words == ["glück", "hope", "über alles"]
    assert WordChecker([" ", ""]).find("anything at all") == []


def test_offending_words_are_named_in_the_order_of_the_text():
    checker = WordChecker(["zoom in", "calm", "joy"])
    assert checker.find("Joyful I zoomed in, calmer, and enjoyed it.") == ["joyful", "zoomed in", "calmer", "enjoyed"]
