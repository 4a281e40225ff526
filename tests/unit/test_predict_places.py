"""What goes wrong while a text is read for probes names the text by its place, whichever of the probes' forms it was in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from builders import tiny_model
from plain_hook import SUFFIX
from strataprobe.errors import ModelError, NonFiniteError
from strataprobe.models import LoadedModel, wrap_model
from strataprobe.predict.evaluate import evaluate
from strataprobe.predict.inference import MultiProbeInference
from strataprobe.predict.scorer import Scorer
from strataprobe.probes.probe import Probe, ProbeSet

TEXTS = ["It rained.", "We sat by the window for an hour without saying a word.", "Yes."]


def probes_on(**form: Any) -> ProbeSet:
    weights = np.random.default_rng(0).normal(size=(2, 32)).astype(np.float32)
    return ProbeSet([Probe(w, 0.1, c, 2, 1, "last", **form) for w, c in zip(weights, "ab", strict=True)])


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return wrap_model(*tiny_model("llama"))


@contextmanager
def trouble_beyond(model: LoadedModel, position: int, error: Exception | None = None) -> Iterator[None]:
    """Texts with a token at ``position`` are not finite there, or, with an error, do not fit into memory."""

    def spoil(_module: Any, _args: Any, output: Any) -> Any:
        if error is not None and output.shape[1] > position:
            raise error
        hidden = output.clone()
        hidden[:, position:] = float("inf")
        return hidden

    handle = model.blocks[1].register_forward_hook(spoil)
    try:
        yield
    finally:
        handle.remove()


def n_tokens(model: LoadedModel, string: str) -> int:
    return len(model.tokenizer(string)["input_ids"])


@pytest.mark.parametrize(
    ("error", "kind", "sentence"),
    [
        (None, NonFiniteError, r"layer 2 \(last\) of \w+ is not finite for line 2 in float32"),
        (torch.OutOfMemoryError("out of memory"), ModelError, r"^line 2 \(\d+ tokens\) does not fit into the memory"),
    ],
)
def test_a_text_is_named_by_its_place_in_the_second_form_as_in_the_first(
    error: Exception | None, kind: type[Exception], sentence: str, model: LoadedModel
) -> None:
    for sets in ([probes_on()], [probes_on(), probes_on(suffix=SUFFIX)]):
        scorer = Scorer(model, sets)
        longest = n_tokens(model, TEXTS[1] + sets[-1].first.suffix)
        with trouble_beyond(model, longest - 1, error), pytest.raises(kind, match=sentence):
            scorer.logits(TEXTS, lambda i: f"line {i + 1}")
        with trouble_beyond(model, longest, error):
            assert np.isfinite(scorer.logits(TEXTS)).all()


def test_evaluate_names_the_row_by_its_id(model: LoadedModel, tmp_path: Path) -> None:
    for probe in probes_on().values():
        probe.save(tmp_path / f"probe_{probe.action}.pth")
    rows = [f'{{"id": "row-{i}", "text": "{text}", "label": "{"ab"[i % 2]}"}}\n' for i, text in enumerate(TEXTS)]
    (tmp_path / "rows.jsonl").write_text('{"text": "no label"}\n' + "".join(rows))
    inference = MultiProbeInference(tmp_path, model)
    with (
        trouble_beyond(model, n_tokens(model, TEXTS[1]) - 1),
        pytest.raises(NonFiniteError, match=r"is not finite for text 'row-1' in float32"),
    ):
        evaluate(inference, tmp_path / "rows.jsonl")
    assert evaluate(inference, tmp_path / "rows.jsonl")["n"] == 3
