"""Probes from activations in memory: no files, no fixed split; everything is chosen by cross-validation over groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strataprobe.errors import DataError, OptionError, ProbeError
from strataprobe.probes.basis import feature_scale
from strataprobe.probes.crossval import check_folds, class_columns, cross_validate, make_folds, out_of_fold_logits
from strataprobe.probes.families import get_family
from strataprobe.probes.layerfit import LayerResult, calibrated
from strataprobe.probes.parallel import in_threads, workers_for
from strataprobe.probes.probe import ProbeSet
from strataprobe.probes.rows import Rows
from strataprobe.progress import Progress
from strataprobe.store import INFO_FIELDS, Activations, span

MIN_ROWS = 10


class FittedProbes(Mapping[int, ProbeSet]):
    """Probe sets by layer: ``probes[26]["positive"]``.

    ``cv_auc`` {layer: AUC} is the mean over folds of the AUC on the rows each fold leaves out of the fit, averaged over
    classes; that of one class is its probe's ``extra["cv_auc"]``. There is no ``val_auc``, as no split is set aside.
    ``best_layer`` is the earliest layer whose ``cv_auc`` is the highest.
    """

    def __init__(self, sets: Mapping[int, ProbeSet], cv_auc: Mapping[int, float]) -> None:
        self._sets, self.cv_auc = dict(sorted(sets.items())), dict(sorted(cv_auc.items()))
        self.class_names = next(iter(self._sets.values())).class_names

    @property
    def layers(self) -> list[int]:
        """Layers that were fitted, ascending."""
        return list(self._sets)

    @property
    def best_layer(self) -> int:
        """The earliest layer with the highest cross-validated AUC."""
        return max(self.cv_auc, key=lambda layer: (self.cv_auc[layer], -layer))

    def __getitem__(self, layer: int) -> ProbeSet:
        if layer not in self._sets:
            raise ProbeError(f"layer {layer} was not fitted; there are: {span(self.layers)}.")
        return self._sets[layer]

    def __contains__(self, layer: object) -> bool:
        return layer in self._sets

    def __iter__(self) -> Iterator[int]:
        return iter(self._sets)

    def __len__(self) -> int:
        return len(self._sets)

    def __repr__(self) -> str:
        return f"FittedProbes(layers {span(self.layers)}, {', '.join(self.class_names)})"


def fit(
    acts: Activations,
    labels: Sequence[str | int | None],
    groups: Sequence[Any] | None = None,
    seed: int = 0,
    *,
    probe: str = "logistic",
) -> FittedProbes:
    """Fit one probe a class on every layer (from 1) of the primary readout.

    ``labels`` (N,), None where a text has none; class order is sorted. ``groups`` (N,) keep related texts in one fold;
    without them every text stands alone, so give them where texts are paired or repeated. C is chosen, and the
    probabilities are calibrated, on rows left out in 5-fold cross-validation; the probes are then fitted on all rows.
    Raises DataError when lengths differ, there is one class only, or there are too few rows or groups; OptionError for
    an unknown probe or activations without a layer from 1 on.
    """
    fitter = get_family(probe, seed=seed)
    layers = [layer for layer in acts.layers if layer >= 1]
    if not layers:
        raise OptionError("these activations hold the embeddings (layer 0) only: capture a layer from 1 on.")
    n_texts = len(acts.layer(layers[0]))
    kept, codes, names = _coded(labels, n_texts)
    if groups is not None and len(groups) != n_texts:
        raise DataError(f"{len(groups)} groups for {n_texts} texts: give one for each.")
    of_row = [str(i if groups is None else groups[i]) for i in kept]
    folds = make_folds(codes, of_row, names, seed)
    check_folds(folds, codes, names)
    rows = Rows([str(i) for i in kept], codes, of_row, folds)
    info = {name: str(acts.info.get(name, "")) for name in INFO_FIELDS}
    Y = class_columns(codes, len(names))

    def fit_one(layer: int) -> LayerResult:
        X = acts.layer(layer)[kept]
        if not np.isfinite(X).all():
            raise DataError(f"the activations of layer {layer} hold values that are not finite: capture them again.")
        crossed = cross_validate(fitter, X, Y, folds)
        final = fitter.refit(X, Y, crossed.option_merit)
        left_out = out_of_fold_logits(fitter, X, Y, folds, crossed.option_merit)
        return calibrated(final, left_out, codes, crossed, rows, len(names), feature_scale(X))

    sets, cv_auc = {}, {}
    with Progress("fit", len(layers), "layers") as progress:
        for layer, result in in_threads(fit_one, layers, workers_for(acts.layer(layers[0]).size)):
            sets[layer] = result.probe_set(names, layer, acts.readout, info)
            cv_auc[layer] = result.report["cv_auc"]
            progress.advance()
    return FittedProbes(sets, cv_auc)


def _coded(labels: Sequence[str | int | None], n_texts: int) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
    """Positions of labelled rows, their label indices, and the sorted class names. Raises DataError as ``fit`` does."""
    if len(labels) != n_texts:
        raise DataError(f"{len(labels)} labels for {n_texts} texts: give one for each, None where a text has none.")
    text = {i: str(label) for i, label in enumerate(labels) if label is not None}
    kept = np.array(list(text), dtype=np.int64)
    names = sorted(set(text.values()))
    if len(names) < 2:
        raise DataError(f"the labels name {len(names)} class(es): a probe tells at least two apart.")
    if len(kept) < MIN_ROWS:
        raise DataError(f"{len(kept)} labelled texts are too few to fit and check a probe: give at least {MIN_ROWS}.")
    index = {name: i for i, name in enumerate(names)}
    return kept, np.array([index[label] for label in text.values()], dtype=np.int64), names
