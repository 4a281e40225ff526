"""The reading that knows words alone: TF-IDF of 1- and 2-grams, then logistic regression with C = 1, one against rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class NoWordsError(Exception):
    """The texts to fit on hold no words."""


def tfidf(fit_texts: Sequence[str], other_texts: Sequence[str] = ()) -> tuple[Any, Any, list[str]]:
    """TF-IDF (n, V), sparse, of both sets of texts, and its V words; words and weights are those of the first set.

    Raises NoWordsError where the first set holds none.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2))
    try:
        fitted = vectorizer.fit_transform(fit_texts)
    except ValueError as error:
        raise NoWordsError from error
    other = vectorizer.transform(other_texts) if len(other_texts) else fitted[:0]
    return fitted, other, [str(word) for word in vectorizer.get_feature_names_out()]


def fit_class(features: Any, own: np.ndarray, *, sparse: bool = True) -> Any:
    """The regression of one class against the rest; ``own`` (n,) bool says which rows are of the class.

    On many sparse features Newton's method with conjugate gradients is quicker than the library's default, which also
    stops short of the optimum there.
    """
    from sklearn.linear_model import LogisticRegression

    how: dict[str, Any] = {"solver": "newton-cg", "tol": 1e-5} if sparse else {}
    return LogisticRegression(C=1.0, max_iter=1000, **how).fit(features, own)


def logits_against_rest(
    features: Any, labels: np.ndarray, other: Any, n_classes: int, *, sparse: bool = True
) -> np.ndarray:
    """Logits (n, C) of ``other``; a class without rows, or with all of them, gets 0. Two classes mirror each other."""
    logits = np.zeros((other.shape[0], n_classes))
    for c in [1] if n_classes == 2 else range(n_classes):
        own = labels == c
        if 0 < own.sum() < len(own):
            logits[:, c] = fit_class(features, own, sparse=sparse).decision_function(other)
    if n_classes == 2:
        logits[:, 0] = -logits[:, 1]
    return logits
