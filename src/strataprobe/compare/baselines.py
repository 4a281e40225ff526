"""What the layers have to beat: simple readings of the text, the embeddings, and asking the model itself.

All are judged on the same test rows as the probes. ``length`` and ``tfidf`` are fitted on train and validation rows,
``layer_0`` on train rows with C chosen on validation rows; ``majority``, ``lexicon`` and ``zero_shot`` are not fitted. A
baseline that cannot be had is listed all the same, with the reason. ``tfidf`` is cross-validated as well, over the
rows and folds of the layers' curve, so that what the words alone give away stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from strataprobe.bagofwords import NoWordsError, logits_against_rest, tfidf
from strataprobe.compare.controls import (
    N_HALVINGS,
    NULL_FOLD_FACTOR,
    agreement,
    both_halves_have_both,
    split_in_halves,
    within_correlation,
)
from strataprobe.compare.layers import TestRows, estimate_auc, finite, labelled
from strataprobe.metrics import auc_interval
from strataprobe.probes.families import get_family
from strataprobe.probes.files import Oof
from strataprobe.recipe import Recipe
from strataprobe.store import ActivationFolder

NAMES = ("majority", "length", "tfidf", "lexicon", "layer_0", "zero_shot")
CV_NAMES = ("cv_auc", "cv_auc_low", "cv_auc_high")
# Pairs of half fits that tell how far TF-IDF's directions are settled; each class has at least one.
_HALF_PAIRS = 20


class SkippedError(Exception):
    """A baseline cannot be had; the message is the reason."""


@dataclass(frozen=True)
class Baseline:
    """One baseline: ``logits`` (n, C) on the test rows, or None with the reason it was skipped.

    ``cv`` has ``CV_NAMES`` where the baseline is cross-validated.
    """

    name: str
    logits: np.ndarray | None
    reason: str = ""
    cv: dict[str, float | None] = field(default_factory=dict)

    def entry(self, rows: TestRows) -> dict[str, Any]:
        """Its entry in ``comparison.json``."""
        if self.logits is None:
            return {"test_auc": None, "test_auc_low": None, "test_auc_high": None, "reason": self.reason} | self.cv
        estimate = estimate_auc(rows.labels, self.logits[:, :, None], rows.groups)
        low, high = auc_interval(estimate)
        if self.name == "majority":
            low = high = estimate.auc
        return {
            "test_auc": finite(estimate.auc[0]),
            "test_auc_low": finite(low[0]),
            "test_auc_high": finite(high[0]),
        } | self.cv


@dataclass(frozen=True)
class Texts:
    """Labelled texts to fit on (train and validation) and rows to judge on, in the order of the layers' test rows."""

    fit_texts: list[str]
    fit_labels: np.ndarray
    test_rows: list[dict[str, Any]]
    n_classes: int


def measure_baselines(
    folder: ActivationFolder,
    class_names: Sequence[str],
    rows: TestRows,
    recipe: Recipe | None,
    oof: Oof | None = None,
    *,
    seed: int = 0,
) -> list[Baseline]:
    """Every baseline of ``NAMES``, in that order; with ``oof``, the curve's rows and folds, TF-IDF cross-validated."""
    texts = _read_texts(folder, class_names, rows)
    n = len(rows.labels)
    makers: dict[str, Callable[[], np.ndarray]] = {
        "majority": lambda: np.zeros((n, len(class_names))),
        "length": lambda: _length(_needed(texts)),
        "tfidf": lambda: _tfidf(_needed(texts)),
        "lexicon": lambda: _lexicon(_needed(texts), class_names, recipe),
        "layer_0": lambda: _embeddings(folder, len(class_names)),
        "zero_shot": lambda: _zero_shot(_needed(texts), class_names),
    }
    found = []
    for name in NAMES:
        cv = cross_validated_tfidf(folder, oof, seed=seed) if name == "tfidf" and oof is not None else {}
        try:
            found.append(Baseline(name, makers[name](), cv=cv))
        except SkippedError as error:
            found.append(Baseline(name, None, str(error), cv))
    return found


def _needed(texts: Texts | None) -> Texts:
    if texts is None:
        raise SkippedError("the activations folder holds no texts.jsonl with these rows")
    return texts


def _read_texts(folder: ActivationFolder, class_names: Sequence[str], rows: TestRows) -> Texts | None:
    index = {name: i for i, name in enumerate(class_names)}
    found = folder.texts()
    by_id = {str(row["id"]): row for row in found if row.get("split") == "test"}
    if any(i not in by_id for i in rows.ids):
        return None
    fit = [row for row in found if row.get("split") in ("train", "val") and row.get("label") in index]
    labels = np.array([index[row["label"]] for row in fit], dtype=np.int64)
    return Texts([row["text"] for row in fit], labels, [by_id[i] for i in rows.ids], len(class_names))


def _length(texts: Texts) -> np.ndarray:
    def features(values: list[str]) -> np.ndarray:
        return np.array([[np.log1p(len(v)), np.log1p(len(v.split()))] for v in values])

    fitted, test = features(texts.fit_texts), features([r["text"] for r in texts.test_rows])
    return logits_against_rest(fitted, texts.fit_labels, test, texts.n_classes, sparse=False)


def _tfidf(texts: Texts) -> np.ndarray:
    fitted, test = _vectors(texts.fit_texts, [r["text"] for r in texts.test_rows])
    return logits_against_rest(fitted, texts.fit_labels, test, texts.n_classes)


