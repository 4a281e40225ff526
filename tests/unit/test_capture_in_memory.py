"""``strataprobe.capture`` and the check of a model, in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import strataprobe as sp
from builders import FAMILIES, tiny_model
from plain_hook import SUFFIX, TEXTS, read, relative
from strataprobe.capture.background import BackgroundWriter
from strataprobe.capture.check import check_model
from strataprobe.capture.reader import BatchResult, PendingBatch, Reader
from strataprobe.capture.tokens import PromptForm, Tokenizer
from strataprobe.errors import DataError, ModelError, OptionError
from strataprobe.models import wrap_model


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


def test_texts_may_come_from_an_iterator_or_an_array(tiny: Any) -> None:
    model = tiny("llama")
    expected = sp.capture(TEXTS, model.model, model.tokenizer)
    for texts in ((text for text in TEXTS), np.array(TEXTS)):
        got = sp.capture(texts, model.model, model.tokenizer)
        assert all(np.array_equal(got.layer(k), expected.layer(k)) for k in (1, 2, 3))
    with pytest.raises(DataError, match="texts is empty"):
        sp.capture(iter(()), model.model, model.tokenizer)


CHAT = [
    {"role": "user", "content": "It rained."},
    {"role": "assistant", "content": "And the light was still on."},
    {"role": "user", "content": "Nothing worked today."},
]


def test_conversations_are_read_at_their_last_message_and_where_the_assistant_ended(tiny: Any) -> None:
    model = tiny("gemma3_text")
    how: dict[str, Any] = {"template": "chat", "readout": ["last", "last-assistant"]}
    whole = sp.capture([CHAT, CHAT[:2]], model.model, model.tokenizer, **how)
    np.testing.assert_allclose(whole.layer(3, "last-assistant")[0], whole.layer(3)[1], atol=1e-5)
    assert not np.allclose(whole.layer(3)[0], whole.layer(3)[1], atol=1e-2)
    alone = sp.capture([CHAT], model.model, model.tokenizer, template="chat", readout="last")
    np.testing.assert_allclose(alone.layer(3), whole.layer(3)[:1], atol=1e-5)


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        ([CHAT[:1], "It rained."], "text 0 has no message by the assistant"),
        ([CHAT, []], "text 1 has an empty list of messages"),
        ([CHAT, [{"role": "user"}]], "text 1, message 1 has no 'content'"),
    ],
)
def test_a_bad_conversation_is_named(texts: Any, sentence: str, tiny: Any) -> None:
    with pytest.raises(DataError, match=sentence):
        sp.capture(texts, tiny("llama").model, tiny("llama").tokenizer, template="chat", readout="last-assistant")


@pytest.mark.parametrize("family", ["gemma3_text", "bert"])
def test_every_token_is_kept_where_that_is_asked_for(family: str, tiny: Any) -> None:
    model = tiny(family)
    suffix = SUFFIX if family != "bert" else ""
    acts = sp.capture(
        TEXTS,
        model.model,
        model.tokenizer,
        layers=[0, 1, 3],
        readout=["last", "mean"],
        suffix=suffix,
        batch_tokens=150,
        keep_tokens=True,
    )
    for i, text in enumerate(TEXTS):
        plain = read(model.model, model.tokenizer, family, text, suffix=suffix)
        for layer in (0, 1, 3):
            tokens = acts.tokens(layer)[i]
            assert tokens.shape == (len(plain.ids), 32)
            assert tokens.base is None  # its own memory, not a view that keeps the batch's
            assert relative(tokens, plain.layers[layer]) < 1e-5
            assert relative(tokens[plain.own].mean(axis=0), acts.layer(layer, "mean")[i]) < 1e-6
    assert len(acts.tokens(3)) == len(TEXTS)
    with pytest.raises(OptionError, match="the tokens of layer 2 were not kept"):
        acts.tokens(2)
    with pytest.raises(OptionError, match="were not kept"):
        sp.capture(TEXTS, model.model, model.tokenizer).tokens(3)


def test_progress_is_shown_on_a_terminal_and_only_for_more_than_one_batch(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny("llama")
    sp.capture(TEXTS, model.model, model.tokenizer, batch_tokens=100)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    sp.capture(TEXTS, model.model, model.tokenizer, batch_tokens=10**6)
    assert capsys.readouterr().err == ""
    sp.capture(TEXTS, model.model, model.tokenizer, batch_tokens=100)
    shown = capsys.readouterr().err
    assert "capture" in shown
    assert f"{len(TEXTS)}/{len(TEXTS)}" in shown


def test_texts_that_are_cut_are_counted(tiny: Any, capsys: pytest.CaptureFixture[str]) -> None:
    sp.capture(TEXTS, tiny("llama").model, tiny("llama").tokenizer, max_tokens=40)
    lengths = [len(tiny("llama").tokenizer(text)["input_ids"]) for text in TEXTS]
    n_cut = sum(n > 40 for n in lengths)
    assert 0 < n_cut < len(TEXTS)
    assert f"{n_cut} of {len(TEXTS)} texts were too long and were cut at their end." in capsys.readouterr().err


@pytest.mark.parametrize("family", ["gemma3_text", "gpt_neox", "bert"])
@pytest.mark.parametrize(("default", "device"), [("meta", "cpu"), ("cuda", "cpu"), ("cuda", "cuda")])
def test_the_default_device_of_new_tensors_does_not_matter(family: str, default: str, device: str) -> None:
    if default == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    plain, tokenizer = tiny_model(family)
    model = wrap_model(plain.to(device), tokenizer)

    def everything() -> BatchResult:
        rows = Tokenizer(model, PromptForm()).rows(TEXTS)
        return Reader(model, [0, 1, 3], ["last", "mean", "last-text"], [5, 9], keep_tokens=True).read(rows, TEXTS)

    expected = everything()
    torch.set_default_device(default)
    try:
        assert torch.zeros(1).device.type == default
        found = everything()
    finally:
        torch.set_default_device(None)
    assert all(np.array_equal(found.vectors[key], array) for key, array in expected.vectors.items())
    assert all(np.array_equal(found.tokens[layer], array) for layer, array in expected.tokens.items())
    assert (found.zero_shot is None) == (family == "bert")
    np.testing.assert_array_equal(found.zero_shot, expected.zero_shot)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_batches_may_be_pending_together_and_be_taken_over_by_another_thread(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    plain, tokenizer = tiny_model("gemma3_text")
    model = wrap_model(plain.to(device), tokenizer)
    rows = list(Tokenizer(model, PromptForm(suffix=SUFFIX)).rows(TEXTS * 3))
    batches = [slice(i, i + 4) for i in range(0, len(rows), 4)]
    reader = Reader(model, [0, 1, 3], ["last", "mean"], [5, 9], keep_tokens=True)
    expected = [reader.read(rows[b], TEXTS[:4]) for b in batches]
    found: list[BatchResult] = []
    with BackgroundWriter[PendingBatch](lambda pending: found.append(pending.result()), depth=len(batches)) as writer:
        for batch in batches:
            writer.put(reader.start(rows[batch], TEXTS[:4]))
    for got, result in zip(found, expected, strict=True):
        assert all(np.array_equal(got.vectors[key], array) for key, array in result.vectors.items())
        assert all(np.array_equal(got.tokens[layer], array) for layer, array in result.tokens.items())
        np.testing.assert_array_equal(got.zero_shot, result.zero_shot)


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        ("one text", "texts is one string: pass a list of texts"),
        (None, "texts is NoneType: pass a list of texts"),
        ({"a": 1}, "texts is dict: pass a list of texts"),
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
    with pytest.raises(OptionError, match="readout is NoneType: name one of last, mean"):
        sp.capture(["a"], model, tokenizer, readout=None)  # type: ignore[arg-type]
    for number in ("5", 2.5):
        with pytest.raises(OptionError, match=f"--max-tokens {number!r} is not a whole number"):
            sp.capture(["a"], model, tokenizer, max_tokens=number)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="suffix is int, not a string"):
        sp.capture(["a"], model, tokenizer, suffix=5)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="needs its tokenizer"):
        sp.capture(["a"], model)


def test_readouts_may_be_written_as_on_the_command_line(tiny: Any) -> None:
    acts = sp.capture(["It rained."], tiny("llama").model, tiny("llama").tokenizer, readout="mean,last")
    assert acts.readouts == ["mean", "last"]


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
    assert "cannot be trusted here in float32 on cpu: layer " in outcome.verdict
