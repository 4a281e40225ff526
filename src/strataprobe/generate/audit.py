"""The audit of a set of labelled texts: what it holds, what gives its classes away, and what to do about it.

Works for generated and for adopted texts, with any classes, and with rows that have no label.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from strataprobe.dataset import SPLITS, Text
from strataprobe.generate.checks import WordChecker, checker_for
from strataprobe.neardup import near_duplicate_pairs
from strataprobe.recipe import Recipe

FORMAT_VERSION = 1
LEAK_LIMIT = 0.90
_LEAK_FOLDS = 5
_LEAK_MIN_PER_CLASS = 20
_LEAK_MAX_TEXTS = 20_000
_WORD = re.compile(r"\w+(?:'\w+)?")

Finding = dict[str, str]


def audit(rows: Sequence[Text], recipe: Recipe | None) -> dict[str, Any]:
    """The audit as JSON values; ``findings`` hold permanent codes G001 to G009."""
    labelled = [r for r in rows if r.label is not None]
    fields = [recipe.member_field] if recipe else []
    duplicates = _duplicates(rows)
    banned = _banned(rows, checker_for(recipe) if recipe and recipe.banned_words else None)
    leak = bag_of_words_leak(labelled)
    report: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "n_texts": len(rows),
        "n_unlabelled": len(rows) - len(labelled),
        "counts": {
            "label": _count(r.label for r in labelled),
            **{f: _count(r.fields.get(f) for r in rows) for f in [*fields, "domain", "language_style"]},
            "split": {s: sum(r.split == s for r in rows) for s in SPLITS},
            "split_by_label": {s: _count(r.label for r in labelled if r.split == s) for s in SPLITS},
            "groups": len({r.group for r in rows}),
        },
        "length_words": _lengths(rows),
        "distinct": {"1-gram": _distinct(rows, 1), "2-gram": _distinct(rows, 2)},
        "banned_words": banned,
        "duplicates": duplicates,
        "leak": leak,
    }
    report["findings"] = _findings(report)
    return report


def _count(values: Iterable[Any]) -> dict[str, int]:
    counted = Counter(str(v) for v in values if v is not None)
    return {name: counted[name] for name in sorted(counted)}


def _lengths(rows: Sequence[Text]) -> dict[str, dict[str, float]]:
    by_label: dict[str, list[int]] = {}
    for row in rows:
        by_label.setdefault("(none)" if row.label is None else row.label, []).append(len(_WORD.findall(row.text)))
    return {
        name: {
            "mean": round(float(np.mean(n)), 2),
            "p5": float(np.percentile(n, 5)),
            "p95": float(np.percentile(n, 95)),
        }
        for name, n in sorted(by_label.items())
    }


def _distinct(rows: Sequence[Text], n: int) -> float:
    """Distinct n-grams over all n-grams of words, 0 to 1."""
    grams: set[tuple[str, ...]] = set()
    total = 0
    for row in rows:
        words = _WORD.findall(row.text.lower())
        mine = list(zip(*(words[i:] for i in range(n)), strict=False))
        grams.update(mine)
        total += len(mine)
    return round(len(grams) / total, 4) if total else 0.0


def _banned(rows: Sequence[Text], checker: WordChecker | None) -> dict[str, Any] | None:
    if checker is None:
        return None
    words: Counter[str] = Counter()
    n_texts = 0
    for row in rows:
        found = checker.find(row.text)
        words.update(found)
        n_texts += bool(found)
    return {"n_texts": n_texts, "words": dict(sorted(words.items(), key=lambda item: (-item[1], item[0]))[:30])}


def _duplicates(rows: Sequence[Text]) -> dict[str, int]:
    texts = [r.text for r in rows]
    first: dict[str, Text] = {}
    exact = exact_across = contradictory = 0
    for row in rows:
        earlier = first.setdefault(row.text, row)
        if earlier is not row:
            exact += 1
            exact_across += earlier.split != row.split
            contradictory += earlier.label != row.label
    pairs = near_duplicate_pairs(texts)
    return {
        "exact": exact,
        "exact_across_splits": exact_across,
        "exact_with_other_label": contradictory,
        "near": len(pairs),
        "near_across_splits": sum(rows[i].split != rows[j].split for i, j in pairs),
    }


def bag_of_words_leak(rows: Sequence[Text]) -> dict[str, Any]:
    """How well a bag of words tells the classes apart in groups it has not seen: AUC, its set-up, and the top words.

    TF-IDF of 1- and 2-grams, LogisticRegression(C=1), GroupKFold(5); the mean of the folds' AUCs, one against rest and
    macro-averaged for more than two classes. ``auc`` is None, with ``skipped`` saying why, where it cannot be measured.
    """
    setup = "TF-IDF of 1- and 2-grams, LogisticRegression(C=1), GroupKFold(5) by group, mean AUC of the folds"
    labels = [str(r.label) for r in rows]
    counts = Counter(labels)
    skipped = ""
    if len(counts) < 2:
        skipped = "fewer than two classes have texts"
    elif min(counts.values()) < _LEAK_MIN_PER_CLASS:
        skipped = f"a class has fewer than {_LEAK_MIN_PER_CLASS} texts"
    elif len({r.group for r in rows}) < 2 * _LEAK_FOLDS:
        skipped = f"there are fewer than {2 * _LEAK_FOLDS} groups"
    elif len(rows) > _LEAK_MAX_TEXTS:
        skipped = f"there are more than {_LEAK_MAX_TEXTS:,} texts"
    if skipped:
        return {"setup": setup, "auc": None, "skipped": skipped, "top_words": {}}
    aucs = _fold_aucs([r.text for r in rows], labels, [r.group for r in rows], sorted(counts))
    if not aucs:
        return {"setup": setup, "auc": None, "skipped": "no fold holds every class", "top_words": {}}
    return {
        "setup": setup,
        "auc": round(float(np.mean(aucs)), 4),
        "auc_folds": [round(a, 4) for a in aucs],
        "top_words": _top_words([r.text for r in rows], labels, sorted(counts)),
    }


def _fold_aucs(texts: list[str], labels: list[str], groups: list[str], names: list[str]) -> list[float]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold

    y = np.array([names.index(label) for label in labels])
    columns = [1] if len(names) == 2 else range(len(names))
    aucs = []
    for train, test in GroupKFold(_LEAK_FOLDS).split(texts, y, groups):
        vectorizer = TfidfVectorizer(ngram_range=(1, 2))
        try:
            X = vectorizer.fit_transform([texts[i] for i in train])
        except ValueError:  # no words at all
            continue
        X_test = vectorizer.transform([texts[i] for i in test])
        found = []
        for k in columns:
            if len(set(y[train] == k)) < 2 or len(set(y[test] == k)) < 2:
                continue
            model = LogisticRegression(C=1, max_iter=1000).fit(X, y[train] == k)
            found.append(float(roc_auc_score(y[test] == k, model.decision_function(X_test))))
        if len(found) == len(columns):
            aucs.append(float(np.mean(found)))
    return aucs


def _top_words(texts: list[str], labels: list[str], names: list[str], n: int = 15) -> dict[str, list[str]]:
    """The words and pairs of words that speak most for each class."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectorizer = TfidfVectorizer(ngram_range=(1, 2))
    X = vectorizer.fit_transform(texts)
    words = vectorizer.get_feature_names_out()
    top: dict[str, list[str]] = {}
    for name in names:
        model = LogisticRegression(C=1, max_iter=1000).fit(X, np.array(labels) == name)
        top[name] = [str(words[i]) for i in np.argsort(-model.coef_[0], kind="stable")[:n]]
    return top


