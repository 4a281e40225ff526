"""Calibration and thresholds of trained probes done again on new labelled text, without training: one pass of the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strataprobe.dataset import Dataset, Text, read_dataset
from strataprobe.errors import DataError, ProbeError
from strataprobe.manifest import read_manifest, sha256_file
from strataprobe.metrics import expected_calibration_error
from strataprobe.models import load_model
from strataprobe.predict.overlap import note_seen
from strataprobe.predict.scorer import Scorer
from strataprobe.probes.calibration import DEFAULT_RULE, MIN_ROWS, Calibration, CalibrationRule, sigmoid
from strataprobe.probes.crossval import make_folds
from strataprobe.probes.files import PROBES_NAME, TrainedProbes, load_oof, load_probes
from strataprobe.probes.probe import REGRESSION, ProbeSet
from strataprobe.probes.rewrite import restore, rewrite
from strataprobe.progress import Progress
from strataprobe.store import span

Float64 = NDArray[np.float64]
Key = tuple[str, int]

# Where a probe keeps the calibration it had from training, the prior of every later one; {} where that was no fit.
_TRAINED = "trained_calibration"
# Texts of one pass whose vectors are in memory together.
_TEXTS_AT_ONCE = 2048


@dataclass(frozen=True, eq=False)
class _Labelled:
    """N labelled rows: ``labels`` (N,) index into the C class names; ``folds`` (N, C), None where groups are too few."""

    rows: list[Text]
    labels: NDArray[np.int64]
    folds: list[NDArray[np.int64] | None]


def recalibrate(
    probes: str | Path,
    model: Any,
    data: str | Path | Dataset,
    *,
    rule: CalibrationRule = DEFAULT_RULE,
    layer: int | None = None,
    out: str | Path | None = None,
    tokenizer: Any = None,
    dtype: str = "auto",
    device: str = "auto",
) -> dict[str, Any]:
    """Calibrate the probes of the folder ``probes`` on ``data`` and choose their thresholds anew, by ``rule``.

    Every readout is done, on every layer or on ``layer`` alone. The folder is replaced whole, or with ``out`` left as it is
    and copied. The calibration from training is the prior, so that a few texts do not undo it; what an earlier call did is
    forgotten. A class that ``data`` has no text of keeps what it has.

    Returns ``n``, ``n_skipped`` (rows without a label), ``rule``, ``probes`` (the folder written) and ``layers``, a list:
    ``layer``, ``block_index``, ``readout`` and for each of ``classes`` ``before`` and ``after`` with ``slope``,
    ``intercept``, ``threshold``, ``ece``, ``fpr`` (share of the rest that is called) and ``recall``. What is measured
    ``after`` is measured on rows left out in cross-validation over groups, None where groups are too few, so that it
    holds for further text of the kind; ``caveat`` says what the new threshold cannot promise.

    Raises DataError for rows without labels, of one class, too few, or of a class the probes do not know; ProbeError for
    probes of another model, of values, or without the layer; StageError when the folder cannot be read or written.
    """
    source = Path(probes)
    restore(source)
    trained = _opened(source)
    sets = _chosen(trained, layer, source)
    dataset = data if isinstance(data, Dataset) else read_dataset(data, keep_fields=False)
    labelled = _labelled(dataset, trained.class_names)
    note_seen(source, labelled.rows)
    loaded = load_model(model, tokenizer, dtype=dtype, device=device)
    logits = _logits(Scorer(loaded, list(sets.values())), labelled.rows)
    done = {
        key: _one_layer(probe_set, z, labelled, rule) for (key, probe_set), z in zip(sets.items(), logits, strict=True)
    }
    counts = {"n": len(labelled.rows), "n_skipped": len(dataset.rows) - len(labelled.rows), "rule": rule.to_json()}
    written = source if out is None or Path(out).resolve() == source.resolve() else Path(out)
    record = {"data": dataset.name, "data_sha256": _digest(data, dataset), **counts}
    rewrite(
        source, trained, {key: new for key, (new, _) in done.items()}, record, None if written is source else written
    )
    return {"probes": str(written), "data": dataset.name, **counts, "layers": [entry for _, entry in done.values()]}


def _opened(source: Path) -> TrainedProbes:
    if source.is_dir() and not (source / PROBES_NAME).is_file():
        raise ProbeError(
            f"{source} holds no {PROBES_NAME}: give the whole folder that 'train' wrote; --layer keeps to one layer."
        )
    trained = load_probes(source)
    if next(iter(trained.sets.values())).first.kind == REGRESSION:
        raise ProbeError(f"the probes of {source} give values, not probabilities: there is nothing to calibrate.")
    load_oof(source)  # the folder is written anew with all that was in it
    return trained


def _chosen(trained: TrainedProbes, layer: int | None, source: Path) -> dict[Key, ProbeSet]:
    if layer is not None and layer not in trained.layers:
        raise ProbeError(f"{source} has no probes on layer {layer}; there are layers {span(trained.layers)}.")
    return {key: probes for key, probes in trained.sets.items() if layer in (None, key[1])}


def _labelled(dataset: Dataset, names: list[str]) -> _Labelled:
    rows = [row for row in dataset.rows if row.label is not None]
    if not rows:
        raise DataError(f"{dataset.name} has no row with a label: calibrate needs labelled texts.")
    unknown = sorted({str(row.label) for row in rows} - set(names))
    if unknown:
        raise DataError(f"{dataset.name} has the class {unknown[0]!r}; the probes know {', '.join(names)}.")
    labels = np.array([names.index(str(row.label)) for row in rows], dtype=np.int64)
    if len(rows) < MIN_ROWS:
        raise DataError(f"{dataset.name} has {len(rows)} labelled texts: calibrate needs at least {MIN_ROWS}.")
    if (labels == labels[0]).all():
        raise DataError(
            f"{dataset.name} has texts of class {names[labels[0]]!r} only: calibrate needs others beside it."
        )
    groups = np.array([row.group for row in rows])
    return _Labelled(rows, labels, [_folds(labels == c, groups) for c in range(len(names))])


def _folds(positive: NDArray[np.bool_], groups: NDArray[Any]) -> NDArray[np.int64] | None:
    """A fold for each row, whole groups together; None where a side has fewer than two groups."""
    if min(len(np.unique(groups[side])) for side in (positive, ~positive)) < 2:
        return None
    return make_folds(positive.astype(np.int64), groups, ["the rest", "the class"])


def _digest(data: Any, dataset: Dataset) -> str:
    """The sha256 of the file, or of all the files of a data folder, or of the rows of a data set in memory."""
    if isinstance(data, Dataset):
        return dataset.sha256
    return read_manifest(Path(data)).files_sha256 if Path(data).is_dir() else sha256_file(Path(data))


def _logits(scorer: Scorer, rows: list[Text]) -> list[Float64]:
    """Raw logits (N, C) of each of the scorer's sets."""
    parts = []
    with Progress("calibrate", len(rows), "texts") as progress:
        for start in range(0, len(rows), _TEXTS_AT_ONCE):
            these = rows[start : start + _TEXTS_AT_ONCE]
            names = [f"text {row.id!r}" for row in these]
            parts.append(scorer.logits([row.content for row in these], names.__getitem__))
            progress.advance(len(these))
    return [np.concatenate(of_set) for of_set in zip(*parts, strict=True)]


