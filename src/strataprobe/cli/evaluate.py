"""strataprobe evaluate"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from strataprobe.cli import options as o
from strataprobe.cli.output import interval, number, print_json, print_table
from strataprobe.progress import note

_VALUE_ROWS = {
    "r2": "R2",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "mae": "mean absolute error",
    "concordance": "concordance",
}


def evaluate(
    probes: o.ProbesDir,
    data: Annotated[Path, typer.Option("--data", help="File of labelled texts.")],
    model: Annotated[str | None, typer.Option("--model", help="Model id, local folder, or 'demo'.")] = None,
    layer: o.Layer = None,
    dtype: o.Dtype = "auto",
    device: o.Device = "auto",
    json: o.Json = False,
    quiet: o.Quiet = False,
    config: o.Config = None,
) -> None:
    """How good the probes are on labelled text from elsewhere: AUC with a 95 % interval, accuracy.

    Of probes that give a value: R2, correlations, mean absolute error and concordance, on rows with a 'score'.

    Example: strataprobe evaluate --probes outputs/demo/probes --model demo --data reviews.jsonl
    """
    from strataprobe.predict.evaluate import evaluate as evaluate_probes
    from strataprobe.predict.inference import MultiProbeInference

    inference = MultiProbeInference(probes, model, layer, dtype=dtype, device=device)
    if layer is None:
        note(f"layer {inference.layer} (auto: {inference.source.best_reason})")
    result = evaluate_probes(inference, data)
    if json:
        print_json(result)
        return
    if "r2" in result:
        _print_values(data.name, result)
        return
    all_classes = {"all": result} | result.get("classes", {})
    rows = [
        [name, number(r["auc"]), interval(r["auc_low"], r["auc_high"]), number(r.get("accuracy"))]
        for name, r in all_classes.items()
    ]
    print_table(f"{data.name}, layer {result['layer']}", ["class", "AUC", "95 %", "accuracy"], rows)
    print(f"{result['n']:,} texts with a label, {result['n_skipped']:,} without were skipped")


def _print_values(name: str, result: dict[str, Any]) -> None:
    rows = [
        [called, number(result[key]), interval(result[f"{key}_low"], result[f"{key}_high"])]
        for key, called in _VALUE_ROWS.items()
    ]
    print_table(f"{name}, layer {result['layer']}", ["measure", "value", "95 %"], rows)
    print(f"{result['n']:,} texts with a score, {result['n_skipped']:,} without were skipped")
