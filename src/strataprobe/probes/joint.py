"""The joint training: several recipes on one model and readout, one ordinary probes folder for each recipe.

Their activations must have been read alike and without a suffix, since a suffix that names a recipe's concept gives the
recipes different features. How the probes are fitted is said in ``shared``.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from strataprobe.errors import OptionError, StageError
from strataprobe.manifest import Manifest
from strataprobe.probes.calibration import DEFAULT_RULE, CalibrationRule, fit_platt
from strataprobe.probes.crossval import N_FOLDS, CrossValidated, class_columns
from strataprobe.probes.families import LinearFit, get_family
from strataprobe.probes.families.logistic import Logistic
from strataprobe.probes.families.standardise import Standardised
from strataprobe.probes.layerfit import LayerResult, measured
from strataprobe.probes.overlap import numbered, outside, texts_by_id
from strataprobe.probes.rows import Rows, check_same_rows, read_splits
from strataprobe.probes.run import chosen_layers, chosen_readouts, train_task
from strataprobe.probes.shared import Choice, Part, PartFit, fit_chosen, fit_parts
from strataprobe.probes.tasks import ClassTask
from strataprobe.store import ActivationFolder, LayerRows, Numbering

JOINT = "joint"
_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_ALIKE = ("model_name", "model_revision", "prefix", "template")
Float64 = NDArray[np.float64]


def train_joint(
    folders: Sequence[str | Path],
    out: str | Path,
    *,
    layers: Sequence[int] | None = None,
    readout: str | None = None,
    numbering: Numbering = "strataprobe",
    seed: int = 0,
    folds: int = N_FOLDS,
    options: Mapping[str, Any] | None = None,
    calibration: CalibrationRule = DEFAULT_RULE,
) -> dict[str, Manifest]:
    """Train the probes of several recipes together into ``out/{recipe}``; return their manifests by recipe.

    ``options`` are those of the logistic family. The rest is as in ``train``, and so is each folder; ``settings`` of a
    class say how much was shared. A text that two recipes have in common never trains a probe for one of them that is
    measured on it in the other. Raises what ``train`` raises, and OptionError when there are fewer than two folders, two
    of one recipe, or they were not read alike and without a suffix.
    """
    opened = [ActivationFolder.open(folder, numbering) for folder in folders]
    names = recipe_names(opened)
    check_alike(opened)
    if folds < 0 or folds == 1:
        raise OptionError(f"{folds} folds cannot be cross-validated: give 2 or more, or 0 for no cross-validation.")
    fitter = get_family("logistic", options)
    assert isinstance(fitter, Logistic)
    if fitter.class_weight != "none":
        raise OptionError("the joint probe counts every row alike: leave class_weight out.")
    chosen = chosen_layers(opened[0], layers)
    readouts = chosen_readouts(opened[0], readout)
    for folder in opened[1:]:
        if chosen_layers(folder, layers) != chosen or not set(readouts) <= set(folder.readouts):
            raise OptionError(
                f"{folder.path} has other layers or readouts than {opened[0].path}: capture both with the same ones, "
                "or name those they share with --layers and --readout."
            )
    digests = {
        name: {folder.file(k).name: folder.file_sha256(k) for k in chosen}
        for name, folder in zip(names, opened, strict=True)
    }
    tasks = [ClassTask(folder, fitter, seed, folds, calibration) for folder in opened]
    together = Together(tasks, [task.rows(chosen[0], readouts[0]) for task in tasks])
    manifests = {}
    for i, (name, task) in enumerate(zip(names, tasks, strict=True)):
        started_s = time.monotonic()
        config = {
            "probe": JOINT,
            "layers": chosen,
            "readouts": readouts,
            "numbering": numbering,
            "seed": seed,
            "n_folds": folds,
            "options": fitter.options,
            "joint_with": {other: digests[other] for other in names if other != name},
        }
        if calibration != DEFAULT_RULE:
            config["calibration"] = calibration.to_json()
        one = JointTask(task.folder, fitter, seed, folds, calibration, together=together, index=i)
        manifests[name] = train_task(one, task.folder, Path(out) / name, config, started_s)
    return manifests


def recipe_names(folders: Sequence[ActivationFolder]) -> list[str]:
    """A name for each folder's probes: its recipe's, else that of the folder above the activations.

    Raises OptionError for fewer than two folders, and for two of one name.
    """
    if len(folders) < 2:
        raise OptionError("joint probes are of several recipes: give --activations twice or more.")
    names = [str(f.info["recipe_name"] or f.path.resolve().parent.name) for f in folders]
    for i, name in enumerate(names):
        if not _FOLDER_NAME.fullmatch(name):
            raise StageError(f"{folders[i].path} is of a recipe called {name!r}, which no folder can be named after.")
        if name in names[:i]:
            raise OptionError(
                f"{folders[names.index(name)].path} and {folders[i].path} are both of {name!r}: joint probes are of "
                "several recipes, so give one folder of each."
            )
    return names


def check_alike(folders: Sequence[ActivationFolder]) -> None:
    """Raise OptionError unless all were read from one model in one way, without a suffix."""
    first = folders[0]
    for folder in folders:
        if folder.info["suffix"]:
            raise OptionError(
                f"{folder.path} was captured with the suffix {folder.info['suffix']!r}, which makes features of its "
                'recipe alone: capture every recipe with --suffix "" for joint probes.'
            )
        for key in _ALIKE:
            mine, theirs = first.info[key], folder.info[key]
            if mine != theirs:
                raise OptionError(
                    f"{first.path} and {folder.path} differ in {key.replace('_', ' ')} ({mine!r}, {theirs!r}): joint "
                    "probes need activations that were read alike."
                )
        if folder.d_model != first.d_model:
            raise OptionError(
                f"{folder.path} is {folder.d_model} wide and {first.path} {first.d_model}: not one model."
            )


class Together:
    """The fits of all recipes on each layer and readout, made once, when the first of them asks; safe in threads."""

    def __init__(self, tasks: Sequence[ClassTask], rows: Sequence[Rows]) -> None:
        self.tasks, self.rows = list(tasks), list(rows)
        self._texts = [texts_by_id(task.folder) for task in tasks]
        self._done: dict[tuple[int, int, str], LayerResult] = {}
        self._lock = threading.Lock()

    def take(self, index: int, layer: int, readout: str) -> LayerResult:
        """The result of one recipe on one layer; it is kept no longer."""
        with self._lock:
            found = self._done.pop((index, layer, readout), None)
        if found is not None:
            return found
        results = self._fit(layer, readout)
        with self._lock:
            self._done |= {(i, layer, readout): r for i, r in enumerate(results) if i > index}
        return results[index]

    def _fit(self, layer: int, readout: str) -> list[LayerResult]:
        started_s = time.monotonic()
        splits = [read_splits(task.folder, layer, readout, task.names) for task in self.tasks]
        for one, task, rows in zip(splits, self.tasks, self.rows, strict=True):
            check_same_rows(one, rows, task.folder.file(layer))
        columns = [len(task.names) for task in self.tasks]
        layer_rows = LayerOfRecipes(splits, columns, self.tasks[0].fitter.options["Cs"], self._texts)
        fits, scale = layer_rows.fit()
        crossed: list[CrossValidated | None] = [None] * len(fits)
        if any(rows.n_folds for rows in self.rows):
            crossed = list(layer_rows.cross_validate([rows.folds for rows in self.rows]))
        results = [
            measured(fits[i], crossed[i], splits[i], self.rows[i], columns[i], scale, self.tasks[i].rule)
            for i in range(len(fits))
        ]
        for result in results:
            result.report["elapsed_s"] = (time.monotonic() - started_s) / len(results)
        return results


@dataclass(frozen=True)
class JointTask(ClassTask):
    """One recipe's part in a joint training."""

    together: Together
    index: int

    def fit(self, layer: int, readout: str, rows: Rows) -> LayerResult:
        """One layer, fitted with those of the other recipes."""
        return self.together.take(self.index, layer, readout)


