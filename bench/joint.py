"""The joint probe against separate ones on synthetic recipes, with a subspace that their classes share and without one.

    python -m bench.joint

Rows are normal around the mean of their class, each feature with a mean and a spread of its own. The class means lie in one
subspace of five dimensions, or anywhere; they are equally long in both cases. For each kind and size of recipes, 50 texts a
class are trained on, 11 decide every choice (as in a 70/15/15 split), and AUCs are of 300 fresh ones. Writes
bench/results/joint.json and joint.md, the mean difference over the seeds with its standard error.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from strataprobe.metrics import auc
from strataprobe.probes.crossval import class_columns
from strataprobe.probes.families.logistic import C_GRID, Logistic
from strataprobe.probes.families.standardise import Standardised
from strataprobe.probes.shared import Part, fit_parts

RESULTS = Path(__file__).parent / "results"
WIDTH, RANK = 256, 5
N_TRAIN, N_VAL, N_TEST = 50, 11, 300
N_SEEDS = 24
# Recipes, classes in each, and how far class means lie from the middle, in standard deviations of the noise.
KINDS = ((4, 5, 1.5), (4, 5, 2.5), (8, 2, 1.5), (2, 3, 2.0))


@dataclass(frozen=True)
class Drawn:
    """Rows (n, D) float32 and labels (n,) of one recipe's three splits."""

    train: tuple[np.ndarray, np.ndarray]
    val: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


def draw(seed: int, n_recipes: int, n_classes: int, distance: float, *, shared: bool) -> list[Drawn]:
    """Recipes whose class means lie in one random subspace, or anywhere."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(WIDTH, RANK)))[0]
    scale, centre = np.exp(rng.normal(size=WIDTH)), 5 * rng.normal(size=WIDTH)
    recipes = []
    for _ in range(n_recipes):
        anywhere = rng.normal(size=(n_classes, WIDTH)) / np.sqrt(WIDTH)
        means = distance * (rng.normal(size=(n_classes, RANK)) @ basis.T / np.sqrt(RANK) if shared else anywhere)
        splits = []
        for n in (N_TRAIN, N_VAL, N_TEST):
            labels = np.repeat(np.arange(n_classes), n)
            rows = (means[labels] + rng.normal(size=(len(labels), WIDTH))) * scale + centre
            splits.append((rows.astype(np.float32), labels))
        recipes.append(Drawn(*splits))
    return recipes


def mean_auc(labels: np.ndarray, logits: np.ndarray, n_classes: int) -> float:
    """Mean over the columns of logits (n, K)."""
    Y = class_columns(labels, n_classes)
    return float(np.mean([auc(Y[:, k], logits[:, k]) for k in range(Y.shape[1])]))


def separate(recipes: list[Drawn], n_classes: int) -> float:
    """Mean test AUC of logistic probes of each recipe by itself."""
    found = []
    for one in recipes:
        fit = Logistic().fit(
            one.train[0], class_columns(one.train[1], n_classes), one.val[0], class_columns(one.val[1], n_classes)
        )
        found.append(mean_auc(one.test[1], fit.logits(one.test[0]), n_classes))
    return float(np.mean(found))


def joint(recipes: list[Drawn], n_classes: int) -> tuple[float, str]:
    """Mean test AUC of the joint probes, and what they share."""
    rows = Standardised.of(np.concatenate([one.train[0] for one in recipes]))

    def like(X: np.ndarray) -> torch.Tensor:
        return (torch.from_numpy(X).double() - rows.mean) / rows.scale

    parts = [
        Part(
            like(one.train[0]),
            class_columns(one.train[1], n_classes),
            like(one.val[0]),
            class_columns(one.val[1], n_classes),
        )
        for one in recipes
    ]
    choice, fits = fit_parts(parts, C_GRID)
    found = [
        mean_auc(one.test[1], like(one.test[0]).numpy() @ fit.weight.T + fit.bias, n_classes)
        for one, fit in zip(recipes, fits, strict=True)
    ]
    sharing = choice.sharing
    return float(np.mean(found)), f"rank {sharing.rank} x {sharing.strength:g}" if sharing.rank else "nothing"


def measure(n_recipes: int, n_classes: int, distance: float, *, shared: bool) -> dict[str, Any]:
    """Both methods on every seed."""
    started_s = time.perf_counter()
    alone, together, chosen = [], [], Counter[str]()
    for seed in range(N_SEEDS):
        recipes = draw(seed, n_recipes, n_classes, distance, shared=shared)
        alone.append(separate(recipes, n_classes))
        found, sharing = joint(recipes, n_classes)
        together.append(found)
        chosen[sharing] += 1
    difference = np.array(together) - np.array(alone)
    return {
        "shared": shared,
        "n_recipes": n_recipes,
        "n_classes": n_classes,
        "distance": distance,
        "separate_auc": float(np.mean(alone)),
        "joint_auc": float(np.mean(together)),
        "difference": float(difference.mean()),
        "standard_error": float(difference.std(ddof=1) / len(difference) ** 0.5),
        "worst": float(difference.min()),
        "chosen": dict(chosen.most_common()),
        "elapsed_s": time.perf_counter() - started_s,
    }


def page(rows: list[dict[str, Any]]) -> str:
    """The results as a table."""
    lines = [
        "# The joint probe against separate ones",
        "",
        f"{WIDTH} features, {N_TRAIN} training texts a class, {N_SEEDS} seeds, the mean AUC of all classes on fresh rows. "
        f"Shared: the class means of all recipes lie in one subspace of {RANK} dimensions. Distance: of the class means "
        "from the middle. Written by `python -m bench.joint`.",
        "",
        "| subspace | recipes x classes | distance | separate | joint | difference | worst seed | what was shared, times |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        chosen = ", ".join(f"{name}: {n}" for name, n in row["chosen"].items())
        lines.append(
            f"| {'shared' if row['shared'] else 'none'} | {row['n_recipes']} x {row['n_classes']} | {row['distance']:g} "
            f"| {row['separate_auc']:.3f} | {row['joint_auc']:.3f} "
            f"| {row['difference']:+.4f} ± {row['standard_error']:.4f} | {row['worst']:+.3f} | {chosen} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure every kind, and write the results."""
    rows = [measure(*kind, shared=shared) for shared in (True, False) for kind in KINDS]
    settings = {"width": WIDTH, "rank": RANK, "n_train": N_TRAIN, "n_val": N_VAL, "n_test": N_TEST, "n_seeds": N_SEEDS}
    (RESULTS / "joint.json").write_text(json.dumps({**settings, "rows": rows}, indent=2) + "\n", encoding="utf-8")
    (RESULTS / "joint.md").write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
