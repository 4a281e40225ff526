"""The train stage: an activations folder in, a probes folder out; every layer and readout in one call.

A rerun after an interruption skips the layers that were done, and the files come out the same to the byte.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from strataprobe.errors import DataError, OptionError, StageError
from strataprobe.manifest import (
    MANIFEST_NAME,
    Manifest,
    ModelIdentity,
    read_json,
    read_manifest,
    write_json,
)
from strataprobe.probes.calibration import DEFAULT_RULE, CalibrationRule
from strataprobe.probes.crossval import N_FOLDS
from strataprobe.probes.families import Fitter, get_family
from strataprobe.probes.files import Oof, write_oof, write_probes
from strataprobe.probes.layerfit import LayerResult, Rows, check_same_rows, fit_layer, read_splits, rows_of
from strataprobe.probes.parallel import in_threads, workers_for
from strataprobe.probes.pth import save_folder
from strataprobe.progress import Progress, note
from strataprobe.stagefolder import StageFolder
from strataprobe.store import ActivationFolder, Numbering, span

DONE_FOLDER = ".done"
_ROWS_NAME = "rows.json"
_READOUT = re.compile(r"[A-Za-z0-9_-]{1,64}")


def train(
    activations: str | Path,
    out: str | Path,
    *,
    probe: str = "logistic",
    layers: Sequence[int] | None = None,
    readout: str | None = None,
    numbering: Numbering = "strataprobe",
    seed: int = 0,
    folds: int = N_FOLDS,
    device: str = "auto",
    options: Mapping[str, Any] | None = None,
    calibration: CalibrationRule = DEFAULT_RULE,
) -> Manifest:
    """Train probes for every class on every layer (from 1) and readout of ``activations``, into the new folder ``out``.

    ``layers`` and ``readout`` keep to some of them; the readout named is then the primary one. ``numbering="brije"``
    reads file numbers as block indices. The curve is cross-validated in ``folds`` folds; with 0 it is that of the
    validation rows, on which the options were chosen too, and takes a sixth of the time. ``options`` are those of the
    family (``Cs`` of "logistic"). Layers are fitted side by side, on ``device`` where the family can ("auto": CUDA where
    there is one). ``calibration`` says how probabilities and thresholds are made. A finished ``out`` of the same
    activations and options is left as it is, and trained again when it has only some of the layers now asked for. Returns
    the manifest, whose ``details["layers"]`` holds C, cv_auc, val_auc and converged by readout and layer.

    Raises OptionError for an unknown probe, option, layer or readout, and for one fold; DataError when a split lacks a
    class, values are not finite, or there are too few groups; StageError when ``activations`` cannot be read or ``out``
    holds something else.
    """
    started_s = time.monotonic()
    folder = ActivationFolder.open(activations, numbering)
    if folds < 0 or folds == 1:
        raise OptionError(f"{folds} folds cannot be cross-validated: give 2 or more, or 0 for no cross-validation.")
    fitter = get_family(probe, options, device=_chosen_device(device))
    chosen = _chosen_layers(folder, layers)
    readouts = _chosen_readouts(folder, readout)
    if len(folder.class_names) < 2:
        raise DataError(f"{folder.path} has {len(folder.class_names)} class(es): a probe tells at least two apart.")
    config = {
        "probe": probe,
        "layers": chosen,
        "readouts": readouts,
        "numbering": numbering,
        "seed": seed,
        "n_folds": folds,
        "options": fitter.options,
    }
    if calibration != DEFAULT_RULE:
        config["calibration"] = calibration.to_json()
    inputs = {folder.file(layer).name: folder.file_sha256(layer) for layer in chosen}
    stage = StageFolder(Path(out), "train", {**config, **inputs})
    _take_up(stage)
    _check_inputs(stage, inputs)
    if not _to_be_extended(stage):
        finished = stage.finished()
        if finished is not None:
            _drop_saved_fits(stage)
            note(f"{out}: already trained on these activations, nothing to do.")
            return finished
    stage.begin()
    job = _Job(stage, folder, fitter, seed, folds, calibration)
    _fit_all(job, [(r, k) for r in readouts for k in chosen])
    results = {(r, k): LayerResult.load(_done(stage, r, k)) for r in readouts for k in chosen}
    rows = Rows.from_json(read_json(stage.work / DONE_FOLDER / _ROWS_NAME))
    _assemble(stage, folder, results, rows)
    manifest = Manifest(
        stage="train",
        config=config,
        inputs=inputs,
        model=ModelIdentity(name=folder.info["model_name"], revision=folder.info["model_revision"]),
        elapsed_s=time.monotonic() - started_s,
        details=_details(folder, results, rows),
    )
    manifest = stage.commit(manifest)
    _drop_saved_fits(stage)
    return manifest


def _drop_saved_fits(stage: StageFolder) -> None:
    """Delete what a finished ``out`` needs no more; until it is finished they are what a rerun goes on from."""
    shutil.rmtree(stage.final / DONE_FOLDER, ignore_errors=True)


def _chosen_device(device: str) -> str:
    """The device fits are made on, one that has float64. Raises OptionError for one that is not there."""
    from strataprobe.devices import choose_device

    chosen = choose_device(device)
    if chosen.type == "mps" and device != "auto":
        raise OptionError("--device mps has no float64, which fits need: use --device cpu.")
    return "cpu" if chosen.type == "mps" else str(chosen)


def _chosen_layers(folder: ActivationFolder, layers: Sequence[int] | None) -> list[int]:
    there = [layer for layer in folder.layers if layer >= 1]
    if not there:
        raise DataError(f"{folder.path} holds the embeddings (layer 0) only: capture a layer from 1 on.")
    if layers is None:
        return there
    missing = sorted(set(layers) - set(there))
    if missing or not layers:
        raise OptionError(
            f"layer {missing[0] if missing else 'list'} cannot be trained on: {folder.path} has layers {span(there)}."
        )
    return sorted(set(layers))


def _chosen_readouts(folder: ActivationFolder, readout: str | None) -> list[str]:
    if readout is not None and readout not in folder.readouts:
        there = ", ".join(map(str, folder.readouts))
        raise OptionError(f"readout {readout!r} was not captured; {folder.path} has: {there}.")
    chosen = list(folder.readouts) if readout is None else [readout]
    for name in chosen:  # names of folders to be, out of a file that anyone may have written
        if not isinstance(name, str) or not _READOUT.fullmatch(name):
            raise StageError(
                f"{folder.path} holds a readout called {name!r}, which no folder can be named after: at most 64 "
                "letters, digits, _ and - are allowed, so capture these activations again."
            )
    return chosen


def _check_inputs(stage: StageFolder, inputs: dict[str, str]) -> None:
    """Say in plain words when ``out``, finished or not, was trained on other activations than these."""
    known = {stage.work: stage.pending_key() or {}}
    if (stage.final / MANIFEST_NAME).is_file():
        known[stage.final] = dict(read_manifest(stage.final, "train").inputs)
    for where, theirs in known.items():
        changed = sorted(name for name in inputs if theirs.get(name, inputs[name]) != inputs[name])
        if changed:
            raise StageError(
                f"{where} was trained on other activations ({changed[0]} differs): choose another "
                "--out, or delete that folder."
            )


def _to_be_extended(stage: StageFolder) -> bool:
    """Whether ``out`` is finished and differs only in lacking some of the layers."""
    if not (stage.final / MANIFEST_NAME).is_file():
        return False
    theirs = read_manifest(stage.final, "train")
    return _lacks_only_layers({**theirs.config, **theirs.inputs}, stage.key)


def _lacks_only_layers(old: dict[str, Any], new: dict[str, Any]) -> bool:
    fewer = set(old.get("layers", [])) < set(new["layers"])
    return fewer and all(new.get(name) == value for name, value in old.items() if name != "layers")


def _take_up(stage: StageFolder) -> None:
    """Go on with an interrupted training of some of these layers, all else being equal; drop one that got nowhere."""
    pending = stage.pending_key()
    if pending is None:
        return
    if not any((stage.work / DONE_FOLDER).glob("*.safetensors")):
        shutil.rmtree(stage.work)
    elif _lacks_only_layers(pending, stage.key):
        stage.take_over()


def _done(stage: StageFolder, readout: str, layer: int) -> Path:
    return stage.work / DONE_FOLDER / f"{readout}.layer_{layer}.safetensors"


@dataclass(frozen=True)
class _Job:
    """What the fits of one call have in common."""

    stage: StageFolder
    folder: ActivationFolder
    fitter: Fitter
    seed: int
    n_folds: int
    rule: CalibrationRule


def _fit_all(job: _Job, keys: list[tuple[str, int]]) -> None:
    """Fit what is not done yet, saving each layer and readout as it is done."""
    stage, names = job.stage, job.folder.class_names
    todo = [key for key in keys if not _done(stage, *key).is_file()]
    (stage.work / DONE_FOLDER).mkdir(exist_ok=True)
    if len(todo) < len(keys):
        note(f"{stage.final}: {len(keys) - len(todo)} of {len(keys)} fits are done already, going on from there.")
    rows = _same_for_all(job, *keys[0])

    def fit_one(key: tuple[str, int]) -> bool:
        splits = read_splits(job.folder, key[1], key[0], names)
        check_same_rows(splits, rows, job.folder.file(key[1]))
        result = fit_layer(splits, rows, len(names), job.fitter, job.rule)
        result.save(_done(stage, *key))
        return bool(result.report["converged"])

    n_workers = workers_for(job.folder.n_entries)
    with Progress("train", len(keys), "fits", done=len(keys) - len(todo)) as progress:
        for (readout, layer), converged in in_threads(fit_one, todo, n_workers):
            if not converged:
                note(f"layer {layer}, readout {readout}: the solver stopped before the optimum.")
            progress.advance()


def _same_for_all(job: _Job, readout: str, layer: int) -> Rows:
    """The rows and folds of an interrupted call, or those of this layer, which are then kept."""
    path = job.stage.work / DONE_FOLDER / _ROWS_NAME
    if path.is_file():
        return Rows.from_json(read_json(path))
    names = job.folder.class_names
    rows = rows_of(read_splits(job.folder, layer, readout, names), names, job.seed, job.n_folds)
    write_json(path, rows.to_json())
    return rows


def _assemble(
    stage: StageFolder, folder: ActivationFolder, results: dict[tuple[str, int], LayerResult], rows: Rows
) -> None:
    """Write the folder's files from the saved results."""
    names, primary = folder.class_names, next(iter(results))[0]
    info = dict(folder.info)
    sets = {(r, k): result.probe_set(names, k, r, info) for (r, k), result in results.items()}
    for (readout, layer), probes in sets.items():
        place = stage.work if readout == primary else stage.work / readout
        place = place / f"layer_{layer}"
        place.mkdir(parents=True, exist_ok=True)
        save_folder(place, probes)
        metrics = aggregate_metrics(names, probes.thresholds, results[readout, layer])
        write_json(place / "aggregate_metrics.json", metrics)
    write_probes(stage.work, sets, info, {key: result.scale for key, result in results.items()})
    logits = {key: result.oof for key, result in results.items()}
    write_oof(stage.work, Oof(logits, rows.labels, rows.folds, rows.group_indices(), rows.ids, list(names)))


