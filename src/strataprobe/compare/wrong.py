"""The test texts that the layers put in the wrong class: the best layer's, those most layers share, each layer's worst."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from strataprobe.compare.layers import Measured, TestRows

N_BEST = 10
N_SHARED = 10
N_WORST = 3


def wrong_examples(
    document: dict[str, Any], measured: Sequence[Measured], rows: TestRows, texts: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What the layers of the primary readout get wrong on the test texts, the layers ascending.

    ``layers``: for each, ``layer``, ``n_wrong`` and ``worst`` (places in ``texts``), the most confident first.
    ``best``: places of the best layer's, ``N_BEST`` at most. ``shared``: of those more than half of the layers get
    wrong, ``N_SHARED`` at most, those most layers get wrong first. ``texts``: id, text, label, and for each layer
    ``called`` (a class) and ``probabilities`` (of its label). ``n_tested`` counts the test texts.
    """
    own = sorted((m for m in measured if m.readout == document["primary_readout"]), key=lambda m: m.layer)
    n = len(rows.labels)
    called = np.array([m.called for m in own], dtype=np.int64).reshape(len(own), n)
    given = np.array([m.probabilities[np.arange(n), rows.labels] for m in own]).reshape(len(own), n)
    wrong = called != rows.labels[None, :]
    worst = [_worst(wrong[j], given[j], rows.ids) for j in range(len(own))]
    best = next((worst[j][:N_BEST] for j, m in enumerate(own) if m.layer == document["best_layer"]), [])
    n_wrong = wrong.sum(axis=0)
    shared = [i for i in range(n) if 2 * n_wrong[i] > len(own)] if len(own) > 1 else []
    shared = sorted(shared, key=lambda i: (-n_wrong[i], given[:, i].mean(), rows.ids[i]))[:N_SHARED]
    listed = list(dict.fromkeys([*best, *shared, *(i for places in worst for i in places[:N_WORST])]))
    place = {i: k for k, i in enumerate(listed)}
    by_id = {str(row["id"]): str(row["text"]) for row in texts if row.get("split") == "test"}
    names = document["classes"]
    return {
        "n_tested": n,
        "layers": [
            {"layer": m.layer, "n_wrong": int(wrong[j].sum()), "worst": [place[i] for i in worst[j][:N_WORST]]}
            for j, m in enumerate(own)
        ],
        "best": [place[i] for i in best],
        "shared": [place[i] for i in shared],
        "texts": [
            {
                "id": rows.ids[i],
                "text": by_id.get(rows.ids[i], "(the text is not in texts.jsonl)"),
                "label": names[rows.labels[i]],
                "called": [names[c] for c in called[:, i]],
                "probabilities": given[:, i].tolist(),
            }
            for i in listed
        ],
    }


def _worst(wrong: np.ndarray, given: np.ndarray, ids: Sequence[str]) -> list[int]:
    """Places of the texts a layer gets wrong, the least probability of their label first."""
    return sorted(np.flatnonzero(wrong).tolist(), key=lambda i: (given[i], ids[i]))
