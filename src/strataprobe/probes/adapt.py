"""Probes adapted to text of another kind, from a few labelled rows of it: ``train --from``; see ``adaptfit``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from strataprobe.errors import OptionError, ProbeError, StageError
from strataprobe.manifest import Manifest
from strataprobe.probes.adapttask import AdaptTask
from strataprobe.probes.calibration import DEFAULT_RULE, CalibrationRule
from strataprobe.probes.crossval import N_FOLDS
from strataprobe.probes.files import TrainedProbes, load_probes
from strataprobe.probes.probe import REGRESSION
from strataprobe.probes.run import train_task
from strataprobe.progress import note
from strataprobe.store import ActivationFolder, span

ADAPTED = "adapted"
_READ_ALIKE = ("model_revision", "prefix", "suffix", "template")


def adapt(
    probes: str | Path,
    activations: str | Path,
    out: str | Path,
    *,
    layers: Sequence[int] | None = None,
    readout: str | None = None,
    seed: int = 0,
    folds: int = N_FOLDS,
    calibration: CalibrationRule | None = None,
) -> Manifest:
    """Adapt the probes of the folder ``probes`` to the labelled train and val rows of ``activations``, into ``out``.

    Each layer, readout and class that both have starts from the old probe and moves as far as cross-validation in
    ``folds`` folds over groups speaks for, on ten rows hardly. ``out`` is an ordinary probes folder. Its manifest has
    in ``details["layers"][readout][layer]["adapted"]`` AUC, accuracy and ECE ``before`` and ``after`` on the ``new`` test
    rows and on the ``old`` ones, those of the folder ``activations`` beside ``probes``; where rows are lacking,
    ``skipped`` says why. Without test rows the new ones are measured on the rows left out in cross-validation.

    Raises ProbeError for probes that are not linear or of other classes, model, width or suffix than ``activations``;
    OptionError for a layer or readout that one of them lacks, and for fewer than two folds; DataError when a class has
    fewer than two groups; StageError when a folder cannot be read or ``out`` holds something else.
    """
    started_s = time.monotonic()
    trained, new = load_probes(probes), ActivationFolder.open(activations)
    if folds < 2:
        raise OptionError(f"{folds} folds cannot tell how far to adapt: give 2 or more.")
    _check_fit(trained, new, Path(probes))
    chosen, readouts = _shared(trained, new, layers, readout)
    rule = DEFAULT_RULE if calibration is None else calibration
    old, lacking = _beside(Path(probes), trained, chosen)
    if lacking:
        note(f"adapt: the old domain is not measured: {lacking}")
    if any((r, k) not in trained.scales for r in readouts for k in chosen):
        note(f"adapt: {probes} does not hold its features' deviations, those of the new rows are taken instead")
    config: dict[str, Any] = {
        "probe": ADAPTED,
        "adapted_from": trained.manifest.files_sha256,
        "layers": chosen,
        "readouts": readouts,
        "numbering": "strataprobe",
        "seed": seed,
        "n_folds": folds,
    }
    if rule != DEFAULT_RULE:
        config["calibration"] = rule.to_json()
    return train_task(AdaptTask(trained, new, old, lacking, seed, folds, rule), new, out, config, started_s)


def _check_fit(trained: TrainedProbes, new: ActivationFolder, path: Path) -> None:
    """Raise ProbeError unless the probes can be applied to these activations and learn from their labels."""
    first = next(iter(trained.sets.values()))
    if first.first.kind == REGRESSION:
        raise ProbeError(f"the probes of {path} give values, and only those of classes are adapted: train new ones.")
    if first.network is not None:
        raise ProbeError(f"the probes of {path} are not linear classifiers: adapt logistic or mass-mean ones.")
    if first.width != new.d_model:
        raise ProbeError(f"the probes of {path} are {first.width} wide and {new.path} is {new.d_model} wide.")
    if trained.class_names != new.class_names:
        raise ProbeError(
            f"{new.path} has the classes {', '.join(new.class_names)} and the probes of {path} "
            f"{', '.join(trained.class_names)}: adapt with labels of the same names."
        )
    for key in _READ_ALIKE:
        mine, theirs = trained.info[key], new.info[key]
        if mine != theirs and (mine and theirs if key == "model_revision" else True):
            raise ProbeError(
                f"the probes of {path} have the {key.replace('_', ' ')} {mine!r} and {new.path} {theirs!r}: capture the "
                "new text as the old one was."
            )


def _shared(
    trained: TrainedProbes, new: ActivationFolder, layers: Sequence[int] | None, readout: str | None
) -> tuple[list[int], list[str]]:
    """Layers and readouts that both have, or those asked for. Raises OptionError when one of these is lacking."""
    there = sorted(set(trained.layers) & set(new.layers) - {0})
    missing = sorted(set(layers or []) - set(there))
    if missing or not there:
        raise OptionError(
            f"layer {missing[0] if missing else 'list'} cannot be adapted: probes and activations share {span(there)}."
        )
    readouts = [name for name in trained.readouts if name in new.readouts]
    if readout is not None and readout not in readouts:
        raise OptionError(f"readout {readout!r} cannot be adapted: probes and activations share {', '.join(readouts)}.")
    if not readouts:
        raise OptionError(f"{new.path} has none of the probes' readouts ({', '.join(trained.readouts)}): capture one.")
    return sorted(set(layers)) if layers else there, readouts if readout is None else [readout]


def _beside(path: Path, trained: TrainedProbes, layers: Sequence[int]) -> tuple[ActivationFolder | None, str]:
    """The activations the probes were trained on, if they lie beside them; else why there are none."""
    place = path.resolve().parent / "activations"
    try:
        folder = ActivationFolder.open(place, trained.manifest.config.get("numbering", "strataprobe"))
    except StageError:
        return None, f"{path} has no activations beside it."
    for layer in layers:
        recorded = trained.manifest.inputs.get(folder.file(layer).name) if layer in folder.layers else None
        if recorded is None or recorded != folder.file_sha256(layer):
            return None, f"the activations beside {path} are not those it was trained on."
    return folder, ""
