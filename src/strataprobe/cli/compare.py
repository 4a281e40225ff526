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
    out: o.Out,
    probes: Annotated[
        list[Path] | None,
        typer.Option("--probes", help="Folder that 'train' wrote; several times to set recipes side by side."),
    ] = None,
    activations: Annotated[
        list[Path] | None,
        typer.Option(
            "--activations", help="Its activations, once for each --probes; the folder beside it unless given."
        ),
    ] = None,
    published: Annotated[
        list[Path] | None,
        typer.Option(
            "--published",
            help="Figures that others published, beside ours or alone: a .tsv of metrics by layer, or a folder of "
            "layer_K/aggregate_metrics.json; their layer is a block index.",
        ),
    ] = None,
    published_blocks: Annotated[
        int, typer.Option("--published-blocks", min=1, help="Blocks of the model of the published figures.")
    ] = 34,
    seed: o.Seed = 0,
    json: o.Json = False,
    quiet: o.Quiet = False,
    config: o.Config = None,
) -> None:
    """Compare the layers honestly: curve, control, baselines, the best layer, a figure and a report.

    Example: strataprobe compare --probes outputs/demo/probes --out outputs/demo
    """
    from strataprobe.compare.run import compare as compare_stage

    document = compare_stage(
        probes or [],
        out,
        activations=activations,
        seed=seed,
        published=published or [],
        published_blocks=published_blocks,
    )
    if json:
        print_json(document)
        return
    if "sets" in document:
        print_sets(document)
    else:
        print_comparison(document)
    print(f"report: {out / 'report.html'}")


def print_sets(document: dict[str, Any]) -> None:
    """Where each of several sets peaks, where the published curves do, and what was found."""
    side = document["side_by_side"]
    rows = [
        [
            c["name"],
            str(c["best_layer"] or "-"),
            str(c["n_layers"]),
            number(c["cv_auc"]),
            interval(c["cv_auc_low"], c["cv_auc_high"]),
            number(c["test_auc"]),
        ]
        for c in side["curves"]
    ]
    if rows:
        print_table("", ["set", "best layer", "of", _measure(side["curves"]), "95 %", "test AUC"], rows)
    theirs = [
        [p["name"], c["concept"], c["title"], str(c["best_block_index"]), str(c["best_layer"]), number(c["best_value"])]
        for p in side["published"]
        for c in p["curves"]
        if c["best_layer"] is not None
    ]
    if theirs:
        print_table("", ["published", "concept", "metric", "best block", "our layer", "value"], theirs)
    for finding in side["findings"]:
        print_wrapped(f"{finding['code']} {finding['message']}")


def print_comparison(document: dict[str, Any]) -> None:
    """The table of layers, the baselines, and what was found."""
    from strataprobe.compare.wording import curve_name

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
    measure = _measure([{"measured_in": curve_name(document)}])
    print_table("", ["layer", "block", "readout", measure, "95 %", "test AUC", "accuracy", "control"], rows)
    print_table("", ["baseline", measure, "95 %", "test AUC"], _baseline_rows(document))
    for finding in document["findings"]:
        if finding["code"] in _ALWAYS_SHOWN or finding["level"] in ("warning", "error"):
            print_wrapped(f"{finding['code']} {finding['message']}")


def _measure(curves: list[dict[str, Any]]) -> str:
    """The heading over AUCs of curves; some may be of cross-validation and some of the validation texts alone."""
    kinds = {"val" if curve["measured_in"] == "validation" else "cv" for curve in curves}
    return f"{'/'.join(sorted(kinds))} AUC"


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
