"""The class words, whose logits are the baseline of asking the model: which tokens they are, and what is read of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as BareTokenizer
from tokenizers import decoders, models, normalizers, trainers
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedTokenizerFast

from builders import save_model, tiny_model
from plain_hook import SUFFIX, TEXTS, relative
from strataprobe.capture.reader import Reader
from strataprobe.capture.tokens import PromptForm, Tokenizer
from strataprobe.models import load_model, wrap_model


def test_class_words_are_the_first_token_of_a_space_and_the_word_that_is_not_the_space_alone(tiny: Any) -> None:
    model, whole = tiny("llama"), ["the", "rain", "the rain"]
    ids = Tokenizer(model, PromptForm()).class_token_ids(whole)
    assert ids == [model.tokenizer(f" {w}", add_special_tokens=False)["input_ids"][0] for w in whole]
    assert model.tokenizer.tokenize(" negative")[:2] == ["Ġ", "n"]
    ids = Tokenizer(model, PromptForm()).class_token_ids(["negative", "the"])
    assert model.tokenizer.convert_ids_to_tokens(ids) == ["n", "Ġthe"]


def sentencepiece_like(words: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer that puts a "▁" before the string and for each space, as those of Llama 2 and Mistral 0.1 do."""
    tokenizer = BareTokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.train_from_iterator(words * 9, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_a_class_word_is_not_the_white_space_before_it(tiny: Any, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = sentencepiece_like(["positive", "negative"])
    words = [tokenizer.tokenize(f" {name}") for name in ("positive", "negative")]
    assert words == [["▁", "▁positive"], ["▁", "▁negative"]]
    found = Tokenizer(wrap_model(tiny("llama").model, tokenizer), PromptForm())
    ids = found.class_token_ids(["positive", "negative", " "])
    assert tokenizer.convert_ids_to_tokens(ids) == ["▁positive", "▁negative", "▁"]
    assert capsys.readouterr().err == ""


def test_classes_that_begin_alike_are_named_since_their_first_token_cannot_tell_them_apart(
    tiny: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = Tokenizer(tiny("llama"), PromptForm())
    assert len(set(tokenizer.class_token_ids(["the rain", "negative", "the soup"]))) == 2
    line = "zero_shot: 'the rain' and 'the soup' begin with the same token; it cannot tell them apart."
    assert capsys.readouterr().err.splitlines() == [line]
    tokenizer.class_token_ids(["the rain", "the soup", "the job"])
    assert "'the rain', 'the soup' and 'the job' begin with" in capsys.readouterr().err


def test_the_class_words_logits_of_the_mixed_mode_are_near_those_of_float32(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "gemma", "gemma3_text")
    found = []
    for dtype in ("float32", "mixed"):
        model = load_model(folder, dtype=dtype)
        rows = Tokenizer(model, PromptForm(suffix=SUFFIX)).rows(TEXTS)
        result = Reader(model, [3], ["last"], [5, 9, 300]).read(list(rows), TEXTS)
        assert result.zero_shot is not None
        assert (result.zero_shot.shape, result.zero_shot.dtype) == ((len(TEXTS), 3), np.float32)
        found.append(result.zero_shot)
    assert 0 < relative(found[1], found[0]) < 5e-3


def test_the_heads_bias_is_in_the_class_words_logits_and_its_rows_are_picked_once() -> None:
    plain, tokenizer = tiny_model("llama")
    plain.lm_head.bias = torch.nn.Parameter(torch.randn(400, generator=torch.Generator().manual_seed(0)))
    picked: list[Any] = []

    class Picked(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.Tensor.__getitem__ and isinstance(args[1], list):
                picked.append(args[1])
            return func(*args, **(kwargs or {}))

    model = wrap_model(plain, tokenizer)
    (row,) = Tokenizer(model, PromptForm()).rows(["It rained."])
    reader = Reader(model, [3], ["last"], [5, 9])
    with Picked():
        found = [reader.read([row], ["it"]).zero_shot for _ in range(2)]
    whole = plain(input_ids=torch.from_numpy(row.ids)[None]).logits[0, -1].detach().numpy()
    for logits in found:
        np.testing.assert_allclose(logits, whole[None, [5, 9]], rtol=1e-4)
    assert picked == [[5, 9]] * 2  # weight and bias, in the first pass
