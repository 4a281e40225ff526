"""strataprobe train"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from strataprobe.cli import options as o
from strataprobe.cli.output import number, print_json, print_table
from strataprobe.probes.origin_options import STEPWISE
from strataprobe.progress import note

if TYPE_CHECKING:
    from strataprobe.manifest import Manifest
    from strataprobe.probes.calibration import CalibrationRule
    from strataprobe.store import ActivationFolder, Numbering

_CLASS_COLUMNS = {"cv AUC": "cv_auc", "val AUC": "val_auc"}
_VALUE_COLUMNS = {"cv R2": "cv_r2", "cv Spearman": "cv_spearman", "val R2": "val_r2", "val Spearman": "val_spearman"}

# Options that decide how a new probe is fitted, with their defaults.
_NOT_ADAPTED = {
    "probe": "logistic",
    "cs": None,
    "class_weight": "none",
    "target": None,
    "device": "auto",
    **dict.fromkeys(STEPWISE),
}


def train(
    context: typer.Context,
    activations: Annotated[
        list[Path],
        typer.Option("--activations", help="Folder that 'capture' wrote; for --probe joint one a recipe."),
    ],
    out: o.Out,
    probe: o.Probe = "logistic",
    layers: o.Layers = None,
    readout: Annotated[str | None, typer.Option("--readout", help="Only this readout; all unless given.")] = None,
    adapted_from: Annotated[
        Path | None, typer.Option("--from", help="Adapt these probes to the new activations instead.")
    ] = None,
    folds: o.Folds = 5,
    cs: o.Cs = None,
    class_weight: o.ClassWeight = "none",
    target: o.Target = None,
    epochs: o.Epochs = None,
    learning_rate: o.LearningRate = None,
    weight_decay: o.WeightDecay = None,
    batch_size: o.TrainBatchSize = None,
    early_stopping_patience: o.EarlyStoppingPatience = None,
    fpr: o.Fpr = None,
    calibration: o.CalibrationMethod = "platt",
    device: o.Device = "auto",
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
    given = dict(locals())
    from strataprobe.errors import OptionError
    from strataprobe.probes.calibration import CalibrationRule
    from strataprobe.store import ActivationFolder, parse_layers

    o.say_answers(context)
    if numbering not in ("strataprobe", "brije"):
        raise OptionError(f"--numbering {numbering!r} is neither strataprobe nor brije.")
    folder = ActivationFolder.open(activations[0], cast("Numbering", numbering))
    chosen = None if layers is None else parse_layers(layers, max(folder.layers))
    rule = CalibrationRule(calibration, fpr)
    if adapted_from is not None:
        _adapt(given, chosen, rule)
        return
    options = o.train_options(given)
    if probe == "joint":
        manifests = _train_jointly(given, chosen, options, rule)
    else:
        manifests = {"": _train_one(given, folder, chosen, options, rule)}
    _print_all(manifests, out, json)


def _train_one(
    given: dict[str, Any],
    folder: ActivationFolder,
    layers: list[int] | None,
    options: dict[str, Any],
    rule: CalibrationRule,
) -> Manifest:
    from strataprobe.errors import OptionError
    from strataprobe.probes.families import get_family
    from strataprobe.probes.run import train as train_stage

    if len(given["activations"]) > 1:
        raise OptionError(f"--probe {given['probe']} takes one --activations folder; only joint takes several.")
    if given["probe"] == "multihead":
        _say_how_long(folder, get_family("multihead", options), layers, given["readout"], given["folds"])
    names = ("activations", "out", "probe", "readout", "numbering", "seed", "folds", "device")
    taken = {name: given[name] for name in names} | {"activations": given["activations"][0]}
    return train_stage(**taken, layers=layers, options=options, calibration=rule)


def _train_jointly(
    given: dict[str, Any], layers: list[int] | None, options: dict[str, Any], rule: CalibrationRule
) -> dict[str, Manifest]:
    from strataprobe.probes.joint import train_joint

    taken = {name: given[name] for name in ("out", "readout", "numbering", "seed", "folds")}
    return train_joint(given["activations"], **taken, layers=layers, options=options, calibration=rule)


def _adapt(given: dict[str, Any], layers: list[int] | None, rule: CalibrationRule) -> None:
    from strataprobe.cli.adapted import print_adaptation
    from strataprobe.errors import OptionError
    from strataprobe.probes.adapt import adapt

    if len(given["activations"]) > 1:
        raise OptionError("--from takes one --activations folder: adapt to one kind of text at a time.")
    if given["numbering"] != "strataprobe":
        raise OptionError("--from reads activations of ours, whose file number is the layer: leave --numbering out.")
    if unused := [name for name, default in _NOT_ADAPTED.items() if given[name] != default]:
        note(f"--from: how far to adapt is chosen by cross-validation: no {', '.join(unused)} needed; ignored.")
    taken = {name: given[name] for name in ("out", "readout", "seed", "folds")}
    source, new = given["adapted_from"], given["activations"][0]
    manifest = adapt(source, new, **taken, layers=layers, calibration=rule)
    if given["json"]:
        print_json({"out": str(given["out"]), **manifest.model_dump(mode="json")})
        return
    print_adaptation(manifest)
    print(f"probes in {given['out']}")


def _print_all(manifests: dict[str, Manifest], out: Path, json: bool) -> None:
    """What was trained, by recipe where it was several; a single training has the name ""."""
    if json:
        documents = {name: {"out": str(out / name), **m.model_dump(mode="json")} for name, m in manifests.items()}
        print_json(documents.get("", {"recipes": documents}))
        return
    for name, manifest in manifests.items():
        print_training(manifest, name)
        print(f"probes in {out / name}")


def _say_how_long(
    folder: ActivationFolder, fitter: Any, layers: list[int] | None, readout: str | None, folds: int
) -> None:
    """Note how long networks will take, since they take longer than anything else."""
    from strataprobe.probes.parallel import workers_for

    n_layers = len([k for k in folder.layers if k >= 1] if layers is None else layers)
    n_networks = n_layers * (1 if readout else len(folder.readouts)) * (folds + 1)
    n_rows, n_columns = folder.n_entries // folder.d_model, max(1, len(folder.class_names))
    one_s = fitter.expected_s(n_rows, folder.d_model, 1 if n_columns == 2 else n_columns)
    shorter = "" if folds == 0 else f"; --folds 0 leaves out the cross-validation and takes 1/{folds + 1} of it"
    all_s = one_s * n_networks / workers_for(folder.n_entries)
    time = f"{max(all_s, 1):.0f} s" if all_s < 60 else f"{all_s / 60:,.1f} minutes"
    note(f"multihead: networks to train: {n_networks:,}, about {time}{shorter}.")


def print_training(manifest: Manifest, name: str) -> None:
    """A table for each readout: how well each layer does on rows left out, C, and whether every fit converged."""
    for readout, by_layer in manifest.details["layers"].items():
        of_values = "cv_r2" in next(iter(by_layer.values()))
        measured = _VALUE_COLUMNS if of_values else _CLASS_COLUMNS
        if not manifest.details["n_folds"]:  # nothing was cross-validated, and cv is that of val
            measured = {name: key for name, key in measured.items() if name.startswith("val")}
        rows = [
            [k, str(int(k) - 1), *(number(entry[key]) for key in measured.values()), _cs(entry), _converged(entry)]
            for k, entry in sorted(by_layer.items(), key=lambda item: int(item[0]))
        ]
        title = f"{name}, readout {readout}" if name else f"readout {readout}"
        print_table(title, ["layer", "block", *measured, "C", "converged"], rows)


def _cs(entry: dict[str, Any]) -> str:
    """The C of the classes, from the lowest to the highest; "-" where the family has none."""
    values = entry.get("C")
    values = values.values() if isinstance(values, dict) else [values]
    found = sorted({float(c) for c in values if isinstance(c, int | float)})
    if not found:
        return "-"
    return f"{found[0]:.2g}" if len(found) == 1 else f"{found[0]:.2g} to {found[-1]:.2g}"


def _converged(entry: dict[str, Any]) -> str:
    return "yes" if entry.get("converged", True) else "no"