class LayerOfRecipes:
    """The rows of every recipe on one layer: ``splits[i]`` of recipe i, which has ``n_classes[i]`` classes.

    ``texts[i]`` has the texts of recipe i by id, as far as they are known: see ``numbered``.
    """

    def __init__(
        self,
        splits: Sequence[Mapping[str, LayerRows]],
        n_classes: Sequence[int],
        Cs: Sequence[float],
        texts: Sequence[Mapping[str, str]] | None = None,
    ) -> None:
        self.splits, self.n_classes, self.Cs = splits, n_classes, Cs
        self._same = numbered(splits, texts or [{} for _ in splits])

    def fit(self) -> tuple[list[LinearFit], NDArray[np.float32]]:
        """Each recipe fitted on its train rows, all choices made on the val rows; and the scale (D,) of the features."""
        train = [one["train"].activations for one in self.splits]
        rows = Standardised.of(np.concatenate(train))
        Z = torch.split(rows.Z, [len(x) for x in train])
        parts = []
        for i, one in enumerate(self.splits):
            elsewhere = [self._same[j][s] for j in range(len(self.splits)) for s in ("val", "test")]
            keep = outside(self._same[i]["train"], elsewhere)
            Y, Y_val = (class_columns(one[s].labels, self.n_classes[i]) for s in ("train", "val"))
            Z_val = rows.like(one["val"].activations)
            parts.append(Part(Z[i][torch.from_numpy(keep)], Y[keep], Z_val, Y_val))
        choice, fits = fit_parts(parts, self.Cs)
        return [_folded(rows, fit, choice) for fit in fits], rows.scale.numpy().astype(np.float32)

    def cross_validate(self, folds: Sequence[NDArray[np.int64]]) -> list[CrossValidated]:
        """Log-odds of the train and val rows from fits without their fold; ``folds[i]`` (N,) of recipe i.

        Fold k of every recipe is left out at once and fold k + 1 makes the choices, as for a single recipe. Features are
        standardised by all rows once, for which no label is needed.
        """
        recipes = range(len(self.splits))
        both = [np.concatenate([one[s].activations for s in ("train", "val")]) for one in self.splits]
        same = [np.concatenate([found[s] for s in ("train", "val")]) for found in self._same]
        Y = [
            class_columns(np.concatenate([one[s].labels for s in ("train", "val")]), n)
            for one, n in zip(self.splits, self.n_classes, strict=True)
        ]
        rows = Standardised.of(np.concatenate(both))
        Z = torch.split(rows.Z, [len(x) for x in both])
        counts = [int(f.max()) + 1 for f in folds]
        logits: list[Float64] = [np.empty_like(y) for y in Y]
        for fold in range(max(counts)):
            left_out = [folds[i] == fold for i in recipes]
            held = [(folds[i] == (fold + 1) % counts[i]) & ~left_out[i] & (counts[i] > 2) for i in recipes]
            unseen = [same[i][left_out[i]] for i in recipes]
            held = [held[i] & outside(same[i], unseen) for i in recipes]
            judged = [same[i][held[i]] for i in recipes]
            fitted = [~left_out[i] & outside(same[i], unseen) for i in recipes]
            chosen_on = [fitted[i] & outside(same[i], judged) for i in recipes]
            choice, fits = fit_parts([_part(Z[i], Y[i], chosen_on[i], held[i]) for i in recipes], self.Cs)
            everything = [_part(Z[i], Y[i], fitted[i], held[i]) for i in recipes]
            again = fit_chosen(everything, choice, [fit.C for fit in fits])
            for i in recipes:
                raw = Z[i][torch.from_numpy(left_out[i])].numpy() @ again[i].weight.T + again[i].bias
                for k in range(Y[i].shape[1]):
                    slope, intercept = fit_platt(Y[i][held[i], k], fits[i].held_out_logits[:, k]).calibration
                    logits[i][left_out[i], k] = slope * raw[:, k] + intercept
        return [CrossValidated(z, np.full((len(self.Cs), z.shape[1]), np.nan)) for z in logits]


def _part(Z: torch.Tensor, Y: Float64, train: NDArray[np.bool_], held: NDArray[np.bool_]) -> Part:
    return Part(Z[torch.from_numpy(train)], Y[train], Z[torch.from_numpy(held)], Y[held])


def _folded(rows: Standardised, fit: PartFit, choice: Choice) -> LinearFit:
    """The probes on raw activations."""
    weight, bias = rows.folded(torch.from_numpy(fit.weight), torch.from_numpy(fit.bias))
    shared = {"shared_rank": choice.sharing.rank, "shared_strength": choice.sharing.strength}
    settings = [{"C": C, "converged": done, **shared} for C, done in zip(fit.C, fit.converged, strict=True)]
    return LinearFit(weight, bias, settings, np.full((0, len(settings)), np.nan), fit.held_out_logits)
