"""The train stage: an activations folder in, a probes folder out; every layer and readout in one call.

A rerun after an interruption skips the layers that were done, and the files come out the same to the byte.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from strataprobe.errors import DataError, OptionError, ProbeError, StageError
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
from strataprobe.probes.families import get_family
from strataprobe.probes.files import Oof, write_oof, write_probes
from strataprobe.probes.layerfit import LayerResult
from strataprobe.probes.parallel import in_threads, workers_for
from strataprobe.probes.pth import save_folder
from strataprobe.probes.rows import Rows
from strataprobe.probes.tasks import Task, task_of
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
    fitter = get_family(probe, options, device=device_for_fits(device), seed=seed)
    chosen = chosen_layers(folder, layers)
    readouts = chosen_readouts(folder, readout)
    task = task_of(folder, fitter, seed, folds, calibration)
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
    return train_task(task, folder, out, config, started_s)


def train_task(
    task: Task, folder: ActivationFolder, out: str | Path, config: dict[str, Any], started_s: float
) -> Manifest:
    """Train a task on the layers and readouts that ``config`` names, into the new folder ``out``; see ``train``."""
    chosen, readouts = config["layers"], config["readouts"]
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
    _fit_all(stage, task, [(r, k) for r in readouts for k in chosen], workers_for(folder.n_entries))
    results = {(r, k): LayerResult.load(_done(stage, r, k)) for r in readouts for k in chosen}
    rows = Rows.from_json(read_json(stage.work / DONE_FOLDER / _ROWS_NAME))
    _assemble(stage, task, folder.info, results, rows)
    manifest = Manifest(
        stage="train",
        config=config,
        inputs=inputs,
        model=ModelIdentity(name=folder.info["model_name"], revision=folder.info["model_revision"]),
        elapsed_s=time.monotonic() - started_s,
        details=_details(folder, task, results, rows),
    )
    manifest = stage.commit(manifest)
    _drop_saved_fits(stage)
    return manifest


def _drop_saved_fits(stage: StageFolder) -> None:
    """Delete what a finished ``out`` needs no more; until it is finished they are what a rerun goes on from."""
    shutil.rmtree(stage.final / DONE_FOLDER, ignore_errors=True)


def device_for_fits(device: str) -> str:
    """The device fits are made on, one that has float64. Raises OptionError for one that is not there."""
    from strataprobe.devices import choose_device

    chosen = choose_device(device)
    if chosen.type == "mps" and device != "auto":
        raise OptionError("--device mps has no float64, which fits need: use --device cpu.")
    return "cpu" if chosen.type == "mps" else str(chosen)


def chosen_layers(folder: ActivationFolder, layers: Sequence[int] | None) -> list[int]:
    """Layers from 1 on to train on, all for None. Raises OptionError for one that is not there."""
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


def chosen_readouts(folder: ActivationFolder, readout: str | None) -> list[str]:
    """Readouts to train on, all for None. Raises OptionError for one that is not there."""
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


def _fit_all(stage: StageFolder, task: Task, keys: list[tuple[str, int]], n_workers: int) -> None:
    """Fit what is not done yet, saving each layer and readout as it is done."""
    (stage.work / DONE_FOLDER).mkdir(exist_ok=True)
    todo = [key for key in keys if not _is_whole(_done(stage, *key))]
    if len(todo) < len(keys):
        note(f"{stage.final}: {len(keys) - len(todo)} of {len(keys)} fits are done already, going on from there.")
    rows = _same_for_all(stage, task, *keys[0])

    def fit_one(key: tuple[str, int]) -> bool:
        result = task.fit(key[1], key[0], rows)
        result.save(_done(stage, *key))
        return bool(result.report["converged"])

    with Progress("train", len(keys), "fits", done=len(keys) - len(todo)) as progress:
        for (readout, layer), converged in in_threads(fit_one, todo, n_workers):
            if not converged:
                note(f"layer {layer}, readout {readout}: the solver stopped before the optimum.")
            progress.advance()


def _is_whole(saved: Path) -> bool:
    """Whether a saved fit is there and can be read; one that was damaged is fitted again."""
    if not saved.is_file():
        return False
    try:
        LayerResult.load(saved)
    except ProbeError:
        note(f"{saved} cannot be read: this layer is fitted again.")
        return False
    return True


def _same_for_all(stage: StageFolder, task: Task, readout: str, layer: int) -> Rows:
    """The rows and folds of an interrupted call, or those of this layer, which are then kept."""
    path = stage.work / DONE_FOLDER / _ROWS_NAME
    if path.is_file():
        return Rows.from_json(read_json(path))
    rows = task.rows(layer, readout)
    write_json(path, rows.to_json())
    return rows


def _assemble(
    stage: StageFolder, task: Task, info: dict[str, Any], results: dict[tuple[str, int], LayerResult], rows: Rows
) -> None:
    """Write the folder's files from the saved results."""
    primary = next(iter(results))[0]
    sets = {(r, k): result.probe_set(task.names, k, r, info) for (r, k), result in results.items()}
    for (readout, layer), probes in sets.items():
        place = stage.work if readout == primary else stage.work / readout
        place = place / f"layer_{layer}"
        place.mkdir(parents=True, exist_ok=True)
        save_folder(place, probes)
        write_json(place / "aggregate_metrics.json", task.metrics(results[readout, layer]))
    write_probes(stage.work, sets, info, {key: result.scale for key, result in results.items()})
    logits = {key: result.oof for key, result in results.items()}
    known = (rows.labels, rows.folds, rows.group_indices(), rows.ids, list(task.names), rows.targets)
    write_oof(stage.work, Oof(logits, *known))


def _details(
    folder: ActivationFolder, task: Task, results: dict[tuple[str, int], LayerResult], rows: Rows
) -> dict[str, Any]:
    layers: dict[str, dict[str, Any]] = {}
    for (readout, layer), result in results.items():
        layers.setdefault(readout, {})[str(layer)] = task.details(result)
    first = next(iter(results.values())).report
    return {
        **folder.info,
        "class_names": task.names,
        "device": task.device,
        "d_model": folder.d_model,
        "n_folds": rows.n_folds,
        **{key: first[key] for key in ("n_train", "n_val", "n_test")},
        "layers": layers,
    }