def aggregate_metrics(class_names: Sequence[str], thresholds: Any, result: LayerResult) -> dict[str, Any]:
    """Contents of ``aggregate_metrics.json``: test-split measurements by class at its threshold, and means.

    ``confusion_matrix`` has true_negative, false_positive, false_negative and true_positive; ``ece`` is the expected
    calibration error of the calibrated probabilities; ``val_auc`` is of the validation split, ``cv_auc`` of
    cross-validation over train and val.
    """
    report = result.report
    per_action = []
    columns = zip(class_names, thresholds, report["test"], report["classes"], strict=True)
    for name, threshold, measured, extra in columns:
        (tn, fp), (fn, tp) = measured["confusion_matrix"]
        counts = {"true_negative": tn, "false_positive": fp, "false_negative": fn, "true_positive": tp}
        whole = {"action": name, **measured, "confusion_matrix": counts, **extra, "threshold": float(threshold)}
        per_action.append(whole)
    means = {
        key: float(np.mean([m[of] for m in per_action]))
        for key, of in (
            ("average_auc_roc", "auc_roc"),
            ("average_f1", "f1"),
            ("average_accuracy", "accuracy"),
            ("average_precision", "precision"),
            ("average_recall", "recall"),
            ("average_auc_pr", "auc_pr"),
            ("average_ece", "ece"),
        )
    }
    return {
        **means,
        "total_training_time_seconds": report["elapsed_s"],
        **{key: report[key] for key in ("val_auc", "cv_auc", "n_train", "n_val", "n_test")},
        "per_action_metrics": per_action,
    }


def _details(folder: ActivationFolder, results: dict[tuple[str, int], LayerResult], rows: Rows) -> dict[str, Any]:
    names = folder.class_names
    layers: dict[str, dict[str, Any]] = {}
    for (readout, layer), result in results.items():
        report = result.report
        layers.setdefault(readout, {})[str(layer)] = {
            "C": {name: c.get("C") for name, c in zip(names, report["classes"], strict=True)},
            "cv_auc": report["cv_auc"],
            "val_auc": report["val_auc"],
            "converged": report["converged"],
        }
    first = next(iter(results.values())).report
    return {
        **folder.info,
        "class_names": names,
        "d_model": folder.d_model,
        "n_folds": rows.n_folds,
        **{key: first[key] for key in ("n_train", "n_val", "n_test")},
        "layers": layers,
    }