def _one_layer(
    probes: ProbeSet, logits: Float64, data: _Labelled, rule: CalibrationRule
) -> tuple[ProbeSet, dict[str, Any]]:
    """The probes calibrated anew, and the layer's entry of the document."""
    names = probes.class_names
    Y = np.stack([data.labels == c for c in range(len(names))], axis=1).astype(np.float64)
    new, classes = [], {}
    for c, name in enumerate(names):
        old = probes[name]
        held = {"slope": old.calibration.slope, "intercept": old.calibration.intercept, "threshold": old.threshold}
        before_p = sigmoid(logits[:, c] * old.calibration.slope + old.calibration.intercept)
        before = held | _measured(Y[:, c], before_p, before_p >= old.threshold)
        if not Y[:, c].any():
            new.append(old)
            classes[name] = {"before": before, "after": before, "caveat": "no text of this class: left as it was"}
            continue
        kept = {key: value for key, value in old.extra.items() if key != "threshold_caveat"}
        of_training = old.fitted_calibration
        trained = kept.setdefault(_TRAINED, {} if of_training is None else of_training._asdict())
        prior = Calibration(**trained) if trained else None
        calibration, threshold, notes = _fitted(Y, logits, c, rule, prior)
        # as a file would give it back, or the next time the same values were other bytes
        extra = json.loads(json.dumps(kept | notes, sort_keys=True))
        new.append(replace(old, calibration=calibration, threshold=threshold, extra=extra))
        values = {"slope": calibration.slope, "intercept": calibration.intercept, "threshold": threshold}
        after = values | _left_out(Y, logits, c, rule, prior, data.folds[c])
        caveats = [notes["calibration_fallback"], notes.get("threshold_caveat", "")]
        classes[name] = {"before": before, "after": after, "caveat": "; ".join(t for t in caveats if t)}
    place = {"layer": probes.layer, "block_index": probes.block_index, "readout": probes.readout}
    return ProbeSet(new), place | {"classes": classes}


