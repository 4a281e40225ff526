"""How probes trained on generated text do on text that no generator of ours wrote, beside lexicon and TF-IDF.

    python -m bench.transfer [sentiment] [cognitive_actions] [written]

`sentiment`: probes of `strataprobe run sentiment --model demo` on labelled sets of real text, the layer chosen by
cross-validation on the generated texts alone. `cognitive_actions`: probes of the built-in writer's texts for 45 actions
on texts by a language model. `written`: probes trained on those texts themselves, by layer. The sets lie in the folder
that STRATAPROBE_DATA names. Writes bench/results/transfer.json and transfer.md, each part beside the others' last one.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import strataprobe as sp
from strataprobe.bagofwords import logits_against_rest, tfidf
from strataprobe.metrics import clustered_auc, macro_auc
from strataprobe.pipeline import RunOptions, run
from strataprobe.progress import set_quiet
from strataprobe.recipe import load_recipe

RESULTS = Path(__file__).parent / "results"
DATA = Path(os.environ.get("STRATAPROBE_DATA", "../shared/data"))
SETS = ("cad_imdb_pairs", "emobank__score", "tweeteval_sentiment", "uci_amazon", "uci_imdb", "uci_yelp")
WRITTEN = "brije/cognitive_actions_stratified_4500.jsonl"


def tfidf_logits(texts: list[str], labels: list[str], others: list[str], names: list[str]) -> np.ndarray:
    """Logits (n, C) on ``others`` of the bag-of-words classifier, one class against the rest."""
    X, other, _ = tfidf(texts, others)
    return logits_against_rest(X, np.array([names.index(label) for label in labels]), other, len(names))


def lexicon(texts: list[str]) -> np.ndarray:
    """VADER's compound value of each text."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyzer = SentimentIntensityAnalyzer()
    return np.array([analyzer.polarity_scores(text)["compound"] for text in texts])


def transfer_sentiment(folder: Path) -> dict[str, Any]:
    """AUC of the best layer, the lexicon and TF-IDF on each set."""
    document = run(RunOptions(recipe=load_recipe("sentiment"), model="demo", out=folder))
    probes = sp.MultiProbeInference(folder / "probes", "demo")
    trained = [r for r in sp.read_dataset(folder / "data").rows if r.split != "test"]
    rows = []
    for name in SETS:
        data = sp.read_dataset(DATA / "real_text" / f"{name}.jsonl")
        labelled = [r for r in data.rows if r.label is not None]
        y = np.array([r.label == "positive" for r in labelled], dtype=int)
        groups = np.array([r.group for r in labelled])
        texts = [r.text for r in labelled]
        fit_texts, fit_labels = [r.text for r in trained], [str(r.label) for r in trained]
        words = tfidf_logits(fit_texts, fit_labels, texts, ["negative", "positive"])[:, 1]
        found = sp.evaluate(probes, data)
        rows.append(
            {
                "set": name,
                "n": found["n"],
                "auc": found["auc"],
                "auc_low": found["auc_low"],
                "auc_high": found["auc_high"],
                "lexicon": float(clustered_auc(y, lexicon(texts), groups).auc[0]),
                "tfidf": float(clustered_auc(y, words, groups).auc[0]),
            }
        )
    audit = json.loads((folder / "data" / "audit.json").read_text())
    layer = next(e for e in document["comparison"]["layers"] if e["layer"] == document["best_layer"])
    return {
        "layer": document["best_layer"],
        "cv_auc": layer["cv_auc"],
        "test_auc": layer["test_auc"],
        "leak_auc": audit["leak"]["auc"],
        "baselines": document["comparison"]["baselines"],
        "sets": rows,
        "mean": {k: float(np.mean([r[k] for r in rows])) for k in ("auc", "lexicon", "tfidf")},
    }


def transfer_actions(folder: Path) -> dict[str, Any]:
    """Macro AUC of probes trained on the built-in writer's texts, on texts that a language model wrote."""
    recipe = load_recipe("cognitive_actions")
    document = run(RunOptions(recipe=recipe, model="demo", out=folder))
    data = sp.read_dataset(DATA / WRITTEN, recipe)
    trained = [r for r in sp.read_dataset(folder / "data").rows if r.split != "test"]
    y = np.array([recipe.class_names.index(str(r.label)) for r in data.rows])
    groups = np.array([r.group for r in data.rows])
    words = tfidf_logits(
        [r.text for r in trained], [str(r.label) for r in trained], [r.text for r in data.rows], recipe.class_names
    )
    found = sp.evaluate(sp.MultiProbeInference(folder / "probes", "demo"), data)
    layer = next(e for e in document["comparison"]["layers"] if e["layer"] == document["best_layer"])
    return {
        "layer": document["best_layer"],
        "cv_auc": layer["cv_auc"],
        "test_auc": layer["test_auc"],
        "n": found["n"],
        "auc": found["auc"],
        "auc_low": found["auc_low"],
        "auc_high": found["auc_high"],
        "tfidf": float(macro_auc(y, words[:, :, None], groups).auc[0]),
    }


