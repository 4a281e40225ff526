from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from compare_folders import write_activations
from strataprobe.compare import baselines
from strataprobe.compare.baselines import CV_NAMES, Baseline, cross_validated_tfidf, measure_baselines
from strataprobe.compare.layers import read_test_rows
from strataprobe.probes.crossval import make_folds
from strataprobe.probes.files import Oof, load_oof
from strataprobe.probes.run import train
from strataprobe.store import ActivationFolder

TWO, THREE = ("negative", "positive"), ("anger", "calm", "joy")


def asking_the_model(path: Path, class_names: tuple[str, ...], same: tuple[str, ...], rows: slice) -> Baseline:
    """The zero_shot baseline where the classes ``same`` have one logit in common in ``rows`` of the texts."""
    kind: dict[str, Any] = {"n_layers": 1, "readouts": ("mean",), "evals": (), "n_groups": 40}
    folder = write_activations(path, class_names=class_names, **kind)
    texts = [json.loads(line) for line in (folder / "texts.jsonl").read_text("utf-8").splitlines()]
    for row in texts[rows]:
        row["zero_shot"] |= dict.fromkeys(same, row["zero_shot"][class_names[0]])
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts), "utf-8")
    opened = ActivationFolder.open(folder)
    found = measure_baselines(opened, class_names, read_test_rows(opened, 1), None)
    return next(b for b in found if b.name == "zero_shot")


def test_class_words_with_the_same_first_token_are_skipped_with_that_reason(tmp_path: Path) -> None:
    found = asking_the_model(tmp_path / "same", TWO, TWO, slice(None))
    assert found.logits is None
    assert found.reason == "the class words begin with the same token"


@pytest.mark.parametrize("same", [("anger", "calm"), THREE])
def test_two_of_three_class_words_with_the_same_first_token_are_named(tmp_path: Path, same: tuple[str, ...]) -> None:
    found = asking_the_model(tmp_path / "same", THREE, same, slice(None))
    assert found.logits is None
    assert found.reason == "the class words anger and calm begin with the same token"


@pytest.mark.parametrize("class_names", [TWO, THREE])
def test_class_words_whose_logits_agree_on_some_texts_only_are_asked(
    tmp_path: Path, class_names: tuple[str, ...]
) -> None:
    n_texts = 40 * len(class_names)
    found = asking_the_model(tmp_path / "some", class_names, class_names, slice(0, n_texts - 6))
    assert found.reason == ""
    assert found.logits is not None


def rewrite(folder: Path, words: Any) -> None:
    """Give each text of a folder what ``words`` makes of its row."""
    rows = [json.loads(line) for line in (folder / "texts.jsonl").read_text("utf-8").splitlines()]
    lines = [json.dumps(row | {"text": words(row)}) + "\n" for row in rows]
    (folder / "texts.jsonl").write_text("".join(lines), "utf-8")


def curve_rows(folder: ActivationFolder, seed: int = 0) -> Oof:
    """The rows of a curve, with folds as training makes them."""
    parts = [folder.read(1, split) for split in ("train", "val")]
    labels = np.concatenate([part.labels for part in parts])
    groups = np.unique([g for part in parts for g in part.groups], return_inverse=True)[1].astype(np.int64)
    ids = [i for part in parts for i in part.ids]
    return Oof({}, labels, make_folds(labels, groups, folder.class_names, seed), groups, ids, folder.class_names)


def small(path: Path, class_names: tuple[str, ...] = TWO, n_groups: int = 60) -> ActivationFolder:
    kind: dict[str, Any] = {"n_layers": 1, "readouts": ("mean",), "evals": (), "layer_0": False, "starts_at": 1}
    return ActivationFolder.open(write_activations(path, class_names=class_names, n_groups=n_groups, **kind))


def test_words_that_leak_within_a_fold_of_the_curve_only_are_worth_nothing(tmp_path: Path) -> None:
    folder = small(tmp_path / "activations")
    train(folder.path, tmp_path / "probes", seed=3)
    oof = load_oof(tmp_path / "probes")
    fold_of = dict(zip(oof.ids, oof.folds.tolist(), strict=True))
    rewrite(folder.path, lambda row: f"common words and word{fold_of.get(row['id'], 9)}{row['label']}")
    assert cross_validated_tfidf(folder, oof)["cv_auc"] == 0.5
    other = make_folds(oof.labels, oof.groups, oof.class_names, seed=4)
    assert (other != oof.folds).any()
    elsewhere = Oof(oof.logits, oof.labels, other, oof.groups, oof.ids, oof.class_names)
    found = cross_validated_tfidf(folder, elsewhere)["cv_auc"]
    assert found is not None
    assert found > 0.9


