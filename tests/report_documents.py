"""A comparison document with every part in it, made from invented numbers, for tests of the figure and the report."""

from __future__ import annotations

from typing import Any

import numpy as np

from strataprobe.compare.bands import band_entries, band_of
from strataprobe.compare.wording import as_finding

EVALS = ("amazon", "imdb", "tweets", "yelp")


def interval(name: str, value: float, half: float) -> dict[str, float]:
    """A value between 0 and 1 with its two ends."""
    return {name: value, f"{name}_low": max(value - half, 0.0), f"{name}_high": min(value + 0.7 * half, 1.0)}


def full_document(
    n_layers: int = 34,
    *,
    readouts: tuple[str, ...] = ("last", "mean"),
    classes: tuple[str, ...] = ("negative", "positive"),
    evals: tuple[str, ...] = EVALS,
    seed: int = 0,
) -> dict[str, Any]:
    """Values rise over the first third of the layers, hold, and fall a little at the end."""
    rng = np.random.default_rng(seed)
    layers = list(range(1, n_layers + 1))
    entries = [_layer(rng, k, n_layers, r, i, evals) for i, r in enumerate(readouts) for k in layers]
    primary = entries[:n_layers]
    best = max(primary, key=lambda e: e["cv_auc"])
    tied = [e["layer"] for e in primary if e["cv_auc"] > best["cv_auc"] - 0.012]
    return {
        "format_version": 4, "recipe": "sentiment", "classes": list(classes), "model": "google/gemma-3-4b-it",
        "model_revision": "093f9f388b31de276ce2de164bdc2081324b9767", "prefix": "", "template": "none",
        "suffix": "\n\nThe sentiment of this section is", "readouts": list(readouts), "primary_readout": readouts[0],
        "best_layer": best["layer"], "best_block_index": best["layer"] - 1, "tied_layers": tied, "config": {"seed": 0},
        "inputs": {"probes": "12ab" * 16, "activations": "34cd" * 16},
        "versions": {"python": "3.11.2", "torch": "2.9.1", "numpy": "2.3.4", "strataprobe": "0.1.0"},
        "n_texts": {"train": 980, "val": 210, "test": 210},
        "test_texts_by_class": dict.fromkeys(classes, 210 // len(classes)),
        "layers": entries, "bands": band_entries(primary), "baselines": _baselines(best), "findings": _findings(best),
        "ensembles": _ensembles(best, tied), "calibration": _calibration(rng, best, classes),
        "geometry": _geometry(layers, readouts[0]), "learning_curve": _learning(best, evals),
        "shift": _shift(best, evals),
    }  # fmt: skip


def _layer(rng: Any, layer: int, n_layers: int, readout: str, place: int, evals: tuple[str, ...]) -> dict[str, Any]:
    depth = layer / n_layers
    value = float(0.56 + 0.39 / (1 + np.exp(-14 * (depth - 0.3 - 0.1 * place))) - 0.05 * max(depth - 0.75, 0) * 4)
    noise = rng.normal(0, 0.006, 8)
    return {
        "layer": layer, "block_index": layer - 1, "readout": readout, "band": band_of(layer, n_layers),
        **interval("cv_auc", value + noise[0], 0.025), **interval("test_auc", value + 2 * noise[1], 0.05),
        **interval("test_auprc", value - 0.02 + noise[2], 0.06), **interval("test_accuracy", value - 0.07, 0.05),
        **interval("test_f1", value - 0.06 + noise[3], 0.05), **interval("test_recall_1fpr", value - 0.4 + noise[4], 0.12),
        **interval("test_ece", 0.06 + abs(noise[5]), 0.03), "control_auc": 0.5 + float(noise[6]),
        "control_val_auc": 0.5, "selectivity": value - 0.5, "simultaneous_low": value - 0.05,
        "eval": {name: value - 0.05 - 0.04 * i + float(noise[7]) for i, name in enumerate(evals)},
    }  # fmt: skip


def _baselines(best: dict[str, Any]) -> dict[str, dict[str, Any]]:
    known = {"majority": 0.5, "length": 0.527, "tfidf": 0.812, "lexicon": 0.771, "layer_0": 0.846, "zero_shot": 0.901}
    found = {
        name: interval("test_auc", value, 0.06) | interval("best_minus_this", best["test_auc"] - value, 0.05)
        for name, value in known.items()
    }
    found["tfidf"] |= interval("cv_auc", 0.805, 0.03)
    missing = {"test_auc": None, "test_auc_low": None, "test_auc_high": None}
    return found | {"lexicon": missing | {"reason": "the recipe has no lexicon"}}


def _findings(best: dict[str, Any]) -> list[dict[str, str]]:
    return [
        as_finding("C001", "ok", f"Layer {best['layer']} (block index {best['block_index']}) is the best of `last`."),
        as_finding("C004", "warning", "The baseline zero_shot cannot be told from the best layer: ask the model."),
        as_finding("C008", "skipped", "The baseline lexicon was skipped: the recipe has no lexicon."),
    ]


def _ensembles(best: dict[str, Any], tied: list[int]) -> dict[str, dict[str, Any]]:
    joined = sorted({*tied[:3], best["layer"]})
    found = {}
    for i, name in enumerate(("single", "mean", "vote", "stacked", "greedy")):
        own = [best["layer"]] if name == "single" else joined
        gain = 0.0 if name == "single" else 0.008 - 0.004 * i
        found[name] = (
            interval("test_auc", best["test_auc"] + gain, 0.04) | interval("minus_best", gain, 0.01)
            | {"layers": own, "n_layers": len(own), "cost_blocks": max(own), "test_accuracy": 0.88, "test_ece": 0.04,
               "minus_best_p": 0.21}
        )  # fmt: skip
    return found


def _calibration(rng: Any, best: dict[str, Any], classes: tuple[str, ...]) -> dict[str, Any]:
    shown = classes[1:] if len(classes) == 2 else classes
    predicted = np.linspace(0.03, 0.97, 10)
    found = {}
    for name in shown:
        observed = np.clip(predicted + rng.normal(0, 0.05, 10), 0, 1)
        bins = [
            {"predicted": float(p), "observed": float(o), "n": 21} for p, o in zip(predicted, observed, strict=True)
        ]
        ece = float(abs(predicted - observed).mean())
        found[name] = {"bins": bins, "ece": ece, "slope": 0.91, "intercept": -0.04, "threshold": 0.47}
    return {"layer": best["layer"], "readout": best["readout"], "classes": found}


def _geometry(layers: list[int], readout: str) -> dict[str, Any]:
    place = np.array(layers) / len(layers)
    near = np.exp(-10 * abs(place[:, None] - place[None, :]) * (1.3 - np.minimum(place[:, None], place[None, :])))
    strength = 1 / (1 + np.exp(-14 * (place - 0.3)))
    transfer = (
        0.5 + 0.45 * near**0.5 * strength[:, None] * strength[None, :] - 0.08 * (1 - near) * (place[None, :] < 0.3)
    )
    return {"readout": readout, "layers": layers, "cosine": near.tolist(), "transfer_auc": transfer.tolist()}


def _learning(best: dict[str, Any], evals: tuple[str, ...]) -> dict[str, Any]:
    def points(sizes: tuple[int, ...], top: float) -> list[dict[str, Any]]:
        found = []
        for n in sizes:
            value = top - 0.9 / (n + 2.0) ** 0.6
            found.append(
                {"n_texts": n, "auc": value, "low": value - 0.04, "high": min(value + 0.03, 1.0), "n_repeats": 5}
            )
        return found

    own = {
        name: {"points": points((10, 30, 100, 300), 0.93 - 0.02 * i), "generated_auc": 0.87 - 0.03 * i,
               "matching_n": 100 if i < 2 else None, "n_tested": 500}
        for i, name in enumerate(evals)
    }  # fmt: skip
    sizes = points((20, 50, 100, 200, 400, 700, 980), best["test_auc"] + 0.01)
    return {
        "layer": best["layer"],
        "readout": best["readout"],
        "measured_on": "test",
        "points": sizes,
        "enough": 400,
        "own": own,
    }


def _shift(best: dict[str, Any], evals: tuple[str, ...]) -> dict[str, Any]:
    rows = [
        {"name": name, "n": 210 if name == "test" else 1000, **interval("auc", best["test_auc"] - 0.05 * i, 0.04),
         "accuracy": 0.86 - 0.04 * i, "ece": 0.05 + 0.02 * i, "positive_share": 0.5, "best_layer": best["layer"] - i % 2,
         "best_auc": best["test_auc"] - 0.04 * i}
        for i, name in enumerate(("test", *evals))
    ]  # fmt: skip
    return {"trained_on": "sentiment", "layer": best["layer"], "rows": rows}


def wrong_texts(document: dict[str, Any], n: int = 24, seed: int = 1) -> dict[str, Any]:
    """What ``wrong_examples`` would give for such a document: some texts every layer misses, some only the early ones."""
    rng = np.random.default_rng(seed)
    layers = [e["layer"] for e in document["layers"] if e["readout"] == document["primary_readout"]]
    first, second = document["classes"][:2]
    missed = rng.random((n, len(layers))) < np.linspace(0.9, 0.15, n)[:, None]
    words = (
        "I waited at the gate for an hour & nobody came; in the end I laughed about it with <them> on the way home. "
    )
    return {
        "n_tested": 210,
        "layers": [
            {"layer": k, "n_wrong": int(missed[:, j].sum()), "worst": np.flatnonzero(missed[:, j])[:3].tolist()}
            for j, k in enumerate(layers)
        ],
        "best": np.flatnonzero(missed[:, layers.index(document["best_layer"])])[:10].tolist(),
        "shared": np.flatnonzero(2 * missed.sum(axis=1) > len(layers))[:10].tolist(),
        "texts": [
            {"id": f"sentiment-{i:05d}", "text": words * (1 + i % 3), "label": first,
             "called": [second if m else first for m in missed[i]],
             "probabilities": np.where(missed[i], 0.02 + 0.01 * i, 0.9).tolist()}
            for i in range(n)
        ],
    }  # fmt: skip