def _findings(report: dict[str, Any]) -> list[Finding]:
    """What the audit found, each with a permanent code, a level and what to do."""
    counts, duplicates, leak = report["counts"], report["duplicates"], report["leak"]
    labels = counts["label"]
    return [
        _balance(labels),
        _banned_finding(report["banned_words"]),
        _rule("G003", not duplicates["exact"], f"{duplicates['exact']:,} texts repeat an earlier one word for word"
              f" ({duplicates['exact_with_other_label']:,} under another label): remove them, or group them.",
              "no text is repeated word for word."),
        _rule("G004", not duplicates["near_across_splits"], f"{duplicates['near_across_splits']:,} pairs of"
              " near-duplicates lie in different splits, so the test is not of new text: give them one group.",
              "no near-duplicates lie in different splits."),
        _leak_finding(leak),
        _rule("G006", not report["n_unlabelled"], f"{report['n_unlabelled']:,} texts have no label: they are captured,"
              " not trained on.", "every text has a label.", bad="ok"),
        _length_finding(report["length_words"]),
        _rule("G008", all(len(by) == len(labels) for by in counts["split_by_label"].values()), "a split lacks a class:"
              " give more texts, or groups that spread over the splits.", "every split holds every class."),
    ]  # fmt: skip


def _finding(code: str, level: str, message: str) -> Finding:
    return {"code": code, "level": level, "message": message}


def _rule(code: str, good: bool, problem: str, fine: str, bad: str = "warning") -> Finding:
    return _finding(code, "ok" if good else bad, fine if good else problem)


def _balance(labels: dict[str, int]) -> Finding:
    if len(labels) < 2:
        return _finding("G001", "warning", f"{len(labels)} class has texts; a probe needs two.")
    low, high = min(labels.values()), max(labels.values())
    return _rule("G001", high <= 1.5 * low, f"the largest class has {high:,} texts, the smallest {low:,}: accuracy will"
                 " mislead, read the AUC.", "the classes are of like size.")  # fmt: skip


def _banned_finding(banned: dict[str, Any] | None) -> Finding:
    if banned is None:
        return _finding("G002", "skipped", "the recipe bans no words, so naming the class was not looked for.")
    words = ", ".join(list(banned["words"])[:5])
    return _rule("G002", not banned["n_texts"], f"{banned['n_texts']:,} texts name the class or a member ({words}):"
                 " a probe may learn the word and not the concept; rewrite them.",
                 "no text names its class or member.")  # fmt: skip


def _leak_finding(leak: dict[str, Any]) -> Finding:
    if leak["auc"] is None:
        return _finding("G005", "skipped", f"the leak was not measured: {leak['skipped']}.")
    return _rule("G005", leak["auc"] <= LEAK_LIMIT, f"a bag of words tells the classes apart with AUC {leak['auc']:.3f}"
                 f" (limit {LEAK_LIMIT:.2f}): vary the wording, and compare the probes with the tfidf baseline.",
                 f"a bag of words reaches AUC {leak['auc']:.3f} (limit {LEAK_LIMIT:.2f}).")  # fmt: skip


def _length_finding(lengths: dict[str, dict[str, float]]) -> Finding:
    means = [v["mean"] for name, v in lengths.items() if name != "(none)"]
    if len(means) < 2:
        return _finding("G007", "skipped", "lengths were not compared: fewer than two classes have texts.")
    return _rule("G007", max(means) <= 1.15 * min(means), f"mean length differs by class ({min(means):.1f} to"
                 f" {max(means):.1f} words): a probe may learn length; compare it with the length baseline.",
                 "the classes have texts of like length.")  # fmt: skip
