"""Seconds to train and compare 34 layers x 1,400 texts x 2,560, with and without cross-validation, and where they go.

    python -m bench.train.job                               # writes 500 MB of activations into a temporary folder
    python -m bench.train.job --layers 2 --width 256        # does it work

The whole stages, from activation files to probe files, and from both to comparison.json, figure and report. Writes
bench/results/train_job.json and train_job.md.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.capture.device import machine
from bench.capture.timers import Timers
from bench.train.streams import make_stream
from strataprobe.compare.run import compare
from strataprobe.layerfile import write_layer_file
from strataprobe.manifest import Manifest, library_versions, record_files, write_manifest
from strataprobe.probes.run import train
from strataprobe.progress import set_quiet
from strataprobe.store import TEXTS_NAME, layer_file_name

RESULTS = Path(__file__).parent.parent / "results"
CLASSES = ("negative", "positive")
N_PER_CLASS = 700
SPLITS = {"train": 0.7, "val": 0.85, "test": 1.0}
ALLOWED_S = {5: 60.0, 0: 15.0}
# So far apart that probes of 980 texts reach a test AUC of about .95 in 2,560 features.
BAYES_AUC = 0.999
TRAIN_POINTS = {
    "reading activations": ("strataprobe.probes.tasks:read_splits",),
    "ten values of C on the training rows, the choice": ("strataprobe.probes.families.logistic:Logistic.fit",),
    "cross-validation, C chosen inside": ("strataprobe.probes.layerfit:cross_validate",),
    "calibration, thresholds, test figures": ("strataprobe.probes.layerfit:measured",),
    "of all these, decompositions": ("strataprobe.probes.solver:LogisticProblem.__init__",),
    "of all these, solving": ("strataprobe.probes.solver:LogisticProblem._solve",),
    "writing probes": ("strataprobe.probes.run:_assemble",),
    "checksums, manifest": ("strataprobe.stagefolder:StageFolder.commit",),
}
COMPARE_POINTS = {
    "reading activations": ("strataprobe.store:ActivationFolder.read",),
    "shuffled-label controls": ("strataprobe.compare.layers:train_controls",),
    "test figures with intervals": ("strataprobe.compare.layers:layer_measures",),
    "probes on other layers": ("strataprobe.compare.layers:transfer_column",),
    "baselines": ("strataprobe.compare.document:measure_baselines",),
    "learning curve": ("strataprobe.compare.document:learning_entry",),
    "ensembles": ("strataprobe.compare.document:ensemble_entries",),
    "figure": ("strataprobe.compare.run:layer_comparison_png",),
    "report": ("strataprobe.compare.run:report_html",),
}


def write_activations(folder: Path, n_layers: int, width: int) -> None:
    """Layers 0 to ``n_layers``, norms from 50 to 50,000; two classes, a pair of texts a group, words that leak a little."""
    folder.mkdir()
    labels = np.arange(2 * N_PER_CLASS) % 2
    pair = np.arange(2 * N_PER_CLASS) // 2
    split = np.array(list(SPLITS))[np.searchsorted(list(SPLITS.values()), (pair + 0.5) / N_PER_CLASS)]
    attrs = {
        "model_name": "made up",
        "label_names": list(CLASSES),
        "readouts": ["last"],
        "suffix": "\n\nThe sentiment of this section is",
        "recipe_name": "sentiment",
    }
    stream = make_stream("stream", width, auc=BAYES_AUC)
    for layer, norm in enumerate(np.geomspace(50, 50_000, n_layers + 1)):
        rows = stream.rows(labels, layer, float(norm))
        parts = {
            name: {
                "activations": {"last" if layer else "mean": rows[split == name]},
                "labels": labels[split == name],
                "ids": [f"text-{i:04d}" for i in np.flatnonzero(split == name)],
                "groups": [f"pair-{i:04d}" for i in pair[split == name]],
            }
            for name in SPLITS
        }
        own = attrs if layer else {**attrs, "readouts": ["mean"]}
        write_layer_file(folder / layer_file_name(layer), splits=parts, attrs={**own, "layer": layer})
    rng = np.random.default_rng(0)
    words = np.array([f"word{i}" for i in range(3000)])
    with (folder / TEXTS_NAME).open("w") as file:
        for i, label in enumerate(labels):
            chosen = words[(rng.zipf(1.3, 20) + 3 * label * (rng.random(20) < 0.2)) % len(words)]
            row = {
                "id": f"text-{i:04d}",
                "text": " ".join(chosen),
                "label": CLASSES[label],
                "n_tokens": 20,
            }
            file.write(json.dumps({**row, "split": str(split[i]), "group": f"pair-{pair[i]:04d}"}) + "\n")
    write_manifest(folder, Manifest(stage="capture", config={}, files=record_files(folder)))


def phases(timers: Timers, whole_s: float) -> dict[str, dict[str, float]]:
    """Seconds on the main thread and, summed, on those that worked on layers."""
    found = {
        name: {"seconds": round(timers.here_s[name], 3), "in_threads_s": round(timers.beside_s[name], 3)}
        for name in timers.here_s
    }
    return {**found, "whole stage": {"seconds": round(whole_s, 3), "in_threads_s": 0.0}}


def one_job(activations: Path, out: Path, folds: int) -> dict[str, Any]:
    """Train and compare once."""
    started_s = time.perf_counter()
    with Timers(TRAIN_POINTS) as training:
        train(activations, out / "probes", folds=folds)
    trained_s = time.perf_counter()
    with Timers(COMPARE_POINTS) as comparing:
        document = compare([out / "probes"], out, activations=[activations])
    done_s = time.perf_counter()
    best: dict[str, Any] = next((e for e in document["layers"] if e["layer"] == document["best_layer"]), {})
    return {
        "seconds": round(done_s - started_s, 2),
        "allowed_s": ALLOWED_S[folds],
        "train": phases(training, trained_s - started_s),
        "compare": phases(comparing, done_s - trained_s),
        "best_layer": document["best_layer"],
        "test_auc": best.get("test_auc"),
        "peak_resident_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT / 1e6),
    }


_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def page(document: dict[str, Any]) -> str:
    """The results as Markdown."""
    chosen, where = document["chosen"], document["machine"]
    lines = [
        "# Training and comparing every layer",
        "",
        f"Written by `{document['command']}`: {where['cores']} cores, {where['machine']}, OMP_WAIT_POLICY "
        f"{where['OMP_WAIT_POLICY']}, torch {document['versions']['torch']}. {chosen['layers']} layers x "
        f"{2 * N_PER_CLASS:,} texts x {chosen['width']:,}, ten values of C, from activation files to probe files, "
        "comparison.json, figure and report. Layers are worked on side by side: seconds in "
        "threads are summed over them. Imports are in the parts that need them first.",
    ]
    for folds, job in document["jobs"].items():
        how = f"{folds}-fold cross-validation" if folds != "0" else "no cross-validation"
        lines += [
            "",
            f"## With {how}: {job['seconds']:.1f} s (under {job['allowed_s']:.0f} is wanted)",
            "",
            f"Best layer {job['best_layer']}, test AUC {job['test_auc']}; peak resident memory so far "
            f"{job['peak_resident_mb']:,} MB.",
            "",
            "| stage | part | seconds | seconds in threads |",
            "| --- | --- | ---: | ---: |",
        ]
        for stage in ("train", "compare"):
            lines += [
                f"| {stage} | {name} | {part['seconds']:.2f} | {part['in_threads_s']:.2f} |"
                for name, part in job[stage].items()
            ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run both jobs and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=34)
    parser.add_argument("--width", type=int, default=2560)
    chosen = parser.parse_args()
    set_quiet(True)
    jobs = {}
    with tempfile.TemporaryDirectory() as made:
        write_activations(Path(made) / "activations", chosen.layers, chosen.width)
        for folds in ALLOWED_S:
            jobs[str(folds)] = one_job(Path(made) / "activations", Path(made) / f"folds_{folds}", folds)
            print(f"{folds} folds: {jobs[str(folds)]['seconds']} s", file=sys.stderr, flush=True)
    document = {
        "command": " ".join(["python -m bench.train.job", *sys.argv[1:]]),
        "machine": machine(torch.device("cpu")),
        "versions": library_versions(),
        "chosen": vars(chosen),
        "jobs": jobs,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "train_job.json").write_text(json.dumps(document, indent=2) + "\n")
    (RESULTS / "train_job.md").write_text(page(document))
    print(page(document))


if __name__ == "__main__":
    main()
