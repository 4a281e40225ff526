"""Benchmarks against named baselines, interleaved in one run, the results asserted to agree.

    make bench        # or: python -m bench.run

Writes bench/results/pipeline.json and pipeline.md: medians over the rounds and ratios, with the command and the machine.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from strataprobe.capture.memory import capture
from strataprobe.dataset import Text
from strataprobe.generate.run import generate
from strataprobe.manifest import library_versions
from strataprobe.models import LoadedModel, load_model
from strataprobe.probes.families.logistic import C_GRID
from strataprobe.probes.solver import LogisticPath, fit_logistic_path
from strataprobe.progress import set_quiet
from strataprobe.recipe import load_recipe

RESULTS = Path(__file__).parent / "results"
ROUNDS = 5


def texts(n_per_class: int, folder: Path) -> list[Text]:
    """Generated texts of both classes."""
    from strataprobe.dataset import read_dataset

    generate(load_recipe("sentiment"), folder, n_per_class=n_per_class)
    return read_dataset(folder).rows


def interleaved(jobs: dict[str, Callable[[], Any]], rounds: int = ROUNDS) -> tuple[dict[str, float], dict[str, Any]]:
    """Median seconds of each job over ``rounds`` rounds (one more to warm up), and each job's last result."""
    times_s: dict[str, list[float]] = {name: [] for name in jobs}
    results: dict[str, Any] = {}
    for turn in range(rounds + 1):
        for name, job in jobs.items():
            started_s = time.perf_counter()
            results[name] = job()
            if turn:
                times_s[name].append(time.perf_counter() - started_s)
    return {name: statistics.median(found) for name, found in times_s.items()}, results


def hidden_states(model: LoadedModel, strings: list[str], batch: int) -> dict[int, np.ndarray]:
    """The common way: ``output_hidden_states``, texts in file order, mean over each text's own tokens."""
    found: dict[int, list[np.ndarray]] = {k: [] for k in range(1, model.n_layers + 1)}
    for begin in range(0, len(strings), batch):
        encoded = model.tokenizer(
            strings[begin : begin + batch], return_tensors="pt", padding=True, return_special_tokens_mask=True
        )
        own = (encoded.pop("special_tokens_mask") == 0) & (encoded["attention_mask"] == 1)
        with torch.inference_mode():
            states = model.model(**encoded, output_hidden_states=True).hidden_states
        for k in found:
            mean = (states[k] * own[..., None]).sum(1) / own.sum(1, keepdim=True)
            found[k].append(mean.numpy())
    return {k: np.concatenate(rows) for k, rows in found.items()}


def bench_capture(rows: list[Text]) -> dict[str, Any]:
    """All six layers of the demo model: ours against ``output_hidden_states`` one text at a time, and 32 at a time."""
    model = load_model("demo")
    strings = [row.text for row in rows]
    jobs = {
        "strataprobe": lambda: capture(strings, model),
        "hidden_states, one text at a time": lambda: hidden_states(model, strings, 1),
        "hidden_states, batches of 32 in file order": lambda: hidden_states(model, strings, 32),
    }
    times_s, results = interleaved(jobs)
    ours = results.pop("strataprobe")
    for found in results.values():
        for k, theirs in found.items():
            norm = np.linalg.norm(theirs, axis=1)
            assert (np.linalg.norm(ours.layer(k) - theirs, axis=1) / norm).max() < 1e-5
    return {"what": f"{len(rows)} texts, demo model, 6 layers, mean", "seconds": times_s}


def bench_train(rows: list[Text]) -> dict[str, Any]:
    """One layer, ten values of C: ours (all at once, to the optimum) against scikit-learn, one fit at a time."""
    X = capture([row.text for row in rows], "demo", layers=3).layer(3)
    y = np.array([row.label == "positive" for row in rows], dtype=np.float64)
    Z = (X - X.mean(axis=0, dtype=np.float64)) / X.std(axis=0, dtype=np.float64)

    def reference(**how: Any) -> list[np.ndarray]:
        fits = (LogisticRegression(C=c, **how).fit(Z, y) for c in C_GRID)
        return [np.append(fit.coef_[0], fit.intercept_) for fit in fits]

    jobs: dict[str, Callable[[], Any]] = {
        "strataprobe": lambda: fit_logistic_path(X, y[:, None], C_GRID),
        "scikit-learn, newton-cholesky, tol 1e-12": lambda: reference(solver="newton-cholesky", tol=1e-12),
        "scikit-learn, default lbfgs, 1,000 iterations": lambda: reference(max_iter=1000),
    }
    times_s, results = interleaved(jobs)
    path: LogisticPath = results["strataprobe"]
    ours = path.logits(X)[:, :, 0].T
    gaps = {}
    for name, fits in results.items():
        if name != "strataprobe":
            theirs = np.stack([Z @ w[:-1] + w[-1] for w in fits])
            gaps[name] = float(np.abs(1 / (1 + np.exp(-ours)) - 1 / (1 + np.exp(-theirs))).max())
    assert gaps["scikit-learn, newton-cholesky, tol 1e-12"] < 1e-6
    return {"what": f"{len(rows)} x {X.shape[1]}, 10 values of C", "seconds": times_s, "largest probability gap": gaps}


def table(name: str, result: dict[str, Any]) -> str:
    """One benchmark as a Markdown table; ratios are to ours."""
    ours = result["seconds"]["strataprobe"]
    lines = [f"## {name}", "", f"{result['what']}; medians of {ROUNDS} interleaved rounds.", ""]
    lines += ["| how | seconds | times ours |", "| --- | ---: | ---: |"]
    lines += [f"| {how} | {s:.3f} | {s / ours:.1f} |" for how, s in result["seconds"].items()]
    gaps = result.get("largest probability gap", {})
    lines += ["", *(f"Largest difference in probability to {how}: {gap:.1e}." for how, gap in gaps.items())]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Run every benchmark and write the results."""
    import tempfile

    set_quiet(True)
    with tempfile.TemporaryDirectory() as folder:
        rows = texts(700, Path(folder) / "data")
    results = {"capture": bench_capture(rows[:256]), "train": bench_train(rows)}
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "threads": torch.get_num_threads()}
    document = {"command": "make bench", "machine": machine, "versions": library_versions(), "results": results}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "pipeline.json").write_text(json.dumps(document, indent=2) + "\n")
    where = f"Written by `make bench`: {machine['cores']} cores, {machine['machine']}, {machine['threads']} threads.\n"
    page = "\n".join(["# Benchmarks\n", where, *(table(name, found) for name, found in results.items())])
    (RESULTS / "pipeline.md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