def cross_validated_tfidf(folder: ActivationFolder, oof: Oof, *, seed: int = 0) -> dict[str, float | None]:
    """``CV_NAMES`` of TF-IDF over exactly the rows and folds of ``oof``, vocabulary and weights fitted in each fold.

    Averaged, and its interval widened for what folds share, as those of the layers are. None where the texts are not
    there or hold no words.
    """
    unknown: dict[str, float | None] = dict.fromkeys(CV_NAMES)
    by_id = {str(row["id"]): row for row in folder.texts() if row.get("split") in ("train", "val")}
    if any(i not in by_id for i in oof.ids):
        return unknown
    texts = np.array([by_id[i]["text"] for i in oof.ids], dtype=object)
    n_classes = len(oof.class_names)
    logits = np.zeros((len(texts), n_classes))
    try:
        for fold in np.unique(oof.folds):
            rest = oof.folds != fold
            fitted, test = _vectors(texts[rest], texts[~rest])
            logits[~rest] = logits_against_rest(fitted, oof.labels[rest], test, n_classes)
        agreement = _tfidf_agreement(texts, oof, np.array([by_id[i]["split"] == "val" for i in oof.ids]), seed)
    except SkippedError:
        return unknown
    estimate = estimate_auc(oof.labels, logits[:, :, None], oof.groups, oof.folds)
    low, high = auc_interval(estimate.inflated(np.array([NULL_FOLD_FACTOR - agreement])))
    return dict(zip(CV_NAMES, (finite(v[0]) for v in (estimate.auc, low, high)), strict=True))


def _tfidf_agreement(texts: np.ndarray, oof: Oof, on_val: np.ndarray, seed: int) -> float:
    """How far two halves of the train rows agree on the validation rows, 0 to 1: see ``controls.Halves``."""
    if not on_val.any() or on_val.all():
        return 0.0
    y_train, y_val = oof.labels[~on_val], oof.labels[on_val]
    halves = split_in_halves(y_train, oof.groups[~on_val].tolist(), y_val, seed=seed)
    fitted, test = _vectors(texts[~on_val], texts[on_val])
    n_classes = len(oof.class_names)
    classes = [1] if n_classes == 2 else list(range(n_classes))
    n_halvings = max(1, min(N_HALVINGS, _HALF_PAIRS // len(classes)))
    correlations = []
    for side in halves.side[:n_halvings]:
        parts = [logits_against_rest(fitted[side == h], y_train[side == h], test, n_classes) for h in (0, 1)]
        for k in classes:
            if both_halves_have_both(side, y_train == k):
                pair = np.stack([part[:, k] for part in parts], axis=1)
                correlations.append(within_correlation(pair, y_val == k))
    return agreement(float(np.mean(correlations)), len(y_val)) if correlations else 0.0


def _vectors(fit_texts: Sequence[str], test_texts: Sequence[str]) -> tuple[Any, Any]:
    try:
        return tfidf(fit_texts, test_texts)[:2]
    except NoWordsError as error:
        raise SkippedError("the texts hold no words") from error


def _lexicon(texts: Texts, class_names: Sequence[str], recipe: Recipe | None) -> np.ndarray:
    if recipe is None or recipe.lexicon is None:
        raise SkippedError("the recipe names no lexicon")
    if len(class_names) != 2 or recipe.lexicon.high not in class_names:
        raise SkippedError("a lexicon speaks for one of two classes, and these are others")
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyzer = SentimentIntensityAnalyzer()
    value = np.array([analyzer.polarity_scores(row["text"])["compound"] for row in texts.test_rows])
    sign = 1.0 if class_names[1] == recipe.lexicon.high else -1.0
    return np.stack([-sign * value, sign * value], axis=1)


def _embeddings(folder: ActivationFolder, n_classes: int) -> np.ndarray:
    """Logits (n, C) of probes trained on layer 0 as those of the other layers are: C chosen on validation."""
    if 0 not in folder.layers:
        raise SkippedError("layer 0 was not captured")
    (x_train, y_train), (x_val, y_val), (x_test, _) = (labelled(folder.read(0, s)) for s in ("train", "val", "test"))
    classes = [c for c in ([1] if n_classes == 2 else range(n_classes)) if 0 < (y_train == c).sum() < len(y_train)]
    if not classes:
        raise SkippedError("the train rows hold one class only")
    targets = [np.stack([y == c for c in classes], axis=1).astype(np.float64) for y in (y_train, y_val)]
    logits = np.zeros((len(x_test), n_classes))
    logits[:, classes] = get_family("logistic").fit(x_train, targets[0], x_val, targets[1]).logits(x_test)
    if n_classes == 2:
        logits[:, 0] = -logits[:, 1]
    return logits


def _zero_shot(texts: Texts, class_names: Sequence[str]) -> np.ndarray:
    answers = [row.get("zero_shot") for row in texts.test_rows]
    if not all(isinstance(a, dict) and all(name in a for name in class_names) for a in answers):
        raise SkippedError("the model was not asked: only decoders with a suffix and their last layer captured are")
    values = np.array([[float(a[name]) for name in class_names] for a in answers if a is not None])
    same = _same_columns(values)
    if same is not None:
        pair = "" if len(class_names) == 2 else f" {class_names[same[0]]} and {class_names[same[1]]}"
        raise SkippedError(f"the class words{pair} begin with the same token")
    if len(class_names) > 2 and len(values):
        return values - values.mean(axis=1, keepdims=True)
    difference = values[:, 1] - values[:, 0] if len(values) else np.zeros(0)
    return np.stack([-difference, difference], axis=1)


def _same_columns(values: np.ndarray) -> tuple[int, int] | None:
    """The first two columns (n, C) that are the same in every row but for rounding."""
    if not len(values):
        return None
    rounding = 1e-5 * float(np.abs(values).max())
    pairs = combinations(range(values.shape[1]), 2)
    return next(((i, j) for i, j in pairs if np.abs(values[:, i] - values[:, j]).max() <= rounding), None)
