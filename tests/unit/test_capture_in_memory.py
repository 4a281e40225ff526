"""``strataprobe.capture`` and the check of a model, in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import strataprobe as sp
from builders import FAMILIES
from plain_hook import SUFFIX, TEXTS
from strataprobe.capture.check import check_model
from strataprobe.errors import DataError, ModelError, OptionError


def test_the_package_and_the_function_of_one_name_are_both_there(tiny: Any) -> None:
    import strataprobe.capture

    assert callable(sp.capture)
    acts = strataprobe.capture(["It rained."], tiny("llama").model, tiny("llama").tokenizer)
    assert isinstance(acts, sp.Activations)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_layers_and_the_readouts_of_the_kind_of_model_are_captured_unless_others_are_named(
    family: str, tiny: Any
) -> None:
    acts = sp.capture(TEXTS, tiny(family).model, tiny(family).tokenizer)
    assert acts.layers == [1, 2, 3]
    assert acts.readouts == (["mean"] if family == "bert" else ["last", "mean"])
    assert acts.layer(3).shape == (len(TEXTS), 32)
    one = sp.capture(TEXTS, tiny(family).model, tiny(family).tokenizer, layers="2", readout="last-text", suffix=" x")
    assert (one.layers, one.readout, one.info["suffix"]) == ([2], "last-text", " x")


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        ("one text", "texts is one string: pass a list of texts"),
        ([], "texts is empty"),
        (["a", ""], "text 1 has an empty text"),
        (["a", None], "text 1 has no 'text'"),
        ([5], "text 0: 'text' is int, not a string"),
        (["\ud83d"], "text 0 holds half of a surrogate pair"),
    ],
)
def test_bad_texts_are_named(texts: Any, sentence: str, tiny: Any) -> None:
    with pytest.raises(DataError, match=sentence):
        sp.capture(texts, tiny("llama").model, tiny("llama").tokenizer)


def test_bad_options_are_named(tiny: Any) -> None:
    model, tokenizer = tiny("llama").model, tiny("llama").tokenizer
    with pytest.raises(OptionError, match="there are layers 1 to 3"):
        sp.capture(["a"], model, tokenizer, layers=4)
    with pytest.raises(OptionError, match="readout 'best' is none of last, mean, last-text"):
        sp.capture(["a"], model, tokenizer, readout="best")
    with pytest.raises(ModelError, match="needs its tokenizer"):
        sp.capture(["a"], model)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_read_alike_both_ways_is_trusted(family: str, tiny: Any) -> None:
    outcome = check_model(tiny(family))
    assert outcome.trusted
    assert [c.layer for c in outcome.layers] == [0, 1, 2, 3]
    assert "can be trusted here: layers 0 to 3 agree" in outcome.verdict


def test_a_model_whose_vectors_depend_on_the_batch_is_not_trusted(tiny: Any) -> None:
    model = tiny("llama")

    def depend(_module: Any, _args: Any, output: Any) -> Any:
        return output if len(output) == 1 else output * 1.01

    handle = model.blocks[1].register_forward_hook(depend)
    try:
        outcome = check_model(model)
    finally:
        handle.remove()
    assert not outcome.trusted
    assert [c.padding > outcome.tolerance for c in outcome.layers] == [False, False, True, True]
    assert "cannot be trusted here in float32: layer " in outcome.verdict


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_model_whose_last_layer_would_be_read_behind_the_norm_is_not_trusted(family: str, tiny: Any) -> None:
    model = tiny(family)
    behind = replace(model, blocks=torch.nn.ModuleList([*model.blocks[:2], model.final_norm]))
    outcome = check_model(behind)
    assert not outcome.trusted
    assert "its last layer could not be read before the final norm" in outcome.verdict


def test_padding_on_the_left_by_the_tokenizers_habit_changes_nothing(tiny: Any) -> None:
    model = tiny("gemma3")
    expected = sp.capture(TEXTS, model.model, model.tokenizer, suffix=SUFFIX)
    model.tokenizer.padding_side = "left"
    try:
        got = sp.capture(TEXTS, model.model, model.tokenizer, suffix=SUFFIX)
    finally:
        model.tokenizer.padding_side = "right"
    assert all((got.layer(k) == expected.layer(k)).all() for k in expected.layers)