def _fitted(
    Y: Float64, logits: Float64, c: int, rule: CalibrationRule, prior: Calibration | None
) -> tuple[Calibration, float, dict[str, str]]:
    """Calibration and threshold of class c of Y and ``logits`` (n, C), with what the probe's ``extra`` says of them."""
    n_classes = Y.shape[1]
    k = 1 if n_classes == 2 else c  # of two classes one is fitted, and the other is its mirror
    fit = rule.calibrate(Y[:, k], logits[:, k], prior if k == c or prior is None else prior.mirrored())
    own = fit.calibration if k == c else fit.calibration.mirrored()
    p = sigmoid(logits[:, k] * fit.calibration.slope + fit.calibration.intercept)
    if n_classes == 2:
        threshold = rule.thresholds(Y[:, 1:], p[:, None], 2)[c]
    else:
        threshold = rule.threshold(Y[:, c], p)
    notes = {"calibration_fallback": fit.fallback}
    return own, threshold.value, notes | ({"threshold_caveat": threshold.caveat} if threshold.caveat else {})


def _left_out(
    Y: Float64,
    logits: Float64,
    c: int,
    rule: CalibrationRule,
    prior: Calibration | None,
    folds: NDArray[np.int64] | None,
) -> dict[str, float | None]:
    """What class c gives on rows that neither its calibration nor its threshold was chosen on."""
    if folds is None:
        return {"ece": None, "fpr": None, "recall": None}
    p, called = np.empty(len(Y)), np.empty(len(Y), dtype=bool)
    for fold in np.unique(folds):
        rest, here = folds != fold, folds == fold
        calibration, threshold, _ = _fitted(Y[rest], logits[rest], c, rule, prior)
        p[here] = sigmoid(logits[here, c] * calibration.slope + calibration.intercept)
        called[here] = p[here] >= threshold
    return _measured(Y[:, c], p, called)


def _measured(y: Float64, p: Float64, called: NDArray[np.bool_]) -> dict[str, float | None]:
    positive = y.astype(bool)
    return {
        "ece": expected_calibration_error(y, p),
        "fpr": float(called[~positive].mean()) if (~positive).any() else None,
        "recall": float(called[positive].mean()) if positive.any() else None,
    }


def summary_rows(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows for a table of what ``recalibrate`` returns: ``layer``, ``readout``, ``class``, ``before`` and ``after``.

    More than two classes are averaged. Two that share a rule mirror one another, and the second stands for both, unless
    each has a threshold of its own.
    """
    found = []
    for entry in document["layers"]:
        classes = entry["classes"]
        shown = dict(classes)
        if len(classes) > 2:
            shown = {"mean": {side: _mean([c[side] for c in classes.values()]) for side in ("before", "after")}}
        elif document["rule"]["fpr"] is None and len(classes) == 2:
            shown = {name: classes[name] for name in list(classes)[1:]}
        place = {"layer": entry["layer"], "readout": entry["readout"]}
        found += [place | {"class": name, "before": c["before"], "after": c["after"]} for name, c in shown.items()]
    return found


def _mean(values: list[dict[str, Any]]) -> dict[str, float | None]:
    known = {key: [v[key] for v in values if v[key] is not None] for key in values[0]}
    return {key: float(np.mean(numbers)) if numbers else None for key, numbers in known.items()}
