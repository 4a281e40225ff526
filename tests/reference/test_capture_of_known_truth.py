"""A model whose concept appears at a known layer: the vectors show it there, and nowhere before."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

import known_truth
import strataprobe as sp

N_LAYERS, CONCEPT_BLOCK, N_TEXTS = 8, 4, 600


def aucs(concept_block: int | None, readout: str) -> list[float]:
    """Held-out AUC of scikit-learn's logistic regression on layers 1 to L."""
    model = known_truth.build_model(concept_block, n_layers=N_LAYERS)
    rows = known_truth.texts(N_TEXTS)
    labels = np.array([row["label"] == "positive" for row in rows])
    acts = sp.capture([row["text"] for row in rows], model, known_truth.build_tokenizer(), readout=readout)
    half = N_TEXTS // 2
    found = []
    for layer in range(1, N_LAYERS + 1):
        vectors = StandardScaler().fit(acts.layer(layer)[:half]).transform(acts.layer(layer))
        probe = LogisticRegression(C=0.1, max_iter=2000).fit(vectors[:half], labels[:half])
        found.append(float(roc_auc_score(labels[half:], probe.decision_function(vectors[half:]))))
    return found


@pytest.fixture(scope="module")
def written() -> list[float]:
    return aucs(CONCEPT_BLOCK, "last")


def test_the_last_position_is_at_chance_before_the_concept_block(written: list[float]) -> None:
    assert max(abs(auc - 0.5) for auc in written[:CONCEPT_BLOCK]) < 0.12


def test_the_last_position_knows_the_concept_from_that_block_on(written: list[float]) -> None:
    assert min(written[CONCEPT_BLOCK:]) > 0.97


def test_without_a_concept_block_the_last_position_never_knows_it() -> None:
    assert max(abs(auc - 0.5) for auc in aucs(None, "last")) < 0.12


def test_the_mean_sees_the_words_themselves_on_every_layer() -> None:
    assert min(aucs(None, "mean")) > 0.97


def test_the_norm_of_the_stream_grows_from_layer_to_layer() -> None:
    model = known_truth.build_model(CONCEPT_BLOCK, n_layers=N_LAYERS)
    texts = [row["text"] for row in known_truth.texts(20)]
    acts = sp.capture(texts, model, known_truth.build_tokenizer(), readout="last")
    norms = [float(np.linalg.norm(acts.layer(k), axis=1).mean()) for k in range(1, N_LAYERS + 1)]
    assert norms == sorted(norms)
    assert norms[-1] > 1.5 * norms[0]
