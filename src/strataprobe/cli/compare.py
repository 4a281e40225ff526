"""strataprobe compare"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from strataprobe.cli import options as o
from strataprobe.cli.output import interval, number, print_json, print_table, print_wrapped

# which layer is best, and which cannot be told apart from it
_ALWAYS_SHOWN = ("C001", "C002")


def compare(
    probes: Annotated[list[Path], typer.Option("--probes", help="Folder that 'train' wrote.")],
    out: o.Out,
    activations: Annotated[
        list[Path] | None, typer.Option("--activations", help="Its activations; the folder beside it unless given.")
    ] = None,
    seed: o.Seed = 0,
    json: o.Json = False,
    quiet: o.Quiet = False,
    config: o.Config = None,
) -> None:
    """Compare the layers honestly: curve, control, baselines, the best layer, a figure and a report.

    Example: strataprobe compare --probes outputs/demo/probes --out outputs/demo
    """
    from strataprobe.compare.run import compare as compare_stage

    document = compare_stage(probes, out, activations=activations, seed=seed)
    if json:
        print_json(document)
        return
    print_comparison(document)
    print(f"report: {out / 'report.html'}")


def print_comparison(document: dict[str, Any]) -> None:
    """The table of layers, the baselines, and what was found."""
    rows = []
    for entry in document["layers"]:
        best = entry["layer"] == document["best_layer"] and entry["readout"] == document["primary_readout"]
        rows.append(
            [
                f"{entry['layer']}{' *' if best else ''}",
                str(entry["block_index"]),
                entry["readout"],
                number(entry["cv_auc"]),
                interval(entry["cv_auc_low"], entry["cv_auc_high"]),
                number(entry["test_auc"]),
                number(entry["test_accuracy"]),
                number(entry["control_auc"]),
            ]
        )
    columns = ["layer", "block", "readout", "cv AUC", "95 %", "test AUC", "accuracy", "control"]
    print_table("", columns, rows)
    print_table("", ["baseline", "cv AUC", "95 %", "test AUC"], _baseline_rows(document))
    for finding in document["findings"]:
        if finding["code"] in _ALWAYS_SHOWN or finding["level"] in ("warning", "error"):
            print_wrapped(f"{finding['code']} {finding['message']}")


def _baseline_rows(document: dict[str, Any]) -> list[list[str]]:
    """The best layer, where there is one, then the baselines that were measured; cross-validated where they are."""
    from strataprobe.compare.wording import best_entry

    best = best_entry(document)
    shown = [] if best is None else [(f"(best: layer {best['layer']})", best)]
    shown += [(name, b) for name, b in document["baselines"].items() if b["test_auc"] is not None]
    return [
        [name, number(e.get("cv_auc")), interval(e.get("cv_auc_low"), e.get("cv_auc_high")), number(e["test_auc"])]
        for name, e in shown
    ]