def written_actions(folder: Path) -> dict[str, Any]:
    """Macro AUC by layer of probes trained on the texts that a language model wrote, beside TF-IDF on the same split."""
    recipe = load_recipe("cognitive_actions")
    document = run(RunOptions(recipe=recipe, model="demo", out=folder, data=DATA / WRITTEN))["comparison"]
    keys = ("layer", "block_index", "cv_auc", "cv_auc_low", "cv_auc_high", "test_auc", "test_auc_low", "test_auc_high")
    return {
        "n": document["n_texts"],
        "layers": [{key: entry[key] for key in keys} for entry in document["layers"]],
        "baselines": document["baselines"],
    }


def page(document: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["# Transfer", "", "Written by `python -m bench.transfer`; demo model, CPU, float32.", ""]
    if "sentiment" in document:
        found = document["sentiment"]
        lines += [
            "## Sentiment: trained on 1,400 texts of the built-in writer, judged on real text",
            "",
            f"Layer {found['layer']}, chosen by cross-validation on the generated texts (cv AUC {found['cv_auc']:.3f}, test "
            f"{found['test_auc']:.3f}; bag of words across groups {found['leak_auc']:.3f}).",
            "",
            "| set | n | probes | 95 % | lexicon (VADER) | TF-IDF of the same texts |",
            "| --- | ---: | ---: | --- | ---: | ---: |",
        ]
        lines += [
            f"| {r['set']} | {r['n']:,} | {r['auc']:.3f} | {r['auc_low']:.3f}-{r['auc_high']:.3f} | {r['lexicon']:.3f} | "
            f"{r['tfidf']:.3f} |"
            for r in found["sets"]
        ]
        mean = found["mean"]
        lines += [f"| **mean** | | **{mean['auc']:.3f}** | | {mean['lexicon']:.3f} | {mean['tfidf']:.3f} |", ""]
    if "cognitive_actions" in document:
        found = document["cognitive_actions"]
        lines += [
            "## 45 cognitive actions: trained on 4,500 texts of the built-in writer, judged on texts by a language model",
            "",
            f"Layer {found['layer']} (cv AUC {found['cv_auc']:.3f} on generated text): macro AUC {found['auc']:.3f} "
            f"({found['auc_low']:.3f}-{found['auc_high']:.3f}) on {found['n']:,} texts; TF-IDF of the same training texts "
            f"{found['tfidf']:.3f}.",
            "",
        ]
    if "written" in document:
        found = document["written"]
        lines += [
            "## 45 cognitive actions: trained and judged on texts by a language model",
            "",
            f"{sum(found['n'].values()):,} texts, mean readout, macro AUC one against rest.",
            "",
            "| layer | cv AUC | 95 % | test AUC | 95 % |",
            "| --- | ---: | --- | ---: | --- |",
        ]
        lines += [
            f"| {e['layer']} | {e['cv_auc']:.3f} | {e['cv_auc_low']:.3f}-{e['cv_auc_high']:.3f} | {e['test_auc']:.3f} | "
            f"{e['test_auc_low']:.3f}-{e['test_auc_high']:.3f} |"
            for e in found["layers"]
        ]
        for name, b in found["baselines"].items():
            if b["test_auc"] is not None:
                cv = f"{b['cv_auc']:.3f}" if b.get("cv_auc") is not None else ""
                lines.append(
                    f"| {name} | {cv} | | {b['test_auc']:.3f} | {b['test_auc_low']:.3f}-{b['test_auc_high']:.3f} |"
                )
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Measure the parts that are asked for, all of them unless named, and write the results."""
    parts = {"sentiment": transfer_sentiment, "cognitive_actions": transfer_actions, "written": written_actions}
    set_quiet(True)
    target = RESULTS / "transfer.json"
    document = json.loads(target.read_text()) if target.exists() else {}
    for name in sys.argv[1:] or list(parts):
        with tempfile.TemporaryDirectory() as folder:
            document[name] = parts[name](Path(folder) / "run")
    RESULTS.mkdir(exist_ok=True)
    target.write_text(json.dumps(document, indent=2) + "\n")
    (RESULTS / "transfer.md").write_text(page(document))
    print(page(document))


if __name__ == "__main__":
    main()
