"""Ensembles of layers against the best single layer, on generated text and on text that no generator of ours wrote.

    python -m bench.ensembles [--out DIR]

Probes of `strataprobe run sentiment --model demo` (700 texts a class); everything about the ensembles is fitted on
out-of-fold logits of the generated texts, and judged on their test split and on labelled sets of real text. The sets lie
in the folder that STRATAPROBE_DATA names; `--out` keeps the run, so that a second call need not capture again. Writes
bench/results/ensembles.json and ensembles.md.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from strataprobe.compare.ensemble_table import fit_ensembles, mean_ece
from strataprobe.compare.layers import TestRows, estimate_auc, labelled, labelled_groups
from strataprobe.compare.paired import against
from strataprobe.metrics import auc_interval
from strataprobe.pipeline import RunOptions, run
from strataprobe.probes.files import load_oof, load_probes
from strataprobe.probes.probe import ProbeSet
from strataprobe.progress import set_quiet
from strataprobe.recipe import load_recipe
from strataprobe.store import ActivationFolder

RESULTS = Path(__file__).parent / "results"
DATA = Path(os.environ.get("STRATAPROBE_DATA", "../shared/data"))
EVALS = {
    "imdb": "uci_imdb",
    "yelp": "uci_yelp",
    "amazon": "uci_amazon",
    "tweets": "tweeteval_sentiment",
    "cad": "cad_imdb_pairs",
}
TITLES = {"single": "best layer", "mean": "mean logit", "vote": "vote", "stacked": "stacked", "greedy": "greedy"}


def read_logits(folder: ActivationFolder, sets: Sequence[ProbeSet], name: str) -> tuple[TestRows, np.ndarray]:
    """The labelled rows of the test split or of a text given with --eval, and raw logits (n, L, C) of every layer."""
    logits, rows = [], None
    for probes in sets:
        if name == "test":
            read = folder.read(probes.layer, "test", probes.readout)
        else:
            read = folder.read_eval(probes.layer, name, probes.readout)
        X, y = labelled(read)
        logits.append(probes.logits(X))
        rows = TestRows(y, labelled_groups(read), [])
    assert rows is not None
    return rows, np.stack(logits, axis=1)


def measured(
    values: np.ndarray, probabilities: np.ndarray, best: np.ndarray | None, rows: TestRows
) -> dict[str, float | None]:
    """AUC, accuracy and ECE of one way to score these rows; ``best`` are the best layer's logits to be set against."""
    estimate = estimate_auc(rows.labels, values[:, :, None], rows.groups)
    (low,), (high,) = auc_interval(estimate)
    found: dict[str, float | None] = {
        "auc": float(estimate.auc[0]),
        "auc_low": float(low),
        "auc_high": float(high),
        "accuracy": float(((probabilities[:, 1] >= 0.5) == rows.labels).mean()),
        "ece": mean_ece(rows.labels, probabilities),
    }
    if best is not None:
        found |= {f"minus_best{'' if k == 'value' else '_' + k}": v for k, v in against(values, best, rows).items()}
    return found


def measure(folder: Path) -> dict[str, Any]:
    """Every ensemble and the best layer on the test split and on every set of real text."""
    evals = {name: DATA / "real_text" / f"{file}.jsonl" for name, file in EVALS.items()}
    done = run(RunOptions(recipe=load_recipe("sentiment"), model="demo", out=folder, evals=evals))
    comparison = done["comparison"]
    probes, activations = load_probes(folder / "probes"), ActivationFolder.open(folder / "activations")
    entries = [e for e in comparison["layers"] if e["readout"] == probes.primary]
    sets = [probes.sets[probes.primary, e["layer"]] for e in entries]
    layers = [s.layer for s in sets]
    at = layers.index(comparison["best_layer"])
    started_s = time.monotonic()
    ensembles = fit_ensembles(sets, load_oof(folder / "probes"), np.array([e["cv_auc"] for e in entries]), at)
    fitted_s = time.monotonic() - started_s
    texts = []
    for name in ("test", *EVALS):
        rows, raw = read_logits(activations, sets, name)
        single = sets[at].calibrated(raw[:, at])
        found = {"single": measured(raw[:, at], single, None, rows)}
        for method, ensemble in ensembles.items():
            found[method] = measured(ensemble.combine(raw), ensemble.probabilities(raw), raw[:, at], rows)
        texts.append({"name": name, "n": len(rows.labels), "methods": found})
    cost = {"single": [layers[at]]} | {m: [layers[j] for j in e.members] for m, e in ensembles.items()}
    return {"best_layer": layers[at], "members": cost, "fit_s": round(fitted_s, 3), "texts": texts}


def page(document: dict[str, Any]) -> str:
    """The results as Markdown."""
    members = "; ".join(f"{TITLES[m]} {', '.join(map(str, found))}" for m, found in document["members"].items())
    lines = [
        "# Ensembles",
        "",
        "Written by `python -m bench.ensembles`; demo model (6 layers), CPU, float32. Probes of 1,400 generated texts;",
        "members, weights and calibration come from out-of-fold logits of those texts alone.",
        "",
        f"Layers read: {members}. All ensembles together are fitted in {document['fit_s']:.2f} s.",
        "",
        "| text | n | | AUC | 95 % | minus best layer | 95 % | p | accuracy | ECE |",
        "| --- | ---: | --- | ---: | --- | ---: | --- | ---: | ---: | ---: |",
    ]
    for text in document["texts"]:
        for method, e in text["methods"].items():
            head = f"| {text['name']} | {text['n']:,} " if method == "single" else "| | "
            minus = "" if "minus_best" not in e else f"{e['minus_best']:+.3f}"
            interval = "" if not minus else f"{e['minus_best_low']:+.3f} to {e['minus_best_high']:+.3f}"
            p = "" if not minus else "< .001" if e["minus_best_p"] < 0.001 else f"{e['minus_best_p']:.3f}"
            lines.append(
                f"{head}| {TITLES[method]} | {e['auc']:.3f} | {e['auc_low']:.3f}-{e['auc_high']:.3f} | {minus} | "
                f"{interval} | {p} | {e['accuracy']:.3f} | {e['ece']:.3f} |"
            )
    mean = {
        m: {k: np.mean([t["methods"][m][k] for t in document["texts"][1:]]) for k in ("auc", "accuracy", "ece")}
        for m in TITLES
    }
    lines += [
        "",
        "Mean over the sets of real text:",
        "",
        "| | AUC | accuracy | ECE |",
        "| --- | ---: | ---: | ---: |",
        *(f"| {TITLES[m]} | {v['auc']:.3f} | {v['accuracy']:.3f} | {v['ece']:.3f} |" for m, v in mean.items()),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where to keep the run; a folder that is deleted unless given")
    options = parser.parse_args()
    set_quiet(True)
    with tempfile.TemporaryDirectory() as folder:
        document = measure(options.out or Path(folder) / "run")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "ensembles.json").write_text(json.dumps(document, indent=2) + "\n")
    (RESULTS / "ensembles.md").write_text(page(document))
    print(page(document))


if __name__ == "__main__":
    main()
