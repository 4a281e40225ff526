"""Probes of generated text adapted to real reviews from a few labelled rows, beside leaving them and starting afresh.

    python -m bench.adapt [--seeds 5]

Probes of the demo model are trained on the built-in writer's sentiment texts. For each set of UCI reviews, number of
labelled rows (half of each class) and seed, they are adapted on the best layer; the same rows alone train a probe as
``strataprobe.fit`` does. AUC is on all other reviews of the set, and for the adapted probes on the generated test texts too.
The sets lie in the folder that STRATAPROBE_DATA names. Writes bench/results/adapt.json and adapt.md.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import strataprobe as sp
from strataprobe.layerfile import write_layer_file
from strataprobe.metrics import auc
from strataprobe.pipeline import RunOptions, run
from strataprobe.probes.adapt import adapt
from strataprobe.progress import set_quiet
from strataprobe.recipe import load_recipe
from strataprobe.store import INFO_FIELDS, ActivationFolder, LayerRows, layer_file_name

RESULTS = Path(__file__).parent / "results"
DATA = Path(os.environ.get("STRATAPROBE_DATA", "../shared/data"))
SETS = ("imdb", "yelp", "amazon")
SIZES = (10, 30, 100, 300)
METHODS = ("before", "adapted", "alone")


def drawn(labels: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Which rows (N,) bool are labelled: n of them, half of each class."""
    rng = np.random.default_rng([seed, n])
    chosen = np.zeros(len(labels), dtype=bool)
    for c in (0, 1):
        chosen[rng.permutation(np.flatnonzero(labels == c))[: n // 2]] = True
    return chosen


def write_rows(folder: Path, source: ActivationFolder, layer: int, rows: LayerRows, chosen: np.ndarray) -> Path:
    """An activations folder of one layer: the chosen rows to learn from, all others to test on."""
    folder.mkdir(parents=True)
    splits = {
        split: {
            "activations": {source.primary: rows.activations[taken]},
            "labels": rows.labels[taken],
            "ids": [rows.ids[i] for i in np.flatnonzero(taken)],
            "groups": [rows.groups[i] for i in np.flatnonzero(taken)],
        }
        for split, taken in (("train", chosen), ("val", np.zeros_like(chosen)), ("test", ~chosen))
    }
    attrs = {name: source.info[name] for name in INFO_FIELDS}
    attrs |= {"label_names": source.class_names, "readouts": [source.primary], "layer": layer, "block_index": layer - 1}
    write_layer_file(folder / layer_file_name(layer), splits=splits, attrs=attrs)
    return folder


def fitted_alone(rows: LayerRows, chosen: np.ndarray, layer: int, seed: int) -> float:
    """AUC on the other rows of a probe that knows the chosen rows only."""
    acts = sp.Activations({("mean", layer): rows.activations[chosen]}, ["mean"], {})
    names = ("negative", "positive")
    labels = [names[label] for label in rows.labels[chosen]]
    groups = [group for group, taken in zip(rows.groups, chosen, strict=True) if taken]
    probe = sp.fit(acts, labels, groups=groups, seed=seed)[layer]["positive"]
    return auc(rows.labels[~chosen], probe.logits(rows.activations[~chosen]))


def measure(folder: Path, n_seeds: int) -> dict[str, Any]:
    """All cases, each with its three AUCs on new text, and those on old text."""
    evals = {name: DATA / "real_text" / f"uci_{name}.jsonl" for name in SETS}
    document = run(RunOptions(recipe=load_recipe("sentiment"), model="demo", out=folder, evals=evals))
    layer, cases = document["best_layer"], []
    source = ActivationFolder.open(folder / "activations")
    for name in SETS:
        rows = source.read_eval(layer, name)
        for n in SIZES:
            for seed in range(n_seeds):
                chosen = drawn(rows.labels, n, seed)
                place = folder / "adapted" / f"{name}-{n}-{seed}"
                new = write_rows(place / "activations", source, layer, rows, chosen)
                started_s = time.monotonic()
                manifest = adapt(folder / "probes", new, place / "probes", seed=seed)
                elapsed_s = time.monotonic() - started_s
                found = manifest.details["layers"][source.primary][str(layer)]["adapted"]
                cases.append(
                    {
                        "set": name,
                        "n": n,
                        "seed": seed,
                        "before": found["new"]["before"]["auc"],
                        "adapted": found["new"]["after"]["auc"],
                        "alone": fitted_alone(rows, chosen, layer, seed),
                        "ece_before": found["new"]["before"]["ece"],
                        "ece_adapted": found["new"]["after"]["ece"],
                        "old_before": found["old"]["before"]["auc"],
                        "old_adapted": found["old"]["after"]["auc"],
                        "elapsed_s": elapsed_s,
                    }
                )
    return {"layer": layer, "n_seeds": n_seeds, "cases": cases, "means": means(cases)}


def means(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each number of labelled rows, and how far adapting is from either other way, with its standard error."""
    found = []
    for n in SIZES:
        these = [case for case in cases if case["n"] == n]
        row: dict[str, Any] = {"n": n, "n_cases": len(these)}
        for key in (*METHODS, "ece_before", "ece_adapted", "old_before", "old_adapted", "elapsed_s"):
            row[key] = float(np.mean([case[key] for case in these]))
        for other in ("before", "alone"):
            gain = np.array([case["adapted"] - case[other] for case in these])
            row[f"minus_{other}"] = float(gain.mean())
            row[f"minus_{other}_se"] = float(gain.std(ddof=1) / np.sqrt(len(gain)))
            row[f"worst_minus_{other}"] = float(gain.min())
        found.append(row)
    return found


def page(document: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "# Adapting probes to text of another kind",
        "",
        "Written by `python -m bench.adapt`; demo model, CPU, float32.",
        "",
        f"Probes of generated sentiment texts, layer {document['layer']} (chosen on those texts), adapted to UCI reviews "
        f"({', '.join(SETS)}; {document['n_seeds']} seeds each). AUC on all other reviews; `alone` is a probe of the same "
        "labelled rows without the old one. Gains are means over cases with their standard error, and the worst case.",
        "",
        "| labelled rows | before | adapted | alone | adapted - before | worst | adapted - alone | worst | ECE before | "
        "ECE adapted | old text before | old text adapted | s |",
        "| ---: | ---: | ---: | ---: | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {r['n']} | {r['before']:.4f} | **{r['adapted']:.4f}** | {r['alone']:.4f} "
        f"| {r['minus_before']:+.4f} ± {r['minus_before_se']:.4f} | {r['worst_minus_before']:+.4f} "
        f"| {r['minus_alone']:+.4f} ± {r['minus_alone_se']:.4f} | {r['worst_minus_alone']:+.4f} "
        f"| {r['ece_before']:.3f} | {r['ece_adapted']:.3f} | {r['old_before']:.3f} | {r['old_adapted']:.3f} "
        f"| {r['elapsed_s']:.1f} |"
        for r in document["means"]
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    n_seeds = parser.parse_args().seeds
    set_quiet(True)
    with tempfile.TemporaryDirectory() as folder:
        document = measure(Path(folder) / "run", n_seeds)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "adapt.json").write_text(json.dumps(document, indent=2) + "\n")
    (RESULTS / "adapt.md").write_text(page(document))
    print(page(document))


if __name__ == "__main__":
    main()