@pytest.mark.parametrize("class_names", [TWO, THREE])
def test_the_words_are_cross_validated_as_the_curve_is(tmp_path: Path, class_names: tuple[str, ...]) -> None:
    folder = small(tmp_path / "activations", class_names)
    oof = curve_rows(folder)
    found = cross_validated_tfidf(folder, oof)
    by_id = {row["id"]: row["text"] for row in folder.texts()}
    texts = np.array([by_id[i] for i in oof.ids], dtype=object)
    by_fold = []
    for fold in np.unique(oof.folds):
        rest = oof.folds != fold
        vectorizer = TfidfVectorizer(ngram_range=(1, 2))
        X, X_out = vectorizer.fit_transform(texts[rest]), vectorizer.transform(texts[~rest])
        for c in [1] if len(class_names) == 2 else range(3):
            model = LogisticRegression(C=1, tol=1e-8, max_iter=5000).fit(X, oof.labels[rest] == c)
            by_fold.append(roc_auc_score(oof.labels[~rest] == c, model.decision_function(X_out)))
    values = [found[name] for name in CV_NAMES]
    assert None not in values
    # folds of nearly the same size: their plain mean is close to the weighted one
    assert values[0] == pytest.approx(np.mean(by_fold), abs=0.01)
    assert values[1] < values[0] < values[2]


def test_only_the_words_are_cross_validated_and_their_test_auc_is_on_the_same_rows(tmp_path: Path) -> None:
    folder = small(tmp_path / "activations")
    rows = read_test_rows(folder, 1)
    with_cv = {b.name: b.entry(rows) for b in measure_baselines(folder, TWO, rows, None, curve_rows(folder))}
    without = {b.name: b.entry(rows) for b in measure_baselines(folder, TWO, rows, None)}
    assert with_cv["tfidf"].keys() - without["tfidf"].keys() == set(CV_NAMES)
    assert with_cv["tfidf"] == without["tfidf"] | {name: with_cv["tfidf"][name] for name in CV_NAMES}
    assert {k: v for k, v in with_cv.items() if k != "tfidf"} == {k: v for k, v in without.items() if k != "tfidf"}


@pytest.mark.parametrize("text", [None, "? !"])
def test_texts_that_are_not_there_or_hold_no_words_are_not_cross_validated(tmp_path: Path, text: str | None) -> None:
    folder = small(tmp_path / "activations", n_groups=40)
    if text is None:
        (folder.path / "texts.jsonl").unlink()
    else:
        rewrite(folder.path, lambda row: text)
    oof, rows = curve_rows(folder), read_test_rows(folder, 1)
    found = next(b for b in measure_baselines(folder, TWO, rows, None, oof) if b.name == "tfidf")
    assert found.entry(rows) == dict.fromkeys((*CV_NAMES, "test_auc", "test_auc_low", "test_auc_high")) | {
        "reason": found.reason
    }
    assert ("no words" if text else "no texts.jsonl") in found.reason


def test_words_whose_weights_are_settled_have_the_narrower_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = small(tmp_path / "activations")
    oof = curve_rows(folder)
    widths = []
    for agreement in (0.0, 1.0):
        monkeypatch.setattr(baselines, "_tfidf_agreement", lambda *_, found=agreement: found)
        found = cross_validated_tfidf(folder, oof)
        widths.append((found["cv_auc_high"] or 0.0) - (found["cv_auc_low"] or 0.0))
    assert widths[0] == pytest.approx(2**0.5 * widths[1], rel=0.05)


def test_halves_of_the_texts_agree_on_words_that_tell_and_not_on_noise() -> None:
    rng = np.random.default_rng(0)
    labels = np.tile([0, 1], 100)
    oof = Oof({}, labels, np.arange(200) % 5, np.arange(200), [str(i) for i in range(200)], list(TWO))
    on_val = np.arange(200) >= 140
    noise = np.array([" ".join(f"w{k}" for k in rng.integers(0, 40, 8)) for _ in labels], dtype=object)
    telling = [rng.choice(["red", "blue", "green"], p=[0.1, 0.3, 0.6] if y else [0.6, 0.3, 0.1]) for y in labels]
    assert baselines._tfidf_agreement(noise, oof, on_val, 0) < 0.3
    assert baselines._tfidf_agreement(np.array(telling, dtype=object), oof, on_val, 0) > 0.8
    assert baselines._tfidf_agreement(noise, oof, np.zeros(200, dtype=bool), 0) == 0.0
