"""strataprobe calibrate"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from strataprobe.cli import options as o
from strataprobe.cli.output import number, print_json, print_table, print_wrapped


def calibrate(
    probes: Annotated[Path, typer.Option("--probes", help="Folder that 'train' wrote.")],
    model: o.Model,
    data: Annotated[Path, typer.Option("--data", help="File of labelled texts.")],
    fpr: Annotated[
        float | None,
        typer.Option("--fpr", help="False-positive rate a threshold may have, such as 0.01; the best F1 unless given."),
    ] = None,
    calibration: Annotated[str, typer.Option("--calibration", help="platt or temperature.")] = "platt",
    layer: Annotated[int | None, typer.Option("--layer", help="Only this layer; all unless given.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write a copy here; the folder itself is changed unless given.")
    ] = None,
    dtype: o.Dtype = "auto",
    device: o.Device = "auto",
    json: o.Json = False,
    quiet: o.Quiet = False,
    config: o.Config = None,
) -> None:
    """Calibrate probabilities and choose thresholds again on new labelled text; the probes are not trained again.

    Example: strataprobe calibrate --probes outputs/demo/probes --model demo --data reviews.jsonl --fpr 0.01
    """
    from strataprobe.predict.recalibrate import recalibrate, summary_rows
    from strataprobe.probes.calibration import CalibrationRule

    rule = CalibrationRule(calibration, fpr)
    document = recalibrate(probes, model, data, rule=rule, layer=layer, out=out, dtype=dtype, device=device)
    if json:
        print_json(document)
        return
    rows = summary_rows(document)
    for readout in dict.fromkeys(r["readout"] for r in rows):
        table = [
            [str(r["layer"]), r["class"], *(_change(r, key) for key in ("ece", "threshold", "fpr", "recall"))]
            for r in rows
            if r["readout"] == readout
        ]
        columns = ["layer", "class", "ECE", "threshold", "FPR", "recall"]
        print_table(f"{data.name}, readout {readout}: before > after", columns, table)
    for caveat in _caveats(document):
        print_wrapped(caveat)
    print(f"{document['n']:,} texts with a label, {document['n_skipped']:,} without were skipped")
    print(f"probes in {document['probes']}; after: on rows left out in cross-validation")


def _change(row: dict[str, Any], key: str) -> str:
    return f"{number(row['before'][key])} > {number(row['after'][key])}"


def _caveats(document: dict[str, Any]) -> list[str]:
    """Each caveat once, with the classes it is of."""
    found: dict[str, list[str]] = {}
    for entry in document["layers"]:
        for name, values in entry["classes"].items():
            if values["caveat"] and name not in found.setdefault(values["caveat"], []):
                found[values["caveat"]].append(name)
    return [f"{', '.join(names)}: {caveat}" for caveat, names in found.items()]
