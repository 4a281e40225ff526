"""strataprobe train"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from strataprobe.cli import options as o
from strataprobe.cli.output import number, print_json, print_table

if TYPE_CHECKING:
    from strataprobe.store import Numbering


def train(
    activations: Annotated[Path, typer.Option("--activations", help="Folder that 'capture' wrote.")],
    out: o.Out,
    probe: Annotated[str, typer.Option("--probe", help="Probe family.")] = "logistic",
    layers: o.Layers = None,
    readout: Annotated[str | None, typer.Option("--readout", help="Only this readout; all unless given.")] = None,
    numbering: Annotated[
        str,
        typer.Option("--numbering", help="What the number in a file's name is: strataprobe (layer), brije (block)."),
    ] = "strataprobe",
    seed: o.Seed = 0,
    json: o.Json = False,
    quiet: o.Quiet = False,
    config: o.Config = None,
) -> None:
    """Train probes on every layer.

    Example: strataprobe train --activations outputs/demo/activations --out outputs/demo/probes
    """
    from strataprobe.errors import OptionError
    from strataprobe.probes.run import train as train_stage
    from strataprobe.store import ActivationFolder, parse_layers

    if numbering not in ("strataprobe", "brije"):
        raise OptionError(f"--numbering {numbering!r} is neither strataprobe nor brije.")
    counted = cast("Numbering", numbering)
    top = max(ActivationFolder.open(activations, counted).layers)
    chosen = None if layers is None else parse_layers(layers, top)
    manifest = train_stage(activations, out, probe=probe, layers=chosen, readout=readout, numbering=counted, seed=seed)
    if json:
        print_json({"out": str(out), **manifest.model_dump(mode="json")})
        return
    for name, by_layer in manifest.details["layers"].items():
        print_table(f"readout {name}", ["layer", "block", "cv AUC", "val AUC"], _rows(by_layer))
    print(f"probes in {out}")


def _rows(by_layer: dict[str, dict[str, Any]]) -> list[list[str]]:
    return [
        [k, str(int(k) - 1), number(by_layer[k]["cv_auc"]), number(by_layer[k]["val_auc"])]
        for k in sorted(by_layer, key=int)
    ]
