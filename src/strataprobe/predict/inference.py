"""Probes on text, from Python: one layer, several layers, several probe sets."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from strataprobe.capture.tokens import PlaceOf
from strataprobe.compare.ensembles import METHODS, combine_mean, combine_stacked, combine_vote, fit_stackers
from strataprobe.content import Content
from strataprobe.errors import OptionError, ProbeError
from strataprobe.models import DEMO, LoadedModel, load_model
from strataprobe.predict.scorer import Float64, Scorer, predictions, ranked
from strataprobe.predict.sources import ProbeSource, open_probes, out_of_fold
from strataprobe.probes.probe import REGRESSION, ProbeSet
from strataprobe.store import Numbering

Predictions = list[dict[str, Any]]


def check_top_k(top_k: int | None) -> None:
    """Raise OptionError unless ``top_k`` is None or at least 1."""
    if top_k is not None and top_k < 1:
        raise OptionError("top_k must be at least 1; leave it out for all classes.")


def check_threshold(threshold: float | None) -> None:
    """Raise OptionError unless ``threshold`` is None or a probability."""
    if threshold is not None and not 0 <= threshold <= 1:
        raise OptionError(f"threshold {threshold} is not a probability: use a number between 0 and 1.")


def _model_for(model_name: Any, source: ProbeSource, tokenizer: Any, dtype: str, device: str) -> LoadedModel:
    if model_name is None and not source.model_name:
        raise ProbeError(f"{source.path} does not say which model it belongs to: name it.")
    if model_name is None and ":" in source.model_revision and source.model_name != DEMO:
        raise ProbeError(
            f"{source.path} was trained on the local model {source.model_name!r}: name its folder with --model."
        )
    return load_model(source.model_name if model_name is None else model_name, tokenizer, dtype=dtype, device=device)


class MultiProbeInference:
    """All probes of one layer on text.

    ``probes_dir`` is a ``layer_K`` folder, or the folder that ``train`` wrote (then ``layer`` picks one; the best one
    when it is None). ``model_name`` is an id, a folder, "demo" or a loaded model (with its ``tokenizer``); None takes the
    model the probes name. Two objects on one model load it once. ``layer`` is ours, 1-based; for probe files of
    brije's it is their number, and ``.layer`` says which of ours that is.

    A text is a string or, for probes captured with the chat template, a conversation: a list of ``{"role": ...,
    "content": ...}``. Where ``place_of`` may be given, ``place_of(i)`` names text i in messages.

    Raises ProbeError for probes that are missing or belong to another model.
    """

    def __init__(
        self,
        probes_dir: str | Path,
        model_name: Any = None,
        layer: int | None = None,
        *,
        tokenizer: Any = None,
        numbering: Numbering | None = None,
        readout: str | None = None,
        dtype: str = "auto",
        device: str = "auto",
    ) -> None:
        source = open_probes(probes_dir, layer=layer, numbering=numbering, readout=readout)
        self.probes: ProbeSet = source.at(layer if source.numbered else None)
        self.source = source
        self.model = _model_for(model_name, source, tokenizer, dtype, device)
        self._scorer = Scorer(self.model, [self.probes])

    @property
    def layer(self) -> int:
        """The layer read, 1-based."""
        return self.probes.layer

    @property
    def block_index(self) -> int:
        """The 0-based index of the block whose output is read."""
        return self.probes.block_index

    def logits(self, texts: Sequence[Content], place_of: PlaceOf | None = None) -> Float64:
        """Raw logits (N, C), classes in sorted order."""
        return self._scorer.logits(texts, place_of)[0]

    def predict(self, text: Content, top_k: int | None = None, threshold: float | None = None) -> Predictions:
        """``[{"action", "probability", "active"}, ...]``, best first; all classes unless ``top_k``."""
        return self.predict_batch([text], top_k, threshold)[0]

    def predict_batch(
        self,
        texts: Sequence[Content],
        top_k: int | None = None,
        threshold: float | None = None,
        place_of: PlaceOf | None = None,
    ) -> list[Predictions]:
        """``predict`` for each text, batched, in the order given."""
        check_top_k(top_k)
        check_threshold(threshold)
        return predictions(self.probes, self.logits(texts, place_of), top_k, threshold)


class UniversalMultiLayerInference:
    """The probes of several layers on one pass, each by itself or as an ensemble.

    ``probe_dirs`` maps keys of the caller's own (usually layer numbers) to ``layer_K`` folders, or to one trained folder
    each, whose layer is then the key. All must have the same classes. Texts are those of ``MultiProbeInference``.
    """

    def __init__(
        self,
        model_name: Any = None,
        probe_dirs: Mapping[Hashable, str | Path] | None = None,
        *,
        tokenizer: Any = None,
        numbering: Numbering | None = None,
        readout: str | None = None,
        dtype: str = "auto",
        device: str = "auto",
    ) -> None:
        if not probe_dirs:
            raise OptionError("probe_dirs is empty: name at least one folder of probes.")
        sources, self._sets = {}, dict[Hashable, ProbeSet]()
        for key, path in probe_dirs.items():
            number = key if isinstance(key, int) else None
            source = open_probes(path, layer=number, numbering=numbering, readout=readout)
            sources[key] = source
            self._sets[key] = source.at(number if source.numbered else None)
        self._folders = [source.path for source in sources.values()]
        first = next(iter(self._sets.values()))
        for key, probes in self._sets.items():
            if probes.class_names != first.class_names:
                raise ProbeError(
                    f"the probes of {key!r} have other classes than the first: an ensemble needs the same."
                )
        self.class_names = first.class_names
        self.model = _model_for(model_name, next(iter(sources.values())), tokenizer, dtype, device)
        self._scorer = Scorer(self.model, list(self._sets.values()))

    @property
    def layers(self) -> dict[Hashable, int]:
        """The layer, 1-based, that each of the caller's keys reads."""
        return {key: probes.layer for key, probes in self._sets.items()}

    def predict_by_layer(self, text: Content, top_k: int | None = None) -> dict[Hashable, Predictions]:
        """The predictions of each layer by itself, under the caller's own keys."""
        check_top_k(top_k)
        found = self._scorer.logits([text])
        return {
            key: predictions(probes, logits, top_k)[0]
            for (key, probes), logits in zip(self._sets.items(), found, strict=True)
        }

    def predict_ensemble(self, text: Content, method: str = "mean", top_k: int | None = None) -> Predictions:
        """The layers together: "mean" of calibrated logits, "vote", or "stacked" on out-of-fold logits."""
        return self.predict_ensemble_batch([text], method, top_k)[0]

    def predict_ensemble_batch(
        self,
        texts: Sequence[Content],
        method: str = "mean",
        top_k: int | None = None,
        threshold: float | None = None,
        place_of: PlaceOf | None = None,
    ) -> list[Predictions]:
        """``predict_ensemble`` for each text, batched, in the order given. ``active`` means a probability of at least
        ``threshold`` (.5 unless given)."""
        check_top_k(top_k)
        check_threshold(threshold)
        bars = np.full(len(self.class_names), 0.5 if threshold is None else threshold)
        return ranked(self.class_names, self.ensemble_probabilities(texts, method, place_of), bars, top_k)

    def ensemble_probabilities(
        self, texts: Sequence[Content], method: str = "mean", place_of: PlaceOf | None = None
    ) -> Float64:
        """Probabilities (N, C) of the ensemble. Raises OptionError for an unknown method."""
        if method not in METHODS:
            raise OptionError(f"ensemble method {method!r} is none of {', '.join(METHODS)}.")
        sets = list(self._sets.values())
        if any(s.first.kind == REGRESSION for s in sets):
            raise ProbeError(
                "regression probes give values, which are not combined into probabilities: use predict_by_layer."
            )
        logits = np.stack(self._scorer.logits(texts, place_of), axis=1)
        if method == "stacked":
            oof = out_of_fold(sets, self._folders)
            return combine_stacked(logits, fit_stackers(oof.logits, oof.labels, oof.groups))
        calibrations = np.stack([s.calibrations for s in sets])
        calibrated = logits * calibrations[None, :, :, 0] + calibrations[None, :, :, 1]
        if method == "vote":
            return combine_vote(calibrated, np.stack([s.thresholds for s in sets]))
        return combine_mean(calibrated)


def predict_together(
    inferences: Mapping[str, MultiProbeInference], text: Content, top_k: int | None = None
) -> dict[str, Predictions]:
    """Several probe sets (cognitive actions, sentiment, ...) on one text, in one pass of their model.

    Raises ProbeError when the sets are on different models, OptionError when there are none.
    """
    check_top_k(top_k)
    if not inferences:
        raise OptionError("no probe sets were given.")
    models = {id(i.model.model) for i in inferences.values()}
    if len(models) > 1:
        raise ProbeError("the probe sets are on different models: predict with each by itself.")
    sets = [inference.probes for inference in inferences.values()]
    found = Scorer(next(iter(inferences.values())).model, sets).logits([text])
    return {
        name: predictions(probes, logits, top_k)[0]
        for name, probes, logits in zip(inferences, sets, found, strict=True)
    }
