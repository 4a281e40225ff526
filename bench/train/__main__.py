"""Seconds to fit one layer's probe for ten values of C: ours, scikit-learn in four ways, and the origin's protocol.

    python -m bench.train                                  # 980 training texts x 2,560, 5 rounds
    python -m bench.train --width 256 --rounds 1           # does it work

Every other round runs the ways backwards. What each finds is held against the optimum. Writes bench/results/train.json and
train.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from bench.capture.device import machine
from bench.train.contestants import GRAM_NEWTON, OURS, Layer, Way, make_layer, objectives, unseen_logits, ways_of
from bench.train.page import page
from strataprobe.manifest import library_versions
from strataprobe.probes.families.logistic import C_GRID

RESULTS = Path(__file__).parent.parent / "results"
WITHIN, AUC_WITHIN = 1e-6, 1e-3


def rounds_of(ways: dict[str, Way], layer: Layer, n_rounds: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of each way by round, scaled to the whole grid, and what each gave last; a round before warms up."""
    times_s: dict[str, list[float]] = {name: [] for name in ways}
    results: dict[str, Any] = {}
    for turn in range(n_rounds + 1):
        for name in ways if turn % 2 else reversed(ways):
            gc.collect()
            started_s = time.perf_counter()
            results[name] = ways[name].run(layer)
            if turn:
                times_s[name].append((time.perf_counter() - started_s) * ways[name].scale)
        if turn:
            print(
                f"round {turn}: { {name: round(s[-1], 3) for name, s in times_s.items()} }", file=sys.stderr, flush=True
            )
    return times_s, results


def found_by(ways: dict[str, Way], results: dict[str, Any], layer: Layer) -> dict[str, dict[str, Any]]:
    """How far each way's objectives are above the optimum, and AUCs on texts that none fitted. Asserts that ours agrees
    with newton-cholesky in the Gram basis, at every C.
    """
    solutions = {name: way.solutions(results[name], layer) for name, way in ways.items() if way.solutions}
    values = {name: objectives(found, ways[name].Cs, layer) for name, found in solutions.items()}
    aucs = {
        name: np.array([roc_auc_score(layer.y_test, column) for column in unseen_logits(found, layer).T])
        for name, found in solutions.items()
    }
    lowest = np.min([v for v in values.values() if len(v) == len(C_GRID)], axis=0)
    assert (np.abs(values[OURS] / values[GRAM_NEWTON] - 1) < WITHIN).all(), values
    assert (values[OURS] / lowest - 1 < WITHIN).all(), values
    assert (np.abs(aucs[OURS] - aucs[GRAM_NEWTON]) < AUC_WITHIN).all(), aucs
    found = {}
    for name, way in ways.items():
        if name in solutions:
            at = [C_GRID.index(C) for C in way.Cs]
            found[name] = {
                "objective_above_optimum": [float(f"{max(v, 0.0):.2e}") for v in values[name] / lowest[at] - 1],
                "auc": [round(float(a), 4) for a in aucs[name]],
                "largest_auc_difference": float(f"{np.abs(aucs[name] - aucs[OURS][at]).max():.2e}"),
            }
        else:
            fit = results[name]
            found[name] = {
                "auc": [round(fit.kept.auc(layer.X_test, layer.y_test), 4)],
                "n_epochs": fit.n_epochs,
            }
    return found


def summary(times_s: list[float], ours_s: float) -> dict[str, Any]:
    """Median and quartiles of one way's rounds, and its ratio to ours."""
    low, middle, high = statistics.quantiles(times_s, n=4, method="inclusive") if len(times_s) > 1 else [*times_s] * 3
    return {
        "median_s": round(middle, 4),
        "quartiles_s": [round(low, 4), round(high, 4)],
        "rounds_s": [round(t, 4) for t in times_s],
        "times_ours": round(middle / ours_s, 2),
    }


def main() -> None:
    """Run the benchmark and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=2560)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default="train", help="name of the two files of results")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    layer = make_layer(chosen.width)
    ways = ways_of(C_GRID, C_GRID[len(C_GRID) // 2])
    with threadpool_limits(chosen.threads):
        times_s, results = rounds_of(ways, layer, chosen.rounds)
    agreed = found_by(ways, results, layer)
    ours_s = statistics.median(times_s[OURS])
    document = {
        "command": " ".join(["python -m bench.train", *sys.argv[1:]]),
        "machine": machine(torch.device("cpu")),
        "versions": library_versions(),
        "chosen": {**vars(chosen), "n_train": len(layer.X), "n_unseen": len(layer.X_test), "Cs": list(C_GRID)},
        "ways": {name: summary(times_s[name], ours_s) | agreed[name] for name in ways},
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{chosen.name}.json").write_text(json.dumps(document, indent=2) + "\n")
    (RESULTS / f"{chosen.name}.md").write_text(page(document))
    print(page(document))


if __name__ == "__main__":
    main()
