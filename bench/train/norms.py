"""Probes of layers that carry the same signal while their norm grows from 10 to 100,000: ours and the origin's protocol.

    python -m bench.train.norms

Gaussian classes with a known Bayes AUC, 10 training texts a feature: with a mean that all texts share, with that and the
decaying spectrum of a residual stream, and with neither. AUCs on 20,000 fresh texts. Writes bench/results/train_norms.json,
train_norms.md and train_norms.png.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from scipy.stats import norm as gaussian
from sklearn.metrics import roc_auc_score

from bench.capture.device import machine
from bench.train.norms_figure import TITLES, draw
from bench.train.origin import train_origin
from bench.train.streams import COMMON_SHARE, LARGE_SHARE, N_LARGE, Shape, Stream, make_stream
from strataprobe.manifest import library_versions
from strataprobe.probes.families.logistic import Logistic

RESULTS = Path(__file__).parent.parent / "results"
AUC, TRAIN_PER_FEATURE, VAL_PER_FEATURE, N_TEST = 0.97, 10, 10, 20_000
NORMS = tuple(float(f"{n:.3g}") for n in np.logspace(1, 5, 9))
OURS, ORIGIN, UNROUNDED = "strataprobe", "origin", "origin, nothing rounded"
ALLOWED_VARIATION, ALLOWED_GAP, LEAST_FALL = 0.02, 0.02, 0.1


def attainable_auc(bayes_auc: float, n_per_feature: float) -> float:
    """What the linear discriminant fitted to so many rows a feature is expected to reach (D large): it has D weights
    to find, which costs some of the Bayes AUC whatever solver finds them.
    """
    distance = 2 * gaussian.ppf(bayes_auc) ** 2
    reached = distance / math.sqrt(distance + 4 / n_per_feature) * math.sqrt(1 - 1 / n_per_feature)
    return float(gaussian.cdf(reached / math.sqrt(2)))


def one_layer(stream: Stream, layer: int, norm: float) -> dict[str, float]:
    """AUC of each way on the fresh texts of one layer."""
    width = len(stream.spread)
    sizes = (TRAIN_PER_FEATURE * width, VAL_PER_FEATURE * width, N_TEST)
    labels = [np.arange(n) % 2 for n in sizes]
    X, X_val, X_test = (stream.rows(y, layer, norm, part) for part, y in enumerate(labels))
    y, y_val, y_test = (part.astype(np.float64) for part in labels)
    ours = Logistic().fit(X, y[:, None], X_val, y_val[:, None])
    origin = train_origin(X, y, X_val, y_val, seed=layer, loader=False).kept
    return {
        OURS: float(roc_auc_score(y_test, ours.logits(X_test)[:, 0])),
        ORIGIN: origin.auc(X_test, y_test),
        UNROUNDED: origin.exact_auc(X_test, y_test),
    }


def one_shape(shape: Shape, width: int, repeats: int) -> dict[str, Any]:
    """AUCs by way, repeat and layer, and what is wanted of them."""
    aucs: dict[str, list[list[float]]] = {OURS: [], ORIGIN: [], UNROUNDED: []}
    for seed in range(repeats):
        stream = make_stream(shape, width, auc=AUC, seed=seed)
        assert abs(stream.bayes_auc - AUC) < 1e-4
        layers = [one_layer(stream, layer, norm) for layer, norm in enumerate(NORMS, start=1)]
        for way, found in aucs.items():
            found.append([layer[way] for layer in layers])
        print(f"{shape}, repeat {seed + 1}: " + ", ".join(f"{a:.3f}" for a in aucs[ORIGIN][-1]), file=sys.stderr)
    values = {way: np.array(found) for way, found in aucs.items()}
    medians = {way: np.median(found, axis=0) for way, found in values.items()}
    fall = {way: m.max() - m[-1] for way, m in medians.items()}
    return {
        "aucs": {way: np.round(found, 4).tolist() for way, found in values.items()},
        "medians": {way: np.round(m, 4).tolist() for way, m in medians.items()},
        "ours_variation_between_layers": round(float(np.ptp(medians[OURS])), 4),
        "ours_largest_variation_of_a_repeat": round(float(np.ptp(values[OURS], axis=1).max()), 4),
        "ours_gap_to_bayes": round(float(AUC - medians[OURS].min()), 4),
        "ours_largest_gap_of_a_repeat": round(float(AUC - values[OURS].min()), 4),
        "fall_from_best_layer_to_last": {way: round(float(f), 4) for way, f in fall.items()},
        "gap_on_last_layer": round(float(medians[OURS][-1] - medians[ORIGIN][-1]), 4),
        "least_advantage_on_any_layer": round(float((values[OURS] - values[ORIGIN]).min()), 4),
    }


def page(document: dict[str, Any]) -> str:
    """The results as Markdown."""
    return (
        "\n\n".join([_heading(document), *(_shape(name, found) for name, found in document["shapes"].items())]) + "\n"
    )


def _heading(document: dict[str, Any]) -> str:
    chosen, width = document["chosen"], document["chosen"]["width"]
    lines = [
        "# Norms that grow with depth",
        "",
        f"Written by `{document['command']}`: {document['machine']['cores']} cores, torch {document['versions']['torch']}.",
        "",
        f"Gaussian classes, Bayes AUC {AUC}; width {width}, {TRAIN_PER_FEATURE * width:,} training, "
        f"{VAL_PER_FEATURE * width:,} validation and {N_TEST:,} fresh texts; {chosen['repeats']} repeats, each another "
        f"direction and other texts. With so few texts a feature the linear discriminant is expected to reach "
        f"{document['attainable_auc']:.3f}. The mean that all texts share carries {COMMON_SHARE} of the squared norm, "
        f"{N_LARGE} features {LARGE_SHARE} of that; in the shape of a residual stream variances fall as 1 / rank too.",
        "",
        "Ours: C of the grid by validation, weights as float32 files hold them. The origin's protocol: see "
        "`bench/train/origin.py`, the weights of its best epoch; nothing rounded: the AUC of the same weights without "
        "bfloat16 activations and sigmoid.",
        "",
        "![AUC by norm](train_norms.png)",
    ]
    return "\n".join(lines)


def _shape(name: str, found: dict[str, Any]) -> str:
    fall = found["fall_from_best_layer_to_last"]
    columns = [found["medians"][way] for way in (OURS, ORIGIN, UNROUNDED)]
    lines = [
        f"## {TITLES[name]}",
        "",
        f"| norm | {OURS} | {ORIGIN} | {UNROUNDED} |",
        "| ---: | ---: | ---: | ---: |",
        *(f"| {norm:,.0f} | {a:.3f} | {b:.3f} | {c:.3f} |" for norm, a, b, c in zip(NORMS, *columns, strict=True)),
        "",
        "Medians of the repeats. In them:",
        "",
        f"- ours varies by {found['ours_variation_between_layers']:.4f} between layers (below {ALLOWED_VARIATION} is "
        f"wanted; in one repeat by up to {found['ours_largest_variation_of_a_repeat']:.4f}) and lies at most "
        f"{found['ours_gap_to_bayes']:.4f} below the Bayes AUC (at most {ALLOWED_GAP} is wanted; in one repeat up to "
        f"{found['ours_largest_gap_of_a_repeat']:.4f});",
        f"- the origin's protocol falls by {fall[ORIGIN]:.3f} from its best layer to the last ({LEAST_FALL} or more was "
        f"expected), by {fall[UNROUNDED]:.3f} with nothing rounded; ours by {fall[OURS]:.3f};",
        f"- on the last layer it lies {found['gap_on_last_layer']:.3f} below ours; on no layer of any repeat less than "
        f"{found['least_advantage_on_any_layer']:.3f}.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Train everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    shapes: tuple[Shape, ...] = get_args(Shape)
    found = {shape: one_shape(shape, chosen.width, chosen.repeats) for shape in shapes}
    document = {
        "command": " ".join(["python -m bench.train.norms", *sys.argv[1:]]),
        "machine": machine(torch.device("cpu")),
        "versions": library_versions(),
        "chosen": vars(chosen),
        "bayes_auc": AUC,
        "allowed_gap": ALLOWED_GAP,
        "attainable_auc": round(attainable_auc(AUC, TRAIN_PER_FEATURE), 4),
        "norms": NORMS,
        "shapes": found,
    }
    (RESULTS / "train_norms.json").write_text(json.dumps(document, indent=2) + "\n")
    (RESULTS / "train_norms.md").write_text(page(document))
    (RESULTS / "train_norms.png").write_bytes(draw(document))
    print(page(document))


if __name__ == "__main__":
    main()
