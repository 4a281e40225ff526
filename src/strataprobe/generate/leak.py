"""The leak: how well a bag of words tells the classes of a set of texts apart, and which words do it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from strataprobe.bagofwords import NoWordsError, fit_class, logits_against_rest, tfidf
from strataprobe.dataset import Text
from strataprobe.manifest import sha256_json

_FOLDS = 5
_MIN_PER_CLASS = 20
# Texts times classes beyond which a sample of the groups is measured: fitting takes minutes there.
_MAX_FITTED = 300_000


def bag_of_words_leak(rows: Sequence[Text]) -> dict[str, Any]:
    """How well a bag of words tells the classes apart in groups it has not seen: AUC, its set-up, and the top words.

    TF-IDF of 1- and 2-grams, LogisticRegression(C=1), GroupKFold(5); the mean of the folds' AUCs, one against rest and
    macro-averaged for more than two classes. Of very many texts a sample of the groups is measured, and ``n_texts`` says
    how many. ``auc`` is None, with ``skipped`` saying why, where it cannot be measured.
    """
    setup = "TF-IDF of 1- and 2-grams, LogisticRegression(C=1), GroupKFold(5) by group, mean AUC of the folds"
    rows = _sample(rows)
    texts, labels, groups = [r.text for r in rows], [str(r.label) for r in rows], [r.group for r in rows]
    counts = Counter(labels)
    skipped = ""
    if len(counts) < 2:
        skipped = "fewer than two classes have texts"
    elif min(counts.values()) < _MIN_PER_CLASS:
        skipped = f"a class has fewer than {_MIN_PER_CLASS} texts"
    elif len(set(groups)) < 2 * _FOLDS:
        skipped = f"there are fewer than {2 * _FOLDS} groups"
    measured: dict[str, Any] = {"setup": setup, "n_texts": len(rows), "auc": None, "top_words": {}}
    if skipped:
        return {**measured, "skipped": skipped}
    aucs = _fold_aucs(texts, labels, groups, sorted(counts))
    if not aucs:
        return {**measured, "skipped": "no fold holds every class"}
    mean = round(float(np.mean(aucs)), 4)
    folds = [round(a, 4) for a in aucs]
    return {**measured, "auc": mean, "auc_folds": folds, "top_words": _top_words(texts, labels, sorted(counts))}


def _sample(rows: Sequence[Text]) -> Sequence[Text]:
    """The rows, or of too many so many of each group and class, chosen by their ids alone."""
    n_most = _MAX_FITTED // max(len({r.label for r in rows}), 1)
    if len(rows) <= n_most:
        return rows
    rank: Counter[tuple[str, str | None]] = Counter()
    ranked = []
    for place, i in enumerate(sorted(range(len(rows)), key=lambda i: sha256_json(rows[i].id))):
        rank[rows[i].group, rows[i].label] += 1
        ranked.append((rank[rows[i].group, rows[i].label], place, i))
    return [rows[i] for i in sorted(i for _, _, i in sorted(ranked)[:n_most])]


def _fold_aucs(texts: list[str], labels: list[str], groups: list[str], names: list[str]) -> list[float]:
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold

    y = np.array([names.index(label) for label in labels])
    columns = [1] if len(names) == 2 else range(len(names))
    aucs = []
    for train, test in GroupKFold(_FOLDS).split(texts, y, groups):
        if any(len(set(y[part] == k)) < 2 for part in (train, test) for k in columns):
            continue
        try:
            X, X_test, _ = tfidf([texts[i] for i in train], [texts[i] for i in test])
        except NoWordsError:
            continue
        logits = logits_against_rest(X, y[train], X_test, len(names))
        aucs.append(float(np.mean([roc_auc_score(y[test] == k, logits[:, k]) for k in columns])))
    return aucs


def _top_words(texts: list[str], labels: list[str], names: list[str], n: int = 15) -> dict[str, list[str]]:
    """The words and pairs of words that speak most for each class."""
    X, _, words = tfidf(texts)
    top: dict[str, list[str]] = {}
    for name in names:
        weights = fit_class(X, np.array(labels) == name).coef_[0]
        top[name] = [words[i] for i in np.argsort(-weights, kind="stable")[:n]]
    return top
