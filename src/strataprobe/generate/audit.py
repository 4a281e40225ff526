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
from strataprobe.generate.findings import findings_of
from strataprobe.generate.leak import bag_of_words_leak
from strataprobe.generate.words import WordChecker, checker_for
from strataprobe.neardup import near_duplicate_pairs
from strataprobe.recipe import Recipe

FORMAT_VERSION = 1
_WORD = re.compile(r"\w+(?:'\w+)?")
_SENTENCE = re.compile(r"[^.!?]+")


def audit(
    rows: Sequence[Text],
    recipe: Recipe | None,
    *,
    asked: dict[str, Any] | None = None,
    judge: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The audit as JSON values; ``findings`` hold permanent codes G001 to G012.

    ``asked`` says how the writing went (answers, rejections by check), ``judge`` how far a second model agrees.
    """
    labelled = [r for r in rows if r.label is not None]
    fields = [recipe.member_field] if recipe and recipe.member_field != "label" else []
    duplicates = _duplicates(rows)
    banned = _banned(rows, checker_for(recipe) if recipe else None)
    report: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "n_texts": len(rows),
        "n_unlabelled": len(rows) - len(labelled),
        "counts": {
            "label": _count(r.label for r in labelled),
            **{f: _count(r.fields.get(f) for r in rows) for f in [*fields, "domain", "language_style", "persona"]},
            "split": {s: sum(r.split == s for r in rows) for s in SPLITS},
            "split_by_label": {s: _count(r.label for r in labelled if r.split == s) for s in SPLITS},
            "groups": len({r.group for r in rows}),
        },
        "length_words": _lengths(rows),
        "distinct": {f"{n}-gram": _distinct(rows, n) for n in (1, 2, 3)},
        "repeated_sentences": _repeated(rows),
        "banned_words": banned,
        "duplicates": duplicates,
        "leak": bag_of_words_leak(labelled),
        "asked": asked,
        "judge": judge,
    }
    report["findings"] = findings_of(report)
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


def _repeated(rows: Sequence[Text]) -> dict[str, int]:
    """The sentences that stand in texts of most groups, with the number of groups: frames that cross the splits.

    A sentence that the texts of one group share, such as their scene, crosses none and is not counted.
    """
    groups: dict[str, set[str]] = {}
    for row in rows:
        for sentence in _SENTENCE.findall(row.text.lower()):
            if len(_WORD.findall(sentence)) > 1:
                groups.setdefault(sentence.strip(), set()).add(row.group)
    most = sorted(((len(found), sentence) for sentence, found in groups.items()), key=lambda item: (-item[0], item[1]))
    return {sentence: n for n, sentence in most[:10] if n > 1}


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
    texts = [r.whole_text for r in rows]
    first: dict[str, Text] = {}
    exact = exact_across = contradictory = 0
    for row, text in zip(rows, texts, strict=True):
        earlier = first.setdefault(text, row)
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
