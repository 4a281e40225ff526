"""The leak against another way of computing it, with a planted word, and on a sample of a large set."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from strataprobe.dataset import Text
from strataprobe.generate import leak as leak_module
from strataprobe.generate.leak import bag_of_words_leak

WORDS = ["lamp", "river", "stone", "window", "pencil", "orange", "candle", "mountain", "ticket", "basket", "ladder"]


def rows_of(n: int, planted: float, classes: tuple[str, ...] = ("down", "up"), seed: int = 0) -> list[Text]:
    """``n`` random texts a class; in a share ``planted`` of them stands a word of their class's own."""
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        for label in classes:
            words = [rng.choice(WORDS) for _ in range(10)]
            if rng.random() < planted:
                words[4] = f"token{label}"
            rows.append(Text(f"{i}-{label}", " ".join(words), label, "train", f"g{i // 2}"))
    return rows


@pytest.mark.parametrize(("planted", "classes"), [(0.4, ("down", "up")), (0.0, ("down", "up")), (0.5, ("a", "b", "c"))])
def test_the_leak_is_that_of_another_computation(planted: float, classes: tuple[str, ...]) -> None:
    rows = rows_of(60, planted, classes)
    found = bag_of_words_leak(rows)
    texts, groups = [r.text for r in rows], [r.group for r in rows]
    folds = list(GroupKFold(5).split(texts, groups=groups))
    by_class = []
    for name in classes[-1:] if len(classes) == 2 else classes:
        y = np.array([r.label == name for r in rows])
        model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(C=1, tol=1e-9, max_iter=10_000))
        p = cross_val_predict(model, texts, y, groups=groups, cv=GroupKFold(5), method="predict_proba")[:, 1]
        by_class.append([roc_auc_score(y[test], p[test]) for _, test in folds])
    assert found["auc"] == pytest.approx(np.mean(by_class), abs=3e-3)
    assert found["auc_folds"] == pytest.approx(np.mean(by_class, axis=0), abs=5e-3)
    assert found["n_texts"] == len(rows)


def test_a_planted_word_is_found_and_named_and_without_it_nothing_is() -> None:
    planted, clean = bag_of_words_leak(rows_of(50, 1.0)), bag_of_words_leak(rows_of(50, 0.0))
    assert planted["auc"] > 0.97
    assert clean["auc"] < 0.65
    assert {name: words[0] for name, words in planted["top_words"].items()} == {"down": "tokendown", "up": "tokenup"}
    assert all(len(words) == 15 for words in planted["top_words"].values())


def test_the_leak_is_measured_on_groups_that_were_not_seen() -> None:
    rng = random.Random(1)
    rows = []
    for group in range(40):  # in each group a label has a word that no other group knows
        for label in ("down", "up"):
            for i in range(3):
                words = [rng.choice(WORDS) for _ in range(6)] + [f"own{group}{label}"] * 4
                rows.append(Text(f"{group}-{label}-{i}", " ".join(words), label, "train", f"g{group}"))
    assert abs(bag_of_words_leak(rows)["auc"] - 0.5) < 0.15


def test_of_a_huge_set_some_texts_of_every_group_and_class_are_measured_and_their_number_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = rows_of(200, 0.5)
    monkeypatch.setattr(leak_module, "_MAX_FITTED", 2 * 251)
    sample = leak_module._sample(rows)
    sizes = Counter(r.group for r in rows)
    assert len(sample) == 251
    assert {r.group for r in sample} == set(sizes)
    shares = Counter((r.group, r.label) for r in sample)
    assert max(shares.values()) - min(shares.values()) <= 1
    assert [r.id for r in sample] == [r.id for r in rows if r in sample]
    assert {r.id for r in leak_module._sample(rows[::-1])} == {r.id for r in sample}
    assert bag_of_words_leak(rows)["n_texts"] == 251
    monkeypatch.setattr(leak_module, "_MAX_FITTED", 2 * 400)
    assert bag_of_words_leak(rows)["n_texts"] == 400


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([], "fewer than two classes"),
        ([r for r in rows_of(30, 0.0) if r.label == "up"], "fewer than two classes"),
        (rows_of(19, 0.0), "fewer than 20 texts"),
        (
            [Text(r.id, r.text, r.label, "train", f"g{i % 9}") for i, r in enumerate(rows_of(30, 0.0))],
            "fewer than 10 groups",
        ),
        ([Text(r.id, "!?", r.label, "train", r.group) for r in rows_of(30, 0.0)], "no fold holds every class"),
    ],
)
def test_what_cannot_be_measured_is_skipped_with_a_reason(rows: list[Text], why: str) -> None:
    found = bag_of_words_leak(rows)
    assert found["auc"] is None
    assert why in found["skipped"]
    assert found["top_words"] == {}
