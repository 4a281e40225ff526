"""Text in, logits out: all probe sets of one call on one pass of the model over each batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strataprobe.capture.memory import read_vectors
from strataprobe.capture.positions import READOUTS, check_rows
from strataprobe.capture.tokens import TEMPLATES, PlaceOf, PromptForm, Tokenizer, TokenTable
from strataprobe.content import Content, check_content
from strataprobe.errors import DataError, ProbeError
from strataprobe.models import LoadedModel
from strataprobe.probes.probe import REGRESSION, ProbeSet
from strataprobe.progress import note

Float64 = NDArray[np.float64]


class Scorer:
    """Probe sets on one model. Sets with different prefix, suffix or template share the batches of one pass.

    Raises ProbeError when a set does not belong to the model: other weights, width, or number of layers.
    """

    def __init__(self, model: LoadedModel, sets: Sequence[ProbeSet], batch_tokens: int | str = "auto") -> None:
        self.model, self.sets, self.batch_tokens = model, list(sets), batch_tokens
        for probes in self.sets:
            check_fit(model, probes)
        self._forms = [PromptForm(s.first.prefix, s.first.suffix, s.first.template) for s in self.sets]
        self._tokenizers = {form: Tokenizer(model, form) for form in dict.fromkeys(self._forms)}

    def logits(self, texts: Sequence[Content], place_of: PlaceOf | None = None) -> list[Float64]:
        """Raw logits (N, C) float64 of each probe set, in the order of ``texts``.

        A text is a string or, for probes with the chat template, a conversation: a list of ``{"role", "content"}``.
        ``place_of(i)`` names text i in messages. Raises DataError for an empty text, and for one that has no position for
        the probes' readout. A text that is too long is cut at its end, and that is said.
        """
        name_of = place_of or (lambda i: f"text {i}")
        checked = self._checked(texts, name_of)
        if not checked:
            return [np.zeros((0, len(s))) for s in self.sets]
        tables = {form: tokenizer.rows(checked, name_of) for form, tokenizer in self._tokenizers.items()}
        for probes, form in zip(self.sets, self._forms, strict=True):
            check_rows(tables[form], [probes.readout], name_of)
        n_cut = int(np.any([table.truncated for table in tables.values()], axis=0).sum())
        if n_cut:
            note(f"{n_cut} of {len(checked)} texts were longer than {self.model.max_positions} tokens and were cut.")
        layers = sorted({s.layer for s in self.sets})
        readouts = sorted({s.readout for s in self.sets})
        rows = TokenTable.concat(list(tables.values()))
        arrays = read_vectors(
            self.model, rows, layers, readouts, self.batch_tokens, lambda row: name_of(row % len(checked))
        )
        first_of = {form: i * len(checked) for i, form in enumerate(tables)}
        found = []
        for probes, form in zip(self.sets, self._forms, strict=True):
            begin = first_of[form]
            found.append(probes.logits(arrays[probes.readout, probes.layer][begin : begin + len(checked)]))
        return found

    def _checked(self, texts: Sequence[Content], name_of: PlaceOf) -> list[Content]:
        if isinstance(texts, str):
            raise DataError("texts is one string: pass a list of texts.")
        if len(texts) and all(isinstance(text, Mapping) for text in texts):
            raise DataError("texts is one conversation: pass a list of texts or conversations.")
        checked = [check_content(text, name_of(i)) for i, text in enumerate(texts)]
        if all(form.template == "chat" for form in self._tokenizers):
            return checked
        for i, content in enumerate(checked):
            if not isinstance(content, str):
                raise DataError(
                    f"{name_of(i)} is a conversation, and the probes were trained on plain text (template 'none'): "
                    "give its text alone, or use probes that were captured with --template chat."
                )
        return checked


def check_fit(model: LoadedModel, probes: ProbeSet) -> None:
    """Raise ProbeError unless the probes belong to this model, as far as their files say."""
    first, name = probes.first, model.identity.name
    for what, value, known in (("readout", probes.readout, READOUTS), ("template", first.template, TEMPLATES)):
        if value not in known:
            raise ProbeError(
                f"the probes have the {what} {value!r}, which this release does not know ({', '.join(known)}): "
                "update strataprobe, or train probes with one of these."
            )
    if probes.width != model.d_model:
        raise ProbeError(
            f"the probes are {probes.width} wide and {name} is {model.d_model} wide: they were trained on "
            f"another model{f' ({first.model})' if first.model else ''}."
        )
    if probes.layer > model.n_layers:
        raise ProbeError(
            f"the probes read layer {probes.layer} and {name} has {model.n_layers} layers: they were "
            "trained on another model."
        )
    mine, theirs = model.identity.revision, first.model_revision
    if not theirs or mine == theirs:
        return
    if _kind_of_revision(mine) != _kind_of_revision(theirs):
        note(f"the probes were trained on {first.model}; whether {name} has the same weights cannot be told here.")
        return
    raise ProbeError(
        f"the probes were trained on other weights ({first.model}, {theirs[:19]}) than those of {name} ({mine[:19]}): "
        "use that model, or train probes on this one."
    )


def _kind_of_revision(revision: str) -> str:
    """What a revision is a digest of ("sha256", "parameters"), or "commit"; only equal kinds can be compared."""
    return revision.partition(":")[0] if ":" in revision else "commit"


def predictions(
    probes: ProbeSet, logits: Float64, top_k: int | None = None, threshold: float | None = None
) -> list[list[dict[str, Any]]]:
    """For each row of raw logits (N, C): the classes with their probabilities (or values), best first."""
    if probes.first.kind == REGRESSION:
        return [rank_values(probes.class_names, row, top_k) for row in logits]
    bars = probes.thresholds if threshold is None else np.full(len(probes), threshold)
    return ranked(probes.class_names, probes.calibrated(logits), bars, top_k)


def rank_values(names: Sequence[str], values: Float64, top_k: int | None) -> list[dict[str, Any]]:
    """Classes with their values, highest first."""
    order = np.argsort(-values, kind="stable")[:top_k]
    return [{"action": names[c], "value": float(values[c])} for c in order]


def ranked(
    names: Sequence[str], probabilities: Float64, thresholds: Float64, top_k: int | None = None
) -> list[list[dict[str, Any]]]:
    """For each row of probabilities (N, C): ``{"action", "probability", "active"}``, best first, ties by name."""
    found = []
    for row in probabilities:
        order = np.argsort(-row, kind="stable")[:top_k]
        found.append(
            [{"action": names[c], "probability": float(row[c]), "active": bool(row[c] >= thresholds[c])} for c in order]
        )
    return found
