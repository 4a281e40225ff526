"""Seconds and memory to fit 45 classes on 34 layers of 31,500 texts x 2,560, one value of C: 1,530 probes.

    python -m bench.train.large                             # the origin: 14.8 hours on a GPU for 1,350
    python -m bench.train.large --layers 2
    python -m bench.train.large --device cuda

Layers are made up one at a time from a seed, outside the time. Writes bench/results/train_large.json and train_large.md,
with ``--device cuda`` train_large_cuda.json and train_large_cuda.md.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from bench.capture.device import machine, synchronize
from bench.train.streams import Stream, make_stream
from strataprobe.manifest import library_versions
from strataprobe.probes.solver import LogisticProblem

RESULTS = Path(__file__).parent.parent / "results"
N_CLASSES, N_TEXTS, N_FRESH = 45, 31_500, 4_500
# Two classes so far apart could be told apart with this AUC; probes of one against the rest do less well.
BAYES_AUC = 0.9995
ALLOWED_S, ALLOWED_GIB = {"cpu": 600.0, "cuda": 60.0}, 8.0
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def one_layer(stream: Stream, layer: int, norm: float, n_texts: int, C: float, device: torch.device) -> dict[str, Any]:
    """Fit every class of one layer, from float32 rows in memory to weights and biases on raw activations."""
    labels, fresh = np.arange(n_texts) % N_CLASSES, np.arange(N_FRESH) % N_CLASSES
    X = stream.rows(labels, layer, norm)
    Y = (labels[:, None] == np.arange(N_CLASSES)).astype(np.float64)
    synchronize(device)
    started_s = time.perf_counter()
    problem = LogisticProblem(X, device=device)
    synchronize(device)
    decomposed_s = time.perf_counter()
    path = problem.solve(Y, [C])
    synchronize(device)
    solved_s = time.perf_counter()
    del X, Y, problem
    logits = path.logits(stream.rows(fresh, layer, norm, part=1))[:, 0]
    aucs = [roc_auc_score(fresh == c, logits[:, c]) for c in range(N_CLASSES)]
    assert path.converged.all(), f"layer {layer}: {(~path.converged).sum()} of {N_CLASSES} did not converge"
    return {
        "layer": layer,
        "decomposing_s": round(decomposed_s - started_s, 3),
        "solving_s": round(solved_s - decomposed_s, 3),
        "newton_steps": path.n_iterations,
        "mean_auc": round(float(np.mean(aucs)), 4),
    }


def page(document: dict[str, Any]) -> str:
    """The results as Markdown."""
    where, chosen, found = document["machine"], document["chosen"], document["found"]
    lines = [
        "# 45 classes on every layer",
        "",
        f"Written by `{document['command']}`: {where['device']}, {where['cores']} cores, {where['machine']}, "
        f"{where['threads']} threads, torch {document['versions']['torch']}.",
        "",
        f"{chosen['layers']} layers x {chosen['texts']:,} texts x {chosen['width']:,}, {N_CLASSES} classes against the "
        f"rest, C = {chosen['C']:g}: {found['n_probes']:,} probes in {found['seconds']:.1f} s "
        f"({found['seconds_of_34_layers']:.0f} s for 34 layers; under {found['allowed_s']:.0f} is wanted), peak resident "
        f"memory {found['peak_resident_gib']:.2f} GiB (under {ALLOWED_GIB:.0f} is wanted){_device_peak(found)}. The origin "
        "took 53,337 s on a GPU for 1,350 probes, one setting each. All converged; AUC on fresh texts, mean over classes, "
        f"{min(e['mean_auc'] for e in found['layers']):.3f} to {max(e['mean_auc'] for e in found['layers']):.3f}.",
        "",
        "| part | seconds a layer, median |",
        "| --- | ---: |",
        *(
            f"| {name} | {np.median([e[key] for e in found['layers']]):.2f} |"
            for name, key in (("standardising, decomposing", "decomposing_s"), ("solving", "solving_s"))
        ),
    ]
    return "\n".join(lines) + "\n"


def _device_peak(found: dict[str, Any]) -> str:
    return f", {found['peak_device_gib']:.2f} GiB on the device" if "peak_device_gib" in found else ""


def main() -> None:
    """Fit the layers and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=34)
    parser.add_argument("--texts", type=int, default=N_TEXTS)
    parser.add_argument("--width", type=int, default=2560)
    parser.add_argument("--C", type=float, default=0.01)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    device = torch.device(chosen.device)
    torch.set_num_threads(chosen.threads)
    stream = make_stream("stream", chosen.width, auc=BAYES_AUC, n_classes=N_CLASSES)
    layers = []
    for layer, norm in enumerate(np.geomspace(50, 50_000, chosen.layers), start=1):
        layers.append(one_layer(stream, layer, float(norm), chosen.texts, chosen.C, device))
        print(layers[-1], file=sys.stderr, flush=True)
    seconds = sum(e["decomposing_s"] + e["solving_s"] for e in layers)
    found: dict[str, Any] = {
        "n_probes": N_CLASSES * chosen.layers,
        "seconds": round(seconds, 1),
        "seconds_of_34_layers": round(seconds / chosen.layers * 34, 1),
        "allowed_s": ALLOWED_S[device.type],
        "peak_resident_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT / 2**30, 3),
        "layers": layers,
    }
    if device.type == "cuda":
        found["peak_device_gib"] = round(torch.cuda.max_memory_allocated(device) / 2**30, 2)
    document = {
        "command": " ".join(["python -m bench.train.large", *sys.argv[1:]]),
        "machine": machine(device),
        "versions": library_versions(),
        "chosen": vars(chosen),
        "found": found,
    }
    name = "train_large" if device.type == "cpu" else f"train_large_{device.type}"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")
    (RESULTS / f"{name}.md").write_text(page(document))
    print(page(document))


if __name__ == "__main__":
    main()
